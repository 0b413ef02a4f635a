"""Every code block of README.md, CONTRIBUTING.md and docs/ works: commands exist, are well formed and, where they take
seconds, run and print what stands below them; YAML is a study, a pool or a task; Python runs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from checkout import ROOT
from code_blocks import BLOCKS, PAGES, Block, commands_in, inline_code, of_kind
from documented_folder import make_folder, study_of_the_readme

from sweeps.cli import main
from sweeps.cli.app import app
from sweeps.prompts.brief import read_brief
from sweeps.prompts.files import read_pools
from sweeps.study.load import load_study
from sweeps.study.overlay import dump_yaml, parse_yaml
from sweeps.study.shipped import study_path
from sweeps.study.study import Study

SHELL = of_kind("sh", "bash")
KINDS = {"sh", "bash", "yaml", "python", "csv", "json", "text", ""}

# What is not run here, by the beginning of the command, and why.
NOT_RUN = {
    "steadytune run": "it trains on Ray; tests/sweeps/test_run.py and `make test-demo` do so",
    "steadytune submit": "needs a cluster; tests/cluster/jobs do so",
    "steadytune status": "needs a cluster",
    "steadytune logs": "needs a cluster",
    "steadytune stop": "needs a cluster",
    "steadytune results s3://": "needs a bucket",
    "steadytune init messages.csv --model Qwen/": "needs a model of the hub",
    "steadytune prompts generate": "needs a model of the hub, or a server",
    "steadytune prompts show prompts/made.yaml": "`prompts generate` writes that file",
    "steadytune prompts split prompts/made.yaml": "`prompts generate` writes that file",
    "steadytune prompts split made.yaml": "`prompts generate` writes that file",
    "steadytune prompts search paft": "needs data that no package brings",
    "steadytune prompts search quickstart --method top-accuracy": "half a minute: all prompts on all train rows",
    "steadytune prompts search quickstart --method zopo --settings": "so many evaluations take minutes",
    "steadytune prompts search quickstart --method batprompt --settings": "needs a model of the hub, or a server",
    "steadytune report paft": "needs the study's run",
    "steadytune report runs/": "needs the study's run",
    "steadytune time": "needs the study's run",
    "steadytune plan tickets.yaml --from": "needs the run of the line before it",
    "steadytune plan plw": "needs data that no package brings",
    "steadytune plan staged": "needs data that no package brings",
    "steadytune plw": "needs the study's runs",
    "steadytune benchmark": "needs data that no package brings",
    "steadytune lengths": "needs data that no package brings",
    "steadytune shorten": "needs data that no package brings",
    "steadytune rows": "needs data that no package brings",
    "steadytune verify": "needs a server; tests/sweeps/verify start one",
    "steadytune track tickets --to mlflow": "needs a server; tests/sweeps/track start one",
    "steadytune export tickets --to model --merge": "tests/sweeps/export/test_merged.py do so",
    "steadytune predict model": "needs the merged weights of the line before it",
    "steadytune monitor adapter": "needs an adapter that a run has trained; tests/sweeps/export/test_monitor.py do so",
    "steadytune predict adapter --rows rows/": "answers on Ray; tests/sweeps/export/test_many_rows.py do so",
    "steadytune predict adapter --rows s3://": "needs a bucket",
    "steadytune predict strict lenient chatty": "needs three exports; tests/sweeps/export/test_one_base.py do so",
    "steadytune cluster check --crd": "needs the CRD of a Kubernetes cluster",
    "steadytune cluster check --study tickets.yaml mine.yaml": "the file has values to fill in",
    "make": "its target exists",
    "python -m pytest": "the file exists",
    "export": "sets variables for later commands",
    "for": "a loop of the shell over the commands in it",
    "vllm": "a server, which needs a GPU",
    "python -m sglang.launch_server": "a server, which needs a GPU",
    "python convert_hf_to_gguf.py": "a script of llama.cpp",
    "llama-server": "a server",
    "ollama": "a server",
    "transformers serve": "a server; tests/sweeps/verify start one",
    "serve": "needs a cluster",
    "aws": "needs an account",
    "gcloud": "needs an account",
    "kubectl": "needs a Kubernetes cluster",
    "helm": "needs a Kubernetes cluster",
    "docker": "needs a registry of images",
    "ray": "needs a cluster",
    "ssh": "needs a cluster",
    "sbatch": "needs Slurm",
    "pip": "installs packages",
    "python3 -m venv": "makes an environment to install into",
    "uv": "makes an environment and installs into it; `make dist` does so",
    "steadytune-env/bin/pip": "installs packages; `make dist` does so",
    "steadytune-env/bin/steadytune": "in the environment that `make dist` makes",
    ".venv/bin/pip": "installs packages",
    "~/steadytune-env/bin/pip": "installs packages",
    "python3.11 -m venv": "makes an environment to install into",
    "sed": "fills in what the account's commands printed",
    "sort": "of the output of the account's commands",
    "tail": "of the output of the account's commands",
    "cp": "a file to fill in by hand",
}

# sed's and export's variables are not set here
VARIABLES = {"BUCKET": "bucket", "IMAGE": "image"}


def commands() -> Iterator[tuple[str, list[str]]]:
    """(place, words) of every command in a block of shell."""
    for block in SHELL:
        for words in commands_in(block):
            yield str(block), words


def inline() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every ``make …`` and ``steadytune …`` in a text."""
    for page in PAGES:
        for code in inline_code(page.read_text()):
            if re.match(r"(make|steadytune) [a-z]", code):
                yield page.name, shlex.split(code)


