"""Estimates of a configuration from its seeds x prompts x rows: for new seeds, new prompts and new rows.

A configuration is a trial without its seed; its trials, which differ in the seed alone, are its replicates. A cell is
``mu + seed + prompt + row + seed*prompt + seed*row + prompt*row + residual``. Seeds are nested in the configuration
(seed 0 of two configurations has nothing in common), prompts and rows are shared between configurations. So the
variance of the mean over S seeds, P prompts and R rows is

    s2_seed/S + s2_prompt/P + s2_row/R + s2_seed*prompt/(S P) + s2_seed*row/(S R) + s2_prompt*row/(P R) + s2/(S P R)

It is estimated from two things: the variance of the seeds' means over S (everything that a new seed changes), and the
two-way analysis of the cells averaged over seeds, less what the seeds add to that. For a difference of two
configurations the second is taken of the difference, cell by cell, and each configuration brings its own first.
Intervals are t intervals, with Satterthwaite's degrees of freedom over the mean squares that enter, as Welch corrected
them.

Two seeds say nearly nothing of their variance (with 1 degree of freedom an interval is 25 standard errors long). So up
to ``POOLED`` seeds, a configuration takes the variance that is pooled over all configurations of the study; with more
it uses its own, since the pooled one covers .89 for a configuration that varies three times as much as the others. With
one seed everywhere nothing is known of seeds: then intervals are those of ``sweeps.statistics.intervals``, and speak of
these fine-tunes, not of their settings. Coverage and type I error are measured in
tests/sweeps/statistics/test_seeds.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from sweeps.statistics import intervals as st
from sweeps.statistics.intervals import LEVEL, SHARE, Estimate, Limits, minus
from trainer.measure.grid import Floats
from trainer.measure.metrics import two_way

POOLED = 2  # up to so many seeds the variance between seeds is that of all configurations
LEAST_OF_SEEDS = 0.25  # of the seeds' part: what is subtracted cannot leave less, as it could by chance
OUTLIER = 4.0  # times the pooled standard deviation away from the other seeds: a fine-tune that failed


@dataclass(frozen=True)
class Component:
    """An estimated variance and the degrees of freedom behind it. 0 degrees: not known."""

    value: float
    df: float


UNKNOWN = Component(0.0, 0.0)


@dataclass(frozen=True)
class SeedVariance:
    """What differs between seeds of one configuration, on a grid of P prompts and R rows.

    ``of_mean``: variance of a seed's mean. ``interaction``: the part of it that comes from the interaction of seeds
    with prompts and rows and from the residual, which an average over seeds shows between its prompts and rows, too."""

    of_mean: Component
    interaction: Component

    @property
    def known(self) -> bool:
        return self.of_mean.df > 0


NO_SEEDS = SeedVariance(UNKNOWN, UNKNOWN)


@dataclass(frozen=True)
class MeanSquares:
    """Analysis of variance of cells [S, P, R], all three crossed, with S, P and R of 2 or more where they enter."""

    seeds: float
    prompts: float
    seeds_prompts: float
    seeds_rows: float
    residual: float


def mean_squares(cells: Floats) -> MeanSquares:
    """Mean squares of ``cells`` [S, P, R]; those with seeds are 0 with one seed."""
    s, p, r = cells.shape
    mean = float(cells.mean())
    by_seed, by_prompt, by_row = cells.mean(axis=(1, 2)), cells.mean(axis=(0, 2)), cells.mean(axis=(0, 1))
    sp, sr, pr = cells.mean(axis=2), cells.mean(axis=1), cells.mean(axis=0)
    seed, prompt, row = by_seed - mean, by_prompt - mean, by_row - mean
    apart_sp = sp - mean - seed[:, None] - prompt
    apart_sr = sr - mean - seed[:, None] - row
    residual = cells - pr - sp[:, :, None] - sr[:, None, :] + by_prompt[None, :, None] + by_row + by_seed[:, None, None]
    residual = residual - mean
    more = max(s - 1, 1)
    return MeanSquares(
        p * r * float((seed**2).sum()) / more,
        s * r * float((prompt**2).sum()) / max(p - 1, 1),
        r * float((apart_sp**2).sum()) / (more * max(p - 1, 1)),
        p * float((apart_sr**2).sum()) / (more * max(r - 1, 1)),
        float((residual**2).sum()) / (more * max((p - 1) * (r - 1), 1)),
    )


def seed_variance(cells: Floats) -> SeedVariance:
    """``SeedVariance`` of one configuration's ``cells`` [S, P, R]; not known with one seed."""
    s, p, r = cells.shape
    if s < 2:
        return NO_SEEDS
    ms = mean_squares(cells)
    terms = []
    if p > 1:
        terms.append((ms.seeds_prompts, (s - 1) * (p - 1)))
    if r > 1:
        terms.append((ms.seeds_rows, (s - 1) * (r - 1)))
    if p > 1 and r > 1:
        terms.append((-ms.residual, (s - 1) * (p - 1) * (r - 1)))
    value = sum(t for t, _ in terms)
    return SeedVariance(
        Component(ms.seeds / (p * r), s - 1), Component(max(value, 0.0) / (p * r), _satterthwaite(value, terms))
    )


