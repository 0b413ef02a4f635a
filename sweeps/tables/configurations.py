"""From the rows of trials to those of configurations, with seeds as a random factor.

A configuration with one seed has the row of its one trial. With several, its mean and its differences are estimated
from seeds x prompts x rows (``sweeps.statistics.seeds``), and what belongs to one fine-tune (its worst prompt, its
share of prompts above a threshold) is averaged over seeds. A configuration is as sound as its worst seed: if one
failed, was cut or gives one label nearly always, so it is with the configuration.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeps.display.text import shown
from sweeps.run_folder.columns import SEARCH
from sweeps.statistics import intervals as st
from sweeps.statistics import seeds as sd
from sweeps.statistics.tails import heavy_tails
from sweeps.tables.columns import Settings, bounds, or_none
from sweeps.tables.estimates import SeedCells, mean_test, prompt_spread, seed_cells, seed_variance
from trainer.measure.grid import Grid
from trainer.measure.registry import METRICS, label_of
from trainer.measure.replicates import error_of_seeds, objective_of_seeds
from trainer.trial import AXES

_WORST_FIRST = ("failed", "running", "stopped", "finished")
_SUMS = ("seconds", "tokens")
_MEANS = (
    "test_objective",
    "parse_fail_rate",
    "top_label_share",
    "max",
    "saturation",
    "cps",
    "consistency",
    "sensitivity",
    "dev_parse_fail_rate",
    "mean_sampling",
    "std_sampling",
)
Row = Mapping[str, Any]
Pool = tuple[tuple[str, ...], int]  # ids of prompts, and how many rows


@dataclass(frozen=True)
class Configuration:
    """Trials that differ in their seed alone, in the order of ``trials.parquet``. The first is the one that
    ``steadytune export`` takes, whatever came out."""

    id: str
    rows: tuple[dict[str, Any], ...]  # of its trials

    @property
    def trial_id(self) -> str:
        return str(self.rows[0]["trial_id"])


def configurations(rows: Iterable[dict[str, Any]], roles: Sequence[str] = (SEARCH,)) -> list[Configuration]:
    """The configurations of the trials that have one of ``roles``, in the order of their first trials."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if (row.get("role") or SEARCH) in roles:
            found.setdefault(row["configuration"], []).append(row)
    return [Configuration(name, tuple(members)) for name, members in found.items()]


@dataclass(frozen=True)
class Measured:
    """The test scores of a configuration."""

    scores: SeedCells
    trial_ids: tuple[str, ...]
    degenerate: bool  # a seed gives one label nearly always

    @property
    def pool(self) -> Pool:
        return self.scores.grid.prompts, self.scores.grid.n_rows


def measured(one: Configuration, grid_of: Callable[[str], Grid | None], metric: str) -> Measured | None:
    """The test scores of those of its trials that have them on the same prompts and rows; None if none has. Where one
    of them was sampled, on its cells."""
    found = [(str(row["trial_id"]), grid) for row in one.rows if (grid := grid_of(row["trial_id"])) is not None]
    if not found:
        return None
    scores, kept = seed_cells([grid for _, grid in found], metric)
    return Measured(scores, tuple(found[i][0] for i in kept), any(found[i][1].degenerate for i in kept))


def heavy_difference(one: Measured, other: Measured) -> bool | None:
    """Whether the difference of two configurations lies in a few prompts; not known of samples."""
    if one.scores.grid.seen is not None or other.scores.grid.seen is not None:
        return None
    return heavy_tails(one.scores.cells.mean(axis=(0, 2)) - other.scores.cells.mean(axis=(0, 2)))


class SeedVariances:
    """The variance between seeds, pooled over all configurations on the same prompts and rows; and that of every other
    quantity of one fine-tune, pooled over all configurations."""

    def __init__(self) -> None:
        self._of_grid: dict[Pool, dict[tuple[str, ...], sd.SeedVariance]] = {}  # by the ids of its trials
        self._of_column: dict[str, list[sd.Component]] = {}

    def add(self, found: Measured, rows: Sequence[Row]) -> None:
        self._of_grid.setdefault(found.pool, {})[found.trial_ids] = seed_variance(found.scores)
        for name in {n for row in rows for n, v in row.items() if isinstance(v, float)}:
            values = [row[name] for row in rows if row.get(name) is not None]
            if len(values) > 1:
                self._of_column.setdefault(name, []).append(
                    sd.Component(float(np.var(values, ddof=1)), len(values) - 1)
                )

    def on(self, pool: Pool, without: tuple[str, ...] = ()) -> sd.SeedVariance:
        """Of the mean, on these prompts and rows; not known where no configuration has two seeds there. ``without``:
        ids of the trials of a configuration that is left out."""
        return sd.pooled([v for trials, v in self._of_grid.get(pool, {}).items() if trials != without])

    def of(self, column: str) -> sd.Component:
        return sd.pooled_components(self._of_column.get(column, ()))