def ours() -> list[tuple[str, list[str]]]:
    """The words after ``steadytune``, also where ``ray job submit … --`` runs it."""
    found = []
    for place, words in [*commands(), *inline()]:
        begins = words[0] == "steadytune" or words[:3] == ["ray", "job", "submit"]
        found += [(place, words[words.index("steadytune") + 1 :])] if begins else []
    return found


def reason_not_to_run(words: list[str]) -> str | None:
    """The longest beginning in ``NOT_RUN`` of the command."""
    command = shlex.join(words).replace("'", "") + " "
    return max((b for b in NOT_RUN if command.startswith(b + (" " if b[-1].isalnum() else ""))), key=len, default=None)


def test_every_block_says_what_it_is() -> None:
    assert len(BLOCKS) > 60
    assert [str(b) for b in BLOCKS if b.kind not in KINDS] == []
    plain = [b for b in BLOCKS if b.kind in ("", "text")]
    assert [str(b) for b in plain if re.match(r"(\$ |steadytune |make |import |python )", b.text)] == []


# shell --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_blocks_of_shell_are_shell(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for _, words in [*commands(), *inline()] if words[0] == "make"}
    assert {"demo", "test"} <= named <= targets


def test_files_of_tests_exist() -> None:
    named = [words[-1] for _, words in commands() if words[:3] == ["python", "-m", "pytest"]]
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_all_commands_are_shown_and_no_other() -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {words[0] for _, words in ours()} == set(known)


@pytest.mark.parametrize("place", sorted({place for place, _ in ours()}))
def test_commands_are_well_formed(place: str) -> None:
    """The parser of the command line takes those in blocks; of those in a text it must know commands and options."""
    program: Any = typer.main.get_command(app)
    for words in [words for where, words in ours() if where == place]:
        command, rest = program, list(words)
        context = command.context_class(command, info_name="steadytune")
        while hasattr(command, "commands") and rest:
            assert rest[0] in command.commands, f"{place}: {words}"
            command = command.commands[rest.pop(0)]
        if place.endswith(".md"):
            options = {o for parameter in command.params for o in [*parameter.opts, *parameter.secondary_opts]}
            assert {w.split("=")[0] for w in rest if w.startswith("-")} <= options, f"{place}: {words}"
        else:
            command.make_context(command.name, rest, parent=context)  # raises what a user would read


def test_what_is_not_run_is_there() -> None:
    """No entry of ``NOT_RUN`` is left of a command that the documents no longer have."""
    met = {reason_not_to_run(words) for _, words in commands()}
    assert [entry for entry in NOT_RUN if entry not in met] == []
    assert [shlex.join(w) for _, w in commands() if w[0] != "steadytune" and reason_not_to_run(w) is None] == []


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documented")
    make_folder(folder)
    return folder


