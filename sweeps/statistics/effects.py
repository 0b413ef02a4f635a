"""What of a study's differences comes from which axis: pairs of equal configurations, and shares of the variance.

**Pairs.** Two configurations that differ in one axis alone, and were trained for as long, are a pair. The effect of one
value of the axis against another is the mean difference over all such pairs, so nothing else differs between the two
sides. In a full factorial design without interactions that is the coefficient of an additive least-squares fit.

**Shares.** The sum of squares of a metric by configuration, seed and prompt is split into what each axis explains in an
additive fit to the configurations' means, what such a fit leaves of the configurations (interactions), seeds, prompts,
the noise of finite rows, and the rest: prompts that suit some fine-tunes and not others. Where a study is not balanced,
as after early stopping, what an axis explains depends on which axes are in the fit before it. So it is the average over
all orders (Lindeman, Merenda and Gold 1980), which is never negative, and the parts sum to the whole. With as many
coefficients as configurations the fit leaves nothing whatever the interactions are, so they are not known.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.measure.grid import Floats

Design = Sequence[Mapping[str, Hashable]]  # of each configuration: axis -> value


@dataclass(frozen=True)
class Pairing:
    """``value`` against ``other`` on ``axis``: indices of configurations that are equal but for it."""

    axis: str
    value: Hashable
    other: Hashable
    pairs: tuple[tuple[int, int], ...]


def pairings(design: Design, axes: Sequence[str], beside: Sequence[str] = ()) -> list[Pairing]:
    """Each value of each axis against the one that most configurations have, the first of equals. ``beside``: keys of
    the design that pairs share as well, but for those that are the axis itself."""
    found = []
    for axis in axes:
        counts: dict[Hashable, int] = {}
        for one in design:
            counts[one[axis]] = counts.get(one[axis], 0) + 1
        if len(counts) < 2:
            continue
        usual = max(counts, key=lambda value: counts[value])
        shared = [name for name in (*axes, *beside) if name != axis]
        by_rest: dict[tuple[Hashable, ...], dict[Hashable, int]] = {}
        for i, one in enumerate(design):
            by_rest.setdefault(tuple(one[name] for name in shared), {})[one[axis]] = i
        for value in counts:
            pairs = [(some[value], some[usual]) for some in by_rest.values() if value in some and usual in some]
            if value != usual and pairs:
                found.append(Pairing(axis, value, usual, tuple(pairs)))
    return found


@dataclass(frozen=True)
class Shares:
    """Sums of squares. ``axes``: by axis; ``interactions``: None where they are not known."""

    axes: Mapping[str, float]
    interactions: float | None
    seeds: float
    prompts: float
    rows: float
    rest: float

    @property
    def total(self) -> float:
        return sum(self.axes.values()) + (self.interactions or 0.0) + self.seeds + self.prompts + self.rows + self.rest


def shares(scores: Floats, noise: Floats, design: Design, axes: Sequence[str]) -> Shares:
    """``scores`` [C, S, P]: the metric of each configuration, seed and prompt; ``noise`` [C, S, P]: the variance of
    each that comes from finite rows."""
    c, s, p = scores.shape
    mean = float(scores.mean())
    means, by_seed, by_prompt = scores.mean(axis=(1, 2)), scores.mean(axis=2), scores.mean(axis=(0, 1))
    own = {axis: s * p * value for axis, value in _in_all_orders(means, design, axes).items()}
    between = s * p * float(((means - mean) ** 2).sum())
    seeds = p * float(((by_seed - means[:, None]) ** 2).sum())
    prompts = c * s * float(((by_prompt - mean) ** 2).sum())
    left = max(float(((scores - mean) ** 2).sum()) - between - seeds - prompts, 0.0)
    rows = min(float(noise.sum()) * (p - 1) / p, left)  # one of P is in the means
    saturated = np.linalg.matrix_rank(_additive(design, axes)) == c
    interactions = None if saturated else max(between - sum(own.values()), 0.0)
    return Shares(own, interactions, seeds, prompts, rows, left - rows)


def _in_all_orders(means: Floats, design: Design, axes: Sequence[str]) -> dict[str, float]:
    """What each axis adds to the sum of squares that is explained, averaged over all orders of the axes."""
    subsets = [frozenset(some) for n in range(len(axes) + 1) for some in itertools.combinations(axes, n)]
    explained = {some: _explained(means, design, sorted(some)) for some in subsets}
    of_size = [1 / (len(axes) * math.comb(len(axes) - 1, n)) for n in range(len(axes))]
    return {
        axis: sum(
            of_size[len(some)] * (explained[some | {axis}] - explained[some]) for some in subsets if axis not in some
        )
        for axis in axes
    }


def _explained(means: Floats, design: Design, axes: Sequence[str]) -> float:
    """The sum of squares of ``means`` that an additive fit of the axes explains."""
    fitted = _additive(design, axes)
    coefficients = np.linalg.lstsq(fitted, means, rcond=None)[0]
    return float(((fitted @ coefficients - means.mean()) ** 2).sum())


def _additive(design: Design, axes: Sequence[str]) -> Floats:
    """[C, 1 + K]: ones, and a column of zeros and ones for each value of each axis but its first."""
    columns = [np.ones(len(design))]
    for axis in axes:
        values = list(dict.fromkeys(one[axis] for one in design))
        columns += [np.array([float(one[axis] == value) for one in design]) for value in values[1:]]
    return np.array(columns).T
