"""Each benchmark runs in a tiny form, and says what it measured: ours, the peer's figure and their ratio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("name", "flag"), [("train_throughput", "--quick"), ("gpu", "--tiny")])
def test_benchmark_reports_ours_peer_and_ratio(name: str, flag: str, tmp_path: Path) -> None:
    out = tmp_path / "claims.json"
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), flag, "--json", str(out)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "ours" in run.stdout
    assert "ratio" in run.stdout
    claims = json.loads(out.read_text())
    assert claims
    for claim in claims:
        assert claim["ours"] > 0
        assert claim["ratio"] == pytest.approx(claim["ours"] / claim["peer"], rel=0.05, abs=0.006)
        assert {"claim", "unit", "machine", "versions"} <= claim.keys()
