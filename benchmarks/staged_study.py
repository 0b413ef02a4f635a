"""The staged study in a small real form: LoRA first, or the prompt first?

    python benchmarks/staged_study.py [--out runs/staged-small] [--table FILE]

Five stages on EDOS (is a post sexist?), and the answer. Run again, it continues. Needs shared/ beside the checkout.

Scaled down: stories260K (260 thousand parameters) for a model of billions; three templates, two ranks and two learning
rates for the study's lists; two seeds for three; 150 steps of 16 posts; 100 dev and 150 test posts; 4 dev and 6 test
prompts. The model knows children's stories: the run shows what the stages do, and nothing of EDOS.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from study_command import ROOT, page, steadytune

SHARED = ROOT.parent / "shared"
SMALL = {
    "axes.template": "[plain,system,form]",
    "axes.lora.r": "[8,16]",
    "axes.lora.alpha": "16",
    "axes.lora.dropout": "0",
    "axes.lora.target_modules": "all-linear",
    "axes.lr": "[5e-3,1e-2]",
    "axes.steps": "150",
    "axes.plw": "0",
    "axes.pool": "many",
    "axes.seed": "[0,1]",
    "stages.cross": "2",
    "task.rows.dev.limit": "100",
    "task.rows.test.limit": "150",
    "pools.dev.limit": "4",
    "pools.test.limit": "6",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "staged-small", help="where the run goes")
    parser.add_argument("--table", type=Path, help="write the tables there, as one page of Markdown")
    args = parser.parse_args()
    for needed in (SHARED / "data" / "edos.parquet", SHARED / "models" / "stories260K" / "config.json"):
        if not needed.exists():
            sys.exit(f"needs {needed.relative_to(ROOT.parent)} beside the checkout")
    start = time.perf_counter()
    steadytune("run", "staged", *(f"{key}={value}" for key, value in SMALL.items()), "--out", str(args.out))
    seconds = time.perf_counter() - start
    if args.table is not None:
        names = ("choices", "candidates", "interaction", "variance", "cells", "binary")
        files = [args.out / "tables" / f"staged_{name}.md" for name in names]
        args.table.write_text(
            page("LoRA first or prompt first, small", "python benchmarks/staged_study.py", seconds, files)
        )
    print(f"{seconds:.0f} seconds")


if __name__ == "__main__":
    main()
