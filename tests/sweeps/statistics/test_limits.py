"""Every interval stays inside what its quantity can be (CASES V19: a standard deviation of up to 109.1 percent)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.paft.changes import ONE_SEED, SeedLuck, changes
from sweeps.staged.compare import DevScores, gap, pseudo_values
from sweeps.statistics import intervals as iv
from sweeps.statistics import seeds as sd
from trainer.measure.grid import Grid
from trainer.measure.metrics import cells, grid_objective, least_rows

FAR = np.array([[1.0] * 8, [0.0] * 8, [1.0] * 8, [0.0] * 7 + [1.0]])  # four prompts, as unlike as can be


def inside(estimate: object, low: float, high: float) -> bool:
    values = [getattr(estimate, n) for n in ("value", "low", "high")]
    return all(np.isnan(v) or low - 1e-12 <= v <= high + 1e-12 for v in values)


def test_a_few_unlike_prompts_have_no_standard_deviation_beyond_a_half() -> None:
    found = iv.std_interval(FAR)
    assert 0.4 < found.value <= 0.5
    assert found.high == 0.5
    assert found.low < found.value


def test_no_prompts_have_more_spread_than_the_limit() -> None:
    """Half at 0 and half at 1 is the most that a spread can be."""
    for n in range(2, 9):
        most = max(np.std([1.0] * k + [0.0] * (n - k), ddof=1) for k in range(n + 1))
        assert iv.spread_limits(n).high == pytest.approx(most)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 7), st.integers(1, 9), st.sampled_from([0.05, 0.5, 0.95]), st.integers(0, 10**6))
def test_intervals_of_any_small_grid_are_inside(p: int, r: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = ((rng.random((p, r)) < share) & (rng.random((p, 1)) < 0.8) for _ in range(2))
    x, y = a.astype(float), b.astype(float)
    drawn = iv.resamples(p, r, 1, 100)
    redrawn = iv.replicate(x, drawn)
    ordered = np.sort(redrawn.stretched, axis=1)
    assert inside(iv.mean_test(x, redrawn)[0], 0, 1)
    assert inside(iv.std_interval(x), 0, 0.5)
    assert inside(iv.percentile(float(x.mean(axis=1).min()), ordered[:, 0]), 0, 1)
    assert inside(iv.difference(x, y)[0], -1, 1)
    assert inside(iv.share_interval(x.mean(axis=1), redrawn.per_prompt, 0.85, True), 0, 1)


def test_differences_between_arms_and_between_candidates_are_inside() -> None:
    class Arm:
        trial = SimpleNamespace(optimization=SimpleNamespace(steps=1))
        prompts, limits = tuple("abcd"), iv.SHARE

        def __init__(self, *seeds: np.ndarray) -> None:
            self.by_seed = np.array(seeds)
            self.cells = self.by_seed.mean(axis=0)
            self.per_prompt = self.cells.mean(axis=1)

    wide = sd.Component(1.0, 1.0)
    several = Arm(FAR, FAR[::-1], FAR), Arm(1.0 - FAR, 1.0 - FAR, FAR)
    for arms, luck in (
        ((Arm(FAR), Arm(1.0 - FAR[::-1])), ONE_SEED),
        (several, SeedLuck(sd.SeedVariance(wide, wide), wide, wide)),
    ):
        found = changes(*arms, luck)  # type: ignore[arg-type]
        assert inside(found["mean"], -1, 1)
        assert inside(found["min"], -1, 1)
        width = iv.spread_limits(4).high
        assert inside(found["std"], -width, width)

    def scores(values: np.ndarray) -> DevScores:
        right = values.astype(bool)
        grid = Grid(tuple("abcd"), tuple("12345678"), ("no", "yes"), np.zeros(8, int), 1 - right, right, None, False)
        return DevScores(pseudo_values(values, 1.0), grid_objective(grid, "accuracy", 1.0), "g", "accuracy")

    assert inside(gap([scores(FAR)], [scores(1.0 - FAR)]), -1 - width, 1 + width)


def correlations(answers: np.ndarray, label: np.ndarray) -> np.ndarray:
    p, r = answers.shape
    names = tuple(map(str, range(p))), tuple(map(str, range(r)))
    return cells(Grid(*names, ("no", "yes"), label, answers, answers == label, None, False), "matthews_corrcoef")


def test_a_correlation_has_intervals_below_zero() -> None:
    limits = iv.limits_of("matthews_corrcoef")
    assert (limits, iv.limits_of("f1[yes]")) == (iv.Limits(-1.0, 1.0), iv.SHARE)
    rng = np.random.default_rng(0)
    label = np.arange(40) % 2
    worse = correlations(np.where(rng.random((6, 40)) < 0.8, 1 - label, label), label)  # wrong in four of five
    redrawn = iv.replicate(worse, iv.resamples(6, 40))
    mean = iv.mean_test(worse, redrawn, limits=limits)[0]
    assert -0.8 < mean.low < mean.value < mean.high < -0.2
    least = worse.mean(axis=1).min()
    worst = iv.percentile(float(least), np.sort(redrawn.stretched, axis=1)[:, 0], limits)
    assert worst.low <= worst.value == least < 0
    better = correlations(np.where(rng.random((6, 40)) < 0.95, label, 1 - label), label)
    gap = iv.difference(better, worse, limits=limits)[0]
    assert 0.5 < gap.low < gap.value < gap.high <= 2


def test_the_spread_of_correlations_may_be_one() -> None:
    """Half of the prompts are always right, and half always wrong."""
    label = np.arange(40) % 2
    answers = np.where(np.arange(6)[:, None] % 2 == 0, label, 1 - label)
    limits = iv.limits_of("matthews_corrcoef")
    found = iv.std_interval(correlations(answers, label), limits)
    assert iv.true_spread(limits).high == 1.0
    assert 0.9 < found.value <= found.high == 1.0
    assert iv.spread_limits(6, limits).high == pytest.approx(np.std([1, -1] * 3, ddof=1))


def test_all_right_on_few_rows_of_a_label_says_less_than_on_many_rows() -> None:
    """The rule of three: of 10 rows without a mistake up to 31 % could be wrong, of 1,000 up to .4 %."""
    label = np.zeros(1000, int)
    label[:10] = 1
    right = np.tile(label, (4, 1))
    names = tuple("abcd"), tuple(f"{j:04d}" for j in range(1000))
    grid = Grid(*names, ("no", "yes"), label, right, right == label, None, False)
    for metric, rows, low in (("accuracy", 1000, 0.9963), ("f1[yes]", 10, 0.692), ("balanced_accuracy", 10, 0.692)):
        assert least_rows(grid, metric) == rows
        values = cells(grid, metric)
        mean = iv.mean_test(values, None, limits=iv.limits_of(metric), least_rows=rows)[0]
        assert (mean.value, mean.low, mean.high) == (1.0, pytest.approx(low, abs=1e-3), 1.0)
