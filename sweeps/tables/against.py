"""Two runs compared: paired differences of their winners and of the configurations that both have.

Differences are those of tables/robustness, on the test prompts and rows that both runs share, of sampled grids on the
cells that both have. The variance between seeds is pooled over the configurations of both runs. Nothing is written.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from sweeps.display.text import shown
from sweeps.run_folder.columns import FRESH, REPORT, SEARCH
from sweeps.run_folder.reading import RunFolder
from sweeps.statistics import intervals as st
from sweeps.statistics import seeds as sd
from sweeps.statistics.prompt_tests import std_test
from sweeps.statistics.tails import heavy_tails
from sweeps.study.difference import Difference, study_differences
from sweeps.tables.configurations import (
    Configuration,
    Measured,
    SeedVariances,
    configurations,
    differing_axes,
    heavy_difference,
    measured,
)
from sweeps.tables.current import current_tables, winning_row
from sweeps.tables.estimates import mean_test, seed_of
from sweeps.tables.robustness import Tables
from sweeps.tables.shared import Shared, shared_data
from sweeps.tables.winner import no_winner
from trainer.errors import UserError
from trainer.measure.estimate import estimate_grid
from trainer.measure.grid import Floats, shared_cells
from trainer.measure.metrics import spread
from trainer.trial import AXES

MOST = 40  # pairs that are compared; the correction for their number would leave nothing of more
WINNERS, SAME_ID, SAME_AXES = "winners", "same id", "same axis values"


@dataclass(frozen=True)
class Side:
    """A configuration in one of the two runs, on the shared prompts and rows."""

    name: str  # id and the axis values that differ
    trial_ids: tuple[str, ...]  # the seeds that are measured
    state: str  # "" or why it may not count: "stopped at step 40", "one label"
    mean: float
    std: float  # over prompts; of several seeds the root of the mean of their squares


@dataclass(frozen=True)
class Pair:
    """The first run's configuration minus the other's. NaN: not known."""

    why: str  # WINNERS, SAME_ID or SAME_AXES
    here: Side
    there: Side
    mean: st.Estimate
    p: float
    heavy: bool  # a few prompts decide, so neither interval nor p-value holds
    std: st.Estimate  # difference of the stds; with an interval of winners alone
    p_std: float  # nan where a side has several seeds
    heavy_std: bool
    of_settings: bool  # False: the luck of the seed is not known, and it speaks of these fine-tunes
    sampled: bool  # on the cells that both have, which are not all
    p_holm: float = math.nan


@dataclass(frozen=True)
class Comparison:
    address: str  # of the other run
    metric: str
    study: tuple[Difference, ...]
    shared: Shared
    no_winner: tuple[str, ...]  # a sentence for each run without one
    pairs: tuple[Pair, ...]  # that of the winners first
    equal: tuple[str, ...]  # names of configurations whose trials both runs have, with the same answers
    equal_winners: bool  # among them are both winners
    matched: int  # configurations that both have, beside the winners
    unshared: int  # of these, those without test scores on shared cells
    left: int  # of these, those beyond ``MOST`` pairs
    unfinished: tuple[str, ...]  # addresses of runs that go on
    said: tuple[str, ...]  # what is to be known of the other run's files


def compare_runs(here: RunFolder, there: RunFolder) -> Comparison:
    """``here`` minus ``there``. Raises ``UserError`` where they cannot be compared."""
    check_comparable(here, there)
    runs, made, shared = (here, there), (current_tables(here), current_tables(there)), shared_data(here, there)
    metric = here.study.task.metric
    winners = [_winner(run, tables) for run, tables in zip(runs, made, strict=True)]
    missing = [
        f"{run.store.uri} has no winner: {_why_none(tables)}."
        for run, tables, winner in zip(runs, made, winners, strict=True)
        if winner is None
    ]
    ours, theirs = winners
    first = [(WINNERS, ours, theirs)] if ours is not None and theirs is not None else []
    others = [one for one in _matched(made[0], here, there) if one[1:] != (ours, theirs)]
    wanted = [*first, *others]
    pairs, equal, unshared = list[Pair](), list[tuple[str, str]](), 0
    if shared:
        with threadpool_limits(1, "blas"):
            read = _Reader(runs, shared, metric, [tables.robustness.to_pylist() for tables in made])
            for why, one, other in wanted[:MOST]:
                found = read.pair(why, one, other)
                if isinstance(found, Pair):
                    pairs.append(found)
                elif found:
                    equal.append((why, found))
                else:
                    unshared += why != WINNERS
    return Comparison(
        there.store.uri,
        metric,
        tuple(study_differences(here.study, there.study)),
        shared,
        tuple(missing),
        tuple(_corrected(pairs)),
        tuple(name for _, name in equal),
        any(why == WINNERS for why, _ in equal),
        len(others),
        unshared,
        max(0, len(wanted) - MOST) if shared else 0,
        tuple(run.store.uri for run in runs if not run.is_finished),
        tuple(there.notes),
    )


def check_comparable(here: RunFolder, there: RunFolder) -> None:
    """Raises ``UserError``."""
    names = [run.store.uri for run in (here, there)]
    if names[0].rstrip("/") == names[1].rstrip("/") or (all(map(os.path.isdir, names)) and os.path.samefile(*names)):
        raise UserError(f'--against "{names[1]}" is the run itself. Give the folder of another run')
    tasks = [run.study.task for run in (here, there)]
    for key, values in (("metric", [task.metric for task in tasks]), ("labels", [list(task.names) for task in tasks])):
        if values[0] != values[1]:
            said = [", ".join(value) if isinstance(value, list) else value for value in values]
            raise UserError(
                f'--against "{names[1]}": its task.{key} is {said[1] or "none"}, and that of {names[0]} is '
                f"{said[0] or 'none'}. Only runs with the same metric and labels can be compared: give another run"
            )
    for run in (here, there):
        if all(run.last_grid(trial_id, "test") is None for trial_id in run.trials_by_id):
            raise UserError(
                f"{run.store.uri}: no trial has test scores yet, so it cannot be compared. {run.how_to_continue}"
            )


# which configurations ------------------------------------------------------------------------------------------


def _winner(run: RunFolder, tables: Tables) -> Configuration | None:
    """With the trials that its table measures: of a confirmed one, the fresh seeds that report."""
    row = winning_row(tables)
    if row is None:
        return None
    confirmed = any(r["winner"] for r in tables.confirmation.to_pylist())
    found = configurations(run.trials, (REPORT if confirmed else SEARCH,))
    return next(one for one in found if one.id == row["configuration"])


def _why_none(tables: Tables) -> str:
    return no_winner(tables.robustness.to_pylist(), tables.confirmation.to_pylist())[0]


def _matched(tables: Tables, here: RunFolder, there: RunFolder) -> Iterator[tuple[str, Configuration, Configuration]]:
    """Configurations of the search that both runs have, in the order of the first one's table."""
    ours, theirs = (configurations(run.trials) for run in (here, there))
    by_id = {one.id: one for one in theirs}
    known = {one.id for one in ours}
    by_axes = _only(theirs, lambda one: one.id not in known)
    of_ours = _only(ours, lambda one: one.id not in by_id)
    place = {row["configuration"]: i for i, row in enumerate(tables.robustness.to_pylist())}
    for one in sorted(ours, key=lambda one: place.get(one.id, len(place))):
        axes = _axes(one)
        if one.id in by_id:
            yield SAME_ID, one, by_id[one.id]
        elif of_ours.get(axes) == one and axes in by_axes:
            yield SAME_AXES, one, by_axes[axes]


