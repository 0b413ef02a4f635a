"""Each benchmark runs in a tiny form, and says what it measured: ours, the peer's figure and their ratio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT


def claims(name: str, flags: tuple[str, ...], folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """What the benchmark prints and writes."""
    out = folder / "claims.json"
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *flags, "--json", str(out)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=900, env=env, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found
    for claim in found:
        assert claim["ours"] > 0
        assert claim["peer"] > 0
        assert {"claim", "ratio", "unit", "machine", "versions"} <= claim.keys()
    return run.stdout, found


@pytest.mark.parametrize(
    ("name", "flag"), [pytest.param("train_throughput", "--quick", marks=pytest.mark.long), ("gpu", "--tiny")]
)
def test_benchmark_reports_ours_peer_and_ratio(name: str, flag: str, tmp_path: Path) -> None:
    printed, found = claims(name, (flag,), tmp_path)
    assert "ours" in printed
    assert "ratio" in printed
    for claim in found:
        assert claim["ratio"] == pytest.approx(claim["ours"] / claim["peer"], rel=0.05, abs=0.006)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "flags"),
    [("precision", ("--quick",)), ("sampled_scoring", ("--quick",)), ("sweep_makespan", ("--size", "quick"))],
)
def test_benchmark_of_whole_sweeps_runs(name: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    printed, _ = claims(name, flags, tmp_path)
    assert "ours" in printed
