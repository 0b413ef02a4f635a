"""Two stages that meet a half-width, at few more cells than if the variance were known: simulated grids."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trainer.measure import design, precision
from trainer.measure.estimate import Seen, estimate_grid, fit_stratum
from trainer.measure.grid import Floats, Ints
from trainer.measure.precision import MARGIN, Pilot, Precision, Stratum, cells_for, read_pilot

Effects = tuple[
    float, float, float, float
]  # mu, std of prompts, of their lean to a label, and of rows, probit; noise 1


def draw(rng: np.random.Generator, p: int, label: Ints, effects: Effects) -> Floats:
    mu, prompts, lean, rows = effects
    side = np.where(label == 1, 1.0, -1.0)
    latent = mu + prompts * rng.standard_normal((p, 1)) + lean * rng.standard_normal((p, 1)) * side
    latent = latent + rows * rng.standard_normal((1, len(label)))
    found: Floats = (latent + rng.standard_normal((p, len(label))) > 0).astype(float)
    return found


@functools.lru_cache(maxsize=200)
def sample(p: int, r: int, cells: int) -> Seen:
    ids = [f"p{i:02d}" for i in range(p)], [f"r{j:05d}" for j in range(r)]
    return design.staged(*ids, [str(k) for k in labels(r)], cells)


def labels(r: int) -> Ints:
    return (np.arange(r) % 3 == 0).astype(np.int64)


def known(values: Floats, label: Ints) -> Pilot:
    """What an oracle knows of a grid: its variances and its std."""
    p, r = values.shape
    groups = [label == k for k in (0, 1)]
    fits = [fit_stratum(values[:, g], np.ones((p, int(g.sum())), bool)) for g in groups]
    strata = [
        Stratum(float(g.mean()), f.ms_residual, f.var_rows, math.inf, math.inf)
        for f, g in zip(fits, groups, strict=True)
    ]
    return Pilot(p, r, tuple(strata), (float(values.mean(axis=1).std(ddof=1)),), 1.0, 1.0)


def two_stages(rng: np.random.Generator, p: int, r: int, effects: Effects, wanted: Precision) -> list[float]:
    """Errors of mean and std against the whole grid, cells, and cells of an oracle."""
    label = labels(r)
    values = draw(rng, p, label, effects)
    n = cells_for([read_pilot(values, sample(p, r, 0), label, r)], wanted)
    found = estimate_grid(values, sample(p, r, n), label, r)
    each = values.mean(axis=1)
    exact = replace(wanted, mean=None if wanted.mean is None else wanted.mean / MARGIN)  # it aims at what is asked for
    return [found.mean - each.mean(), found.std - each.std(ddof=1), n, cells_for([known(values, label)], exact)]


GOOD, PLAIN, HARD = (1.8, 0.15, 0.2, 1.0), (1.8, 0.3, 0.4, 1.5), (0.8, 0.3, 0.3, 1.2)


@pytest.mark.long
@pytest.mark.parametrize(
    ("p", "r", "effects", "half_width", "rows_met"),
    [
        (20, 1000, GOOD, 0.01, 1.0),
        (20, 1821, PLAIN, 0.01, 1.0),
        (20, 8000, GOOD, 0.012, 0.3),  # not every row is met
        (10, 3000, HARD, 0.014, 0.95),
        (50, 10_000, GOOD, 0.01, 0.3),
    ],
)
def test_the_half_width_of_the_mean_is_met(
    p: int, r: int, effects: Effects, half_width: float, rows_met: float
) -> None:
    times = 2000 if r < 5000 else 600
    rng = np.random.default_rng([p, r])
    runs = np.array([two_stages(rng, p, r, effects, Precision(half_width)) for _ in range(times)])
    met, ratio = float((np.abs(runs[:, 0]) <= half_width).mean()), float((runs[:, 2] / runs[:, 3]).mean())
    rows = sample(p, r, int(np.median(runs[:, 2]))).any(axis=0).mean()
    print(f"{p} x {r}: met in {met:.3f}, {ratio:.3f} times an oracle's cells, {rows:.2f} of the rows")
    slack = 2 * math.sqrt(0.95 * 0.05 / times)
    assert met >= 0.95 - slack
    assert ratio <= 1.15
    assert (rows == 1.0) == (rows_met == 1.0)
    assert runs[:, 2].min() > design.pilot_cells(p, r)  # else nothing was decided by the pilot


def test_the_half_width_is_met_in_short() -> None:
    rng = np.random.default_rng(1)
    runs = np.array([two_stages(rng, 20, 1000, GOOD, Precision(0.01)) for _ in range(250)])
    assert (np.abs(runs[:, 0]) <= 0.01).mean() >= 0.92
    assert (runs[:, 2] / runs[:, 3]).mean() <= 1.15


@pytest.mark.parametrize("effects", [(1.8, 0.0, 0.0, 1.0), (1.8, 0.1, 0.1, 1.0), GOOD, (1.6, 0.5, 0.3, 1.0)])
def test_the_half_width_of_the_std_is_met(effects: Effects) -> None:
    """Whether prompts differ much, little or not at all."""
    rng, wanted = np.random.default_rng(2), Precision(None, 0.015)
    runs = np.array([two_stages(rng, 20, 1000, effects, wanted) for _ in range(150)])
    assert (np.abs(runs[:, 1]) <= 0.015).mean() >= 0.94
    assert runs[:, 2].max() < 20 * 1000


def test_a_large_grid_needs_a_fiftieth_of_its_cells() -> None:
    """50 x 10,000, as of a fine-tune with 90 % right."""
    rng, label = np.random.default_rng(3), labels(10_000)
    for _ in range(3):
        values = draw(rng, 50, label, GOOD)
        n = cells_for([read_pilot(values, sample(50, 10_000, 0), label, 10_000)], Precision(0.01))
        assert 1000 < n <= 0.02 * values.size
        found = estimate_grid(values, sample(50, 10_000, n), label, 10_000)
        assert abs(found.mean - values.mean()) < 0.0125


def test_the_stated_half_width_is_the_spread_of_the_estimate() -> None:
    """At sizes where rows were met once, twice and more often, and not all of them."""
    p, r = 20, 2000
    label, rng = labels(r), np.random.default_rng(4)
    grids = [draw(rng, p, label, GOOD) for _ in range(250)]
    for n in (1000, 1800, 3000, 6000):
        off = [estimate_grid(y, sample(p, r, n), label, r).mean - y.mean() for y in grids]
        stated = [precision.mean_half_width(known(y, label), n) / 1.96 for y in grids[:20]]
        assert np.std(off) == pytest.approx(float(np.mean(stated)), rel=0.12), n


def test_more_trials_never_need_fewer_cells() -> None:
    rng, label, wanted = np.random.default_rng(5), labels(1000), Precision(0.01)
    kinds: list[Any] = [GOOD, HARD, PLAIN]
    pilots = [read_pilot(draw(rng, 20, label, k), sample(20, 1000, 0), label, 1000) for k in kinds]
    each = [cells_for([pilot], wanted) for pilot in pilots]
    assert cells_for(pilots, wanted) == max(each)
    assert len(set(each)) == 3
    assert cells_for(pilots[:1], Precision(0.005)) > each[0] > cells_for(pilots[:1], Precision(0.015))


def test_sizes_are_balanced_and_at_most_the_grid() -> None:
    usual = precision.usual_pilot(20, 1000)
    for half_width in (1e-6, 0.003, 0.01, 0.05, 0.5):
        n = cells_for([usual], Precision(half_width))
        assert n % 20 == 0
        assert 1000 <= n <= 20_000
    assert cells_for([usual], Precision(1e-6)) == 20_000
    assert cells_for([usual], Precision(0.5)) == 1000
    assert cells_for([precision.usual_pilot(4, 100)], Precision(0.5)) == 400  # a grid smaller than a pilot
