"""Two samples of rows: p-values and intervals against scipy and statsmodels, and simulations in which the truth is
known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from sweeps.statistics.drift import (
    DIFFERS,
    LIKE,
    UNDECIDED,
    Compared,
    Pseudo,
    RowSample,
    compare,
    compare_metric,
    interval,
    judge,
    permutation_p,
)

Rows = np.ndarray


def binary(ones: int, n: int) -> RowSample:
    return RowSample.of(np.repeat([1.0, 0.0], [ones, n - ones]))


@pytest.mark.parametrize(("a", "n", "b", "m"), [(3, 20, 12, 25), (0, 15, 4, 30), (50, 200, 70, 180), (7, 7, 7, 7)])
def test_the_p_of_a_share_is_that_of_fisher_where_both_samples_are_of_one_size(a: int, n: int, b: int, m: int) -> None:
    """Of other sizes Fisher's exact test orders the tables by their probability and this one by the difference."""
    draws = stats.permutation_test(
        (np.repeat([1.0, 0.0], [a, n - a]), np.repeat([1.0, 0.0], [b, m - b])),
        lambda x, y, axis: abs(x.mean(axis=axis) - y.mean(axis=axis)),
        n_resamples=4999,
        alternative="greater",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    assert permutation_p(binary(a, n), binary(b, m)) == pytest.approx(draws.pvalue, abs=0.02)
    exact = stats.fisher_exact([[a, 20], [20, a]]).pvalue
    assert permutation_p(binary(a, a + 20), binary(20, a + 20)) == pytest.approx(exact, abs=0.02)


def test_the_p_of_values_between_0_and_1_is_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    new, test = rng.integers(0, 5, 40) / 4, rng.integers(1, 5, 60) / 4
    drawn = stats.permutation_test(
        (new, test),
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        n_resamples=9999,
        vectorized=True,
        rng=rng,
    )
    assert permutation_p(RowSample.of(new), RowSample.of(test)) == pytest.approx(drawn.pvalue, abs=0.01)
    assert permutation_p(RowSample.of(new), RowSample.of(test)) == permutation_p(RowSample.of(new), RowSample.of(test))


@pytest.mark.parametrize(("a", "n"), [(0, 20), (3, 20), (40, 200), (200, 200)])
def test_the_interval_of_a_share_is_agresti_and_coulls(a: int, n: int) -> None:
    low, high = proportion_confint(a, n, 0.05, method="agresti_coull")
    found = interval(binary(a, n))
    assert found.value == a / n
    assert (found.low, found.high) == (pytest.approx(max(low, 0.0)), pytest.approx(min(high, 1.0)))


@pytest.mark.parametrize(("a", "n", "b", "m"), [(0, 20, 12, 50), (33, 100, 60, 90)])
def test_the_interval_of_a_difference_is_agresti_and_caffos(a: int, n: int, b: int, m: int) -> None:
    low, high = confint_proportions_2indep(a, n, b, m, method="agresti-caffo", compare="diff")
    found = compare("x", binary(a, n), binary(b, m)).difference
    assert found.value == pytest.approx(a / n - b / m)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_a_metrics_difference_by_hand() -> None:
    found = compare_metric("f1_macro", Pseudo(0.80, 0.03, 100), Pseudo(0.92, 0.04, 200))
    assert found.error == pytest.approx(0.05)
    assert found.p == pytest.approx(0.0164, abs=1e-4)  # z = 2.4
    assert (found.difference.low, found.difference.high) == (
        pytest.approx(-0.218, abs=1e-4),
        pytest.approx(-0.022, abs=1e-4),
    )
    assert (found.new.low, found.new.high) == (pytest.approx(0.7412, abs=1e-4), pytest.approx(0.8588, abs=1e-4))


def test_verdicts_and_the_smallest_difference_by_hand() -> None:
    """Two figures: the quantile is that of 1 - .05/4, 2.2414, plus that of .8, 0.8416."""
    like = compare("like", binary(500, 1000), binary(502, 1000))
    few = compare("few", binary(5, 10), binary(502, 1000))
    judged = judge([like, few], margin=0.15)
    assert [one.verdict for one in judged] == [LIKE, UNDECIDED]
    assert judged[0].smallest == pytest.approx((2.2414 + 0.8416) * np.sqrt(2 * 0.25 / 1002), rel=1e-3)
    assert judged[1].smallest > 0.4
    lower = judge([compare("x", binary(200, 1000), binary(502, 1000)), few], margin=0.15)
    assert [one.verdict for one in lower] == [DIFFERS, UNDECIDED]
    assert judge([lower[0]], 0.15, {"x": "why"})[0].verdict == UNDECIDED
    assert [one.p_holm for one in lower] == [pytest.approx(2 * lower[0].p), few.p]


WORDINGS = 4


def rows_of(rng: np.random.Generator, n: int, share: float, sure: float) -> tuple[Rows, Rows, Rows]:
    """[n] of rows that differ in how clear they are: the share of wordings that say yes, the confidence, and the share
    of pairs of wordings that agree."""
    lean = rng.beta(share * sure, (1 - share) * sure, n)
    says = rng.random((WORDINGS, n)) < lean
    ones = says.sum(axis=0)
    pairs = ones * (ones - 1) + (WORDINGS - ones) * (WORDINGS - ones - 1)
    return ones / WORDINGS, np.maximum(lean, 1 - lean), pairs / (WORDINGS * (WORDINGS - 1))


def judged(rng: np.random.Generator, new: tuple[int, float, float], test: tuple[int, float, float]) -> list[Compared]:
    figures = zip(rows_of(rng, *new), rows_of(rng, *test), strict=True)
    samples = [(RowSample.of(a, 2), RowSample.of(b, 2)) for a, b in figures]
    return judge([compare(str(i), a, b, permutations=999) for i, (a, b) in enumerate(samples)], 0.15)


@pytest.mark.parametrize(("n", "m"), [(25, 200), (300, 200)])
def test_rows_of_the_same_kind_are_rarely_called_different(n: int, m: int) -> None:
    """In 300 simulations of three figures: 5 % at most, and 9 % is three standard errors above."""
    rng = np.random.default_rng(2)
    same = (0.3, 1.0)
    wrong = sum(any(f.verdict == DIFFERS for f in judged(rng, (n, *same), (m, *same))) for _ in range(300))
    assert 3 <= wrong <= 27


@pytest.mark.parametrize("new", [(0.55, 1.0), (0.3, 4.0)])
def test_rows_of_another_kind_are_called_different(new: tuple[float, float]) -> None:
    """Of another share of answers, and of answers that are less sure."""
    rng = np.random.default_rng(3)
    found = sum(any(f.verdict == DIFFERS for f in judged(rng, (300, *new), (200, 0.3, 1.0))) for _ in range(50))
    assert found >= 48


def test_intervals_of_a_difference_hold_the_truth() -> None:
    """Of 500 simulations with few rows and a rare answer, 95 % within three standard errors."""
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(500):
        new, test = (RowSample.of(rows_of(rng, n, share, 2.0)[0]) for n, share in ((40, 0.1), (120, 0.05)))
        found = compare("x", new, test, permutations=1).difference
        held += found.low <= 0.05 <= found.high
    assert held >= 460
