"""Where this checkout is, what lies beside it, its source files, and what importing one loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"  # third-party data and models
EMBEDDED = ROOT / "sweeps" / "embedded"
PACKAGES = ("steadytune", "trainer", "cluster", "sweeps")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def loaded_by(*modules: str) -> set[str]:
    """Top-level packages in memory after a fresh process imported ``modules``."""
    code = f"import {', '.join(modules)}, sys; print(*{{m.split('.')[0] for m in sys.modules}})"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
