"""docs/notebook.ipynb runs from the first cell to the last, in a kernel of its own, and comes out as its text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from checkout import ROOT
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def client(notebook: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> NotebookClient:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    return NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})


def shown(cell: Any) -> str:
    """All that a cell prints and shows."""
    return "".join(o["text"] if o["output_type"] == "stream" else o["data"]["text/plain"] for o in cell["outputs"])


def test_the_notebook_runs_and_finds_a_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs, which name a machine"
    client(notebook, tmp_path, monkeypatch).execute()
    cells = {cell["id"]: cell for cell in notebook.cells}
    assert "0 errors" in shown(cells["checked"])
    assert "quickstart: 2 trials" in shown(cells["planned"])
    said = shown(cells["ran"])
    assert "run folder: " in said, "what is printed first is kept to the end"
    assert "2 of 2 trials done" in said
    winner = shown(cells["winner"]).strip("'")
    [line] = [row for row in shown(cells["robustness"]).splitlines() if winner in row]
    assert "many" in line
    assert "True" in line
    assert (tmp_path / "runs" / "notebook" / "report.html").exists()
    assert "prompt_id" in shown(cells["prompts"])
    [figure] = cells["figure"]["outputs"]
    assert "vega" in figure["data"]["text/html"]
    assert re.findall(r"row-\d +(\w+)", shown(cells["answers"])) == ["no", "yes"]


def test_a_mistake_in_a_notebook_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import steadytune as st\nst.study('quickstart', 'axes.lrr=1')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    with pytest.raises(CellExecutionError):
        client(notebook, tmp_path, monkeypatch).execute()
    [output] = notebook.cells[0]["outputs"]
    [line] = output["traceback"]
    assert line.startswith('StudyError: override: axes.lrr=1 is not a known key. Did you mean "axes.lr"?')