def _only(some: Sequence[Configuration], keep: Callable[[Configuration], bool]) -> dict[tuple[str, ...], Configuration]:
    """Those that ``keep`` lets through, by their axis values, where no two have the same."""
    found: dict[tuple[str, ...], list[Configuration]] = {}
    for one in filter(keep, some):
        found.setdefault(_axes(one), []).append(one)
    return {axes: members[0] for axes, members in found.items() if len(members) == 1}


def _axes(one: Configuration) -> tuple[str, ...]:
    return tuple(shown(one.rows[0].get(axis)) for axis in AXES if axis != "seed")


# differences ----------------------------------------------------------------------------------------------------


class _Reader:
    """Reads the test scores of configurations on what is shared, and compares them. ``rows``: of tables/robustness."""

    def __init__(
        self, runs: Sequence[RunFolder], shared: Shared, metric: str, rows: Sequence[Sequence[Mapping[str, Any]]]
    ) -> None:
        self._runs, self._shared, self._metric = runs, shared, metric
        self._rows = [{row["configuration"]: row for row in some} for some in rows]
        several = any(row["n_seeds"] > 1 for some in rows for row in some)
        self._named_by = "configuration" if several else "trial_id"
        self._axes = [axis for axis in differing_axes([*rows[0], *rows[1]]) if axis != "seed" or not several]
        self._variances = SeedVariances()
        for i, run in enumerate(runs):
            for one in (*configurations(run.trials), *configurations(run.trials, FRESH)):
                if len(one.rows) > 1 and (found := self._measured(i, one)) is not None:
                    self._variances.add(found, one.rows)

    def pair(self, why: str, one: Configuration, other: Configuration) -> Pair | str:
        """The comparison of two configurations; the name of one where both runs have its trials with the same answers,
        and "" where the two share no cells."""
        a, b = self._measured(0, one), self._measured(1, other)
        if a is None or b is None:
            return ""
        variance = self._variances.on(a.pool)
        found = mean_test([a.scores, b.scores], variance)
        if found is None:
            return ""
        if _equal(a, b):
            return self._name(0, one)
        sides = self._side(0, one, a), self._side(1, other, b)
        heavy = bool(heavy_difference(a, b))
        std, p_std, heavy_std = st.Estimate(sides[0].std - sides[1].std, math.nan, math.nan), math.nan, False
        if why == WINNERS and a.scores.grid.seen is None and b.scores.grid.seen is None:
            std, p_std, heavy_std = _std_difference(a, b)
        return Pair(
            why,
            *sides,
            *found,
            heavy,
            std,
            p_std,
            heavy or heavy_std,
            all(variance.known or len(m.trial_ids) > sd.POOLED for m in (a, b)),
            any(m.scores.grid.seen is not None for m in (a, b)),
        )

    def _measured(self, run: int, one: Configuration) -> Measured | None:
        return measured(one, lambda trial: self._shared.part(self._runs[run].last_grid(trial, "test")), self._metric)

    def _name(self, run: int, one: Configuration) -> str:
        row = self._rows[run].get(one.id, one.rows[0])
        axes = (f"{axis}={shown(row[axis])}" for axis in self._axes if row.get(axis) is not None)
        return " ".join([str(row[self._named_by])[:8], *axes])

    def _side(self, run: int, one: Configuration, found: Measured) -> Side:
        stopped = [row for row in one.rows if row.get("status") != "finished"]
        state = [f"{stopped[0]['status']} at step {stopped[0].get('rung') or 0}"] if stopped else []
        state += ["one label"] if found.degenerate else []
        means, stds = zip(*_of_seeds(found), strict=True)
        return Side(self._name(run, one), found.trial_ids, ", ".join(state), float(np.mean(means)), _root_mean(stds))


