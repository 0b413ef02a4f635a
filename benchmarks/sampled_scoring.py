"""A sampled rung against the whole dev grid: how far off mean and std are, and what is saved.

    python benchmarks/sampled_scoring.py [--json FILE] [--quick] [--share 0.1]

Eight trials of the embedded task are trained by ``steadytune run`` with ``scoring.sample``: their first rung scores
the sample, their last one the whole grid of 50 dev prompts x 200 rows. What a rung's scoring took comes from that run.
How far off a sample is comes from the whole grids: 20 designs each, drawn by giving prompts and rows other names
(the design is a function of the names), estimated as the scheduler would, against the grid's own mean and std.
"""

# ruff: noqa: E402  (this folder is made importable first)
from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sweep_makespan import SIZES, timed, write_study

from sweeps.run_folder.reading import RunFolder
from trainer.measure import design
from trainer.measure.grid import NO_ANSWER, Grid
from trainer.measure.metrics import grid_estimate, grid_objective
from trainer.store import Store

DRAWS = 20
Z = 1.959964


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the claims here")
    parser.add_argument("--quick", action="store_true", help="few steps, rows and prompts: does it run, not how fast")
    parser.add_argument("--share", type=float, default=0.1, help="of the grid's cells (default: 0.1)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sampled-") as name:
        folder = Path(name)
        make_study(folder, args.quick, args.share)
        timed([sys.executable, "-m", "sweeps", "run", "study.yaml", "--out", "run"], folder)
        grids, seconds = read(folder / "run")
    errors = np.array([drawn for whole in grids for drawn in draw(whole, args.share)])  # [grids x draws, 4]
    cells, whole_cells = int(errors[0, 4]), grids[0].predicted.size
    mean, std = 100 * np.median(np.abs(errors[:, 0])), 100 * np.median(np.abs(errors[:, 1]))
    covered = [float(errors[:, k].mean()) for k in (2, 3)]
    print(
        f"{len(grids)} trials, {grids[0].predicted.shape[0]} prompts x {grids[0].predicted.shape[1]} rows: ours "
        f"{cells} cells, whole grid {whole_cells}: ratio {cells / whole_cells:.3f}"
    )
    print(f"  median error over {DRAWS} draws a trial: mean {mean:.2f} points, std {std:.2f} points")
    print(f"  95 % intervals cover the whole grid's mean in {covered[0]:.0%}, its std in {covered[1]:.0%}")
    each = "; ".join(f"mean {100 * g.correct.mean():.1f}, std {100 * whole_std(g):.1f}" for g in grids)
    print(f"  the grids: {each}")
    print(f"  seconds a trial spends on a rung: sampled {seconds[0]:.2f}, whole {seconds[1]:.2f}")
    if args.json:
        claim = {
            "claim": f"forward passes of a sampled rung ({args.share:g} of the cells) against the whole grid",
            "ours": cells,
            "peer": whole_cells,
            "ratio": round(cells / whole_cells, 4),
            "unit": "cells",
            "median_error_points": {"mean": round(float(mean), 2), "std": round(float(std), 2)},
            "coverage": {"mean": round(covered[0], 3), "std": round(covered[1], 3)},
            "seconds_a_rung": {"sampled": round(seconds[0], 2), "whole": round(seconds[1], 2)},
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "versions": {n: version(n) for n in ("torch", "transformers", "numpy")}
            | {"python": platform.python_version()},
        }
        args.json.write_text(json.dumps([claim], indent=1) + "\n")


def make_study(folder: Path, quick: bool, share: float) -> None:
    """That of ``sweep_makespan``, its 50 test prompts as the dev pool, with half of its trials and two rungs."""
    write_study(folder, SIZES["quick" if quick else "small"], std_weight=1)
    study = yaml.safe_load((folder / "study.yaml").read_text())
    study["pools"] |= {"dev": "test.yaml", "test": "dev.yaml"}
    study["task"]["rows"]["dev"]["limit"] = 40 if quick else 200
    study["axes"]["lora"]["r"] = 8
    study["scheduler"] = {"eta": 2, "rungs": [0.5, 1.0]}
    study["scoring"] = {"sample": share}  # that of the command line
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))


def read(run: Path) -> tuple[list[Grid], tuple[float, float]]:
    """The whole grids of the trials that came to their end, and a trial's scoring seconds: sampled, whole."""
    grids, seconds = [], ([], [])  # type: tuple[list[Grid], tuple[list[float], list[float]]]
    folder = RunFolder(Store.open(str(run)))
    for rung in (rung for trial_id in folder.store.folders("scores") for rung in folder.rungs(trial_id, "dev")):
        whole = "sample" not in rung.record
        seconds[whole].append(rung.record["score_seconds"])
        if whole and rung.grid is not None:
            grids.append(rung.grid)
    return grids, (float(np.mean(seconds[0])), float(np.mean(seconds[1])))


def draw(whole: Grid, share: float) -> Iterator[tuple[float, float, bool, bool, int]]:
    """Of each design: error of mean and std, whether their intervals cover, cells."""
    truth_mean, truth_std = float(whole.correct.mean()), whole_std(whole)
    for k in range(DRAWS):
        part = sample(whole, share, f"draw {k}")
        found = grid_estimate(part, "accuracy")
        low, high = found.std_interval
        yield (
            found.mean - truth_mean,
            found.std - truth_std,
            abs(found.mean - truth_mean) <= Z * found.mean_error,
            low <= truth_std <= high,
            part.n_cells,
        )


def sample(whole: Grid, share: float, salt: str) -> Grid:
    prompts, rows = ([f"{salt} {name}" for name in names] for names in (whole.prompts, whole.rows))
    labels: list[Any] = [whole.labels[k] for k in whole.label]
    size = design.sample_size(share, len(prompts), len(rows))
    kept = np.array(design.choose_rows(rows, labels, size.rows))
    seen = design.balanced(prompts, [rows[j] for j in kept], [labels[j] for j in kept], size.cells)
    return dataclasses.replace(
        whole,
        rows=tuple(rows[j] for j in kept),
        label=whole.label[kept],
        predicted=np.where(seen, whole.predicted[:, kept], NO_ANSWER),
        correct=whole.correct[:, kept] & seen,
        label_logprobs=None,
        seen=seen,
        pool_rows=len(rows),
    )


def whole_std(whole: Grid) -> float:
    return grid_objective(whole, "accuracy", 1.0).std


if __name__ == "__main__":
    main()
