"""Estimates from a prompts x rows grid of cells for new prompts and new rows, with their intervals.

Prompts and rows are crossed random factors. A cell is ``mu + prompt + row + residual`` (residual: interaction and
noise), and a mean over P x R cells has variance s2_prompt/P + s2_row/R + s2_residual/(P R). The methods, whose
coverage tests/sweeps/statistics/test_intervals.py measures on binary grids with known components:

- Mean and paired difference: two-way bootstrap-t. Prompts and rows are resampled separately (the pigeonhole bootstrap
  of Owen 2007, "The pigeonhole bootstrap", Ann. Appl. Stat. 1). Its percentiles would be wrong in two ways: they count
  the residual three times (99 % coverage where prompts hardly differ), and with ten prompts they are too narrow (88 %).
  Dividing every replicate by its own analysis-of-variance standard error corrects both, and adapts to skew near 1.
- Standard deviation over prompts: chi-square interval of the between-prompt variance, with degrees of freedom reduced
  for excess kurtosis, minus the residual's share. So the interval is for the std WITHOUT the noise of finite rows.
- Worst prompt, quantiles: a two-way bootstrap whose prompt, row and residual effects are first scaled to their
  estimated variances (Davison and Hinkley 1997, 3.8), so that a replicate has as much noise as the data, not three
  times as much. It is then stretched about its mean by sqrt((P-1)/chi2), since few prompts leave the std uncertain.
- Share above a threshold: Wilson's interval with the number of prompts divided by the design effect of that bootstrap,
  so 0 % and 100 % of few prompts do not get an interval of width zero.

The same cells always give the same numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from trainer.measure.grid import Floats, Ints
from trainer.measure.metrics import TwoWay, two_way
from trainer.measure.registry import kind_of
from trainer.trial import digest

LEVEL = 0.95
REPLICATES = 2000
MOST_STRETCH = 4.0  # times a t quantile: where nearly all cells are alike, replicates without spread give no bound
FEW_PROMPTS = 4  # with fewer prompts they are not resampled; t quantiles on the analysis of variance are used
QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95)
_BLOCK = 4_000_000  # cells of row counts in memory as floats at once
_KEPT = 8_000_000  # row counts that are kept as floats: 32 MB


@dataclass(frozen=True)
class Estimate:
    """A value with its interval at ``LEVEL``. The bounds are NaN where the data allow no interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Limits:
    """What a quantity can be. Every interval that is shown is cut to it: a method that is right on average gives bounds
    beyond it where data are few."""

    low: float
    high: float

    def within(self, estimate: Estimate) -> Estimate:
        """``estimate``, its value and bounds cut to the limits. A NaN stays one."""
        return Estimate(*(self._cut(v) for v in (estimate.value, estimate.low, estimate.high)))

    def _cut(self, value: float) -> float:
        return value if math.isnan(value) else min(max(value, self.low), self.high)


SHARE = Limits(0.0, 1.0)  # most metrics, a share of prompts


def limits_of(metric: str) -> Limits:
    """Of a metric of ``trainer.measure.registry``, and of its mean over prompts."""
    return Limits(kind_of(metric).lowest, 1.0)


def true_spread(limits: Limits) -> Limits:
    """Of the standard deviation of a quantity with ``limits``: half of its values at each end."""
    return Limits(0.0, (limits.high - limits.low) / 2.0)