def _of_seeds(found: Measured) -> list[tuple[float, float]]:
    """Mean and std over prompts of every seed."""
    grid = found.scores.grid
    if grid.seen is None:
        return [(float(cells.mean()), spread(cells.mean(axis=1))) for cells in found.scores.cells]
    each = [
        estimate_grid(np.where(grid.seen, cells, 0.0), grid.seen, grid.label, grid.n_rows)
        for cells in found.scores.cells
    ]
    return [(one.mean, one.std) for one in each]


def _root_mean(stds: Sequence[float]) -> float:
    return math.sqrt(float(np.mean(np.square(stds))))


def _equal(a: Measured, b: Measured) -> bool:
    """Whether both are the same trials with the same answers on the shared cells."""
    both = shared_cells(a.scores.grid, b.scores.grid)
    if a.trial_ids != b.trial_ids or both is None:
        return False
    gap = a.scores.cells[:, :, both.rows] - b.scores.cells[:, :, both.others]
    return not np.where(True if both.seen is None else both.seen, gap, 0.0).any()


def _std_difference(a: Measured, b: Measured) -> tuple[st.Estimate, float, bool]:
    """The difference of the stds over prompts of whole grids, with the interval for new prompts and rows of a two-way
    bootstrap that draws the same for both; its p-value (of one seed each, or NaN); and whether a few prompts lie far
    from the rest. The luck of the seeds is not in it."""
    parts, limits = (a.scores.cells, b.scores.cells), a.scores.limits
    p, rows = parts[0].shape[1:]
    value = _root_mean([s for _, s in _of_seeds(a)]) - _root_mean([s for _, s in _of_seeds(b)])
    if p < st.FEW_PROMPTS:
        return st.Estimate(value, math.nan, math.nan), math.nan, False
    drawn = st.resamples(p, rows, seed_of(a.scores.grid))
    redrawn = _redrawn_std(parts[0], drawn) - _redrawn_std(parts[1], drawn)
    estimate = st.percentile(value, redrawn, st.minus(st.spread_limits(p, limits)))
    tails = any(heavy_tails(part.mean(axis=(0, 2))) for part in parts)
    one_seed = max(len(part) for part in parts) == 1
    return estimate, std_test(parts[0][0], parts[1][0]) if one_seed else math.nan, tails


def _redrawn_std(part: Floats, drawn: st.Resamples) -> Floats:
    """[B] of ``part`` [S, P, R], in every replicate."""
    stds = [st.replicate(cells, drawn).stretched.std(axis=1, ddof=1) for cells in part]
    found: Floats = np.sqrt(np.mean(np.square(stds), axis=0))
    return found


def _corrected(pairs: Sequence[Pair]) -> list[Pair]:
    """With the p-values of the means after Holm's correction over all of them."""
    known = [i for i, pair in enumerate(pairs) if math.isfinite(pair.p)]
    adjusted = dict(zip(known, st.holm([pairs[i].p for i in known]), strict=True))
    return [replace(pair, p_holm=adjusted.get(i, math.nan)) for i, pair in enumerate(pairs)]
