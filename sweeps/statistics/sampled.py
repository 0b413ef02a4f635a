"""Estimates for new prompts and new rows from a sample of a prompts x rows grid, with their intervals.

``trainer.measure.estimate`` says what the whole grid would give, and how far off that may be. Here the prompts and rows
that were not drawn are added, as ``sweeps.statistics.intervals`` does for whole grids. An incomplete grid cannot be
resampled cell by cell, so:

- Mean and paired difference: t interval; its variance is that of prompts, rows and the cells that were left out, with
  Satterthwaite's degrees of freedom.
- Standard deviation: the interval of whole grids, with the sample's noise beside that of finite rows.
- Worst prompt, quantiles, shares: a bootstrap over prompts, whose values in each replicate are drawn from what the
  sample leaves open about them and about their spread; all of a replicate are shifted by the error of the mean.

tests/sweeps/statistics/test_sampled.py measures the coverage. The same cells always give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from sweeps.statistics import intervals as st
from sweeps.statistics.seeds import Component
from trainer.measure.estimate import GridEstimate
from trainer.measure.grid import Floats


def mean_test(
    found: GridEstimate,
    rows: int,
    bounded: bool = True,
    seeds: Sequence[Component] = (),
    limits: st.Limits = st.SHARE,
    least_rows: float | None = None,
) -> tuple[st.Estimate, float]:
    """The mean for new prompts and rows with its interval, and the two-sided p-value that it is 0; as ``mean_test`` of
    whole grids, with ``bounded``, ``limits`` and ``least_rows`` as there. ``rows``: that were met. ``seeds``: what the
    luck of the seeds adds to the variance, where ``found`` is of an average over seeds. Part of it is in the average's
    prompts and rows as well and is counted twice, which makes the interval a little too long."""
    limits = limits if bounded else st.minus(limits)
    parts = [*_parts(found, rows), *((c.value, c.df) for c in seeds)]
    variance = sum(part for part, _ in parts)
    if variance == 0.0:
        slack = 1.0 - ((1.0 - st.LEVEL) / 2.0) ** (1.0 / (least_rows or rows)) if bounded else 0.0
        slack *= limits.high - limits.low
        return limits.within(st.Estimate(found.mean, found.mean - slack, found.mean + slack)), float(found.mean == 0.0)
    df, se = variance**2 / sum(part**2 / df for part, df in parts), math.sqrt(variance)
    q = float(special.stdtrit(df, (1.0 + st.LEVEL) / 2.0))
    p_value = 2.0 * float(special.stdtr(df, -abs(found.mean) / se))
    return limits.within(st.Estimate(found.mean, found.mean - q * se, found.mean + q * se)), min(p_value, 1.0)


def _parts(found: GridEstimate, rows: int) -> list[tuple[float, float]]:
    """The parts of the mean's variance, each with its degrees of freedom. What prompts vary by is a difference of two
    variances, so it is known less well than their number says; at least one degree is left."""
    p = len(found.unbiased)
    if p == 1:  # rows cannot be told from residuals, and both are new
        return [(found.rows_noise + found.rows_variance, max(rows - 1.0, 1.0)), (found.mean_error**2, float(found.df))]
    between = max(found.variance, 0.0)
    with_noise = between + float(found.noise.mean())
    df = max(1.0, (p - 1) * (between / with_noise) ** 2) if with_noise > 0 else 1.0
    return [
        (between / p, df),
        (found.rows_variance, max(rows - 1.0, 1.0)),
        (found.mean_error**2, max(float(found.df), 1.0)),
    ]


def std_interval(found: GridEstimate, limits: st.Limits = st.SHARE) -> st.Estimate:
    """The std of the prompts' true values, without the noise of the rows and of the sample, with its interval; at most
    half the width of ``limits``."""
    return st.spread_interval(found.unbiased, found.rows_noise + float(found.noise.mean()), limits)


def replicate(found: GridEstimate, seed: int) -> st.Replicates:
    """``seed`` depends on prompts and rows alone, so that all trials of one sample draw the same prompts."""
    p = len(found.each)
    drawn = st.resamples(p, 1, seed)
    rng = np.random.default_rng([seed, p])
    n, tau = len(drawn.prompts), found.std
    spread = np.sqrt(np.maximum(found.variance + found.variance_error * rng.standard_normal((n, 1)), 0.0))
    known = found.variance / (found.variance + found.noise) if tau > 0 else np.zeros(p)  # of a prompt's place
    away = (found.each - found.mean) / tau if tau > 0 else np.zeros(p)
    places = np.sqrt(known) * away + np.sqrt(1.0 - known) * rng.standard_normal((n, p))
    # drawing from p values loses a share 1/p of their variance
    values = spread * math.sqrt(p / max(p - 1, 1)) * np.take_along_axis(places, drawn.prompts, axis=1)
    shift = math.sqrt(found.rows_variance + found.mean_error**2) * rng.standard_normal((n, 1))
    per_prompt: Floats = found.mean + shift + values
    centre = per_prompt.mean(axis=1, keepdims=True)
    stretched: Floats = centre + (per_prompt - centre) * drawn.stretch[:, None]
    return st.Replicates(np.empty(0), per_prompt, stretched)
