"""The command: what it prints and how it ends, run as users run it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import ROOT
from study_text import BASE

from sweeps.cli.exit_codes import Terminated, guarded
from sweeps.run_folder.find import find_run
from sweeps.study import shipped
from sweeps.study.shipped import study_path
from trainer.errors import UserError, nearest

HEAVY = {
    "torch",
    "ray",
    "transformers",
    "datasets",
    "pandas",
    "scipy",
    "numpy",
    "pyarrow",
    "peft",
    "deepspeed",
    "jinja2",
}


def command(
    *arguments: str, where: Path, code: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "sweeps"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **environment}
    return subprocess.run([sys.executable, *start, *arguments], cwd=where, env=env, capture_output=True, text=True)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "x.yaml").write_text(BASE)
    return tmp_path


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["run", "--help"], ["plan", "x.yaml", "axes.lrr=3"], ["run", "nostudy"]]
)
def test_help_and_mistakes_load_no_heavy_library(place: Path, arguments: list[str]) -> None:
    code = (
        "import sys; from sweeps.cli import main\n"
        "try: main()\n"
        "finally: print(*{m.split('.')[0] for m in sys.modules}, file=open('modules.txt', 'w'))"
    )
    command(*arguments, where=place, code=code)
    loaded = set((place / "modules.txt").read_text().split())
    assert "pydantic" in loaded
    assert not loaded & HEAVY


def test_help_names_every_command(place: Path) -> None:
    done = command("--help", where=place)
    assert done.returncode == 0
    for name in ("run", "check", "plan", "report", "export", "predict"):
        assert f"\n  {name} " in done.stdout
        assert command(name, "--help", where=place).returncode == 0


def test_help_lists_every_command_under_a_heading_and_cuts_nothing(place: Path) -> None:
    text = command("--help", where=place, COLUMNS="80").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in text.split("\n\n", 1)[1]
    headings = {}
    for line in text.splitlines():
        if line and not line.startswith(" "):
            heading = line.removesuffix(":")
        elif found := re.match(r"  (\w+)  ", line):
            headings[found[1]] = heading
    assert headings == {
        **dict.fromkeys(("init", "run", "check", "plan"), "Run a study"),
        **dict.fromkeys(("watch", "report", "time", "export", "predict", "verify", "monitor", "track"), "Read results"),
        "prompts": "Prompts",
        **dict.fromkeys(("lengths", "shorten", "rows", "benchmark", "plw"), "Prompt-loss weights"),
        **dict.fromkeys(("submit", "status", "logs", "stop", "results", "cluster"), "Cluster and jobs"),
        "doctor": "The machine",
    }


def test_a_mistake_in_a_study_is_one_line_each_and_code_2(place: Path) -> None:
    done = command("run", "x.yaml", "axes.lrr=3", "training.batch_size=0", where=place)
    assert (done.returncode, done.stdout) == (2, "[0:00] reading the study x.yaml\n")
    lines = done.stderr.splitlines()
    assert 'error: command line: axes.lrr=3 is not a known key. Did you mean "axes.lr"?' in done.stderr
    assert "error: command line: training.batch_size=0 must be at least 1" in lines
    assert all(line.startswith("error: ") for line in lines)
    assert "Traceback" in command("run", "x.yaml", "axes.lrr=3", where=place, STEADYTUNE_DEBUG="1").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "error: No such command 'rnu'."),
        (["plan"], "error: Missing argument 'STUDY'"),
        (["plan", "x.yaml", "--foo"], "error: No such option: --foo"),
        (
            ["plan", "axes.lr=1"],
            'error: "axes.lr=1" stands where the study must be. Write: steadytune COMMAND STUDY key=value',
        ),
        (["plan", "y.yaml"], 'error: y.yaml: no such file. Did you mean "x.yaml"? Known: x.yaml'),
        (["report", "runs/x"], 'error: run folder "runs/x" does not exist.'),
        (["export", "x.yam", "--to", "out"], 'error: run folder "x.yam" does not exist. Did you mean "x.yaml"?'),
        (["predict", "nowhere", "--rows", "x.yaml"], 'error: DIR = "nowhere" does not exist.'),
        (["predict", ".", "--rows", "x.yml"], 'error: --rows = "x.yml" does not exist. Did you mean "x.yaml"?'),
    ],
)
def test_a_wrong_command_line_says_what_and_ends_with_2(place: Path, arguments: list[str], message: str) -> None:
    done = command(*arguments, where=place)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


def test_a_run_where_an_export_is_asked_for_is_told_apart_from_one(place: Path) -> None:
    (place / "runs" / "support").mkdir(parents=True)
    done = command("predict", "support", "--rows", "x.yaml", where=place)
    assert (done.returncode, done.stderr) == (
        2,
        'error: DIR = "support" does not exist, and runs/support is a run folder. Export a trial of it first: '
        "steadytune export support --to NEW\n",
    )


def test_no_command_shows_the_help(place: Path) -> None:
    done = command(where=place)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: steadytune")


def test_a_study_is_found_by_path_or_by_its_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quickstart.yaml").write_text("")
    monkeypatch.setattr(shipped, "STUDIES", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert study_path("quickstart") == str(tmp_path / "quickstart.yaml")
    assert study_path("a/b.yaml") == "a/b.yaml"
    with pytest.raises(UserError) as error:
        study_path("quikstart")
    assert str(error.value) == (
        'study "quikstart" is neither a file nor a shipped study. Did you mean "quickstart"? Known: quickstart'
    )


def test_a_run_is_found_by_path_or_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_run("first") == "runs/first"
    assert find_run("runs/first") == "runs/first"
    assert find_run("s3://bucket/first") == "s3://bucket/first"
    (tmp_path / "first").mkdir()  # as `steadytune init first.csv` makes it
    assert find_run("first") == "runs/first"
    (tmp_path / "first" / "study.yaml").touch()
    assert find_run("first") == "first"
    with pytest.raises(
        UserError, match=r'Did you mean "first"\? Looked for .*/fisrt and .*/runs/fisrt\. Run folders there: first$'
    ):
        find_run("fisrt")


class Unlucky(Exception):
    pass


class WorkerError(UserError):
    """As Ray raises what a worker raised: of the cause's class too, with a traceback for its text."""

    cause = UserError("rows.jsonl: no such file")


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (UserError("a\nb"), 2, "error: a\nerror: b\n"),
        (WorkerError("Traceback: …"), 2, "error: rows.jsonl: no such file\n"),
        (KeyboardInterrupt(), 130, "interrupted: run the same command again to continue\n"),
        (Terminated(), 143, "interrupted: run the same command again to continue\n"),
        (SystemExit(15), 143, "interrupted: run the same command again to continue\n"),
        (SystemExit(3), 3, ""),
        (
            Unlucky("x\ny"),
            1,
            "error: unexpected Unlucky: x y (set STEADYTUNE_DEBUG=1 and run the same command again to see where)\n",
        ),
    ],
)
def test_each_end_has_its_code_and_line(
    raised: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> None:
        raise raised

    monkeypatch.delenv("STEADYTUNE_DEBUG", raising=False)
    assert guarded(failing) == code
    assert capsys.readouterr().err == message


def test_debug_keeps_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> None:
        raise Unlucky

    monkeypatch.setenv("STEADYTUNE_DEBUG", "1")
    with pytest.raises(Unlucky):
        guarded(failing)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_with_the_way_to_go_on(place: Path, number: signal.Signals, code: int) -> None:
    """A study that is a pipe nobody writes to holds the command until the signal comes."""
    os.mkfifo(place / "held.yaml")
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeps", "plan", "held.yaml"],
        cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    writer = _opened_by(place / "held.yaml")
    process.send_signal(number)
    _, output = process.communicate(timeout=60)
    os.close(writer)
    assert (process.returncode, output) == (code, "interrupted: run the same command again to continue\n")


def _opened_by(pipe: Path) -> int:
    """Waits until somebody reads ``pipe``; the writing end, which keeps the reader waiting."""
    for _ in range(600):
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the command never opened its study")


def test_the_nearest_name_is_one_edit_away_or_alike() -> None:
    assert nearest("q", ["r", "alpha"]) == ' Did you mean "r"? Known: r, alpha'
    assert nearest("PLAIN", ["plain"]) == ' Did you mean "plain"? Known: plain'
    assert nearest("f1", ["accuracy", "macro_f1"]) == ' Did you mean "macro_f1"? Known: accuracy, macro_f1'
    assert nearest("zzz", ["plain"]) == " Known: plain"
    assert nearest("x", []) == " None is known"
    assert nearest("a", [f"n{i}" for i in range(30)]).endswith("n19 and 10 more")
