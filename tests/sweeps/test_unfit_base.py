"""A base model that only its host can see to be unfit ends a run in a line, and soon (CASES V2 and the issue's third
point)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checkout import EMBEDDED
from safetensors.torch import load_file, save_file
from small_study import start, write_study


@pytest.mark.cluster
def test_weights_with_nan_end_the_run_in_a_line(tmp_path: Path) -> None:
    model = Path(shutil.copytree(EMBEDDED / "model", tmp_path / "model"))
    tensors = load_file(model / "model.safetensors")
    next(t for n, t in tensors.items() if n.endswith("down_proj.weight")).fill_(float("nan"))
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    study = write_study(tmp_path, model={"path": str(model)})
    process = start(study, tmp_path / "out")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output[-3000:]
    told = [line for line in output.splitlines() if line.startswith("error: ")]
    assert told == [told[0]]
    assert "gives outputs that are not finite: its weights hold NaN" in told[0]
    assert "Traceback" not in output
