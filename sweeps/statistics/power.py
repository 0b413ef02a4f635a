"""The smallest differences of two configurations that a study can tell apart: of means, stds over prompts, objectives.

The difference of two fine-tunes, cell by cell on the same prompts and rows, is a number plus effects of the seed, the
prompt, the row and their combinations. With S seeds of each configuration, P prompts and R rows, the mean has variance

    seed/S + prompt/P + row/R + seed_prompt/(SP) + seed_row/(SR) + prompt_row/(PR) + residual/(SPR)

which the analysis of variance estimates as a sum of mean squares, with Satterthwaite's degrees of freedom (1946; with
several seeds as Welch corrected them in 1947). The smallest difference is the one that the two-sided t test of the
tables finds with a chance of 80 %: a noncentral t, mixed over what the test estimates of its own error. The usual t(1 -
a/2) + t(.8) standard errors is 14 % too small at 1 degree of freedom and 5 % at 2; and where variances are small beside
the residual, as with few rows, they are often estimated as 0 or much too large, and a single noncentral t is off by a
tenth and more.

One seed each cannot show the luck of the seed: the seed's own variance is then left out, and the difference is one of
these two fine-tunes and not of their settings. Effects are taken as normally distributed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from sweeps.statistics.seeds import LEAST_OF_SEEDS, POOLED
from trainer.measure.grid import Floats

POWER, LEVEL = 0.8, 0.05
DRAWS = 2000  # studies: the smallest difference is then exact within a percent


@dataclass(frozen=True)
class DifferenceVariances:
    """Variances of the cells of a difference: a fine-tune of one configuration less a fine-tune of another."""

    seed: float  # the luck of the two fine-tunes, alike for all prompts and rows: twice that of one
    prompt: float  # prompts that suit one configuration more than the other
    row: float
    seed_prompt: float
    seed_row: float
    prompt_row: float
    residual: float

    def of_mean(self, seeds: int, prompts: int, rows: int) -> float:
        """Variance of the mean difference, as far as ``seeds`` of each configuration can show it."""
        seed = self.seed if seeds > 1 else 0.0
        mean = seed / seeds + self.prompt / prompts + self.row / rows
        mean += self.seed_prompt / (seeds * prompts) + self.seed_row / (seeds * rows)
        return mean + self.prompt_row / (prompts * rows) + self.residual / (seeds * prompts * rows)


@dataclass(frozen=True)
class Variation:
    """How scores of a task vary: between two configurations, and between the prompts of one fine-tune."""

    difference: DifferenceVariances
    prompt: float  # variance over prompts of one fine-tune, row noise removed: the square of its std
    residual: float  # variance of one fine-tune's cell that neither prompt nor row explains

    def observed(self, rows: int) -> float:
        """Variance over prompts of one fine-tune's metric on ``rows`` rows, with their noise."""
        return self.prompt + self.residual / rows

    def row_noise(self, rows: int) -> float:
        """Share of ``observed`` that is noise of the rows."""
        found = self.observed(rows)
        return self.residual / rows / found if found > 0 else 0.0

    def std_spread(self, seeds: int, rows: int) -> float:
        """(P - 1) times the variance of the logarithm of a ratio of two stds over P prompts: 1 less the squared
        correlation of the two fine-tunes' values, with S seeds of each averaged. Two stds of the same prompts vary
        together, and so do those of two seeds. What rows do to all prompts alike changes no std."""
        whole, d = self.observed(rows), self.difference
        if whole <= 0:
            return 0.0
        of_seeds = d.seed_prompt + d.residual / rows
        apart = of_seeds + d.prompt + d.prompt_row / rows
        between = max(1.0 - apart / (2.0 * whole), 0.0)
        same = max(1.0 - of_seeds / (2.0 * whole), between)
        return (1.0 + (seeds - 1) * same**2) / seeds - between**2


@dataclass(frozen=True)
class SmallestDifferences:
    """Fractions of 1; infinite where the study has too few prompts to say anything."""

    mean: float
    std: float  # over prompts, row noise removed: the larger of two less the usual one
    objective: float


def smallest_differences(
    found: Variation, seeds: int, prompts: int, rows: int, std_weight: float, configurations: int, comparisons: int = 1
) -> SmallestDifferences:
    """What is told apart with a chance of ``POWER``, at ``LEVEL`` divided by the number of ``comparisons``. A test of
    objectives has the degrees of freedom of its weaker part, as where stages compare two candidates."""
    level = LEVEL / max(1, comparisons)
    drawn = expected_tests(found.difference, seeds, prompts, rows, configurations)
    of_mean = found.difference.of_mean(seeds, prompts, rows)
    mean = _smallest_mean(of_mean, drawn, level) if prompts > 1 or rows > 1 else math.inf
    if prompts < 3:
        return SmallestDifferences(mean, math.inf, math.inf if std_weight else mean)
    of_std = std_weight**2 * found.observed(rows) * found.std_spread(seeds, rows) / (prompts - 1)
    weaker = ExpectedTests(drawn.variances + of_std, np.minimum(drawn.df, prompts - 1.0))
    objective = _smallest_mean(of_mean + of_std, weaker, level)
    return SmallestDifferences(mean, _smallest_std(found, seeds, prompts, rows, level), objective)


@dataclass(frozen=True)
class ExpectedTests:
    """What a test of the mean difference estimates of its own error, in studies drawn with known variances."""

    variances: Floats  # [DRAWS]
    df: Floats  # [DRAWS]


