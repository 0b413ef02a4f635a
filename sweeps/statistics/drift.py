"""Whether rows of today are answered as the rows of the test were: two samples of rows, one value per row.

A figure is a mean over rows of a value from 0 to 1: how many of the wordings give an answer, how probable the answer
is, how many pairs of wordings agree, how many answers are right. Rows are independent of each other, the wordings of
one row are not; so the row is the unit.

- p-value: the permutation test of the difference of the means. The values of a figure are few, so a permutation is a
  draw of counts without replacement (multivariate hypergeometric), and takes as long for a million rows as for ten.
- Interval of a mean: Agresti and Coull's (1998), of a difference Agresti and Caffo's (2000), both for any values from 0
  to 1: imaginary rows with the values 0 and 1 are added before the normal interval. So a share of 0 in twenty rows does
  not get an interval of width zero. For values of 0 and 1 they are statsmodels' intervals of these names.
- A metric that is no mean over rows (f1_macro) has pseudo-values per row, whose mean it is and whose spread gives its
  error (``trainer.measure.metrics.cells``). Its test and intervals are normal ones.

Holm's correction runs over all figures. Where no difference is found, ``smallest`` says which difference would have
been found in four of five samples like these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from sweeps.statistics.intervals import LEVEL, Estimate, holm
from trainer.measure.grid import Floats

ALPHA = 1.0 - LEVEL
POWER = 0.8
PERMUTATIONS = 19_999
Z = float(stats.norm.ppf(1.0 - ALPHA / 2.0))
DIFFERS, LIKE, UNDECIDED = "differs", "alike", "undecided"


@dataclass(frozen=True)
class RowSample:
    """A figure over rows: how many rows have each value."""

    values: Floats  # ascending, from 0 to 1
    counts: Floats  # of rows, as many

    @classmethod
    def of(cls, per_row: Floats, decimals: int = 4) -> RowSample:
        values, counts = np.unique(np.round(per_row, decimals), return_counts=True)
        return cls(values, counts.astype(float))

    @property
    def n(self) -> float:
        return float(self.counts.sum())

    @property
    def mean(self) -> float:
        return float(self.values @ self.counts / self.n)

    def with_imaginary(self, each: float) -> RowSample:
        """With ``each`` more rows of the value 0, and as many of the value 1."""
        return RowSample(np.concatenate([self.values, [0.0, 1.0]]), np.concatenate([self.counts, [each, each]]))

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        spread = float((self.values - self.mean) ** 2 @ self.counts / self.n)
        return math.sqrt(spread / self.n)


@dataclass(frozen=True)
class Pseudo:
    """A metric with its error, from pseudo-values of rows."""

    value: float
    error: float
    n: int


@dataclass(frozen=True)
class Compared:
    """A figure of the new rows against that of the test."""

    name: str
    new: Estimate
    test: Estimate
    difference: Estimate  # new minus test
    p: float
    error: float  # standard error of the difference
    p_holm: float = math.nan
    smallest: float = math.nan  # the difference that would be found in four of five samples
    verdict: str = UNDECIDED


def compare(name: str, new: RowSample, test: RowSample, permutations: int = PERMUTATIONS) -> Compared:
    ours, theirs = new.with_imaginary(1.0), test.with_imaginary(1.0)
    error = math.hypot(ours.error, theirs.error)
    centre = ours.mean - theirs.mean
    difference = Estimate(new.mean - test.mean, max(centre - Z * error, -1.0), min(centre + Z * error, 1.0))
    return Compared(name, interval(new), interval(test), difference, permutation_p(new, test, permutations), error)


def compare_metric(name: str, new: Pseudo, test: Pseudo, lowest: float = 0.0) -> Compared:
    """``lowest``: value of the metric; the highest is 1."""
    error = math.hypot(new.error, test.error)
    gap, width = new.value - test.value, 1.0 - lowest
    p = float(2.0 * stats.norm.sf(abs(gap) / error)) if error > 0.0 else float(gap == 0.0)
    ours, theirs = (
        Estimate(m.value, max(m.value - Z * m.error, lowest), min(m.value + Z * m.error, 1.0)) for m in (new, test)
    )
    difference = Estimate(gap, max(gap - Z * error, -width), min(gap + Z * error, width))
    return Compared(name, ours, theirs, difference, p, error)


def interval(sample: RowSample) -> Estimate:
    """The mean with Agresti and Coull's interval."""
    wider = sample.with_imaginary(Z * Z / 2.0)
    return Estimate(sample.mean, max(wider.mean - Z * wider.error, 0.0), min(wider.mean + Z * wider.error, 1.0))


def permutation_p(new: RowSample, test: RowSample, permutations: int = PERMUTATIONS) -> float:
    """Two-sided, of the difference of the means; the same samples always give the same p."""
    values = np.union1d(new.values, test.values)
    ours, theirs = (_counts(sample, values) for sample in (new, test))
    both = ours + theirs
    rng = np.random.default_rng([len(values), int(ours.sum()), int(theirs.sum())])
    drawn = rng.multivariate_hypergeometric(both, int(ours.sum()), permutations, method="marginals")
    n, m = ours.sum(), theirs.sum()
    gaps = drawn @ values / n - (both - drawn) @ values / m
    gap = abs(ours @ values / n - theirs @ values / m)
    return float((1 + (np.abs(gaps) >= gap - 1e-12).sum()) / (permutations + 1))


def _counts(sample: RowSample, values: Floats) -> np.ndarray:
    found = np.zeros(len(values), dtype=np.int64)
    found[np.searchsorted(values, sample.values)] = sample.counts
    return found


def judge(compared: Sequence[Compared], margin: float, unsure: Mapping[str, str] | None = None) -> list[Compared]:
    """With Holm's p over all of them, and a verdict: differs; alike, where a difference of ``margin`` would
    have been found; else undecided. ``unsure``: names of figures that their rows say too little of."""
    quantile = float(stats.norm.ppf(1.0 - ALPHA / (2.0 * max(len(compared), 1))) + stats.norm.ppf(POWER))
    judged = []
    for one, p in zip(compared, holm([c.p for c in compared]), strict=True):
        smallest = quantile * one.error
        found = DIFFERS if p < ALPHA else LIKE if smallest <= margin else UNDECIDED
        verdict = UNDECIDED if one.name in (unsure or {}) else found
        judged.append(replace(one, p_holm=p, smallest=smallest, verdict=verdict))
    return judged
