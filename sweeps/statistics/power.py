"""The smallest differences of two configurations that a study can tell apart: of means, stds over prompts, objectives.

The difference of two fine-tunes, cell by cell on the same prompts and rows, is a number plus effects of the seed, the
prompt, the row and their combinations. With S seeds of each configuration, P prompts and R rows, the mean has variance

    seed/S + prompt/P + row/R + seed_prompt/(SP) + seed_row/(SR) + prompt_row/(PR) + residual/(SPR)

which the analysis of variance estimates as a sum of mean squares, with Satterthwaite's degrees of freedom (1946). The
smallest difference is the one that a two-sided t test of that many degrees of freedom finds with a chance of 80 %, by
the noncentral t. The usual t(1 - a/2) + t(.8) standard errors is 14 % too small at 1 degree of freedom, 5 % at 2.

One seed each cannot show the luck of the seed: the seed's own variance is then left out, and the difference is one of
these two fine-tunes and not of their settings. Effects are taken as normally distributed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special

from sweeps.statistics.seeds import POOLED

POWER, LEVEL = 0.8, 0.05


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

    def df(self, seeds: int, prompts: int, rows: int, configurations: int = 2) -> float:
        """Satterthwaite's degrees of freedom of ``seeds.mean_test``, from the mean squares that are expected.
        ``configurations``: of the study, over which few seeds are pooled."""
        s, p, r = seeds, prompts, rows
        cell = self.residual
        of_prompt, of_row, of_cell = r * self.seed_prompt + cell, p * self.seed_row + cell, s * self.prompt_row + cell
        within = (s - 1) * (max(configurations, 2) if s <= POOLED else 2)
        added = [  # (expected mean square, degrees of freedom)
            (p * r * self.seed + of_prompt + of_row - cell, within),
            (s * r * self.prompt + of_prompt + of_cell - cell, p - 1),
            (s * p * self.row + of_row + of_cell - cell, r - 1),
        ]
        others = [  # the first three are taken off, the last is added again
            (of_prompt, within * (p - 1)),
            (of_row, within * (r - 1)),
            (of_cell, (p - 1) * (r - 1)),
            (cell, within * (p - 1) * (r - 1)),
        ]
        spread = sum(square**2 / df for square, df in [*added, *others] if df > 0)
        least = min((df for square, df in added if df > 0 and square > 0), default=1)
        total = self.of_mean(s, p, r) * s * p * r
        return max(total**2 / spread, least, 1.0) if spread > 0 else math.inf


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
    of_mean, df = (
        found.difference.of_mean(seeds, prompts, rows),
        found.difference.df(seeds, prompts, rows, configurations),
    )
    mean = found_with_power(df, level) * math.sqrt(of_mean) if prompts > 1 or rows > 1 else math.inf
    if prompts < 3:
        return SmallestDifferences(mean, math.inf, math.inf if std_weight else mean)
    of_std = std_weight**2 * found.observed(rows) * found.std_spread(seeds, rows) / (prompts - 1)
    objective = found_with_power(min(df, prompts - 1), level) * math.sqrt(of_mean + of_std)
    return SmallestDifferences(mean, _smallest_std(found, seeds, prompts, rows, level), objective)


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
