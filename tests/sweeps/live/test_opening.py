"""What a command says before its live table is there, and that it says so before anything slow."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from checkout import ROOT

from sweeps.live.opening import Opening

SLOW = ("torch", "ray", "transformers", "datasets", "pyarrow", "numpy", "deepspeed", "peft")

WATCH_IMPORTS = f"""
import sys

class Stream:
    def __init__(self, out): self.out = out
    def __getattr__(self, name): return getattr(self.out, name)
    def write(self, text):
        if text.strip() and not hasattr(self, "first"):
            self.first = text
            loaded = [m for m in {SLOW!r} if m in sys.modules]
            self.out.write(f"FIRST {{text.strip()}} LOADED {{loaded}}\\n")
        return self.out.write(text)

sys.stdout = Stream(sys.stdout)
from sweeps.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("command", [["run", "{study}"], ["watch", "{folder}"]])
def test_the_first_line_comes_before_every_slow_import(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("name: broken\n")
    (tmp_path / "empty").mkdir()
    arguments = [c.format(study=tmp_path / "broken.yaml", folder=tmp_path / "empty") for c in command]
    process = subprocess.Popen(
        [sys.executable, "-c", WATCH_IMPORTS, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    process.terminate()
    process.communicate()
    reading = "reading the study" if command[0] == "run" else "reading the run folder"
    assert re.fullmatch(rf"FIRST \[0:00\] {reading} \S+ LOADED \[\]\n", first)


def test_what_lasts_is_said_again_until_something_else_begins(capsys: pytest.CaptureFixture[str]) -> None:
    opening, said = Opening(every=0.01), threading.Event()
    print_line = opening._print

    def counted(text: str) -> None:
        print_line(text)
        if text == "still loading":
            said.set()

    opening._print = counted  # type: ignore[method-assign]
    with opening:
        opening.say("loading")
        assert said.wait(30)
        opening.say("checking")
    after = capsys.readouterr().out
    opening.say("too late")
    lines = [re.sub(r"^\[\d+:\d\d\] ", "", line) for line in after.splitlines()]
    assert lines[:2] == ["loading", "still loading"]
    assert "still loading" not in lines[lines.index("checking") :]
    assert capsys.readouterr().out == ""


def test_an_output_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None: ...

    monkeypatch.setattr(sys, "stdout", Gone())
    with Opening() as opening:
        opening.say("loading")
        opening.say("checking")
