"""Tests of std and worst prompt between two arms: equal arms are called different as often as the level says.

Cells are right where ``1 + prompt + row + arm x row + arm x prompt x row + noise > 0`` (probit): both arms have prompt
effects from one distribution, correlated or not, and the rows move each arm by themselves.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm

from sweeps.statistics import prompt_tests as pt
from sweeps.statistics import seeds as sd
from sweeps.statistics import tails
from trainer.measure.grid import Floats


def equal_arms(rng: np.random.Generator, p: int, shared: float, spread: float = 0.25, r: int = 200) -> list[Floats]:
    """Two arms [p, r]; ``shared``: the correlation of their prompt effects."""
    row, both = rng.standard_normal((1, r)), rng.standard_normal((p, 1))
    found = []
    for _ in range(2):
        prompt = math.sqrt(shared) * both + math.sqrt(1 - shared) * rng.standard_normal((p, 1))
        latent = 1 + spread * prompt + row + 0.5 * rng.standard_normal((1, r)) + 1.05 * rng.standard_normal((p, r))
        found.append((latent > 0).astype(float))
    return found


def false_alarms(p: int, shared: float, spread: float, times: int) -> tuple[float, float]:
    rng, hits = np.random.default_rng([p, times]), np.zeros(2)
    for _ in range(times):
        a, b = equal_arms(rng, p, shared, spread)
        hits += pt.std_test(a, b) < 0.05, pt.worst_prompt_test(a, b) < 0.05
    return float(hits[0] / times), float(hits[1] / times)


@pytest.mark.parametrize(("p", "shared"), [(10, 0.0), (20, 0.7)])
def test_equal_arms_are_told_apart_about_as_often_as_the_level_says(p: int, shared: float) -> None:
    of_std, of_worst = false_alarms(p, shared, 0.25, 300)
    assert 0.02 <= of_std <= 0.085
    assert 0.02 <= of_worst <= 0.085


@pytest.mark.long
@pytest.mark.parametrize("spread", [0.05, 0.25])
@pytest.mark.parametrize("shared", [0.0, 0.7])
@pytest.mark.parametrize("p", [10, 20, 50])
def test_type_one_error_is_3_to_7_percent(p: int, shared: float, spread: float) -> None:
    of_std, of_worst = false_alarms(p, shared, spread, 2000)
    print(f"{p} prompts, correlation {shared}, spread {spread}: std {of_std:.3f}, worst prompt {of_worst:.3f}")
    assert 0.03 <= of_std <= 0.07
    assert 0.03 <= of_worst <= 0.07


def test_an_arm_that_is_right_more_often_has_less_noise_and_no_smaller_std() -> None:
    """100 rows, hardly any difference between prompts: 80 % right has a noise of 4 points, 97 % right one of 1.7."""
    rng, naive, hits = np.random.default_rng(7), 0, 0
    for _ in range(200):
        a, b = ((rng.random((20, 100)) < level + 0.003 * rng.standard_normal((20, 1))) for level in (0.97, 0.8))
        hits += pt.std_test(a.astype(float), b.astype(float)) < 0.05
        x, y = a.mean(axis=1), b.mean(axis=1)
        naive += scipy.stats.pearsonr(x + y, x - y).pvalue < 0.05
    assert naive / 200 > 0.5, "Pitman's test of the noisy values calls this a smaller std"
    assert hits / 200 < 0.09


def test_what_differs_is_found() -> None:
    rng, hits = np.random.default_rng(3), np.zeros(2)
    for _ in range(40):
        wide, narrow = (
            (rng.random((20, 200)) < (0.8 + s * rng.standard_normal((20, 1))).clip(0, 1)).astype(float)
            for s in (0.14, 0.02)
        )
        p = pt.std_test(wide, narrow), pt.worst_prompt_test(wide, narrow)
        hits += p[0] < 0.05, p[1] < 0.05
    assert (hits / 40 > 0.7).all(), hits / 40
    better = np.maximum(narrow, (rng.random(narrow.shape) < 0.7).astype(float))  # every prompt gains as much
    assert pt.worst_prompt_test(better, narrow) < 0.01
    assert pt.std_test(better, narrow) > 0.05


def test_slopes_equal_least_squares_with_hc3_errors() -> None:
    rng = np.random.default_rng(0)
    both, gaps = rng.standard_normal(12), rng.standard_normal((3, 12)) * np.linspace(0.2, 3, 12)
    both -= both.mean()
    theirs = [float(sm.OLS(g, sm.add_constant(both)).fit(cov_type="HC3").tvalues[1]) for g in gaps]
    slope, error = pt._slopes(gaps, both)
    assert slope / error == pytest.approx(theirs)


def test_equal_cells_few_prompts_and_other_shapes() -> None:
    cells = (np.random.default_rng(0).random((6, 40)) < 0.7).astype(float)
    assert pt.std_test(cells, cells) == pt.worst_prompt_test(cells, cells) == 1.0
    assert math.isnan(pt.std_test(cells[:3], 1 - cells[:3]))
    assert math.isnan(pt.worst_prompt_test(cells[:3], 1 - cells[:3]))
    assert pt.std_test(cells, np.ones_like(cells)) >= 1 / pt.DRAWS
    with pytest.raises(ValueError, match="same cells"):
        pt.std_test(cells, cells[:, :30])


# tails ------------------------------------------------------------------------------------------------------------


def test_kurtosis_z_equals_scipys() -> None:
    rng = np.random.default_rng(1)
    for n in (20, 50, 400):
        for values in (rng.standard_normal(n), rng.standard_t(3, n)):
            assert tails.kurtosis_z(values) == pytest.approx(scipy.stats.kurtosistest(values).statistic)


def test_a_few_bad_prompts_are_seen_and_normal_ones_rarely_called_so() -> None:
    rng = np.random.default_rng(2)
    for n in (10, 20, 50):
        assert np.mean([tails.heavy_tails(rng.standard_normal(n)) for _ in range(2000)]) < 0.025
        one_bad = 0.9 + 0.02 * rng.standard_normal(n)
        one_bad[3] = 0.4
        assert tails.heavy_tails(one_bad)
    assert not tails.heavy_tails(np.array([0.1, 0.9, 0.9, 0.9, 0.9])), "too few prompts to say"
    assert not tails.heavy_tails(np.full(20, 0.5))


@pytest.mark.long
@pytest.mark.parametrize(
    ("p", "depth", "covers"),
    [(10, 0.2, 0.89), (10, 0.3, 0.80), (10, 0.4, 0.69), (20, 0.2, 0.93), (20, 0.3, 0.88), (20, 0.4, 0.83)],
)
def test_the_interval_of_the_mean_is_too_short_where_a_few_wordings_are_far_worse(
    p: int, depth: float, covers: float
) -> None:
    """8 % of all wordings are worse by ``depth``: what reports say of heavy tails."""
    rng, times, n = np.random.default_rng([p, int(100 * depth)]), 1500, 2_000_000

    def chance(prompts: Floats, rows: Floats) -> Floats:
        return np.clip(0.85 + prompts + rows, 0.02, 0.98)

    def wordings(n: int) -> Floats:
        return rng.normal(0, 0.03, n) - depth * (rng.random(n) < 0.08)

    mean, hits = float(chance(wordings(n), rng.normal(0, 0.2, n)).mean()), 0
    for _ in range(times):
        cells = (rng.random((p, 500)) < chance(wordings(p)[:, None], rng.normal(0, 0.2, 500))).astype(float)
        found, _ = sd.mean_test([cells[None]], sd.NO_SEEDS)
        hits += found.low <= mean <= found.high
    assert hits / times == pytest.approx(covers, abs=0.03)
