"""How many cells of a prompts x rows grid must be scored for its mean and std to be known to a half-width.

Two stages (Stein 1945, "A two-sample test for a linear hypothesis whose power is independent of the variance", Ann.
Math. Stat. 16): a pilot gives the variances of rows and residuals with their degrees of freedom, these give the size of
the whole sample, and the rest is scored once, without a look in between. A half-width is of a 95 % interval about the
value that the whole grid would give; for new prompts and rows the tables add what those vary. numpy and scipy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from trainer.measure import design
from trainer.measure.estimate import GridEstimate, Seen, StratumFit, Z, estimate_grid, fit_stratum, strata
from trainer.measure.grid import Floats, Ints

# Of the half-width, at which is aimed. Of shares of right answers, mean and variance go together: a pilot that looks
# good by chance looks quiet as well, so that the mean of samples of just the size is off by more in 6 of 100 [sim]
MARGIN = 0.96
TAU_RANGE = 0.84  # standard errors of the pilot's variance between prompts: the std is that of eight pilots in ten
WHOLE = 0.95  # of a grid: a sample that needs more of it saves nothing
# Where no pilot is taken: the largest variances of residuals and rows on recorded grids of accuracy, and the std over
# prompts of a good fine-tune
USUAL_RESIDUAL, USUAL_ROWS, USUAL_STD = 0.09, 0.10, 0.01


@dataclass(frozen=True)
class Precision:
    """Half-widths of 95 % intervals, as fractions of 1; None where none is asked for."""

    mean: float | None = 0.01
    std: float | None = None


@dataclass(frozen=True)
class Stratum:
    """What is known of the rows of one label."""

    share: float  # of the whole grid's rows
    ms_residual: float
    var_rows: float
    df_residual: float
    df_rows: float


@dataclass(frozen=True)
class Pilot:
    """What a pilot says of one trial's grid of ``prompts`` x ``rows``."""

    prompts: int
    rows: int
    strata: tuple[Stratum, ...]
    taus: tuple[float, ...]  # what the std of the whole grid may well be, in steps
    unequal: float  # mean squared noise of prompts over the square of the mean; 1 where all are equally noisy
    aligned: float  # how much noisier prompts far from the mean are than others; 1: not at all


def read_pilot(values: Floats, seen: Seen, label: Ints, n_rows: int) -> Pilot:
    """From ``values`` [P, R] of the cells in ``seen``; ``label`` [R] are the rows' right answers, ``n_rows`` the rows
    of the whole grid."""
    groups = strata(label, seen)
    fits = [fit_stratum(values[:, g], seen[:, g]) for g in groups]
    found = estimate_grid(values, seen, label, n_rows)
    around = (found.variance + side * TAU_RANGE * found.variance_error for side in (-1, 1))
    low, high = (math.sqrt(max(x, 0.0)) for x in around)
    known = tuple(_stratum(f, len(g) / len(label), seen[:, g]) for f, g in zip(fits, groups, strict=True))
    return Pilot(len(seen), n_rows, known, tuple(np.linspace(low, high, 21).tolist()), *_noise_shape(found))


def usual_pilot(prompts: int, rows: int, width: float = 1.0) -> Pilot:
    """What is assumed of a grid where there is no pilot; ``width``: the metric's highest value less its lowest."""
    stratum = Stratum(1.0, width**2 * USUAL_RESIDUAL, width**2 * USUAL_ROWS, math.inf, math.inf)
    return Pilot(prompts, rows, (stratum,), (width * USUAL_STD,), 1.0, 1.0)


def cells_for(pilots: Sequence[Pilot], wanted: Precision) -> int:
    """The size of a sample, the same for all trials of ``pilots``, with which each has the half-widths ``wanted``. The
    whole grid has 0 as half-width, so there is always one."""
    return max(_least(pilot, lambda n, pilot=pilot: _precise(pilot, wanted, n)) for pilot in pilots)  # type: ignore[misc]


def _least(pilot: Pilot, enough: Callable[[int], bool]) -> int:
    """The fewest cells that are ``enough``, as many of each prompt; at least the pilot's."""
    p, whole = pilot.prompts, pilot.prompts * pilot.rows
    low, high = -(-design.pilot_cells(p, pilot.rows) // p), pilot.rows
    if p * low >= WHOLE * whole:
        return whole
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle * p) else (middle + 1, high)
    return whole if p * low >= WHOLE * whole else p * low


def _precise(pilot: Pilot, wanted: Precision, cells: int) -> bool:
    mean, std = wanted.mean, wanted.std
    return (mean is None or mean_half_width(pilot, cells) <= MARGIN * mean) and (
        std is None or std_half_width(pilot, cells) <= MARGIN * std
    )


