"""The difference between two training arms in mean, std and worst prompt, on the same prompts and rows.

Where arms were trained with several seeds, intervals and p-values are for new seeds, too, and speak of the arms; with
one seed each they speak of these fine-tunes.

- Mean: ``sweeps.statistics.seeds``, as in the tables; with one seed the paired bootstrap-t.
- Std and worst prompt belong to one fine-tune, so they are averaged over an arm's seeds. What other prompts and rows
  change comes from a two-way bootstrap that draws the same ones for all fine-tunes. What other seeds change is the
  variance between an arm's seeds over their number: its own from three seeds on, else that of all arms together. Both
  variances are added, and interval and p-value are those of a t distribution with Satterthwaite's degrees of freedom.
  With one seed the interval is the bootstrap's percentiles, and p-values are those of
  ``sweeps.statistics.prompt_tests``.

tests/sweeps/paft/test_seeds_of_arms.py measures how often equal arms are told apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from sweeps.paft.arm_results import Result, distinct, is_base
from sweeps.statistics import intervals as st
from sweeps.statistics import seeds as sd
from sweeps.statistics.prompt_tests import std_test, worst_prompt_test
from sweeps.statistics.tails import heavy_tails
from trainer.measure.grid import Floats
from trainer.measure.metrics import two_way
from trainer.trial import digest


@dataclass(frozen=True)
class Change:
    """A difference between two arms on the same prompts and rows, with its 95 % interval."""

    value: float
    low: float
    high: float
    p: float  # that there is none; NaN where too few prompts allow no test
    heavy_tails: bool  # a few prompts lie far from the rest, so interval and p-value do not hold


@dataclass(frozen=True)
class SeedLuck:
    """What differs between the seeds of an arm, pooled over the arms of a study; not known where all have one seed."""

    mean: sd.SeedVariance = sd.NO_SEEDS
    std: sd.Component = sd.UNKNOWN
    worst: sd.Component = sd.UNKNOWN

    @property
    def known(self) -> bool:
        return self.mean.known


ONE_SEED = SeedLuck()


def seed_luck(found: Sequence[Result]) -> SeedLuck:
    """Of the trained arms with several seeds. The base model has none."""
    several = [r for r in distinct(found) if len(r.by_seed) > 1 and not is_base(r)]

    def of(values: Callable[[Floats], Floats]) -> sd.Component:
        return sd.pooled_components(
            [sd.Component(float(values(r.by_seed).var(ddof=1)), len(r.by_seed) - 1.0) for r in several]
        )

    return SeedLuck(sd.pooled([sd.seed_variance(r.by_seed) for r in several]), of(_stds), of(_worst))


def comparable(a: Result, b: Result) -> bool:
    return a.prompts == b.prompts and a.cells.shape == b.cells.shape


def mean_change(a: Result, b: Result, luck: SeedLuck, less: float = 0.0) -> tuple[st.Estimate, float]:
    """The mean of ``a`` minus that of ``b`` minus ``less``, and the p-value that this is 0."""
    return sd.mean_test([_fine_tunes(a) - less, _fine_tunes(b)], luck.mean, pair_seed(a), a.limits)


def _fine_tunes(result: Result) -> Floats:
    """[S, P, R]. The base model has no luck of a seed, which as many equal fine-tunes say as speak for themselves."""
    return np.repeat(result.by_seed[:1], sd.POOLED + 1, axis=0) if is_base(result) else result.by_seed


def changes(a: Result, b: Result, luck: SeedLuck) -> dict[str, Change]:
    """``a`` minus ``b`` in mean, std and worst prompt (``min``)."""
    mean, p = mean_change(a, b, luck)
    u, v = a.per_prompt, b.per_prompt
    gap_tails = heavy_tails(u - v)
    any_tails = gap_tails or heavy_tails(u) or heavy_tails(v)
    drawn = st.resamples(*a.cells.shape, pair_seed(a))
    each_a, each_b = _fine_tunes(a), _fine_tunes(b)
    x, y = ([st.replicate(one, drawn).stretched for one in each] for each in (each_a, each_b))

    def of_fine_tunes(
        values: Callable[[Floats], Floats],
        of_study: sd.Component,
        limits: st.Limits,
        test: Callable[[Floats, Floats, int], float],
        noise: float = 0.0,
    ) -> Change:
        """``noise``: of the difference, which does not count in its p-value."""
        of_a, of_b = values(each_a), values(each_b)
        value = float(of_a.mean() - of_b.mean())
        again_a, again_b = (np.array([values(one) for one in drawn_of]) for drawn_of in (x, y))  # [S, B]
        redrawn = again_a.mean(axis=0) - again_b.mean(axis=0)
        low, high = (float(q) for q in np.quantile(redrawn, [(1 - st.LEVEL) / 2, (1 + st.LEVEL) / 2]))
        if luck.known and len(u) >= st.FEW_PROMPTS:
            of_seeds = [_of_seeds(of_a, again_a, of_study), _of_seeds(of_b, again_b, of_study)]
            low, high, p = _t(value, noise, [sd.Component(float(redrawn.var(ddof=1)), len(u) - 1.0), *of_seeds])
        else:
            p = test(a.cells, b.cells, pair_seed(a))
        found = limits.within(st.Estimate(value, low, high))
        return Change(found.value, found.low, found.high, p, any_tails)

    of_std = st.minus(st.spread_limits(len(u), a.limits))
    return {
        "mean": Change(mean.value, mean.low, mean.high, p, gap_tails),
        "std": of_fine_tunes(_stds, luck.std, of_std, std_test, _noise(a) - _noise(b)),
        "min": of_fine_tunes(_worst, luck.worst, st.minus(a.limits), worst_prompt_test),
    }


def pair_seed(result: Result) -> int:
    """Depends on the prompts and the shape alone, so that all arms of one grid have the same resamples."""
    return int(digest([result.prompts, list(result.cells.shape)])[:8], 16)


def _stds(per_prompt: Floats) -> Floats:
    """Over prompts, of cells [S, P, R] or of replicates [B, P]."""
    values = per_prompt.mean(axis=2) if per_prompt.ndim == 3 else per_prompt
    found: Floats = values.std(axis=1, ddof=min(1, values.shape[1] - 1))
    return found


def _worst(per_prompt: Floats) -> Floats:
    """As ``_stds``."""
    values = per_prompt.mean(axis=2) if per_prompt.ndim == 3 else per_prompt
    found: Floats = values.min(axis=1)
    return found


def _noise(result: Result) -> float:
    """How much of the std over prompts is noise of finite rows, on average over seeds."""
    return float(np.mean(_stds(result.by_seed) - [st.std_corrected(two_way(one)) for one in result.by_seed]))


def _of_seeds(values: Floats, redrawn: Floats, of_study: sd.Component) -> sd.Component:
    """What the luck of the seeds adds to the variance of the average of ``values`` [S] over seeds. ``redrawn`` [S, B]:
    the same of other prompts and rows. What they change in each seed apart differs between ``values`` as well; the
    average of ``redrawn`` shows it, so it is taken off."""
    n = len(values)
    own = sd.Component(float(values.var(ddof=1)), n - 1.0) if n > sd.POOLED else of_study
    apart = float((redrawn - redrawn.mean(axis=1, keepdims=True)).var(axis=0, ddof=1).mean()) if n > 1 else 0.0
    return sd.Component(max(own.value - apart, 0.0) / n, own.df)


def _t(value: float, noise: float, parts: Sequence[sd.Component]) -> tuple[float, float, float]:
    """(low, high, p) of a ``value`` whose variance is the sum of ``parts``."""
    variance = sum(part.value for part in parts)
    if variance <= 0.0:
        return value, value, 1.0 if abs(value - noise) < 1e-12 else 0.0
    df = variance**2 / sum(part.value**2 / part.df for part in parts if part.value > 0.0)
    se = math.sqrt(variance)
    half = float(special.stdtrit(df, (1.0 + st.LEVEL) / 2.0)) * se
    p = 2.0 * float(special.stdtr(df, -abs(value - noise) / se))
    return value - half, value + half, min(p, 1.0)