def pooled(variances: Sequence[SeedVariance]) -> SeedVariance:
    """The variances of several configurations on one grid, each weighted by its degrees of freedom."""
    known = [v for v in variances if v.known]
    if not known:
        return NO_SEEDS
    return SeedVariance(
        pooled_components([v.of_mean for v in known]), pooled_components([v.interaction for v in known])
    )


def pooled_components(parts: Sequence[Component]) -> Component:
    """Several variances as one, each weighted by its degrees of freedom."""
    df = sum(part.df for part in parts)
    return Component(sum(part.value * part.df for part in parts) / df, df) if df > 0 else UNKNOWN


def own_or_pooled(cells: Floats, of_study: SeedVariance) -> SeedVariance:
    """Which variance between seeds counts for a configuration with ``cells`` [S, P, R]."""
    return seed_variance(cells) if len(cells) > POOLED else of_study


def added(variances: Sequence[Component], numbers: Sequence[int]) -> list[Component]:
    """What the luck of the seeds adds to the variance of a mean or of a difference: each of ``variances`` over its
    number of seeds. The pooled variance, which two configurations share, is one estimate with one luck of its own."""
    if len(set(variances)) == 1:
        return [Component(variances[0].value * sum(1.0 / n for n in numbers), variances[0].df)]
    return [Component(v.value / n, v.df) for v, n in zip(variances, numbers, strict=True)]


def mean_test(
    parts: Sequence[Floats],
    of_study: SeedVariance,
    seed: int = 0,
    limits: Limits = SHARE,
    least_rows: float | None = None,
) -> tuple[Estimate, float]:
    """The mean of one configuration's cells, or the difference of two configurations' means, with its interval and the
    p-value that it is 0. ``parts``: one or two arrays [S, P, R] on the same prompts and rows; S may differ. ``limits``
    are the metric's, ``least_rows`` as in ``sweeps.statistics.intervals``.

    Without a known variance between seeds (``of_study``) it is the test of ``sweeps.statistics.intervals`` of the one
    seed, with the resamples of ``seed``."""
    signs = (1.0, -1.0)[: len(parts)]
    cells = sum((sign * part.mean(axis=0) for sign, part in zip(signs, parts, strict=True)), np.zeros(1))
    single = len(parts) == 1
    possible = limits if single else minus(limits)
    seeds = [own_or_pooled(part, of_study) for part in parts]
    if not all(v.known for v in seeds):
        if not single and not cells.any():
            return Estimate(0.0, 0.0, 0.0), 1.0
        replicates = st.replicate(cells, st.resamples(*cells.shape, seed), redraw=False)
        return st.mean_test(cells, replicates, single, limits, least_rows)
    numbers = [len(part) for part in parts]
    luck = added([v.of_mean for v in seeds], numbers)
    twice = added([v.interaction for v in seeds], numbers)  # what the average over seeds shows, too
    terms = [(c.value, c.df) for c in luck] + _shared_terms(cells) + [(-c.value, c.df) for c in twice]
    of_seeds = sum(c.value for c in luck)
    variance = max(sum(term for term, _ in terms), LEAST_OF_SEEDS * of_seeds)
    value = float(cells.mean())
    if variance <= 0.0:
        return st.mean_test(cells, None, single, limits, least_rows)
    df = _satterthwaite(max(variance, of_seeds), terms)  # what chance takes off the sum makes nothing less certain
    se, q = math.sqrt(variance), float(special.stdtrit(df, (1.0 + LEVEL) / 2.0))
    p = 2.0 * float(special.stdtr(df, -abs(value) / se))
    return possible.within(Estimate(value, value - q * se, value + q * se)), min(p, 1.0)


def _shared_terms(cells: Floats) -> list[tuple[float, float]]:
    """The terms of the variance of the mean of ``cells`` [P, R] that come from prompts and rows, each with its degrees
    of freedom. They are not cut at 0 one by one: that would add to the variance on average, and with few seeds, whose
    t quantile is large already, equal configurations would be told apart in 1 to 2 % instead of 5 %."""
    fit = two_way(cells)
    p, r, size = fit.n_prompts, fit.n_rows, fit.n_prompts * fit.n_rows
    terms = [(fit.ms_prompts / size, p - 1.0), (fit.ms_rows / size, r - 1.0)]
    return [*terms, (-fit.ms_residual / size, max((p - 1.0) * (r - 1.0), 1.0))]


