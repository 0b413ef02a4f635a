"""Whether two arms, scored on the same prompts and rows, differ in their std over prompts or in their worst prompt.

Both tests redraw what two equal arms could have shown: which of the two had which of a prompt's two values is chance.
tests/sweeps/statistics/test_prompt_tests.py measures how often equal arms are called different: 3 to 7 % at a level of
5 % with 10 to 50 normal prompts. With heavy tails (``sweeps.statistics.tails``) they do so more often.

- Std, without the noise of finite rows: two variances are equal where the sums and the differences of the prompts'
  values are uncorrelated (Pitman 1939, Morgan 1939). The slope of the differences on the sums is divided by a standard
  error that stands unequal spread (HC3 of MacKinnon and White 1985), and compared with the same number after the signs
  of the differences were drawn at random. An arm with more right answers has less noise in its prompts' values; the
  difference of the noise is taken off first.
- Worst prompt: a minimum has no standard error, and redrawn prompts repeat the same few values. So the prompts are
  redrawn from a smoothed distribution (Silverman and Young 1987), in which each difference may have either sign, and
  rows move all of an arm's prompts together, as far as the two-way analysis of variance says. The worst of P noisy
  values is compared as it is: on these rows, not without their noise.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from sweeps.statistics.intervals import FEW_PROMPTS
from trainer.measure.grid import Floats, Ints
from trainer.measure.metrics import two_way

DRAWS = 4000  # so that p-values reach .0003, which Holm's correction over a table of claims needs
ENOUGH = 10  # with fewer prompts redrawn ones are stretched as a t distribution is, and the test is cautious: 1 to 4 %


@dataclass(frozen=True)
class Draws:
    """The random numbers of both tests; the same for all pairs of arms on one grid."""

    signs: Floats  # [B, P]; the first is what was observed
    prompts: Ints  # [B, P]
    of_sum: Floats  # [B, P] standard normal, as the next two
    of_gap: Floats  # [B, P]
    of_rows: Floats  # [B]
    stretch: Floats  # [B, 1]


@functools.lru_cache(maxsize=2)
def draws(n_prompts: int, seed: int = 0) -> Draws:
    rng = np.random.default_rng([seed, n_prompts])
    shape = (DRAWS, n_prompts)
    signs = rng.choice(np.array([-1.0, 1.0]), shape)
    signs[0] = 1.0
    df = n_prompts - 1
    stretch = np.sqrt(df / rng.chisquare(df, (DRAWS, 1))) if n_prompts < ENOUGH else np.ones((DRAWS, 1))
    normal = [rng.standard_normal(size) for size in (shape, shape, DRAWS)]
    return Draws(signs, rng.integers(0, n_prompts, shape), normal[0], normal[1], normal[2], stretch)


def std_test(cells: Floats, other: Floats, seed: int = 0) -> float:
    """The two-sided p-value that the prompts' true values have the same std in both arms [P, R]; NaN with fewer than
    ``FEW_PROMPTS`` prompts, 1 where the arms are alike."""
    _check(cells, other)
    n, rows = cells.shape
    if n < FEW_PROMPTS:
        return math.nan
    x, y = cells.mean(axis=1), other.mean(axis=1)
    both, gap = x + y - (x + y).mean(), x - y - (x - y).mean()
    spread = float((both**2).sum())
    if spread < 1e-12 or float((gap**2).sum()) < 1e-12:
        return 1.0
    noise = (two_way(cells).ms_residual - two_way(other).ms_residual) / rows  # of var(x) - var(y)
    of_noise = noise * (n - 1) / spread  # the slope that it makes; it is as uncertain as ``spread`` is
    slope, error = _slopes(draws(n, seed).signs * (gap - of_noise * both), both)
    found = abs(float(slope[0])) / math.hypot(float(error[0]), of_noise * math.sqrt(2.0 / (n - 1)))
    beyond = int((np.abs(slope[1:]) >= found * (1.0 - 1e-9) * error[1:]).sum())
    return (beyond + 1.0) / DRAWS


def _slopes(gaps: Floats, both: Floats) -> tuple[Floats, Floats]:
    """[B] least-squares slope of each of ``gaps`` [B, P] on ``both`` [P], which is centred, and its standard error."""
    spread = float((both**2).sum())
    gaps = gaps - gaps.mean(axis=1, keepdims=True)
    slope = gaps @ both / spread
    left = (gaps - slope[:, None] * both) / (1.0 - 1.0 / both.size - both**2 / spread).clip(1e-9)
    return slope, np.sqrt(np.maximum(left**2 @ both**2, 1e-300)) / spread


def worst_prompt_test(cells: Floats, other: Floats, seed: int = 0) -> float:
    """The two-sided p-value that the worst of as many other prompts, on as many other rows, would be as low in both
    arms [P, R] on average; NaN with fewer than ``FEW_PROMPTS`` prompts, 1 where the arms are alike."""
    _check(cells, other)
    n, rows = cells.shape
    if n < FEW_PROMPTS:
        return math.nan
    x, y = cells.mean(axis=1), other.mean(axis=1)
    if float(np.abs(x - y).max()) < 1e-12:
        return 1.0
    drawn, grow = draws(n, seed), math.sqrt(n / (n - 1))
    both, gap = (grow * (v - v.mean()) for v in ((x + y) / 2.0, x - y))
    width = n ** (-1.0 / 6.0)  # Silverman's rule for two dimensions, in standard deviations
    keep = 1.0 / math.sqrt(1.0 + width**2)  # so that smoothing adds no variance
    middle = keep * (both[drawn.prompts] + width * float(both.std()) * drawn.of_sum)
    half = keep * (drawn.signs * gap[drawn.prompts] + width * float(gap.std()) * drawn.of_gap) / 2.0
    found = ((middle + half) * drawn.stretch).min(axis=1) - ((middle - half) * drawn.stretch).min(axis=1)
    found += math.sqrt(two_way(cells - other).var_rows / rows) * drawn.of_rows
    beyond = int((np.abs(found) >= abs(float(x.min() - y.min())) - 1e-12).sum())
    return (beyond + 1.0) / (DRAWS + 1.0)


def _check(cells: Floats, other: Floats) -> None:
    if cells.shape != other.shape:
        raise ValueError(f"paired tests need the same cells; got {cells.shape} and {other.shape}")
