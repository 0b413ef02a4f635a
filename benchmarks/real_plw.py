"""The prompt loss weight on a real chat model: the third study of docs/results.md.

    python benchmarks/real_plw.py [--parts N]

Makes the rows (AlpacaData with prompt and completion swapped, at most 100 tokens), trains three weights with three
seeds, one seed a part, and scores each fine-tune on PIQA, WinoGrande (5 examples) and TruthfulQA MC1. Then the weights
as an axis of the classification of ``real_paft.py``, one seed a part, with the trials that are kept of that study. What
a part gives is kept in benchmarks/results/plw/ before the next begins; run again, it goes on from there. Two and a half
hours on two cores. Needs shared/ beside the checkout.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kept_run import keep, restored, trials_of
from real_model import MODEL, OUT, make_model, review_wordings, write_test_pool
from real_paft import RESULTS as PAFT
from real_paft import own_pools
from real_tasks import present
from study_command import ROOT, steadytune

RESULTS = ROOT / "benchmarks" / "results" / "plw"
PROMPTS = ROOT / "sweeps" / "studies" / "prompts"
LONGEST = 100  # tokens of a train row with its prompt
WEIGHTS = 3
SEEDS = {"short": (42, 43, 44), "sst2": (0, 1, 2)}
# two processes side by side, each on one core; the questions that a part pays for
QUESTIONS = ({"piqa": 300, "truthfulqa_mc1": 80}, {"winogrande": 200})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=6, help="end after so many parts")
    left = parser.parse_args().parts
    make_model()
    make_rows(OUT / "plw")
    write_test_pool(OUT / "paft" / "sst2_test.yaml", own_pools("sst2")["test"], review_wordings())
    for name, seeds in SEEDS.items():
        for count in range(1, len(seeds) + 1):
            if left and trials_of(RESULTS, name) < WEIGHTS * count:
                run_part(name, seeds[:count])
                left -= 1


def make_rows(rows: Path) -> None:
    """Train rows, and questions for dev and test; what is there stays."""
    rows.mkdir(parents=True, exist_ok=True)
    swapped = rows / "swapped.parquet"
    if not swapped.exists():
        tokens = ["--tokenizer", str(MODEL)]
        steadytune("shorten", str(present("alpaca_data.parquet")), "--out", str(swapped), *tokens)
    for name, source, more in (
        ("short", swapped, ["--limit", "2000", "--longest", str(LONGEST), "--tokenizer", str(MODEL)]),
        ("piqa", present("piqa.parquet"), ["--where", "split=dev"]),
        ("arc", present("arc.parquet"), ["--where", "split=challenge_test"]),
    ):
        if not (rows / f"{name}.parquet").exists():
            steadytune("rows", str(source), "--out", str(rows / f"{name}.parquet"), *more)


def run_part(name: str, seeds: tuple[int, ...]) -> None:
    run = OUT / "plw" / f"run-{name}"
    restored(RESULTS, name, run)
    if name == "sst2":
        restored(PAFT / "sst2", "primary", run)
        (run / "study.yaml").unlink(missing_ok=True)  # of the other study, whose scores are what is wanted
        (run / "trials.parquet").unlink(missing_ok=True)
    steadytune("run", str(RESULTS / f"{name}.yaml"), f"axes.seed={list(seeds)}".replace(" ", ""), "--out", str(run))
    if name == "short":
        with ThreadPoolExecutor(len(QUESTIONS)) as pool:
            list(pool.map(lambda asked: benchmark(run, asked), QUESTIONS))
        steadytune("plw", str(run))
    ours = [PROMPTS / f"plw_{use}.yaml" for use in ("train", "dev", "test")]
    keep(run, RESULTS, name, [*ours, *own_pools("sst2").values()])


def benchmark(run: Path, questions: dict[str, int]) -> None:
    for task, limit in questions.items():
        words = ["--tasks", task, "--limit", str(limit), "--data", str(present("piqa.parquet").parent)]
        steadytune("benchmark", str(run), *words)


if __name__ == "__main__":
    main()
