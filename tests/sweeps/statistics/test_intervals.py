"""Intervals that cover: simulated prompts x rows of right and wrong answers with known variance components.

A cell is right where ``mu + prompt + row + residual > 0``, all Gaussian (probit model). Truth is by quadrature, so
nothing here trusts the code under test. Seeds are fixed; the bands leave room for the number of repetitions.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from sweeps.statistics import intervals as st
from sweeps.statistics import prompt_metrics
from trainer.measure.grid import Floats
from trainer.measure.metrics import two_way
from trainer.measure.placements import roc_auc

# name: mu, std of prompts, rows and interaction on the probit scale (noise has 1)
EASY, HIGH, CEILING, ALIKE = (0.4, 0.15, 1.0, 0.5), (1.8, 0.3, 1.0, 0.5), (2.2, 0.6, 0.7, 0.3), (1.8, 0.05, 1.0, 0.5)
Effects = tuple[float, float, float, float]


def draw(rng: np.random.Generator, p: int, r: int, effects: Effects) -> Floats:
    mu, prompt, row, cell = effects
    latent = mu + prompt * rng.standard_normal((p, 1)) + row * rng.standard_normal((1, r))
    return (latent + math.hypot(1.0, cell) * rng.standard_normal((p, r)) > 0).astype(float)


def truth(effects: Effects) -> tuple[float, float]:
    """Mean, and standard deviation of the prompts' true accuracies."""
    mu, prompt, row, cell = effects
    x, w = np.polynomial.hermite_e.hermegauss(80)
    each = scipy_stats.norm.cdf((mu + prompt * x) / math.sqrt(1 + row**2 + cell**2))
    w = w / w.sum()
    mean = float((w * each).sum())
    return mean, math.sqrt(float((w * (each - mean) ** 2).sum()))


def coverage(p: int, r: int, effects: Effects, times: int) -> tuple[float, float]:
    """Shares of repetitions in which the intervals of mean and std hold the truth."""
    rng, drawn = np.random.default_rng([p, r, times]), st.resamples(p, r)
    mean, std = truth(effects)
    hits = np.zeros(2)
    for _ in range(times):
        cells = draw(rng, p, r, effects)
        of_mean, of_std = st.mean_test(cells, st.replicate(cells, drawn))[0], st.std_interval(cells)
        hits += of_mean.low <= mean <= of_mean.high, of_std.low <= std <= of_std.high
    return float(hits[0] / times), float(hits[1] / times)


SETTINGS = [(10, 100, EASY), (10, 500, HIGH), (20, 200, ALIKE), (20, 200, CEILING), (50, 100, HIGH)]


@pytest.mark.parametrize(("p", "r", "effects"), SETTINGS)
def test_mean_interval_covers_the_truth(p: int, r: int, effects: Effects) -> None:
    of_mean, of_std = coverage(p, r, effects, 400)
    assert 0.93 <= of_mean <= 0.97
    if effects is not CEILING:  # a heavy tail of bad prompts: the std interval is too short there, and the page says so
        assert 0.92 <= of_std <= 0.98


@pytest.mark.long
@pytest.mark.parametrize("effects", [EASY, HIGH, ALIKE, CEILING])
@pytest.mark.parametrize(("p", "r"), [(10, 100), (10, 500), (20, 200), (20, 500), (50, 100), (50, 300)])
def test_mean_interval_covers_the_truth_closely(p: int, r: int, effects: Effects) -> None:
    of_mean, of_std = coverage(p, r, effects, 2000)
    assert 0.93 <= of_mean <= 0.97
    assert (0.80 if effects is CEILING else 0.92) <= of_std <= 0.98


def test_percentiles_of_the_naive_bootstrap_do_not_cover() -> None:
    """The reason for studentising: where prompts hardly differ the plain two-way bootstrap triples the residual."""
    rng, drawn, (mean, _) = np.random.default_rng(6), st.resamples(10, 100), truth(ALIKE)
    hits = 0
    for _ in range(300):
        cells = draw(rng, 10, 100, ALIKE)
        counts = np.stack([np.bincount(row, minlength=10) for row in drawn.prompts])
        redrawn = ((counts @ cells) * drawn.rows).sum(axis=1) / cells.size
        low, high = np.quantile(redrawn, [0.025, 0.975])
        hits += low <= mean <= high
    assert hits / 300 > 0.97


