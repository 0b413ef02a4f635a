"""What test grids say for new seeds, prompts and rows, whether all of a grid was scored or a sample.

Of whole grids ``sweeps.statistics.intervals`` and ``seeds`` make the estimates, of samples
``sweeps.statistics.sampled``. Configurations with different samples are compared on the cells that both have, of the
same prompts and rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sweeps.statistics import intervals as st
from sweeps.statistics import sampled
from sweeps.statistics import seeds as sd
from trainer.measure import metrics
from trainer.measure.estimate import estimate_grid
from trainer.measure.grid import Floats, Grid, only, shared_cells


@dataclass(frozen=True)
class TrialEstimates:
    """Of one trial, for new prompts and rows."""

    cells: Floats  # [P, R]
    each: Floats  # [P] per prompt
    drawn: st.Replicates
    mean: st.Estimate
    std: st.Estimate  # without the noise of finite rows
    errors: tuple[float, float] = (0.0, 0.0)  # standard errors against the whole grid's mean and std, if sampled


def estimates(test: Grid, metric: str) -> TrialEstimates:
    cells, each = metrics.cells(test, metric), metrics.per_prompt(test, metric)
    limits, least_rows = st.limits_of(metric), metrics.least_rows(test, metric)
    if test.seen is None:
        drawn = st.replicate(cells, st.resamples(*cells.shape, seed_of(test)))
        mean, _ = st.mean_test(cells, drawn, limits=limits, least_rows=least_rows)
        return TrialEstimates(cells, each, drawn, mean, st.std_interval(cells, limits))
    found = metrics.grid_estimate(test, metric)
    mean, _ = sampled.mean_test(found, len(test.rows), limits=limits, least_rows=least_rows)
    drawn, std = sampled.replicate(found, seed_of(test)), sampled.std_interval(found, limits)
    return TrialEstimates(cells, each, drawn, mean, std, (found.mean_error, found.std_error))


class SeedCells(NamedTuple):
    """The seeds of a configuration, on the same cells."""

    grid: Grid  # of the first seed; all have its cells
    cells: Floats  # [S, P, R] of the metric; without meaning where ``grid`` was not seen
    metric: str

    @property
    def limits(self) -> st.Limits:
        """Of the metric."""
        return st.limits_of(self.metric)


def seed_cells(grids: Sequence[Grid], metric: str) -> tuple[SeedCells, list[int]]:
    """The grids of a configuration's seeds on the cells that all of them have, and which of the grids these are: those
    of other prompts or rows than the smallest are left out."""
    base = min(grids, key=lambda grid: grid.n_cells)
    kept = [(i, both) for i, grid in enumerate(grids) if (both := shared_cells(grid, base)) is not None]
    first, cells = None, []
    for i, both in kept:
        one = metrics.cells(grids[i], metric)[:, both.rows]
        cells.append(one)
        if first is None and both.seen is not None:
            seen = np.zeros(grids[i].correct.shape, bool)
            seen[:, both.rows] = both.seen
            first = only(grids[i], seen)
    return SeedCells(first or grids[kept[0][0]], np.array(cells), metric), [i for i, _ in kept]


def mean_test(parts: Sequence[SeedCells], of_study: sd.SeedVariance) -> tuple[st.Estimate, float] | None:
    """The mean of one configuration, or of the first minus that of the second, with its interval and the p-value that
    it is 0; None where two have not the same prompts and rows. ``of_study`` as of ``sweeps.statistics.seeds``."""
    both = shared_cells(parts[0].grid, parts[-1].grid)
    if both is None:
        return None
    grid, limits = parts[0].grid, parts[0].limits
    least_rows = metrics.least_rows(grid, parts[0].metric)
    if both.seen is None:
        return sd.mean_test([part.cells for part in parts], of_study, seed_of(grid), limits, least_rows)
    signs = (1.0, -1.0)[: len(parts)]
    on = [part.cells[:, :, rows] for part, rows in zip(parts, (both.rows, both.others), strict=False)]
    average = sum((sign * cells.mean(axis=0) for sign, cells in zip(signs, on, strict=True)), np.zeros(1))
    found = estimate_grid(np.where(both.seen, average, 0.0), both.seen, grid.label[both.rows], grid.n_rows)
    luck = [seed_variance(part) if len(part.cells) > sd.POOLED else of_study for part in parts]
    known = all(variance.known for variance in luck)
    seeds = sd.added([variance.of_mean for variance in luck], [len(part.cells) for part in parts])
    return sampled.mean_test(found, len(both.rows), len(parts) == 1, seeds if known else (), limits, least_rows)


def seed_variance(one: SeedCells) -> sd.SeedVariance:
    """What differs between the seeds of a configuration. Of a sample only the variance of their means is known."""
    seen = one.grid.seen
    if seen is None or len(one.cells) < 2:
        return sd.seed_variance(one.cells)
    means = [
        estimate_grid(np.where(seen, cells, 0.0), seen, one.grid.label, one.grid.n_rows).mean for cells in one.cells
    ]
    return sd.SeedVariance(sd.Component(float(np.var(means, ddof=1)), len(means) - 1), sd.UNKNOWN)


def prompt_spread(one: SeedCells, each: Sequence[st.Estimate], of_study: sd.Component) -> sd.PromptSpread:
    """The standard deviation over prompts of one fine-tune and of the average of fine-tunes. Of a sample the first is
    averaged over the seeds' own (``each``), with ``of_study`` as in ``over_seeds``, and the second is not known of
    several."""
    if one.grid.seen is None:
        return sd.prompt_spread(one.cells, one.limits)
    if len(each) == 1:
        return sd.PromptSpread(each[0], each[0].value)
    return sd.PromptSpread(sd.over_seeds(each, of_study, st.true_spread(one.limits)), math.nan)


def seed_of(test: Grid) -> int:
    """Depends on the prompts and rows alone, so that all trials of one grid have the same resamples."""
    return st.seed_of(test.prompts, test.rows)
