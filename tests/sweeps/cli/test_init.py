"""``steadytune init`` at the command line: what it asks in a terminal, and what it says without one."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sweeps.cli import main
from sweeps.cli.app import app

ROWS = "text,label\n" + "".join(f"text number {i},{i % 2}\n" for i in range(60))


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data.csv").write_text(ROWS)
    return tmp_path / "data.csv"


def test_what_is_written_and_what_comes_next(data, tmp_path):
    said = CliRunner().invoke(
        app, ["init", str(data), "--model", "embedded", "--to", str(tmp_path / "mine"), "--names", "0=dull,1=fine"]
    )
    assert said.exit_code == 0, said.output
    assert f"next:     steadytune run {tmp_path}/mine/mine.yaml" in said.output
    assert "train     40 rows: " in said.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--model is missing"),
        (["--model", "embedded", "--names", "dull"], '"dull" is not VALUE=NAME'),
        (["--model", "embedded", "--label", "labl"], 'Did you mean "label"?'),
        (["--model", "embedded", "--wordings", "none.txt"], "none.txt: no such file"),
    ],
)
def test_mistakes_are_a_line(arguments, says, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["init", str(data), *arguments])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert says in told
    assert len(told.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["data.csv"]


def test_a_terminal_is_asked_for_the_model_the_columns_and_the_names_of_numbers(data, tmp_path):
    ours, theirs = pty.openpty()
    os.write(ours, f"embedded\n\n\n{'dull'}\nfine\n".encode())
    command = [sys.executable, "-m", "sweeps", "init", str(data), "--to", str(tmp_path / "mine")]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, cwd=root, timeout=300)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 0, done.stderr
    for question in ("Which model", "Which column is the text", "Which column is the answer", 'the label "1" mean'):
        assert question in done.stdout
    study = yaml.safe_load((tmp_path / "mine/mine.yaml").read_text())
    assert study["task"]["labels"] == {"0": "dull", "1": "fine"}
