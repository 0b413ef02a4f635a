"""A sampled test grid against the whole one: SmolLM2, tuned on SST-2, under 20 wordings x 1,821 sentences.

    python benchmarks/precision.py [--out FOLDER] [--model FOLDER] [--minutes 8] [--json FILE] [--quick]

The trial is trained and its whole grid scored once, wording by wording, into FOLDER. After ``--minutes`` the command
ends, and the next start goes on with what is missing (36,420 cells take about 40 minutes on two cores). When all is
there, the recorded answers are used over and over: 200 designs each, drawn by giving prompts and rows other names
(the design is a function of the names), on all rows and on 1,000 of them. Each design decides as a sweep does: the
pilot, then the size for ``tables.precision.mean: 0.01``, and once more for the std to 0.015. Last comes a grid of 50 x
10,000 from a model of the recorded answers, with 20 designs. What is reported is the share of the cells, the error
against the whole grid, how often it is within what was asked for, and how often the stated intervals hold it. Reads
../shared/data; the model is made by benchmarks/smollm2.py.
"""

# ruff: noqa: E402  (threads and offline mode are set before torch and transformers are imported)
from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from real_tasks import present, review_prompts, sst2
from scipy import optimize, special
from smollm2 import DEFAULT, smollm2

from trainer.data.assets import Assets
from trainer.data.rows import Row
from trainer.measure import design
from trainer.measure.grid import Grid, only, read_grid
from trainer.measure.metrics import cells, grid_estimate
from trainer.measure.precision import Precision, cells_for, read_pilot
from trainer.runner import Runner
from trainer.setup import Setup
from trainer.store import Store
from trainer.trial import Data, Draw, Lora, Loss, Model, Optimization, Scoring, Task, Template, Trial
from trainer.work import Block, ScoreBlock, TrainOnly