@pytest.fixture
def folder(documented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that the documents speak of, as the current one."""
    copy = tmp_path / "here"
    shutil.copytree(documented, copy)
    monkeypatch.chdir(copy)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    return copy


def runs(block: Block) -> list[list[str]]:
    return [words[1:] for words in commands_in(block) if words[0] == "steadytune" and not reason_not_to_run(words)]


def matches(printed: str, expected: str) -> bool:
    """Whether the text is the expected one, in which ``…`` stands for a part of a line, alone for any lines."""
    lines = expected.splitlines()
    lines = ["(?:.*\n)*" if line == "…" else re.escape(line).replace("…", ".*") + "\n" for line in lines]
    text = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
    return re.fullmatch("".join(lines), text) is not None


@pytest.mark.parametrize("page", sorted({block.page for block in SHELL if runs(block)}))
def test_commands_run(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the page; what its commands print is what stands below its block."""
    for block in (b for b in SHELL if b.page == page):
        printed = ""
        for words in runs(block):
            with pytest.raises(SystemExit) as ended:
                main([re.sub(r"\$(\w+)", lambda m: VARIABLES[m[1]], word) for word in words])
            said = capsys.readouterr()
            assert ended.value.code == 0, f"{block}: steadytune {shlex.join(words)}\n{said.out}{said.err}"
            printed += said.out
        if runs(block) and block.output is not None:
            assert matches(printed, block.output), f"{block}: printed\n{printed}"


def test_what_is_printed_is_compared() -> None:
    assert matches("a 1\nb\nc\n", "a …\n…\nc\n")
    assert not matches("a 1\nb\nc\n", "a …\nc\n")


def test_overrides_are_accepted() -> None:
    whole = {w for _, words in ours() if words[1:2] == ["staged"] for w in words}  # loaded whole, in test_docs.py
    texts = {w for _, words in ours() for w in words if re.match(r"[a-z]+\.[\w.]+=", w)} - whole
    in_texts = [q for page in PAGES for q in inline_code(page.read_text()) if re.match(r"[a-z]+\.[\w.]+=\S", q)]
    assert len({*texts, *in_texts}) >= 8
    needs = {"search.method": ["search.trials=4"], "search.trials": ["search.method=random"]}
    for text in sorted({*texts, *in_texts}):
        given = [text] if "=[" in text else re.split(r" (?=[a-z]+\.)", text)  # several in a row, or one list
        study = "paft" if text.startswith("axes.arm=") else "quickstart"  # whose arms they are
        load_study(study_path(study), [*given, *needs.get(text.split("=")[0], [])], files=False)


# other blocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", of_kind("yaml"), ids=str)
def test_yaml_is_a_study_a_task_or_a_pool(block: Block, tmp_path: Path) -> None:
    """A part of a study is laid over the README's."""
    file = tmp_path / "block.yaml"
    value: Any = parse_yaml(block.text, str(block))
    file.write_text(block.text)
    if "about" in value:
        (tmp_path / "human.yaml").write_text('a: "{{ text }} Unhappy?"\n')
        assert read_brief(str(file), "made.yaml").about == value["about"]
    elif set(value) <= set(Study.model_fields):
        whole = study_of_the_readme()
        parts = {key: {**whole.get(key, {}), **part} for key, part in value.items() if isinstance(part, dict)}
        file.write_text(dump_yaml({**whole, **value, **parts}))
        load_study(file, files=False)
    else:
        assert [prompt.id for prompt in read_pools([str(file)])] == list(value)


@pytest.mark.parametrize("block", of_kind("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    assert json.loads(block.text)


PYTHON = [block for block in of_kind("python") if block.page != "python.md"]  # whose blocks test_python_page.py runs


@pytest.mark.parametrize("block", [b for b in PYTHON if "ray.serve" not in b.text], ids=str)  # that needs vLLM
def test_python_runs(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a run folder."""
    monkeypatch.chdir(folder / "runs" / "tickets")
    exec(compile(block.text, str(block), "exec"), {})