def expected_tests(d: DifferenceVariances, s: int, p: int, r: int, configurations: int) -> ExpectedTests:
    """The rule of ``seeds.mean_test`` on mean squares that are drawn about their expected values, as chi-squares with
    their degrees of freedom. Two configurations with ``s`` seeds; up to ``POOLED`` seeds the variance between seeds is
    that of all ``configurations``."""
    rng, size, cells = np.random.default_rng(0), p * r, (p - 1) * (r - 1)

    def square(expected: float, df: int) -> Floats:
        return expected * rng.chisquare(df, DRAWS) / df if df > 0 else np.zeros(DRAWS)

    cell = d.prompt_row + d.residual / s
    of_prompt = square(r * (d.prompt + d.seed_prompt / s) + cell, p - 1)
    of_row = square(p * (d.row + d.seed_row / s) + cell, r - 1)
    of_cell = square(cell, cells)
    # with one seed a variance below 0 is left out
    with_prompt, with_row = (of_prompt > of_cell) | (s > 1), (of_row > of_cell) | (s > 1)
    terms = [(with_prompt * of_prompt / size, p - 1), (with_row * of_row / size, r - 1)]
    terms.append(((1.0 - with_prompt - with_row) * of_cell / size, max(cells, 1)))
    of_seeds = np.zeros(DRAWS)
    if s > 1:
        within = (s - 1) * (max(configurations, 2) if s <= POOLED else 1)
        for share in (2.0,) if s <= POOLED else (1.0, 1.0):  # the pooled variance is one estimate for both
            seed, interaction = _of_seeds(d, s, p, r, within, square)
            of_seeds = of_seeds + share * seed
            terms += [(share * seed, within), (-share * interaction, within * max(p - 1, 1))]
    variances = np.maximum(sum((t for t, _ in terms), np.zeros(DRAWS)), LEAST_OF_SEEDS * of_seeds)
    least = np.min([np.where(t > 0, df, np.inf) for t, df in terms if df > 0], axis=0)
    if s > 1:  # Welch's correction, as in ``seeds``
        spread = sum((np.maximum(t, 0.0) ** 2 / (df + 2.0) for t, df in terms if df > 0), np.zeros(DRAWS))
        df = np.maximum(variances, of_seeds) ** 2 / np.maximum(spread, 1e-300) - 2.0
    else:
        spread = sum((t**2 / df for t, df in terms if df > 0), np.zeros(DRAWS))
        df = variances**2 / np.maximum(spread, 1e-300)
    return ExpectedTests(variances, np.maximum(np.maximum(df, np.where(np.isfinite(least), least, 1.0)), 1.0))


def _of_seeds(
    d: DifferenceVariances, s: int, p: int, r: int, within: int, square: Callable[[float, int], Floats]
) -> tuple[Floats, Floats]:
    """Of one configuration: variance of its mean as its seeds show it, and the part of it that the average over seeds
    shows as well. ``d`` has twice the variances of one."""
    of_prompt, of_row = r * d.seed_prompt + d.residual, p * d.seed_row + d.residual
    seed = square((p * r * d.seed + of_prompt + of_row - d.residual) / 2.0, within)
    both = square(of_prompt / 2.0, within * (p - 1)) + square(of_row / 2.0, within * (r - 1))
    interaction = np.maximum(both - square(d.residual / 2.0, within * (p - 1) * (r - 1)), 0.0)
    return seed / (s * p * r), interaction / (s * p * r)


def _smallest_mean(variance: float, tests: ExpectedTests, level: float) -> float:
    """The difference whose estimate, normal with ``variance``, ``tests`` at ``level`` find with a chance of ``POWER``.
    Where all have one variance and one df this is the noncentral t."""
    if variance <= 0.0:
        return 0.0
    critical = special.stdtrit(tests.df, 1.0 - level / 2.0) * np.sqrt(tests.variances / variance)

    def lacking(difference: float) -> float:
        found = special.ndtr(difference - critical) + special.ndtr(-difference - critical)
        return float(found.mean()) - POWER

    return math.sqrt(variance) * float(optimize.brentq(lacking, 0.0, float(critical.max()) + 10.0, xtol=1e-6))


def found_with_power(df: float, level: float, power: float = POWER) -> float:
    """The difference, in standard errors, that a two-sided t test at ``level`` finds with a chance of ``power``."""
    critical = special.stdtrit(df, 1.0 - level / 2.0)
    return float(special.nctdtrinc(df, 1.0 - power, critical))


def _smallest_std(found: Variation, seeds: int, prompts: int, rows: int, level: float) -> float:
    """By the test of Pitman (1939) and Morgan: two paired variances differ where sum and difference of the pairs are
    correlated, a t test with P - 2 degrees of freedom. Solved for the larger variance, whose noise is then removed."""
    whole, noise = found.observed(rows), found.residual / rows
    slope = found_with_power(prompts - 2, level) / math.sqrt(prompts - 1)  # correlation / sqrt(1 - correlation^2)
    apart = found.std_spread(seeds, rows)
    larger = whole * (1.0 + 2.0 * slope**2 + 2.0 * slope * math.sqrt(slope**2 + apart)) if apart > 0 else whole
    return math.sqrt(max(larger - noise, 0.0)) - math.sqrt(found.prompt)
