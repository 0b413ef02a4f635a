"""What `make demo` shows is what the quickstart's header promises."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from checkout import ROOT
from small_study import finish, start


@pytest.mark.long  # `.ci/run` runs it by itself
def test_the_quickstart_comes_out_as_its_header_says(tmp_path: Path) -> None:
    text = finish(start(ROOT / "sweeps" / "studies" / "quickstart.yaml", tmp_path / "out"))
    assert "16 of 16 trials done" in text
    rows = pq.read_table(tmp_path / "out" / "tables" / "robustness.parquet").to_pylist()
    assert len(rows) == 16
    assert all(r["n_prompts"] == 20 for r in rows)
    [winner] = [r for r in rows if r["winner"]]
    assert winner["pool"] == "many"
    assert 0.88 <= winner["mean"] <= 0.97
    assert winner["std"] < 0.06
    std = {pool: [r["std"] for r in rows if r["pool"] == pool and not r["degenerate"]] for pool in ("many", "one")}
    gap = sum(std["one"]) / len(std["one"]) - sum(std["many"]) / len(std["many"])
    assert 0.02 <= gap <= 0.10
