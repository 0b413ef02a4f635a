"""The code of docs/python.md runs, from the first block to the last."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from tiny_run import LABELLED, PLAIN, make_run

PAGE = (ROOT / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_blocks_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a study of two labels that a small model can learn, whose run is finished, so that Ray is not started."""
    run, _ = make_run(tmp_path, LABELLED, sound=True, name="tickets", templates=PLAIN, axes={"lr": 1e-2, "steps": 45})
    (tmp_path / "tiny.yaml").rename(tmp_path / "tickets.yaml")
    shutil.copy(tmp_path / "test.jsonl", tmp_path / "new.jsonl")
    (tmp_path / "runs").mkdir()
    Path(run).rename(tmp_path / "runs" / "tickets")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    said = []
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)
        said.append(capsys.readouterr().out)
    assert len(said) == 8
    assert said[0].splitlines()[-1].startswith("0 errors, ")
    assert said[1].splitlines()[0].startswith("3 ")
    assert "nothing to train" in said[2]
    assert names["run"].winner in said[3]
    assert "correct_mean" in said[4]
    assert "'distribution'" in said[5]
    assert (tmp_path / "distribution.png").read_bytes().startswith(b"\x89PNG")
    assert list(names["answers"]["label"]) == ["yes", "no"]
    assert 'run folder "tickts" does not exist. Did you mean "tickets"?' in said[7]