def _satterthwaite(variance: float, terms: Sequence[tuple[float, float]]) -> float:
    """The degrees of freedom of a ``variance`` that is the sum of ``terms`` (value, its own degrees of freedom).

    Satterthwaite's formula as Welch corrected it: the square of an estimated variance is too large on average, by
    (df + 2) / df. Without that, two equal configurations with three seeds are told apart in 3 % instead of 5 %. Terms
    that are subtracted count in ``variance`` alone. Source: B. L. Welch, Biometrika 34 (1947), 28-35."""
    entering = [(t, df) for t, df in terms if df > 0 and t > 0.0]
    spread = sum(t**2 / (df + 2.0) for t, df in entering)
    if spread <= 0.0:
        return 1.0
    return max(variance**2 / spread - 2.0, min(df for _, df in entering), 1.0)


# spread over prompts ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptSpread:
    """The standard deviation over prompts without the noise of finite rows, in its two meanings."""

    of_one: Estimate  # of the one fine-tune that a user will have: sqrt(s2_prompt + s2_seed*prompt)
    of_average: float  # of the average of fine-tunes: sqrt(s2_prompt)


def prompt_spread(cells: Floats, limits: Limits = SHARE) -> PromptSpread:
    """Of a configuration's ``cells`` [S, P, R] of a metric with ``limits``. With one seed both are that seed's."""
    if len(cells) == 1:
        one = st.std_interval(cells[0], limits)
        return PromptSpread(one, one.value)
    s, p, r = cells.shape
    ms = mean_squares(cells)
    fits = [two_way(one) for one in cells]
    noise = sum(fit.ms_residual for fit in fits) / s / r
    observed = sum(fit.ms_prompts for fit in fits) / s / r  # = (ms.prompts + (S - 1) ms.seeds_prompts) / (S R)
    of_prompts = sum(fit.ms_residual for fit in [two_way(cells.mean(axis=0))]) / r
    average = max(ms.prompts / (s * r) - of_prompts, 0.0) - max(ms.seeds_prompts - ms.residual, 0.0) / (s * r)
    if p < st.FEW_PROMPTS or r < 2:
        return PromptSpread(Estimate(math.sqrt(max(observed - noise, 0.0)), math.nan, math.nan), _root(average))
    if observed == 0.0:
        return PromptSpread(Estimate(0.0, 0.0, 0.0 if noise == 0.0 else math.nan), 0.0)
    share = ms.prompts / (ms.prompts + (s - 1) * ms.seeds_prompts)
    by_prompt = cells.mean(axis=(0, 2))
    excess = max(st.excess_kurtosis(by_prompt), 0.0) if by_prompt.std() > 0 else 0.0
    unequal = share**2 / (p - 1) + (1.0 - share) ** 2 / ((s - 1) * (p - 1))
    df = 2.0 / (2.0 * unequal + share**2 * excess / p)
    tails = special.chdtri(df, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    low, high = (_root(observed * df / float(x) - noise) for x in tails)
    true = max(observed - noise, 0.0)
    of_df = max(1.0, (true / observed) ** 2 / unequal)
    c4 = math.sqrt(2.0 / of_df) * math.exp(float(special.gammaln((of_df + 1) / 2) - special.gammaln(of_df / 2)))
    return PromptSpread(st.true_spread(limits).within(Estimate(math.sqrt(true) / c4, low, high)), _root(average))


def _root(variance: float) -> float:
    return math.sqrt(max(variance, 0.0))


def over_seeds(each: Sequence[Estimate], of_study: Component, limits: st.Limits = SHARE) -> Estimate:
    """A quantity of one fine-tune, such as its worst prompt, averaged over seeds. ``each``: per seed with its interval
    for new prompts and rows. The luck of the seed is added to the mean of those intervals' lengths (in quadrature, each
    side by itself): a t interval of the seeds' values, with ``of_study`` as their variance up to ``POOLED`` seeds."""
    n, values = len(each), np.array([e.value for e in each])
    value = float(values.mean())
    below = float(np.mean([e.value - e.low for e in each]))
    above = float(np.mean([e.high - e.value for e in each]))
    own = Component(float(values.var(ddof=1)), n - 1) if n > POOLED else of_study
    if own.df > 0:
        of_seed = float(special.stdtrit(max(own.df, 1.0), (1.0 + LEVEL) / 2.0)) ** 2 * own.value / n
        below, above = math.sqrt(below**2 + of_seed), math.sqrt(above**2 + of_seed)
    return limits.within(Estimate(value, value - below, value + above))


def outliers(means: Floats, of_study: Component) -> list[int]:
    """Places of the seeds whose mean lies more than ``OUTLIER`` pooled standard deviations below the median of its
    configuration's ``means`` [S]. ``of_study`` must come from the other configurations, or the outlier hides itself."""
    if len(means) < 3 or of_study.df <= 0 or of_study.value <= 0.0:
        return []
    far = np.median(means) - means > OUTLIER * math.sqrt(of_study.value)
    return [int(i) for i in np.flatnonzero(far)]
