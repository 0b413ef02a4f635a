"""Every interval stays inside what its quantity can be (CASES V19: a standard deviation of up to 109.1 percent)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.paft.arm_results import changes
from sweeps.staged.compare import DevScores, gap, pseudo_values
from sweeps.statistics import intervals as iv
from trainer.measure.grid import Grid
from trainer.measure.metrics import grid_objective

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
        def __init__(self, cells: np.ndarray) -> None:
            self.cells, self.prompts, self.per_prompt = cells, tuple("abcd"), cells.mean(axis=1)

    found = changes(Arm(FAR), Arm(1.0 - FAR[::-1]))  # type: ignore[arg-type]
    assert inside(found["mean"], -1, 1)
    assert inside(found["min"], -1, 1)
    width = iv.spread_limits(4).high
    assert inside(found["std"], -width, width)

    def scores(cells: np.ndarray) -> DevScores:
        right = cells.astype(bool)
        grid = Grid(tuple("abcd"), tuple("12345678"), ("no", "yes"), np.zeros(8, int), 1 - right, right, None, False)
        return DevScores(pseudo_values(cells, 1.0), grid_objective(grid, "accuracy", 1.0), "g")

    assert inside(gap([scores(FAR)], [scores(1.0 - FAR)]), -1 - width, 1 + width)
