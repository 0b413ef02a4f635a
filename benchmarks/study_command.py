"""The ``steadytune`` command of this checkout, run as a user runs it, and its tables on one page: for benchmarks that
are whole studies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def need(*files: Path) -> None:
    """End with a line that names the first of ``files``, in shared/ beside the checkout, that is not there."""
    for needed in files:
        if not needed.exists():
            sys.exit(f"needs {needed.relative_to(ROOT.parent)} beside the checkout")


def steadytune(*words: str) -> None:
    """Run the command, its output shown; this process ends with its exit code where it fails."""
    print("steadytune", *words, flush=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "sweeps", *words], env=env, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def page(title: str, command: str, seconds: float, files: Iterable[Path]) -> str:
    """The Markdown tables in those of ``files`` that exist, under what made them."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "ray"))
    head = f"# {title}\n\n`{command}`: {seconds:.0f} seconds on {os.cpu_count()} cores; {versions}."
    texts = [p.read_text().strip().replace("# ", "## ", 1) for p in files if p.exists()]
    return "\n\n".join([head, *texts]) + "\n"
