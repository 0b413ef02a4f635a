"""What a trial's test grid says for new prompts and rows, whether all of it was scored or a sample.

Of a whole grid ``sweeps.statistics.intervals`` makes the estimates, of a sample ``sweeps.statistics.sampled``. Trials
with different samples are compared on the cells that both have, of the same prompts and rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sweeps.statistics import intervals as st
from sweeps.statistics import prompt_metrics, sampled
from sweeps.tables.columns import or_none
from trainer.measure import metrics
from trainer.measure.estimate import estimate_grid
from trainer.measure.grid import Floats, Grid, shared
from trainer.trial import digest


@dataclass(frozen=True)
class TrialEstimates:
    cells: Floats  # [P, R]
    each: Floats  # [P] per prompt
    drawn: st.Replicates
    mean: st.Estimate
    std: st.Estimate  # without the noise of finite rows
    errors: tuple[float, float] = (0.0, 0.0)  # standard errors against the whole grid's mean and std, if sampled


def estimates(test: Grid, metric: str) -> TrialEstimates:
    cells, each = metrics.cells(test, metric), metrics.per_prompt(test, metric)
    if test.seen is None:
        drawn = st.replicate(cells, st.resamples(*cells.shape, seed_of(test)))
        return TrialEstimates(cells, each, drawn, st.mean_test(cells, drawn)[0], st.std_interval(cells))
    found = metrics.grid_estimate(test, metric)
    mean, std = sampled.mean_test(found, len(test.rows))[0], sampled.std_interval(found)
    drawn = sampled.replicate(found, seed_of(test))
    return TrialEstimates(cells, each, drawn, mean, std, (found.mean_error, found.std_error))


def difference(one: Grid, other: Grid, metric: str, cells: Floats, others: Floats) -> tuple[st.Estimate, float] | None:
    """The mean of ``one`` minus that of ``other`` for new prompts and rows, and the p-value that it is 0; None where
    they have not the same prompts and rows. ``cells`` and ``others``: theirs, of whole grids."""
    pair = shared(one, other)
    if pair is None:
        return None
    first, second = pair
    if first.seen is None:
        return st.difference(cells, others, seed_of(one))
    gap = metrics.cells(first, metric) - metrics.cells(second, metric)
    found = estimate_grid(np.where(first.seen, gap, 0.0), first.seen, first.label, first.n_rows)
    return sampled.mean_test(found, len(first.rows), bounded=False)


def mean_auc(test: Grid) -> float | None:
    """ROC-AUC of log p(second label) - log p(first label), averaged over prompts; None unless there are two labels."""
    if test.label_logprobs is None or len(test.labels) != 2 or test.label_logprobs.shape[2] != 2:
        return None
    score = test.label_logprobs[:, :, 1] - test.label_logprobs[:, :, 0]
    seen = np.ones(score.shape, bool) if test.seen is None else test.seen
    each = [prompt_metrics.roc_auc(test.label[s] == 1, one[s]) for one, s in zip(score, seen, strict=True)]
    return or_none(float(np.mean(each)))


def seed_of(test: Grid) -> int:
    """Depends on the prompts and rows alone, so that all trials of one grid have the same resamples."""
    return int(digest([test.prompts, test.rows])[:8], 16)