@pytest.mark.parametrize(("p", "r", "effects"), [(10, 500, EASY), (20, 100, HIGH), (20, 500, EASY), (50, 100, EASY)])
def test_corrected_std_is_unbiased_within_five_percent_and_the_raw_one_is_not(p: int, r: int, effects: Effects) -> None:
    rng, (_, std) = np.random.default_rng([p, r]), truth(effects)
    grids = [draw(rng, p, r, effects) for _ in range(2500)]
    assert np.mean([st.std_corrected(two_way(g)) for g in grids]) == pytest.approx(std, rel=0.05)
    if r == 100:
        assert np.mean([g.mean(axis=1).std(ddof=1) for g in grids]) > 1.15 * std


def test_difference_is_sized_right_and_its_p_value_matches_its_interval() -> None:
    rng, rejected = np.random.default_rng(12), 0
    for _ in range(300):
        both = 1.0 + 0.2 * rng.standard_normal((20, 1)) + rng.standard_normal((1, 100))
        a, b = ((both + 0.2 * rng.standard_normal((20, 1)) + rng.standard_normal((20, 100)) > 0) for _ in range(2))
        gap, p = st.difference(a.astype(float), b.astype(float))
        assert (p < 0.05) == (not gap.low <= 0.0 <= gap.high)
        rejected += p < 0.05
    assert 0.02 <= rejected / 300 <= 0.08
    better = (both + 0.6 + rng.standard_normal((20, 100)) > 0).astype(float)
    gap, p = st.difference(better, b.astype(float))
    assert gap.low > 0
    assert p < 1e-3
    assert st.difference(better, better) == (st.Estimate(0.0, 0.0, 0.0), 1.0)


def test_pairing_removes_what_two_trials_share() -> None:
    rng = np.random.default_rng(2)
    both = 0.5 + 0.5 * rng.standard_normal((20, 1)) + 2.0 * rng.standard_normal((1, 100))
    a, b = ((both + 0.3 * rng.standard_normal((20, 100)) > 0).astype(float) for _ in range(2))
    alone, _ = st.mean_test(a, st.replicate(a, st.resamples(20, 100)))
    gap, _ = st.difference(a, b)
    assert gap.high - gap.low < 0.3 * (alone.high - alone.low)


def test_share_interval_has_width_at_zero_and_all() -> None:
    cells = draw(np.random.default_rng(4), 20, 200, ALIKE)
    per_prompt, redrawn = cells.mean(axis=1), st.replicate(cells, st.resamples(20, 200)).per_prompt
    everyone = st.share_interval(per_prompt, redrawn, 0.5, True)
    assert (everyone.value, everyone.high) == (1.0, 1.0)
    assert 0.7 < everyone.low < 0.9  # Wilson with 20 of 20: 0.839
    assert st.share_interval(per_prompt, redrawn, 0.999, True).low == 0.0


def test_threshold_is_strict_when_told_so() -> None:
    per_prompt = np.array([17 / 20, 0.9, 0.8, sum([0.05] * 17)])
    assert st.share_above(per_prompt, 0.85, strict=True) == 0.25
    assert st.share_above(per_prompt, 0.85, strict=False) == 0.75


def test_worst_prompt_interval_covers_the_average_worst() -> None:
    rng, drawn = np.random.default_rng(9), st.resamples(20, 200)
    average = np.mean([draw(rng, 20, 200, HIGH).mean(axis=1).min() for _ in range(1500)])
    hits = 0
    for _ in range(200):
        cells = draw(rng, 20, 200, HIGH)
        found = st.percentile(cells.mean(axis=1).min(), st.replicate(cells, drawn).stretched.min(axis=1))
        hits += found.low <= average <= found.high
    assert hits / 200 >= 0.88


def test_replicate_by_matrix_products_equals_the_resampled_grid() -> None:
    cells, drawn = draw(np.random.default_rng(1), 6, 40, HIGH), st.resamples(6, 40, 0, 20)
    found, fit = st.replicate(cells, drawn), two_way(cells)
    for b in range(20):
        again = two_way(cells[drawn.prompts[b]][:, np.repeat(np.arange(40), drawn.rows[b].astype(int))])
        assert found.t[b] == pytest.approx((again.mean - fit.mean) / math.sqrt(again.var_mean), rel=1e-4, abs=1e-5)


