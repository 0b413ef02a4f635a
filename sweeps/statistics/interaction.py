"""Interactions between the factors of a crossed study: does the best value of one factor depend on another's?

Every combination of the factors' values was trained under the same seeds: a balanced layout with the seed as a block.
The interaction is the part of the differences between combinations that the single factors do not explain. Trials that
differ in the seed alone differ by chance; all tests compare with this variance.

- Each interaction has an F test (exact for normal errors) and a permutation test on the residuals of the model without
  the interaction (Freedman and Lane 1983), which assumes no distribution.
- Shares of variance are those of the layout's cells: for each effect (SS - df x MS_residual) / N, at least 0 (the
  omega-squared of Hays 1963). Together they are 1.
- Their intervals are generalised ones (Weerahandi 1993): each sum of squares is inverted through its own chi-square,
  the non-central one for effects, given a draw of the residual variance. With two seeds 95 % intervals contain the true
  value in 87 % of studies at worst, with three or more in over 90 %. The seed's interval reaches 1
  where an F test of all effects together does not exclude that there are none: its estimate is then too small on
  average. tests/sweeps/statistics/test_interaction.py measures coverage, the rate of false alarms, and power.

Needs numpy and scipy only. The same values always give the same numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from sweeps.statistics.intervals import LEVEL, Estimate, holm
from trainer.measure.grid import Floats

ALPHA = 0.05
PERMUTATIONS = 1999
DRAWS = 4000  # of the residual variance, for the intervals of shares
SEED = "seed"


@dataclass(frozen=True)
class Crossing:
    """A crossed layout: ``values[i, j, ..., s]`` is the result at level i of the first factor, j of the second, seed
    s."""

    factors: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    values: Floats

    def __post_init__(self) -> None:
        shape = tuple(len(level) for level in self.levels)
        if len(self.factors) != len(self.levels) or self.values.shape[:-1] != shape or min(shape, default=0) < 2:
            raise ValueError(f"a crossing of {self.factors} needs two or more levels each; got {self.values.shape}")
        if self.values.shape[-1] < 2:
            raise ValueError(
                "a crossing needs two or more seeds: without repeats effects cannot be tested against chance"
            )
        if not np.isfinite(self.values).all():
            raise ValueError("a crossing needs a value in every cell")


@dataclass(frozen=True)
class InteractionTest:
    """The test of the interaction of two factors."""

    factors: tuple[str, str]
    f: float
    df: int
    df_residual: int
    p: float  # of the F test
    p_permutation: float
    p_holm: float  # p corrected for all pairs of the study


@dataclass(frozen=True)
class InteractionAnalysis:
    crossing: Crossing
    tests: tuple[InteractionTest, ...]  # all pairs of factors, in the factors' order
    shares: Mapping[str, Estimate]  # factor, "interaction" (all orders together) or "seed" -> share of variance
    seed_std: float  # standard deviation of one trial over seeds, block and residual together

    def means(self, a: str, b: str) -> Floats:
        """[levels of a, levels of b] means over all other factors and seeds."""
        i, j = self.crossing.factors.index(a), self.crossing.factors.index(b)
        values = self.crossing.values
        rest = tuple(k for k in range(values.ndim) if k not in (i, j))
        table: Floats = values.mean(axis=rest)
        return table if i < j else table.T

    def flips(self, a: str, b: str) -> bool:
        """Whether the best value of one of the two factors changes with the value of the other."""
        table = self.means(a, b)
        return len(set(table.argmax(axis=0).tolist())) > 1 or len(set(table.argmax(axis=1).tolist())) > 1


def crossing(rows: Sequence[Mapping[str, Any]], factors: Sequence[str], value: str) -> tuple[Crossing, tuple[str, ...]]:
    """The layout of ``rows``, and the seeds that were left out because a combination has no result under them. A row
    has a level (text) of every factor, a ``seed`` and a value (None: no result). Factors with one level are left out.
    Raises ValueError where less than two seeds or one factor are left."""
    levels = {f: tuple(dict.fromkeys(str(r[f]) for r in rows)) for f in factors}
    used = [f for f in factors if len(levels[f]) > 1]
    if not used:
        raise ValueError("no factor has two values")
    found = {(*(str(r[f]) for f in used), str(r[SEED])): r[value] for r in rows}
    seeds = tuple(dict.fromkeys(str(r[SEED]) for r in rows))
    cells = list(itertools.product(*(levels[f] for f in used)))

    def known(cell: tuple[str, ...], seed: str) -> bool:
        number = found.get((*cell, seed))
        return number is not None and math.isfinite(number)

    whole = [s for s in seeds if all(known(c, s) for c in cells)]
    values = np.array([[found[(*c, s)] for s in whole] for c in cells], dtype=np.float64)
    shape = (*(len(levels[f]) for f in used), len(whole))
    made = Crossing(tuple(used), tuple(levels[f] for f in used), values.reshape(shape))
    return made, tuple(s for s in seeds if s not in whole)


def analyse_interactions(layout: Crossing) -> InteractionAnalysis:
    """Test all pairs of factors and compute the shares of variance."""
    sums, df = sums_of_squares(layout.values)
    residual, df_residual = sums.pop("residual"), df.pop("residual")
    block, df_block = sums.pop(SEED), df.pop(SEED)
    names = {axes: tuple(layout.factors[i] for i in axes) for axes in sums if isinstance(axes, tuple)}
    pairs = [axes for axes in names if len(axes) == 2]
    raw = []
    for axes in pairs:
        f = _ratio(sums[axes] / df[axes], residual / df_residual)
        p = float(special.fdtrc(df[axes], df_residual, f)) if math.isfinite(f) else (1.0 if math.isnan(f) else 0.0)
        raw.append((names[axes], f, df[axes], p, permutation_p(layout.values, axes)))
    corrected = holm([r[3] for r in raw])
    tests = tuple(
        InteractionTest((n[0], n[1]), f, d, df_residual, p, q, adjusted)
        for (n, f, d, p, q), adjusted in zip(raw, corrected, strict=True)
    )
    groups = {names[axes][0] if len(axes) == 1 else "interaction": [] for axes in names}  # type: dict[str, list[Any]]
    for axes, name in names.items():
        groups[name[0] if len(axes) == 1 else "interaction"].append((sums[axes], df[axes]))
    cells, n = math.prod(layout.values.shape[:-1]), layout.values.size
    shares = _shares(groups, (block, df_block), (residual, df_residual), cells, n)
    noise = residual / df_residual
    seed_std = math.sqrt(noise + max(block / df_block - noise, 0.0) / cells)
    return InteractionAnalysis(layout, tests, shares, seed_std)


def sums_of_squares(values: Floats) -> tuple[dict[Any, float], dict[Any, int]]:
    """Sums of squares and degrees of freedom of each effect: a tuple of axes, ``seed`` (the block) or ``residual``."""
    n, seeds = values.size, values.shape[-1]
    axes = range(values.ndim - 1)
    sums: dict[Any, float] = {}
    df: dict[Any, int] = {}
    for order in range(1, values.ndim):
        for effect in itertools.combinations(axes, order):
            part = _effect(values, effect)
            sums[effect] = float((part**2).sum()) * n / part.size
            df[effect] = math.prod(values.shape[i] - 1 for i in effect)
    by_seed = values.mean(axis=tuple(axes)) - values.mean()
    sums[SEED], df[SEED] = float((by_seed**2).sum()) * n / seeds, seeds - 1
    total = float(((values - values.mean()) ** 2).sum())
    left = total - sum(sums.values())
    sums["residual"] = 0.0 if left <= 1e-12 * total else left  # a rest this small comes from rounding
    df["residual"] = (n // seeds - 1) * (seeds - 1)
    return sums, df


def _effect(values: Floats, effect: tuple[int, ...]) -> Floats:
    """The joint effect of some axes without the effects of fewer of them, by inclusion and exclusion of means."""
    part = values.mean(axis=tuple(i for i in range(values.ndim) if i not in effect), keepdims=True)
    for i in effect:
        part = part - part.mean(axis=i, keepdims=True)
    return part


def permutation_p(values: Floats, effect: tuple[int, ...], permutations: int = PERMUTATIONS) -> float:
    """p-value of a permutation test: the share of F values at least as large as the observed one when the residuals of
    the model without ``effect`` (which keeps all other effects and the seeds) are permuted over the trials. The
    observed order counts as one of the permutations."""
    shape, n = values.shape, values.size
    contrast = _basis(shape, effect)  # [N, df]
    rest = [_basis(shape, other) for other in _effects(values.ndim - 1) if other != effect]
    blocks = _basis(shape, (values.ndim - 1,))
    others = np.concatenate([np.full((n, 1), n**-0.5), *rest, blocks], axis=1)  # orthonormal
    y = values.ravel()
    residual = y - others @ (others.T @ y)
    if float(residual @ residual) <= 1e-12 * float(((y - y.mean()) ** 2).sum()):
        return 1.0  # the model without the effect explains everything
    rng = np.random.default_rng([n, *shape, *effect])
    dealt = np.concatenate([residual[None], rng.permuted(np.tile(residual, (permutations, 1)), axis=1)])
    explained = ((dealt @ contrast) ** 2).sum(axis=1)
    left = (dealt**2).sum(axis=1) - ((dealt @ others) ** 2).sum(axis=1) - explained
    f = explained / np.maximum(left, 1e-300)
    return float((f >= f[0] * (1 - 1e-9)).mean())


def _effects(factors: int) -> list[tuple[int, ...]]:
    return [e for order in range(1, factors + 1) for e in itertools.combinations(range(factors), order)]


def _basis(shape: tuple[int, ...], effect: tuple[int, ...]) -> Floats:
    """[N, df] orthonormal contrasts of one effect in the layout."""
    found = np.ones((1, 1))
    for axis, size in enumerate(shape):
        if axis in effect:
            part = np.linalg.qr(np.column_stack([np.ones(size), np.eye(size)[:, : size - 1]]))[0][:, 1:]
        else:
            part = np.full((size, 1), size**-0.5)
        found = np.kron(found, part)
    return found


# shares -----------------------------------------------------------------------------------------------------------


def _shares(
    groups: Mapping[str, list[tuple[float, int]]],
    block: tuple[float, int],
    residual: tuple[float, int],
    cells: int,
    n: int,
) -> dict[str, Estimate]:
    """The shares of each group and of the seed, with generalised intervals. All are 0 where nothing varies."""
    noise = residual[0] / residual[1]
    point = {name: sum(max(s - d * noise, 0.0) for s, d in parts) / n for name, parts in groups.items()}
    point[SEED] = noise + max(block[0] / block[1] - noise, 0.0) / cells
    total = sum(point.values())
    if total == 0.0:
        return {name: Estimate(0.0, math.nan, math.nan) for name in point}
    rng = np.random.default_rng([n, cells])
    drawn_noise = residual[0] / rng.chisquare(residual[1], DRAWS)
    drawn = {
        name: np.sum([_non_central(s, d, drawn_noise, rng) for s, d in parts], axis=0) / n
        for name, parts in groups.items()
    }
    of_block = block[0] / rng.chisquare(block[1], DRAWS)
    drawn[SEED] = drawn_noise + np.maximum(of_block - drawn_noise, 0.0) / cells
    totals = np.maximum(np.sum(list(drawn.values()), axis=0), 1e-300)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    found = {}
    for name, value in point.items():
        low, high = np.quantile(drawn[name] / totals, tails)
        share = value / total
        found[name] = Estimate(share, min(float(low), share), max(float(high), share))
    if _nothing_excluded(groups, noise, residual[1]):
        found[SEED] = Estimate(found[SEED].value, found[SEED].low, 1.0)
    return found


def _nothing_excluded(groups: Mapping[str, list[tuple[float, int]]], noise: float, df_residual: int) -> bool:
    """Whether the trials may differ by the seed alone: the F test of all effects together, at the chance that one side
    of an interval has. No effect's estimate is below 0, so where there is none the seed's share is too small on
    average (its true value, 1, is the most that it can be), and so is what the draws give for its upper bound."""
    sums, df = (sum(part[i] for parts in groups.values() for part in parts) for i in (0, 1))
    f = _ratio(sums / df, noise)
    return math.isnan(f) or (math.isfinite(f) and float(special.fdtrc(df, df_residual, f)) > (1.0 - LEVEL) / 2.0)


def _non_central(square: float, df: int, noise: Floats, rng: np.random.Generator) -> Floats:
    """[B] draws of an effect's true sum of squares: noise x the non-centrality at which a chi-square with ``df`` falls
    below ``square`` / noise with a probability that is drawn at random; 0 where the central chi-square falls below it
    with less than this probability."""
    chance = rng.random(noise.size)
    x = square / np.maximum(noise, 1e-300)
    low, high = np.zeros_like(x), x + 60.0 + 12.0 * np.sqrt(x + df)  # beyond: 10 standard deviations
    for _ in range(45):  # bisection: the probability falls with the non-centrality
        middle = 0.5 * (low + high)
        above = _below(x, df, middle) > chance
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(special.chdtr(df, x) <= chance, 0.0, noise * 0.5 * (low + high))


_LARGE = 1e4  # beyond it the series of the non-central chi-square is slow, and the normal approximation is exact enough


def _below(x: Floats, df: int, nc: Floats) -> Floats:
    """Probability that a non-central chi-square is below ``x``; where it is large, by its nearly normal square root."""
    large = (x > _LARGE) | (nc > _LARGE)
    exact = special.chndtr(np.where(large, 1.0, x), df, np.where(large, 1.0, nc))
    root = special.ndtr(np.sqrt(np.maximum(x - 0.5 * df, 0.0)) - np.sqrt(nc + 0.5 * (df - 1)))
    return np.where(large, root, exact)


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.inf if a > 0 else math.nan
