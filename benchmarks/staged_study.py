"""The staged study in a small real form: LoRA first, or the prompt first?

    python benchmarks/staged_study.py [--out runs] [--table FILE]

Five stages on text messages, spam or not, and the answer. The rows are those of the small PAFT study, made first. Run
again, it continues. Needs shared/ beside the checkout; what is scaled down stands at the top of
sweeps/studies/staged-small.yaml.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from paft_study import DATA, MODEL, SIZES, make_rows
from study_command import ROOT, need, page, steadytune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="where the rows and the run go")
    parser.add_argument("--table", type=Path, help="write the tables there, as one page of Markdown")
    args = parser.parse_args()
    need(DATA / "sms_spam.parquet", MODEL / "config.json")
    start = time.perf_counter()
    out: Path = args.out.resolve()
    rows, run = out / "paft-small-rows", out / "staged-small"
    make_rows(rows)
    places = [f"task.rows.{split}.path={rows / split}.parquet" for split in SIZES]
    steadytune("run", "staged-small", *places, "--out", str(run))
    seconds = time.perf_counter() - start
    if args.table is not None:
        names = ("choices", "candidates", "interaction", "variance", "cells", "binary")
        files = [run / "tables" / f"staged_{name}.md" for name in names]
        text = page("LoRA first or prompt first, small", "python benchmarks/staged_study.py", seconds, files)
        args.table.write_text(text)
    print(f"{seconds:.0f} seconds")


if __name__ == "__main__":
    main()
