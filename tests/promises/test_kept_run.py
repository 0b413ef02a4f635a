"""What benchmarks keep of a run: enough for its tables, and neither texts of others nor paths of the machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from tiny_run import made

from sweeps.report.write import write_report
from trainer.data.pools import load_pool


@pytest.fixture(scope="module")
def kept_run() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import kept_run

        yield kept_run


def texts(folder: Path) -> set[str]:
    return {prompt["text"] for file in folder.glob("prompts/*.json") for prompt in json.loads(file.read_text())}


def test_tables_come_out_of_what_is_kept(kept_run: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    run, place = Path(made("labels", tmp_path_factory)[0]), tmp_path_factory.mktemp("kept")
    whole, results = Path(shutil.copytree(run, place / "whole")), place / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_run, "ROOT", run.parent)  # as if the run were in the checkout
        patch.setattr(kept_run, "remake", lambda *_: None)  # its command starts in the checkout
        kept_run.keep(whole, results, "first", [run.parent / "train.yaml", run.parent / "dev.yaml"])
    files = [file for file in results.rglob("*") if file.is_file()]
    assert not [file for file in files if str(run.parent).encode() in file.read_bytes()]
    assert texts(whole) - texts(results) == {prompt.text for prompt in load_pool(str(run.parent / "test.yaml"))}
    assert kept_run.trials_of(results, "first") == len(list(results.glob("scores/*")))
    kept_run.remake(results, "first", results / "first")
    write_report(str(whole))
    for name in ("robustness.csv", "trials.csv"):
        assert (results / "first" / "tables" / name).read_bytes() == (whole / "tables" / name).read_bytes()
