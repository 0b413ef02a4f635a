"""The PAFT study in a small real form: one task, the training arms, three prompt searches, the paper's tables.

    python benchmarks/paft_study.py [--out runs] [--rows] [--quick] [--table FILE]

Text messages, spam or not, half of each; a model of 260 thousand parameters that has read children's stories. The rows
are made first, then TopAccuracy, BATprompt and ZOPO search the training pool at one budget of scorings, then every arm
of the study paft-small is trained and scored under 16 wordings that none has seen. Run again, it continues. Needs
shared/ beside the checkout; what is scaled down stands at the top of sweeps/studies/paft-small.yaml. --rows makes
the rows and ends; --quick cuts it to an eighth of an epoch, 40 rows and 200 scorings; --table writes one page.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

from study_command import ROOT, need, page, steadytune

DATA, MODEL = ROOT.parent / "shared" / "data", ROOT.parent / "shared" / "models" / "stories260K"
METHODS = ("top-accuracy", "batprompt", "zopo")
BUDGET = 1500  # scorings of a search
SIZES = {"test": 200, "dev": 100, "train": 1100}
LONGEST = 160  # characters: one message; the longest few would double the sequences of a batch
SEARCHED = "top_accuracy,batprompt,zopo"
REST = "load,k1,k2,k8,k1_t8,n2,n4,n8,n16,typos,formats,curriculum,importance,group_dro,adversarial,views,consistency"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="where rows, searches and the run go")
    parser.add_argument("--rows", action="store_true", help="make the rows and end")
    parser.add_argument("--quick", action="store_true", help="a few minutes: shows that it works")
    parser.add_argument("--table", type=Path, help="write the tables there, as one page of Markdown")
    args = parser.parse_args()
    need(DATA / "sms_spam.parquet", MODEL / "config.json")
    start = time.perf_counter()
    out: Path = args.out.resolve()
    rows, found, run = out / "paft-small-rows", out / "paft-small-search", out / "paft-small"
    make_rows(rows)
    if args.rows:
        return
    places = [f"task.rows.{split}.path={rows / split}.parquet" for split in SIZES]
    few = ["task.rows.dev.limit=20", "task.rows.test.limit=40"] if args.quick else []
    budget = "200" if args.quick else str(BUDGET)
    for method in METHODS:
        words = ["--method", method, "--pool", "paft", "--budget", budget, "--out", str(found)]
        steadytune("prompts", "search", "paft-small", *places, "axes.arm=paft", *words)
    prompts = [f"pools.train.{m.replace('-', '_')}.file={found / m}/prompt.yaml" for m in METHODS]
    arms = f"axes.arm=[base,user,{SEARCHED},paft,{REST}]"
    shorter = ["axes.epochs=0.125"] if args.quick else []
    steadytune("run", "paft-small", *places, *prompts, arms, *few, *shorter, "--out", str(run))
    seconds = time.perf_counter() - start
    if args.table is not None:
        names = ("main", "best", "claims", "k_t", "prompts", "training", "inference")
        files = [run / "tables" / f"paft_{name}.md" for name in names]
        text = page("PAFT, small", "python benchmarks/paft_study.py", seconds, files)
        args.table.write_text(f"{text}\n## The searches\n\n{(found / 'budget.md').read_text()}")
    print(f"{seconds:.0f} seconds")


def make_rows(folder: Path) -> None:
    """Half spam, half not, drawn once with a fixed seed; what is there stays."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if all((folder / f"{split}.parquet").exists() for split in SIZES):
        return
    folder.mkdir(parents=True, exist_ok=True)
    seen: dict[str, Any] = {}
    for row in pq.read_table(DATA / "sms_spam.parquet").to_pylist():
        if len(row["text"]) <= LONGEST:
            seen.setdefault(row["text"], row)  # the collection holds some messages twice
    by_label = {label: [r for r in seen.values() if r["label"] == label] for label in ("ham", "spam")}
    rng = random.Random(0)
    for group in by_label.values():
        rng.shuffle(group)
    for split, size in SIZES.items():
        part = [group.pop() for group in by_label.values() for _ in range(min(size // 2, len(group)))]
        rng.shuffle(part)
        pq.write_table(pa.Table.from_pylist(part), folder / f"{split}.parquet")


if __name__ == "__main__":
    main()