STEPS, EACH = 60, 10  # optimizer steps, and between two checkpoints
WORDINGS = 20
DRAWS = 200
Z = 1.959964
LABELS = ("no", "yes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT.with_name("precision"), help="what is kept between starts")
    parser.add_argument("--model", type=Path, default=DEFAULT, help="SmolLM2's folder; made where it is not there")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no new part is begun (default: 8)")
    parser.add_argument("--json", type=Path, help="write the claims here")
    parser.add_argument("--quick", action="store_true", help="a simulated model's answers: does it run")
    args = parser.parse_args()
    whole = simulated() if args.quick else recorded(args.out, args.model, args.minutes)
    if whole is None:
        return
    claims = [claim_of(whole, wanted) for wanted in (Precision(0.01), Precision(0.01, 0.015))]
    claims.append(claim_of(on_rows(whole, 1000), Precision(0.01)))
    claims.append(claim_of(larger(whole, 50, 10_000, seed=0), Precision(0.01), draws=20))
    claims[-1]["claim"] += ", simulated from the recorded one"
    if args.json:
        args.json.write_text(json.dumps(claims, indent=1) + "\n")


# the whole grid ---------------------------------------------------------------------------------------------------


def recorded(out: Path, model: Path, minutes: float) -> Grid | None:
    """The answers of the tuned model to the whole grid, as far as they are not in ``out`` made now, part by part in two
    processes; None where time is over."""
    end = time.time() + 60 * minutes
    folder = smollm2(model)
    assets, trial = task(), tuned(folder)
    runner = Runner(trial.model, Setup(slots=1, max_r=8, threads=2), assets, Store.open(str(out / "run")))
    try:
        for step in range(EACH, STEPS + 1, EACH):
            if time.time() > end:
                print(f"trained for {step - EACH} of {STEPS} steps; start again to go on")
                return None
            runner.submit(TrainOnly(trial, step, "test")).result()
    finally:
        runner.close()
    context = multiprocessing.get_context("spawn")
    halves = [context.Process(target=score_half, args=(out, folder, half, end)) for half in (0, 1)]
    for process in halves:
        process.start()
    for process in halves:
        process.join()
    if any(process.exitcode for process in halves):
        sys.exit("scoring failed; see above")
    parts = [part for k in range(WORDINGS) if (part := out / f"{k:02d}.parquet").is_file()]
    if len(parts) < WORDINGS:
        print(f"scored {len(parts)} of {WORDINGS} wordings; start again to go on")
        return None
    return read_grid(pa.concat_tables([pq.read_table(part) for part in parts]), LABELS)


def score_half(out: Path, model: Path, half: int, end: float) -> None:
    """Every other wording, from the checkpoint of the trained model."""
    assets, trial = task(), tuned(model)
    runner = Runner(trial.model, Setup(slots=1, max_r=8, threads=1), assets, Store.open(str(out / "run")))
    try:
        for k in range(half, WORDINGS, 2):
            part = out / f"{k:02d}.parquet"
            if part.is_file():
                continue
            if time.time() > end:
                return
            found = runner.submit(ScoreBlock(trial, STEPS, "test", Block(k, WORDINGS))).result()
            assert found is not None
            pq.write_table(found[0], part.with_suffix(".part"))
            part.with_suffix(".part").rename(part)
            print(f"wording {k + 1} of {WORDINGS}: {found[0].num_rows:,} cells in {found[1]:.0f} s", flush=True)
    finally:
        runner.close()


def task() -> Assets:
    table = pq.read_table(present("sst2_sentences.parquet")).to_pylist()
    test = [r for r in table if r["split"] == "test"]
    rows = tuple(Row(f"test-{i}", {"text": r["text"]}, LABELS[r["label"]]) for i, r in enumerate(test))
    prompts = review_prompts()
    train, dev = prompts[WORDINGS : WORDINGS + 10], prompts[WORDINGS + 10 : WORDINGS + 15]
    pools = {"dev": tuple(dev), "test": tuple(prompts[:WORDINGS])}
    return Assets({"train": tuple(sst2(1000)), "dev": rows[:8], "test": rows}, {"many": tuple(train)}, pools)


def tuned(folder: Path) -> Trial:
    return Trial(
        model=Model(str(folder), "smollm2"),
        task=Task(LABELS, max_length=256),
        template=Template("chat", chat=True, marker="", words=tuple((x, x) for x in LABELS)),
        lora=Lora(r=8, alpha=16.0),
        loss=Loss(0.0),
        optimization=Optimization(steps=STEPS, lr=1e-3, batch_size=8),
        draw=Draw(),
        scoring=Scoring(),
        data=Data("sst2", "sst2", "sst2", "reviews", "reviews", "reviews"),
        pool="many",
    )


def simulated() -> Grid:
    rng, p, r = np.random.default_rng(0), WORDINGS, 1200
    label = np.arange(r) % 2
    latent = 1.6 + 0.3 * rng.standard_normal((p, 1)) + rng.standard_normal((1, r)) + rng.standard_normal((p, r))
    names = tuple(f"p{i:02d}" for i in range(p)), tuple(f"r{j:04d}" for j in range(r))
    predicted = np.where(latent > 0, label, 1 - label)
    return Grid(*names, LABELS, label, predicted, predicted == label, None, nan=False)


def larger(whole: Grid, prompts: int, rows: int, seed: int) -> Grid:
    """A grid of ``prompts`` x ``rows`` from the model that ``whole`` [P, R] suggests: an answer to a row of label l is
    right with chance Phi(a + b). ``a`` is the prompt's, for each label its own: drawn anew from the recorded prompts.
    ``b`` is the row's, normal, with the variance that explains how often two prompts are both right about a row."""
    rng = np.random.default_rng(seed)
    label = np.arange(rows) % 2
    again = rng.integers(len(whole.prompts), size=prompts)
    correct = np.zeros((prompts, rows), bool)
    for k in range(2):
        of, at = whole.correct[:, whole.label == k], np.flatnonzero(label == k)
        z = special.ndtri(np.clip(of.mean(axis=1), 0.5 / of.shape[1], 1 - 0.5 / of.shape[1]))
        together = ((of.mean(axis=0) * len(of)) ** 2 - of.sum(axis=0)).mean() / (len(of) * (len(of) - 1))
        tau = optimize.brentq(lambda t, z=z, r=together: both_right(z, t) - r, 0.0, 20.0)
        a = z[again][:, None] * np.hypot(1.0, tau)
        correct[:, at] = rng.random((prompts, len(at))) < special.ndtr(a + tau * rng.standard_normal(len(at)))
    names = tuple(f"p{i:02d}" for i in range(prompts)), tuple(f"r{j:05d}" for j in range(rows))
    return Grid(*names, LABELS, label, np.where(correct, label, 1 - label), correct, None, nan=False)


def both_right(z: Any, tau: float) -> float:
    """The chance that two different prompts of ``z`` [P] are both right about a row, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    p = special.ndtr(z[:, None] * np.hypot(1.0, tau) + tau * nodes)
    pairs = (p.sum(axis=0) ** 2 - (p**2).sum(axis=0)) / (len(z) * (len(z) - 1))
    return float((pairs * weights).sum() / weights.sum())


# samples of it ----------------------------------------------------------------------------------------------------


def on_rows(whole: Grid, count: int) -> Grid:
    """The whole grid of ``count`` of its rows, each label in proportion."""
    kept = design.choose_rows(whole.rows, [whole.labels[k] for k in whole.label], count)
    seen = np.zeros(whole.correct.shape, bool)
    seen[:, kept] = True
    return dataclasses.replace(only(whole, seen), seen=None, pool_rows=0)


def claim_of(whole: Grid, wanted: Precision, draws: int = DRAWS) -> dict[str, Any]:
    """What ``wanted`` costs and gives, over so many designs."""
    each = whole.correct.mean(axis=1)
    p, r = whole.correct.shape
    drawn = np.array([draw(whole, wanted, f"draw {k}") for k in range(draws)])  # [draws, 7]
    n, off, half = drawn[:, 0], np.abs(drawn[:, 1:3]), (wanted.mean, wanted.std)
    share = float(n.mean()) / whole.correct.size
    asked = " and ".join(f"{name} {100 * h:g}" for name, h in zip(("mean", "std"), half, strict=True) if h)
    print(
        f"{p} wordings x {r:,} rows, mean {100 * each.mean():.1f} %, std {100 * each.std(ddof=1):.1f} points; asked "
        f"for {asked} points: ours {n.mean():,.0f} cells ({n.min():,.0f} to {n.max():,.0f}), whole grid "
        f"{whole.correct.size:,}: ratio {share:.3f}"
    )
    met: dict[str, float] = {}
    for k, (name, h) in enumerate(zip(("mean", "std"), half, strict=True)):
        if h is not None:
            met[name] = round(float((off[:, k] <= h).mean()), 3)
        within = f"; within what was asked for in {met[name]:.1%}" if h is not None else ""
        print(
            f"  {name}: error {100 * np.median(off[:, k]):.2f} points (median), {100 * off[:, k].max():.2f} (largest)"
            f"{within}; the stated 95 % interval holds the whole grid's in {drawn[:, 3 + k].mean():.1%}"
        )
    return {
        "claim": f"cells for tables.precision mean {wanted.mean}, std {wanted.std} of {p} x {r}",
        "ours": round(float(n.mean())),
        "peer": int(whole.correct.size),
        "ratio": round(share, 4),
        "unit": "cells",
        "draws": draws,
        "median_error_points": {"mean": round(100 * float(np.median(off[:, 0])), 2)}
        | {"std": round(100 * float(np.median(off[:, 1])), 2)},
        "met": met,
        "coverage": {"mean": round(float(drawn[:, 3].mean()), 3), "std": round(float(drawn[:, 4].mean()), 3)},
        "whole_grid_points": {"mean": round(100 * float(each.mean()), 2)}
        | {"std": round(100 * float(each.std(ddof=1)), 2)},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {n: version(n) for n in ("torch", "transformers", "numpy")} | {"python": platform.python_version()},
    }


def draw(whole: Grid, wanted: Precision, salt: str) -> tuple[float, float, float, bool, bool]:
    """Of one design: cells, errors of mean and std, whether their intervals hold the whole grid's."""
    each = whole.correct.mean(axis=1)
    pilot = sample(whole, 0, salt)
    assert pilot.seen is not None
    n = cells_for([read_pilot(cells(pilot, "accuracy"), pilot.seen, pilot.label, pilot.n_rows)], wanted)
    if n == whole.correct.size:
        return n, 0.0, 0.0, True, True
    found = grid_estimate(sample(whole, n, salt), "accuracy")
    low, high = found.std_interval
    off = found.mean - each.mean()
    return n, off, found.std - each.std(ddof=1), abs(off) <= Z * found.mean_error, low <= each.std(ddof=1) <= high


def sample(whole: Grid, n: int, salt: str) -> Grid:
    prompts, rows = ([f"{salt} {name}" for name in ids] for ids in (whole.prompts, whole.rows))
    return only(whole, design.staged(prompts, rows, [whole.labels[k] for k in whole.label], n))


if __name__ == "__main__":
    main()