def mean_half_width(pilot: Pilot, cells: int) -> float:
    """Of the mean's interval with a sample of ``cells`` cells."""
    total = spread = 0.0
    for s, rows, met in _meetings(pilot, cells):
        of_rows = s.share**2 * s.var_rows * max(1.0 / sum(n for _, n in met) - 1.0 / rows, 0.0)
        whole = s.var_rows / rows + s.ms_residual / (pilot.prompts * rows)
        found = s.share**2 * max(1.0 / sum(n * _information(s, c, 1.0) for c, n in met) - whole, 0.0)
        total += max(found, of_rows)
        spread += of_rows**2 / s.df_rows + max(found - of_rows, 0.0) ** 2 / s.df_residual
    return _t(total**2 / spread if spread > 0 else math.inf) * math.sqrt(total)


def std_half_width(pilot: Pilot, cells: int) -> float:
    """Of the std's interval, the longer side of it, at the least favourable std that the pilot allows."""
    noise = spread = 0.0
    for s, rows, met in _meetings(pilot, cells):
        information = sum(n * _prompt_information(s, c, pilot.prompts) for c, n in met) / pilot.prompts
        part = s.share**2 * max(1.0 / information - s.ms_residual / rows, 0.0) if information > 0 else 0.0
        noise += part
        spread += part**2 / s.df_residual
    df = noise**2 / spread if spread > 0 else math.inf
    widest = 0.0
    for tau in pilot.taus:
        of_noise = 2.0 * pilot.unequal * noise**2 + 4.0 * pilot.aligned * noise * tau**2
        error = Z * math.sqrt(of_noise / max(pilot.prompts - 1, 1) + 2.0 * noise**2 / df)
        above, below = math.sqrt(tau**2 + error) - tau, tau - math.sqrt(max(tau**2 - error, 0.0))
        widest = max(widest, above, below)
    return widest * _t(df) / Z


def _t(df: float) -> float:
    return Z if math.isinf(df) else float(special.stdtrit(max(df, 1.0), 0.975))


def _information(s: Stratum, met: int, size: float) -> float:
    """Of a row that ``met`` prompts have met, about the mean."""
    return size / max(s.var_rows + s.ms_residual / met, 1e-12)


def _prompt_information(s: Stratum, met: int, prompts: int) -> float:
    """Of a row that ``met`` prompts have met, about the differences between prompts, summed over those: within the row
    without its own effect, and what the row's sum says in spite of it (Yates 1940, recovery of inter-block
    information)."""
    within = (1.0 - 1.0 / met) / (1.0 - 1.0 / prompts) if prompts > 1 else 0.0
    return met * (within / max(s.ms_residual, 1e-12) + (1.0 - within) / max(s.ms_residual + met * s.var_rows, 1e-12))


def _meetings(pilot: Pilot, cells: int) -> Iterator[tuple[Stratum, float, list[tuple[int, float]]]]:
    """Of each stratum: its rows in the whole grid, and how many of them meet how many prompts in a sample of ``cells``
    (``trainer.measure.design.staged``: rows that were met least come first)."""
    first = design.pilot_cells(pilot.prompts, pilot.rows)
    used = design.rows_used(first, pilot.prompts, pilot.rows)
    for s in pilot.strata:
        rows, begun, own, more = (s.share * x for x in (pilot.rows, used, first, max(cells - first, 0)))
        twice, new = max(int(own // begun), 1), rows - begun
        if more <= twice * new and new > 0:
            each, rest = divmod(more, new)
            met = [(twice, begun), (int(each), new - rest), (int(each) + 1, rest)]
        else:
            each, rest = divmod(max(cells, first) * s.share, rows)
            met = [(int(each), rows - rest), (int(each) + 1, rest)]
        yield s, rows, [(c, n) for c, n in met if c > 0 and n > 1e-9]


def _stratum(f: StratumFit, share: float, seen: Seen) -> Stratum:
    """Degrees of freedom of the variance of rows by Satterthwaite: it is a difference of two mean squares."""
    met = seen.sum(axis=0)
    met = met[met > 0]
    each = float(met.mean())
    of_rows = f.ms_residual + each * f.var_rows
    doubt = (of_rows**2 / max(len(met) - 1, 1) + f.ms_residual**2 / f.df) / each**2
    df_rows = max(f.var_rows**2 / doubt, 1.0) if doubt > 0 else math.inf
    return Stratum(share, f.ms_residual, f.var_rows, float(f.df), df_rows)


def _noise_shape(found: GridEstimate) -> tuple[float, float]:
    """``Pilot.unequal`` and ``Pilot.aligned``. The second is taken from few, noisy prompts, so within bounds."""
    mean = float(found.noise.mean())
    if mean <= 0:
        return 1.0, 1.0
    away = np.maximum((found.unbiased - found.unbiased.mean()) ** 2 - found.noise, 0.0)
    total = float(away.sum())
    aligned = float((away * found.noise).sum()) / (total * mean) if total > 0 else 1.0
    return float((found.noise**2).mean()) / mean**2, min(max(aligned, 1.0), 3.0)
