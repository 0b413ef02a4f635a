"""The two figures of a prompt-loss-weight study: scores by benchmark and weight, and the fitted curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from sweeps.display.parts import Figure
from sweeps.display.text import counted
from sweeps.display.vega_estimates import Estimates, estimates, fitted
from sweeps.plw import analysis as a
from sweeps.statistics.intervals import LEVEL

_POINTS = 41  # of a drawn fitted curve
X_AXIS, Y_AXIS = "prompt loss weight, by rank", "score, percent"


def figures(found: a.PlwAnalysis) -> list[Figure]:
    """Those that have something to show: the fitted curves first, which are the answer."""
    return [figure for figure in (_aggregate(found), *_by_benchmark(found)) if figure.spec]


def _aggregate(found: a.PlwAnalysis) -> Figure:
    """For each data set the mean over benchmarks at each weight and the fitted curve with its interval."""
    table = a.aggregate(found)
    observed, curves = [], []
    for data in found.data_sets:
        rows = sorted(table.filter(pc.equal(table["data_set"], data.name)).to_pylist(), key=lambda r: r["place"])
        places, line = _column(rows, "place"), a.fitted(data, found)
        observed.append(Estimates(data.name, places, _column(rows, "mean", 100.0)))
        grid = tuple(float(x) for x in np.unique([*np.linspace(places[0], places[-1], _POINTS), *places]))
        at = [line(x) for x in grid]
        y, low, high = (tuple(100.0 * getattr(e, n) for e in at) for n in ("value", "low", "high"))
        curves.append(Estimates(data.name, grid, y, low, high))
    return Figure(
        "plw-fitted",
        "",
        "Mean over benchmarks",
        "Points: mean over benchmarks and fine-tunes. Line: the fitted curve score ~ weight² + weight + benchmark "
        f"(least squares, weights by rank), in the band of its {100 * LEVEL:g} % interval.",
        fitted(
            observed,
            curves,
            X_AXIS,
            Y_AXIS,
            f"Mean score by prompt loss weight with fitted curves, {counted(len(curves), 'data set')}",
            _names(found),
        ),
    )


def _by_benchmark(found: a.PlwAnalysis) -> list[Figure]:
    """A line per benchmark over the weights; bars show half the range of the fine-tunes on both sides of the mean."""
    table, drawn = a.by_benchmark(found), []
    for i, data in enumerate(found.data_sets, 1):
        rows = table.filter(pc.equal(table["data_set"], data.name)).to_pylist()
        series = []
        for benchmark in sorted({r["benchmark"] for r in rows}):
            mine = sorted((r for r in rows if r["benchmark"] == benchmark), key=lambda r: r["place"])
            means = _column(mine, "mean", 100.0)
            half = [50.0 * (r["max"] - r["min"]) or math.nan for r in mine]
            low, high = (tuple(m + s * h for m, h in zip(means, half, strict=True)) for s in (-1, 1))
            series.append(Estimates(benchmark, _column(mine, "place"), means, low, high))
        description = f"Score by prompt loss weight on {data.name}, {counted(len(series), 'benchmark')}"
        drawn.append(
            Figure(
                f"plw-benchmarks-{i}",
                "",
                f"By benchmark: {data.name}",
                "A point is the mean score of all fine-tunes with that weight on that benchmark; bars: half the "
                "difference between the highest and the lowest of them. Weights are equally spaced, by rank.",
                estimates(series, X_AXIS, Y_AXIS, description, _names(found)),
            )
        )
    return drawn


def _names(found: a.PlwAnalysis) -> dict[float, str]:
    places = found.rank.forward(np.array(found.weights))
    return {float(p): f"{w:g}" for p, w in zip(places, found.weights, strict=True)}


def _column(rows: Sequence[Mapping[str, Any]], name: str, factor: float = 1.0) -> tuple[float, ...]:
    return tuple(factor * float(row[name]) for row in rows)