def test_same_cells_give_the_same_numbers_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = draw(np.random.default_rng(1), 10, 300, HIGH)
    first = st.replicate(cells, st.resamples(10, 300, 5, 200))
    monkeypatch.setattr(st, "_BLOCK", 300 * 7)
    again = st.replicate(cells, st.resamples(10, 300, 5, 200))
    assert np.allclose(first.t, again.t, atol=1e-4)
    assert np.allclose(first.stretched, again.stretched, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (2, 50), (3, 1), (10, 1)])
def test_small_grids_give_bounds_or_nan_never_an_error(shape: tuple[int, int]) -> None:
    cells = (np.random.default_rng(0).random(shape) < 0.6).astype(float)
    drawn = st.replicate(cells, st.resamples(*shape))
    mean, _ = st.mean_test(cells, drawn)
    std = st.std_interval(cells)
    assert math.isnan(mean.low) if shape == (1, 1) else 0 <= mean.low <= mean.value <= mean.high <= 1
    assert std.value >= 0
    assert np.isfinite(drawn.t).all()


def test_all_right_still_leaves_doubt() -> None:
    cells = np.ones((10, 100))
    mean, _ = st.mean_test(cells, st.replicate(cells, st.resamples(10, 100)))
    assert (mean.value, mean.high) == (1.0, 1.0)
    assert mean.low == pytest.approx(0.025 ** (1 / 100))  # Clopper-Pearson over rows


def test_holm_equals_statsmodels_and_rejects_11_of_15() -> None:
    p = np.random.default_rng(0).random(30) ** 3
    assert st.holm(list(p)) == pytest.approx(multipletests(p, method="holm")[1])
    published = [0.0005] * 9 + [0.002, 0.004, 0.482, 0.507, 0.588, 0.768]
    assert sum(x < 0.05 for x in st.holm(published[::-1])) == 11
    assert st.holm([]) == []


def test_roc_auc_equals_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    positive, score = rng.random(200) < 0.3, rng.integers(0, 8, 200).astype(float)
    assert roc_auc(positive, score) == pytest.approx(roc_auc_score(positive, score))
    assert math.isnan(roc_auc(np.ones(3, dtype=bool), np.arange(3.0)))


def test_cps_follows_its_definition() -> None:
    assert prompt_metrics.cps(np.array([0.5, 0.9, 0.7])) == pytest.approx((1 - (0.9 - 0.7)) * 0.9)
    assert prompt_metrics.cps(np.array([0.8, 0.8])) == pytest.approx(0.8)


def test_consistency_and_sensitivity_equal_the_loop_over_pairs() -> None:
    rng = np.random.default_rng(0)
    predicted, label = rng.integers(-1, 3, (6, 40)), rng.integers(0, 3, 40)
    correct = predicted == label
    pairs = list(itertools.combinations(range(6), 2))
    agree = np.mean([predicted[a] == predicted[b] for a, b in pairs])
    differ = np.mean([correct[a] != correct[b] for a, b in pairs])
    assert prompt_metrics.consistency_rate(predicted) == pytest.approx(agree)
    assert prompt_metrics.prompt_sensitivity(correct) == pytest.approx(differ)
    assert prompt_metrics.consistency_rate(np.ones((6, 40), dtype=int)) == 1.0


def test_nearly_equal_trials_have_a_difference_of_sensible_width() -> None:
    """A handful of cells that differ: replicates without any spread must not stretch the interval without bound."""
    rng = np.random.default_rng(0)
    cells = (rng.random((10, 60)) < 0.8).astype(float)
    other = cells.copy()
    for p in (1, 4, 7):
        other[p, rng.choice(np.flatnonzero(cells[p]), 2, replace=False)] = 0.0
    found, _ = st.difference(cells, other)
    assert found.value == pytest.approx(0.01)
    assert -0.05 < found.low <= found.value <= found.high < 0.06


def test_quantiles_and_kurtosis_equal_numpy_and_scipy() -> None:
    values = np.random.default_rng(3).normal(size=(4, 17))
    for q in (0.0, *st.QUANTILES, 1.0):
        assert st.quantile(np.sort(values, axis=1), q) == pytest.approx(np.quantile(values, q, axis=1), abs=1e-12)
    for row in values:
        assert st.excess_kurtosis(row) == pytest.approx(scipy.stats.kurtosis(row, bias=False))
