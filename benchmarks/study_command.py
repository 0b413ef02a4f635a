"""The ``steadytune`` command of this checkout, run as a user runs it: for benchmarks that are whole studies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def steadytune(*words: str) -> None:
    """Run the command, its output shown; this process ends with its exit code where it fails."""
    print("steadytune", *words, flush=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "sweeps", *words], env=env, check=False)
    if done.returncode:
        sys.exit(done.returncode)