def spread_limits(n: int, limits: Limits = SHARE) -> Limits:
    """Of a standard deviation with ddof 1 of ``n`` values within ``limits``: half at each end, over n - 1. The ddof
    makes it larger than the true one can be."""
    width = limits.high - limits.low
    return Limits(0.0, width * math.sqrt((n // 2) * (n - n // 2) / (n * (n - 1))) if n > 1 else 0.0)


def minus(limits: Limits) -> Limits:
    """Of the difference of two quantities that both have ``limits``."""
    width = limits.high - limits.low
    return Limits(-width, width)


@dataclass(frozen=True)
class Resamples:
    """The prompts and rows that each replicate drew. All trials of one grid share them, so that trials stay paired."""

    prompts: Ints  # [B, P] indices of the prompts drawn
    counts: NDArray[np.float32]  # [B, P] how often every prompt was drawn
    rows: NDArray[np.float32] | NDArray[np.uint8]  # [B, R] how often every row was drawn
    stretch: Floats  # [B] sqrt((P-1)/chi2 with P-1 degrees of freedom); 1 with one prompt


@functools.lru_cache(maxsize=2)
def resamples(n_prompts: int, n_rows: int, seed: int = 0, replicates: int = REPLICATES) -> Resamples:
    """Draws with replacement of ``n_prompts`` prompts and ``n_rows`` rows, ``replicates`` times."""
    rng = np.random.default_rng([seed, n_prompts, n_rows])
    prompts = rng.integers(0, n_prompts, (replicates, n_prompts))
    df = n_prompts - 1
    stretch = np.sqrt(df / rng.chisquare(df, replicates)) if df else np.ones(replicates)
    # products need float32, and converting for each of many trials costs as much as a product; unless it fills memory
    rows: Any = np.empty((replicates, n_rows), np.float32 if replicates * n_rows <= _KEPT else np.uint8)
    for part in _blocks(replicates, n_rows):
        b = part.stop - part.start
        at = rng.integers(0, n_rows, (b, n_rows)) + np.arange(b)[:, None] * n_rows
        rows[part] = np.bincount(at.ravel(), minlength=b * n_rows).reshape(b, n_rows)
    at = prompts + np.arange(replicates)[:, None] * n_prompts
    counts = np.bincount(at.ravel(), minlength=replicates * n_prompts).reshape(replicates, n_prompts)
    return Resamples(prompts, counts.astype(np.float32), rows, stretch)


@functools.lru_cache(maxsize=8)
def seed_of(prompts: tuple[str, ...], rows: tuple[str, ...]) -> int:
    """The seed of ``resamples`` for a grid: it depends on the prompts and rows alone."""
    return int(digest([prompts, rows])[:8], 16)


@dataclass(frozen=True)
class Replicates:
    """The bootstrap of one grid: B studentised means, and B redrawn sets of P per-prompt values."""

    t: Floats  # [B] (replicate's mean - mean) / replicate's own standard error
    per_prompt: Floats  # [B, P] per-prompt metric with effects scaled to their estimated variances
    stretched: Floats  # [B, P] the same, stretched about each replicate's mean


def replicate(cells: Floats, drawn: Resamples, redraw: bool = True) -> Replicates:
    """Bootstrap ``cells`` [P, R]. Cost B x P x R multiply-adds as matrix products; memory one block of row counts.
    Without ``redraw`` only the studentised means are made; the sets of per-prompt values stay empty."""
    p, r = cells.shape
    fit = two_way(cells)
    by_prompt, by_row = cells.mean(axis=1), cells.mean(axis=0)
    effect = by_prompt - fit.mean
    residual = cells - by_prompt[:, None] - by_row + fit.mean
    grow_prompt = _ratio(fit.var_prompts, float((effect**2).mean()))
    grow_row = _ratio(fit.var_rows, float(((by_row - fit.mean) ** 2).mean()))
    grow_residual = _ratio(fit.ms_residual, float((residual**2).mean()))
    centred = cells - fit.mean  # float32 products lose nothing that matters once the mean is out
    wide = centred.astype(np.float32)
    both, ones = np.concatenate([wide, wide**2]), np.ones(p)
    b_total = len(drawn.rows)
    t, per_prompt = np.empty(b_total), np.empty((b_total, p))
    for part in _blocks(b_total, r):
        w = drawn.rows[part].astype(np.float32, copy=False)
        at, c = drawn.prompts[part], drawn.counts[part].astype(np.float64)
        sums = w @ both.T  # [b, 2 P]
        means = np.divide(sums[:, :p], r, dtype=np.float64)  # prompts on the replicate's rows
        mean = (c * means) @ ones / p
        by_column = drawn.counts[part] @ wide  # [b, R], p times the rows' means
        np.multiply(by_column, by_column, out=by_column)  # sum w (x - mean)^2 = sum w x^2 - r mean^2
        rows_sum = np.einsum("br,br->b", w, by_column).astype(np.float64) / p**2 - r * mean**2
        prompts_sum = (c * (means - mean[:, None]) ** 2) @ ones
        total = (c * sums[:, p:]) @ ones - p * r * mean**2
        t[part] = _studentised(mean, fit, r * prompts_sum, p * rows_sum, total)
        if not redraw:
            continue
        # mean + grow_prompt * effect + grow_row * shift + grow_residual * (means - effect - shift), shift = row effects
        redrawn = means * grow_residual
        redrawn += fit.mean + (grow_prompt - grow_residual) * effect
        redrawn += ((grow_row - grow_residual) / p) * (means @ ones)[:, None]
        per_prompt[part] = redrawn.ravel()[at + np.arange(len(at))[:, None] * p]
    if not redraw:
        return Replicates(t, np.empty((0, p)), np.empty((0, p)))
    centre = (per_prompt @ ones / p)[:, None]
    stretched = per_prompt - centre
    stretched *= drawn.stretch[:, None]
    stretched += centre
    return Replicates(t, per_prompt, stretched)


def mean_test(
    cells: Floats,
    replicates: Replicates | None,
    bounded: bool = True,
    limits: Limits = SHARE,
    least_rows: float | None = None,
) -> tuple[Estimate, float]:
    """Mean of ``cells`` [P, R] with its interval, and the two-sided p-value that it is 0.

    Each side's t quantile (Satterthwaite's degrees of freedom) is stretched to the bootstrap's; the p-value uses the
    same stretch, so p < 1 - LEVEL exactly where the interval leaves out 0, and it has tails beyond 1/B. The interval is
    cut to ``limits``, or, if not ``bounded``, to those of a difference of two such means. All cells alike: exact
    binomial bound over ``least_rows``, by default all rows, as a share of the limits' width."""
    fit = two_way(cells)
    se = math.sqrt(fit.var_mean)
    if cells.size == 1:
        return Estimate(fit.mean, math.nan, math.nan), math.nan
    limits = limits if bounded else minus(limits)
    if se == 0.0:
        slack = 1.0 - ((1.0 - LEVEL) / 2.0) ** (1.0 / (least_rows or fit.n_rows)) if bounded else 0.0
        slack *= limits.high - limits.low
        return limits.within(Estimate(fit.mean, fit.mean - slack, fit.mean + slack)), float(fit.mean == 0.0)
    df = satterthwaite(fit)
    q = float(special.stdtrit(df, (1.0 + LEVEL) / 2.0))  # scipy.stats is a hundred times slower for one number
    below, above = q, q  # length of the interval to each side, in standard errors
    if replicates is not None and fit.n_prompts >= FEW_PROMPTS:
        low_t, high_t = _tails(replicates.t)
        below, above = (min(max(float(x), 0.5 * q), MOST_STRETCH * q) for x in (high_t, -low_t))
    low, high = fit.mean - below * se, fit.mean + above * se
    p = 2.0 * float(special.stdtr(df, -abs(fit.mean) / se * q / (below if fit.mean > 0 else above)))
    return limits.within(Estimate(fit.mean, low, high)), min(p, 1.0)


def satterthwaite(fit: TwoWay) -> float:
    """The degrees of freedom of ``fit.var_mean``, a sum of mean squares (Satterthwaite 1946)."""
    p, r = fit.n_prompts, fit.n_rows
    shares = [(fit.ms_prompts if fit.var_prompts else 0.0, p - 1), (fit.ms_rows if fit.var_rows else 0.0, r - 1)]
    shares.append((fit.ms_residual, (p - 1) * (r - 1)))
    spread = sum(ms**2 / df for ms, df in shares if df > 0)
    return float((fit.var_mean * p * r) ** 2 / spread) if spread > 0 else 1.0


def std_corrected(fit: TwoWay) -> float:
    """The standard deviation of the prompts' true values, without residual noise and without the square root's bias.

    sqrt((ms_prompts - ms_residual) / R) / c4(df) with Satterthwaite's df of that difference, at least 1. Within 5 % of
    the true value, except where that is less than a third of the rows' noise, or ten prompts are close to 1 (-9 %)."""
    return _without_noise(fit.n_prompts, fit.ms_prompts / fit.n_rows, fit.ms_residual / fit.n_rows)


def _without_noise(prompts: int, observed: float, noise: float) -> float:
    """The std of so many ``prompts`` whose values have the variance ``observed``, ``noise`` included."""
    true = max(observed - noise, 0.0)
    if prompts < 2 or true == 0.0:
        return 0.0
    df = max(1.0, (prompts - 1) * (true / observed) ** 2)
    c4 = math.sqrt(2.0 / df) * math.exp(float(special.gammaln((df + 1.0) / 2.0) - special.gammaln(df / 2.0)))
    return math.sqrt(true) / c4


def std_interval(cells: Floats, limits: Limits = SHARE) -> Estimate:
    """``std_corrected`` of ``cells`` [P, R] with its interval, at most half the width of ``limits``; NaN bounds with
    fewer than ``FEW_PROMPTS`` prompts."""
    fit = two_way(cells)
    if fit.n_rows < 2:
        return true_spread(limits).within(Estimate(std_corrected(fit), math.nan, math.nan))
    return spread_interval(cells.mean(axis=1), fit.ms_residual / fit.n_rows, limits)


def spread_interval(values: Floats, noise: float, limits: Limits = SHARE) -> Estimate:
    """The std of the prompts' true values, of which ``values`` [P] are estimates with the variance ``noise``, and its
    interval; as ``std_interval``."""
    return true_spread(limits).within(_spread_interval(values, noise))


def _spread_interval(values: Floats, noise: float) -> Estimate:
    n, observed = len(values), float(values.var(ddof=1)) if len(values) > 1 else 0.0
    value = _without_noise(n, observed, noise)
    if n < FEW_PROMPTS:
        return Estimate(value, math.nan, math.nan)
    if observed == 0.0:
        return Estimate(0.0, 0.0, 0.0) if noise == 0.0 else Estimate(0.0, 0.0, math.nan)
    excess = max(excess_kurtosis(values), 0.0)
    df = 2.0 / (2.0 / (n - 1) + excess / n)  # Var(s2)/sigma^4 = 2/(n-1) + excess/n
    tails = special.chdtri(df, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])  # chi-square exceeded with this chance
    low, high = (math.sqrt(max(observed * df / float(x) - noise, 0.0)) for x in tails)
    return Estimate(value, low, high)


def excess_kurtosis(values: Floats) -> float:
    """Excess kurtosis of ``values`` [n], n >= 4, not all alike, with the small-sample correction (G2)."""
    n, centred = values.size, values - values.mean()
    second = float((centred**2).mean())
    of_sample = float((centred**4).mean()) / second**2 - 3.0
    return ((n + 1) * of_sample + 6.0) * (n - 1) / ((n - 2) * (n - 3))


def percentile(observed: float, redrawn: Floats, limits: Limits = SHARE) -> Estimate:
    """The percentile interval of a statistic of ``Replicates.stretched`` [B], cut to ``limits``: where the statistic
    of as many other prompts and rows would lie on average. Least exact for the worst of few, very unequal prompts."""
    return limits.within(Estimate(observed, *_tails(redrawn)))


def quantile(ordered: Floats, q: float) -> Any:
    """The quantile of the last axis of ``ordered``, which is sorted, with numpy's linear interpolation."""
    place = q * (ordered.shape[-1] - 1)
    below = math.floor(place)
    low, high = ordered[..., below], ordered[..., min(below + 1, ordered.shape[-1] - 1)]
    return low + (place - below) * (high - low)


def _tails(redrawn: Floats) -> tuple[float, float]:
    """The bounds between which a share of ``LEVEL`` of ``redrawn`` [B] lies. Sorting all of it is several times faster
    than numpy's quantiles."""
    ordered = np.sort(redrawn)
    return float(quantile(ordered, (1.0 - LEVEL) / 2.0)), float(quantile(ordered, (1.0 + LEVEL) / 2.0))


def share_above(per_prompt: Floats, threshold: float, strict: bool) -> float:
    """The share of prompts above ``threshold`` (strict), or not below it. Values within 1e-12 count as equal to it."""
    return float(above(per_prompt, threshold, strict).mean())


def share_interval(per_prompt: Floats, redrawn: Floats, threshold: float, strict: bool) -> Estimate:
    """``share_above`` with Wilson's interval for P / deff prompts. deff is the bootstrap variance of the share divided
    by the binomial variance, at least 1, since shared rows move all prompts across the threshold together."""
    n = float(per_prompt.size)
    value = share_above(per_prompt, threshold, strict)
    inner = (value * n + 0.5) / (n + 1.0)
    of_share = float(above(redrawn, threshold, strict).mean(axis=1).var())
    n = n / max(1.0, of_share * n / (inner * (1.0 - inner)))
    z = float(special.ndtri((1.0 + LEVEL) / 2.0))
    centre, half = value + z * z / (2 * n), z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Estimate(value, max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))


def difference(cells: Floats, other: Floats, seed: int = 0, limits: Limits = SHARE) -> tuple[Estimate, float]:
    """The mean of ``cells - other``, both within ``limits``, over the same prompts and rows, its interval, and the
    p-value that it is 0."""
    if cells.shape != other.shape:
        raise ValueError(f"paired differences need the same cells; got {cells.shape} and {other.shape}")
    gap = cells - other
    if not gap.any():
        return Estimate(0.0, 0.0, 0.0), 1.0
    return mean_test(gap, replicate(gap, resamples(*gap.shape, seed), redraw=False), False, limits)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order. A test is rejected where its value is below the level."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1.0)
    return [float(x) for x in adjusted]


def _studentised(shift: Floats, fit: TwoWay, ss_prompts: Floats, ss_rows: Floats, total: Floats) -> Floats:
    """t of every replicate, whose mean differs by ``shift``. It is finite even where a replicate has no spread because
    it drew one prompt only."""
    p, r = fit.n_prompts, fit.n_rows
    ms_residual = np.maximum(total - ss_prompts - ss_rows, 0.0) / max((p - 1) * (r - 1), 1)
    ms_prompts, ms_rows = ss_prompts / max(p - 1, 1), ss_rows / max(r - 1, 1)
    between = np.maximum(ms_prompts - ms_residual, 0.0) + np.maximum(ms_rows - ms_residual, 0.0)
    variance = (between + ms_residual) / (p * r)
    floor = max(fit.var_mean * 1e-6, 1e-30)
    t: Floats = shift / np.sqrt(np.maximum(variance, floor))
    return t


def above(values: Floats, threshold: float, strict: bool) -> NDArray[np.bool_]:
    """Which values count towards a share: those above the threshold (strict), or not below it."""
    # 17/20 must count as equal to 0.85 whatever the rounding
    return values > threshold + 1e-12 if strict else values >= threshold - 1e-12


def _ratio(wanted: float, found: float) -> float:
    return math.sqrt(wanted / found) if found > 1e-15 else 0.0


def _blocks(total: int, width: int) -> Iterator[slice]:
    step = max(1, min(total, _BLOCK // max(width, 1)))
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))
