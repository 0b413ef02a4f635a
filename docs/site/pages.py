"""Collects the pages of the documentation's site in ``build/pages``: ``make docs``.

The site has the folders of the repository, so a link that works there works in the site. Three pages are made here: the
commands, the Python package, and the pictures of a report.
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

import steadytune
from sweeps.cli.app import app
from sweeps.cli.panels import PANELS

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "build" / "pages"
COPIED = (
    "*.md", "LICENSE", "docs/*.*", "docs/images/*", "docs/site/*.js", "benchmarks/*.md", "benchmarks/results/*.*",
    "benchmarks/results/*/*.yaml", "benchmarks/results/*/*/*/figures/*.svg",
)  # fmt: skip
CAPTIONS = {  # the picture of a section of report.html -> what it shows; in the order of the report
    "verdict": "The winner with its interval and its worst wording, the runner-up, and the command that exports it.",
    "map": "Each configuration under each test prompt, the winner first. A cell opens its wording and the flips.",
    "what-mattered": "Differences between values of an axis, with intervals, and where the variance comes from.",
    "table": "All configurations. A click on a heading sorts; groups of columns can be shown and hidden.",
    "distribution": "The metric under each prompt, one point a prompt.",
    "learning-curves": "The losses, and the objective on the dev prompts at each rung.",
    "trials-that-did-not-reach-the-end": "What early stopping ended, at which step and why.",
    "by-axis-value": "The mean of all configurations with one value of an axis.",
    "two-labels": "Of a task with two labels: thresholds, areas under curves and calibration.",
    "asking-in-several-wordings": "What asking in several wordings at once would gain.",
    "how-it-was-measured": "Rows, prompts, seeds, intervals and corrections of this run.",
}


def main() -> None:
    shutil.rmtree(PAGES, ignore_errors=True)
    for pattern in COPIED:
        for file in sorted(ROOT.glob(pattern)):
            write(file.relative_to(ROOT), file.read_bytes())
    write(Path("docs/reference/commands.md"), commands_page().encode())
    write(Path("docs/reference/python.md"), python_page().encode())
    write(Path("docs/gallery.md"), gallery_page().encode())


def write(name: Path, content: bytes) -> None:
    (PAGES / name).parent.mkdir(parents=True, exist_ok=True)
    (PAGES / name).write_bytes(content)


# the commands -------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command with its arguments and options, in the groups of ``steadytune --help``."""
    program: Any = typer.main.get_command(app)
    root = program.context_class(program, info_name="steadytune")
    page = ["# Commands", program.help, "Text in capitals stands for a value. `-h` shows the same in a terminal."]
    for panel in PANELS:
        page.append(f"## {panel}")
        for name, command in program.commands.items():
            if command.rich_help_panel == panel:
                page += command_parts(command, root, name)
    return "\n\n".join(page) + "\n"


def command_parts(command: Any, parent: Any, name: str) -> Iterator[str]:
    context = command.context_class(command, info_name=name, parent=parent)
    if hasattr(command, "commands"):
        for inner, under in command.commands.items():
            yield from command_parts(under, context, inner)
        return
    yield f"### `{context.command_path}`"
    yield inspect.cleandoc(command.help)
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield f"```text\n{' '.join(usage.split())}\n```"
    records = [p.get_help_record(context) for p in command.get_params(context) if p.name != "help"]
    rows = [f"| `{cell(taken)}` | {cell(escaped(meaning))} |" for taken, meaning in filter(None, records)]
    yield "\n".join(["| argument or option | meaning |", "| --- | --- |", *rows])


def cell(text: str) -> str:
    """The text in a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def escaped(text: str) -> str:
    """Help text as Markdown that shows every character."""
    return re.sub(r"([\\*_\[\]<>{}])", r"\\\1", text)


# the package --------------------------------------------------------------------------------------------------


def python_page() -> str:
    """All public names of ``steadytune``, with signatures and docstrings; read without importing torch."""
    page = ["# The package `steadytune`", literal(inspect.getdoc(steadytune) or "")]
    for name in sorted(steadytune.__all__, key=lambda n: (n[0].isupper(), n)):
        public = getattr(steadytune, name)
        page += [f"## `{name}`"] if inspect.isclass(public) else [f"## `{name}`", signature(public, f"st.{name}")]
        page.append(literal(inspect.getdoc(public) or ""))
        if inspect.isclass(public) and public.__module__.startswith("steadytune"):
            for inner, member in vars(public).items():
                if not inner.startswith("_"):
                    page += [f"### `{name}.{inner}`", *member_parts(inner, member)]
    return "\n\n".join(page) + "\n"


def member_parts(name: str, member: Any) -> Iterator[str]:
    if isinstance(member, property):
        yield signature(member.fget, name, is_property=True)
        yield literal(inspect.getdoc(member) or "")
    else:
        yield signature(member, name)
        yield literal(inspect.getdoc(member) or "")


def signature(function: Any, name: str, is_property: bool = False) -> str:
    """As it stands in the source, in a block of code: evaluated types would be longer and load more."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(node, ast.FunctionDef)
    node.args.args = [a for a in node.args.args if a.arg != "self"]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    given = "" if is_property else f"({ast.unparse(node.args)})"
    return f"```python\n{name}{given}{returns}\n```"


def literal(docstring: str) -> str:
    """A docstring as Markdown: ``code`` is marked by one backtick, and indented blocks stay code."""
    return docstring.replace("``", "`").replace("docs/", "")


# the pictures -------------------------------------------------------------------------------------------------


def gallery_page() -> str:
    """The pictures of a report's sections that are under ``docs/images``, each with its caption."""
    page = ["# What a report shows", "Pictures of the sections of a run folder's `report.html`."]
    page += ["![The beginning of the quickstart's report](report.png)"]
    pictures = {p.stem.removeprefix("report-"): p for p in sorted((ROOT / "docs" / "images").glob("report-*.*"))}
    for name in [*(n for n in CAPTIONS if n in pictures), *(n for n in pictures if n not in CAPTIONS)]:
        title = name.replace("-", " ").capitalize()
        page += [f"## {title}", CAPTIONS.get(name, ""), f"![{title}](images/{pictures[name].name})"]
    return "\n\n".join(page) + "\n"


if __name__ == "__main__":
    main()
