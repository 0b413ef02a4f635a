"""docs/troubleshooting.md holds the text of every message that a study's user can get, and no text that is no message.

Looked at is what `check`, `run` and `plan` import, what `report`, `watch`, `export`, `predict`, `monitor` and `track`
do, and the package `steadytune`. Left out is what none of them imports, as its messages come to those who give another
command, and say what to do: cluster files (`cluster check`, `cluster render`), jobs (`submit`, `status`, `logs`,
`stop`), the writing of prompts and the searches (`prompts`, `search`), the rows and benchmarks of the
prompt-loss-weight study (`lengths`, `shorten`, `rows`, `benchmark`), servers (`verify`), and the lines of `doctor`,
each of which has its remedy.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from checkout import FILES, ROOT
from message_texts import GAP, message_texts, tidy
from messages import messages, nodes, parsed

PAGE = ROOT / "docs" / "troubleshooting.md"
COMMANDS = (
    "sweeps.cli.study",
    "sweeps.cli.results",
    "sweeps.cli.monitor",
    "sweeps.cli.track",
    "sweeps.cli.environment_errors",
    "sweeps.run_folder.fetch",
    "steadytune.studies",
    "steadytune.runs",
    "steadytune.adapters",
)
ALONE = ("sweeps.cli.exit_codes",)  # what it imports is every command
MODULES = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in FILES}


def imported_by(*names: str) -> list[Path]:
    """The files of ``names`` and of all that they import, at their top or in a function."""
    found, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name in found or name not in MODULES:
            continue
        found.add(name)
        if name in ALONE:
            continue
        for node in nodes(parsed(MODULES[name])):
            if isinstance(node, ast.ImportFrom) and node.module:
                todo += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                todo += [alias.name for alias in node.names]
    return [path for name, path in MODULES.items() if name in found]


def page_texts() -> list[str]:
    """What stands between backticks at the beginning of each bullet."""
    found = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("- `"):
            text = re.fullmatch(r"- (`+) ?(.*?) ?\1", line)
            assert text, f"a message stands alone in its line, what it means in the next: {line}"
            found.append(text[2])
    return found


READ = imported_by(*COMMANDS, *ALONE)
FOUND = message_texts(READ)


def test_every_message_is_on_the_page() -> None:
    page = set(page_texts())
    missing = {t.text: f"{t.file}:{t.line}" for t in FOUND if t.text not in page}
    lines = "\n".join(f"- {_span(text)}    <- {place}" for text, place in missing.items())
    assert not missing, f"add these lines, without the arrows, to docs/{PAGE.name}, each to its section:\n{lines}"


def test_the_page_holds_messages_only() -> None:
    texts = {t.text for t in FOUND}
    assert [t for t in page_texts() if t not in texts] == [], "no message of the source reads like this any more"


def test_texts_hold_all_constant_parts_of_messages() -> None:
    """What `messages` finds, by rules of its own, is in these texts: none is lost on the way from source to page."""
    found = "\n".join(re.sub(r"[\s…]", "", t.text) for t in FOUND)
    lost = []
    for message in messages(READ):
        for part in message.parts:
            text = re.sub(r"[\s…]", "", tidy(re.sub(r"%[.\d]*[sdgf]", GAP, part))).strip(":,;.")
            place = text.endswith('="') or part.startswith(" Did you mean")  # or the guess at the end of some messages
            if text not in found and not place:
                lost.append(f"{message.file}:{message.line} {part}")
    assert lost == []


def test_no_message_stands_twice() -> None:
    page = page_texts()
    assert sorted({t for t in page if page.count(t) > 1}) == []


def _span(text: str) -> str:
    """As code in Markdown."""
    marks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{marks} {text} {marks}" if len(marks) > 1 else f"`{text}`"