def combined(
    one: Configuration, found: Measured | None, variances: SeedVariances, settings: Settings
) -> dict[str, Any]:
    """The row of a configuration from those of its trials, which hold the columns of their own scores."""
    rows = one.rows
    row: dict[str, Any] = {**rows[0], "winner": False, "rank": None, "n_seeds": len(rows), "seed_std": None}
    row["seeds"] = ", ".join(str(r["seed"]) for r in rows)
    if len(rows) > 1:
        row |= _joined(rows, settings.std_weight)
    row["speaks_of"] = "fine-tunes"
    if found is None:
        return row
    of_study = variances.on(found.pool)
    tested = [r for r in rows if r["trial_id"] in found.trial_ids]
    stds = [_estimate({**r, "std": r["std_corrected"]}, "std") for r in tested]
    spread = prompt_spread(found.scores, stds, variances.of("std_corrected"))
    row["n_cells"] = min(r["n_cells"] for r in tested)
    row["std_average"] = or_none(spread.of_average)
    if not of_study.known:
        return row
    row["speaks_of"] = "settings"
    mean, _ = mean_test([found.scores], of_study) or (st.Estimate(math.nan, math.nan, math.nan), math.nan)
    row |= {"mean": mean.value, **bounds("mean", mean)}
    row["n_seeds"] = len(tested)
    row["seed_std"] = or_none(math.sqrt(seed_variance(found.scores).of_mean.value) if len(tested) > 1 else math.nan)
    others = variances.on(found.pool, without=found.trial_ids)
    odd = sd.outliers(np.array([float(r["mean"]) for r in tested]), others.of_mean)
    row["odd_seeds"] = ", ".join(str(tested[i]["seed"]) for i in odd) or None
    if len(tested) > 1:
        row["std"] = math.sqrt(float(np.mean([r["std"] ** 2 for r in tested])))
        row |= {"std_corrected": spread.of_one.value, **bounds("std", spread.of_one)}
    for name in ("min", *settings.top_names(), *(f"q{round(100 * q):02d}" for q in st.QUANTILES)):
        each = [_estimate(r, name) for r in tested]
        within = st.SHARE if name in settings.top_names() else found.scores.limits
        averaged = sd.over_seeds(each, variances.of(name), within)
        row |= {name: averaged.value, **bounds(name, averaged)}
    return row


def _joined(rows: Sequence[Row], std_weight: float) -> dict[str, Any]:
    """What needs no cells: sums, means, and the state of the worst seed."""
    worst = min(rows, key=lambda r: _WORST_FIRST.index(r.get("status") or "running"))
    row: dict[str, Any] = {name: sum(r.get(name) or 0 for r in rows) for name in _SUMS}
    for name in (*_MEANS, *(n for n in rows[0] if n in METRICS or label_of(n) is not None)):
        values = [r[name] for r in rows if r.get(name) is not None]
        row[name] = float(np.mean(values)) if values else None
    row |= {"status": worst.get("status"), "rung": min((r.get("rung") or 0) for r in rows)}
    row["reason"] = worst.get("reason")
    row["degenerate"] = any(bool(r.get("degenerate")) for r in rows)
    row["heavy_tails"] = any(bool(r.get("heavy_tails")) for r in rows)
    row["dev_objective"] = or_none(objective(rows, std_weight))
    tested = [r for r in rows if r.get("test_objective") is not None]
    if tested:
        stds = [float(r["std"]) for r in tested]
        row["test_objective"] = objective_of_seeds([float(r["test_objective"]) for r in tested], stds, std_weight)
    row["dev_stderr"] = None
    if row["dev_objective"] is not None:
        errors = [r.get("dev_stderr") for r in rows]
        row["dev_stderr"] = or_none(error_of_seeds([float(r["dev_objective"]) for r in rows], errors))
    return row


def objective(rows: Sequence[Row], std_weight: float) -> float:
    """On the dev prompts, over the seeds of these trials; NaN where one has none. Where the dev scores of a trial are
    lost, ``trials.parquet`` has both; in folders of before no std, which then counts as 0."""
    values = [r.get("dev_objective") for r in rows]
    if None in values or not values:
        return math.nan
    stds = [r.get("dev_std") or 0.0 for r in rows]
    return objective_of_seeds([float(v) for v in values if v is not None], stds, std_weight)


def _estimate(row: Row, name: str) -> st.Estimate:
    bounds_of = (row.get(f"{name}_low"), row.get(f"{name}_high"))
    value = float(row[name])
    low, high = (value if b is None else float(b) for b in bounds_of)
    return st.Estimate(value, low, high)


def seed_note(rows: Sequence[Row]) -> str:
    """What the intervals speak of. ``rows``: of tables/robustness."""
    counts = Counter(r["n_seeds"] for r in rows if r.get("mean") is not None)
    if not counts:
        return ""
    if all(r.get("speaks_of") != "settings" for r in rows):
        return (
            "One seed: figures, intervals and p-values speak of these fine-tunes, not of their settings, since how "
            "much the luck of the seed changes is not known. Several seeds (axes.seed) or `confirm` tell."
        )
    few = f"; up to {sd.POOLED} seeds it is pooled over all configurations" if min(counts) <= sd.POOLED else ""
    return (
        "Seeds are a random factor: figures, intervals and p-values speak of settings, trained again with other seeds. "
        f"The variance between seeds is in every interval{few}."
    )


def differing_axes(rows: Sequence[Row]) -> list[str]:
    """The axes that differ between rows of tables/robustness. Where a row has several seeds, the seed is none."""
    several = any(r["n_seeds"] > 1 for r in rows)
    return [a for a in AXES if len({r[a] for r in rows}) > 1 and not (several and a == "seed")]


def labels(rows: Sequence[Row]) -> dict[str, str]:
    """Configuration -> its short id and the axis values that differ between ``rows``, those of tables/robustness."""
    axes = differing_axes(rows)
    name = "configuration" if any(r["n_seeds"] > 1 for r in rows) else "trial_id"
    return {
        r["configuration"]: " ".join([r[name][:8], *(f"{a}={'-' if r[a] is None else shown(r[a])}" for a in axes)])
        for r in rows
    }
