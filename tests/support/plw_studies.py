"""Simulated prompt-loss-weight studies with a known truth, as the table that the analysis reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from sweeps.plw.scores import SCHEMA, PlwScores

WEIGHTS = (0.0, 0.01, 0.05, 0.1, 0.5, 1.0)
BENCHMARKS = {"arc": 0.5, "piqa": 0.75, "truthfulqa": 0.35, "winogrande": 0.65}
Truth = Callable[[float], float]  # place on the rank axis, -1 to 1 -> score added


def nothing(_: float) -> float:
    return 0.0


def rising(place: float) -> float:
    return 0.015 * place


def peaked(place: float) -> float:
    return -0.02 * (place - 0.2) ** 2  # its top lies at weight 0.1: place 0.2


def study(
    truth: Truth,
    seed: int,
    noise: float = 0.01,
    models: Sequence[str] = ("m7", "m13"),
    seeds: int = 1,
    between: float = 0.0,
    data_set: str = "rows",
    benchmarks: Sequence[str] = tuple(BENCHMARKS),
) -> PlwScores:
    """Scores = benchmark + model + truth + luck of the fine-tune (std ``between``) + noise. 48 rows by default, as the
    paper has for each data set."""
    rng = np.random.default_rng(seed)
    rows = []
    for m, model in enumerate(models):
        for s in range(seeds):
            for place, weight in zip(np.linspace(-1, 1, len(WEIGHTS)), WEIGHTS, strict=True):
                luck = between * rng.standard_normal()
                rows += [
                    {
                        "benchmark": benchmark,
                        "data_set": data_set,
                        "weight": weight,
                        "model": model,
                        "setting": "",
                        "seed": s,
                        "trial_id": f"{data_set} {model} {s} {weight:g}",
                        "score": BENCHMARKS[benchmark]
                        + 0.03 * m
                        + truth(float(place))
                        + luck
                        + noise * rng.standard_normal(),
                    }
                    for benchmark in benchmarks
                ]
    return PlwScores(pa.Table.from_pylist(rows, schema=SCHEMA))


def together(*studies: PlwScores) -> PlwScores:
    return PlwScores(pa.concat_tables([s.table for s in studies]))
