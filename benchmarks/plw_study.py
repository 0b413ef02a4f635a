"""The prompt-loss-weight study in a small real form: two data sets, six weights, three seeds, four benchmarks.

    python benchmarks/plw_study.py [--out runs/plw-study] [--quick] [--table FILE]

AlpacaData and its short variant, made here by the study's swap rule, each trained with the six weights and three seeds;
every adapter is scored on ARC-Challenge, PIQA, TruthfulQA MC1 and WinoGrande by lm-eval; one analysis over both. Run
again, it continues. Needs shared/ beside the checkout.

Scaled down: stories260K (260 thousand parameters) for LLaMA 7B and 13B; LoRA for full fine-tuning; 2,000 rows of at
most 160 tokens for 52,002; 60 steps of 8 for 3 epochs of 128; 100 questions of each benchmark without examples.
--quick cuts it to 20 steps, one seed and 20 questions. The model's scores are chance, so the answer is about the
machinery: what it says of prompt loss weights is "no effect is shown".
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from study_command import ROOT, need, page, steadytune

DATA, MODEL = ROOT.parent / "shared" / "data", ROOT.parent / "shared" / "models" / "stories260K"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "plw-study", help="where rows and runs go")
    parser.add_argument("--quick", action="store_true", help="a few minutes: shows that it works")
    parser.add_argument("--table", type=Path, help="write the tables there, as one page of Markdown")
    args = parser.parse_args()
    need(DATA / "alpaca_data.parquet", MODEL / "config.json")
    start = time.perf_counter()
    rows = args.out / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    make_rows(rows)
    few = ["axes.steps=20", "axes.seed=42", "task.rows.dev.limit=20", "task.rows.test.limit=20"] if args.quick else []
    runs = [str(args.out / name) for name in ("alpaca", "short")]
    for run in runs:
        own = [f"task.rows.train={rows / Path(run).name}.parquet", f"task.rows.dev.path={rows / 'piqa.parquet'}"]
        steadytune("run", "plw", *own, f"task.rows.test.path={rows / 'arc.parquet'}", *few, "--out", run)
    asked = ["--data", str(DATA), "--limit", "20" if args.quick else "100", "--shots", "0", "--batch-size", "32"]
    with ThreadPoolExecutor(len(runs)) as pool:  # each keeps one core busy
        list(pool.map(lambda run: steadytune("benchmark", run, *asked), runs))
    steadytune("plw", *runs, "--out", str(args.out))
    seconds = time.perf_counter() - start
    if args.table is not None:
        files = [args.out / "tables" / f"plw_{name}.md" for name in ("tests", "turning", "benchmarks", "aggregate")]
        args.table.write_text(page("Prompt loss weight, small", "python benchmarks/plw_study.py", seconds, files))
    print(f"{seconds:.0f} seconds")


def make_rows(rows: Path) -> None:
    """Train rows of both data sets, and questions for dev and test; what is there stays."""
    cut = ["--longest", "160", "--tokenizer", str(MODEL)]
    short = rows / "alpaca-short.parquet"
    if not short.exists():
        steadytune("shorten", str(DATA / "alpaca_data.parquet"), "--out", str(short), "--tokenizer", str(MODEL))
    for name, source, where in (
        ("alpaca", DATA / "alpaca_data.parquet", []),
        ("short", short, []),
        ("piqa", DATA / "piqa.parquet", ["--where", "split=dev"]),
        ("arc", DATA / "arc.parquet", ["--where", "split=challenge_test"]),
    ):
        if not (rows / f"{name}.parquet").exists():
            limit = [] if where else ["--limit", "2000"]
            steadytune("rows", str(source), "--out", str(rows / f"{name}.parquet"), *where, *limit, *cut)


if __name__ == "__main__":
    main()
