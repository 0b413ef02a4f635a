"""Estimates from a sample of a grid: exact where they must be, unbiased and covered on simulated grids."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from trainer.measure import design, estimate, metrics
from trainer.measure.estimate import Z
from trainer.measure.grid import NO_ANSWER, Grid

P, R = 30, 160


def cells_of(label: Any, share: float, p: int = P, names: str = "") -> Any:
    prompts, rows = [f"{names}p{i:02d}" for i in range(p)], [f"r{j:04d}" for j in range(len(label))]
    labels = [str(k) for k in label]
    return design.balanced(prompts, rows, labels, design.sample_size(share, p, len(rows)).cells)


def grid_of(correct: Any, label: Any) -> Grid:
    """A whole grid of two labels."""
    prompts, rows = tuple(f"p{i:02d}" for i in range(len(correct))), tuple(f"r{j:04d}" for j in range(len(label)))
    return Grid(prompts, rows, ("no", "yes"), label, np.where(correct, label, 1 - label), correct, None, nan=False)


def only(whole: Grid, seen: Any) -> Grid:
    """``whole`` without what the sample would not know."""
    blank = np.where(seen, whole.predicted, NO_ANSWER)
    return dataclasses.replace(whole, predicted=blank, correct=whole.correct & seen, seen=seen)


def binary(rng: np.random.Generator, lean: float = 0.5, prompts: float = 0.4) -> tuple[Any, Any]:
    """(correct [P, R], label [R]): prompts differ in skill and in their lean towards the second label."""
    label = (np.arange(R) % 4 == 0).astype(int)
    side = np.where(label == 1, 1.0, -1.0)
    ability = 1.2 + prompts * rng.standard_normal((P, 1)) + lean * rng.standard_normal((P, 1)) * side
    return ability + rng.standard_normal((1, R)) + rng.standard_normal((P, R)) > 0, label


def test_of_all_cells_it_is_the_whole_grid() -> None:
    correct, label = binary(np.random.default_rng(0))
    found = estimate.estimate_grid(correct.astype(float), np.ones((P, R), bool), label, R)
    each = correct.mean(axis=1)
    assert found.each == pytest.approx(each, abs=1e-9)
    assert (found.mean, found.std) == (pytest.approx(each.mean()), pytest.approx(each.std(ddof=1)))
    assert found.noise == pytest.approx(0.0, abs=1e-12)
    assert (found.mean_error, found.value_error(1.0)) == (0.0, pytest.approx(0.0, abs=1e-6))


def test_prompts_are_generalised_least_squares_with_random_rows() -> None:
    """Against the dense formula, with the variances that the analysis of variance found."""
    rng = np.random.default_rng(1)
    seen = cells_of(np.zeros(40, int), 0.2, 8)
    y = rng.standard_normal((8, 1)) + 1.5 * rng.standard_normal((1, 40)) + rng.standard_normal((8, 40))
    fit = estimate.fit_stratum(y, seen)
    i, j = np.nonzero(seen)
    x = np.eye(8)[i]
    v = fit.ms_residual * np.eye(len(i)) + fit.var_rows * (j[:, None] == j)
    covariance = np.linalg.inv(x.T @ np.linalg.solve(v, x))
    assert fit.each == pytest.approx(covariance @ x.T @ np.linalg.solve(v, y[seen]))
    assert fit.noise == pytest.approx(covariance)


def test_on_a_whole_grid_the_variances_are_those_of_the_two_way_table() -> None:
    y = np.random.default_rng(2).normal(size=(6, 11)) + np.arange(11)
    fit, two = estimate.fit_stratum(y, np.ones((6, 11), bool)), metrics.two_way(y)
    assert fit.ms_residual == pytest.approx(two.ms_residual)
    assert fit.var_rows == pytest.approx(two.var_rows)
    assert fit.each == pytest.approx(y.mean(axis=1))


def test_variance_components_are_unbiased() -> None:
    """Truth: prompts 0.5, rows 1.5, residual 1, seen on a tenth of the cells."""
    rng = np.random.default_rng(3)
    label = np.zeros(R, int)
    seen = cells_of(label, 0.1)
    found = []
    for _ in range(400):
        y = 0.5 * rng.standard_normal((P, 1)) + 1.5 * rng.standard_normal((1, R)) + rng.standard_normal((P, R))
        fit, whole = estimate.fit_stratum(y, seen), estimate.estimate_grid(y, seen, label, R)
        found.append([fit.ms_residual, fit.var_rows, whole.variance - y.mean(axis=1).var(ddof=1)])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(len(found))
    assert np.all(np.abs(mean - [1.0, 2.25, 0.0]) < 3.5 * error), (mean, error)
    assert np.all(error < [0.01, 0.03, 0.01])


# each with the size of its errors against accuracy's: f1 hangs on the 5 cells a prompt of the rare label, and the
# correlation is from -1 to 1
@pytest.mark.parametrize(
    ("metric", "size"),
    [("accuracy", 1.0), ("balanced_accuracy", 1.0), ("f1_macro", 1.0), ("f1_weighted", 1.0), ("f1[yes]", 1.5),
     ("matthews_corrcoef", 2.0)],
)  # fmt: skip
def test_intervals_cover_the_whole_grids_mean_and_std(metric: str, size: float) -> None:
    rng = np.random.default_rng(4)
    hits, errors = [], []
    for n in range(240):
        correct, label = binary(rng, lean=[0.0, 0.4, 0.8][n % 3])
        whole = grid_of(correct, label)
        truth = metrics.per_prompt(whole, metric)
        scores = only(whole, cells_of(label, 0.125))
        found = metrics.grid_estimate(scores, metric)
        low, high = found.std_interval
        off = found.mean - truth.mean(), found.std - truth.std(ddof=1)
        errors.append([*off, found.each.min() - truth.min(), (found.each > 0.8).mean() - (truth > 0.8).mean()])
        hits.append(
            [
                abs(off[0]) <= Z * found.mean_error,
                low <= truth.std(ddof=1) <= high,
                abs(off[0] - off[1]) <= Z * found.value_error(1.0),
            ]
        )
    cover = np.mean(hits, axis=0)
    assert np.all(cover >= 0.9), cover
    bias, typical = np.mean(errors, axis=0), np.median(np.abs(errors), axis=0)
    assert np.all(np.abs(bias) < size * np.array([0.005, 0.01, 0.05, 0.06])), bias
    assert np.all(typical < size * np.array([0.015, 0.02, 0.07, 0.1])), typical


def test_stderr_is_the_spread_over_new_prompts_and_rows() -> None:
    rng = np.random.default_rng(5)
    values, stated = [], []
    for _ in range(300):
        correct, label = binary(rng)
        whole = grid_of(correct, label)
        found = metrics.grid_objective(only(whole, cells_of(label, 0.125)), "accuracy", 1.0)
        assert 0 < found.sampling < found.stderr
        values.append(found.value)
        stated.append(found.stderr)
    assert np.sqrt(np.mean(np.square(stated))) == pytest.approx(np.std(values), rel=0.15)


def test_on_the_same_cells_differences_of_trials_are_paired() -> None:
    """Two trials that differ little: with the same cells the error of their difference is a good deal smaller."""
    rng = np.random.default_rng(6)
    same, other = [], []
    for n in range(60):
        correct, label = binary(rng)
        better = correct | (rng.random((P, R)) < 0.1)
        gap = better.mean() - correct.mean()
        one, two = cells_of(label, 0.125), cells_of(label, 0.125, names=f"q{n}")
        a = estimate.estimate_grid(correct.astype(float), one, label, R).mean
        same.append(estimate.estimate_grid(better.astype(float), one, label, R).mean - a - gap)
        other.append(estimate.estimate_grid(better.astype(float), two, label, R).mean - a - gap)
    assert np.std(same) < 0.6 * np.std(other)


def test_rasch_is_the_maximum_of_its_penalised_likelihood() -> None:
    rng = np.random.default_rng(7)
    label = np.arange(24) % 2
    seen = cells_of(label, 0.4, 5)
    correct = rng.random((5, 24)) < 0.7
    prior = np.linalg.inv(np.full((2, 2), 1 / estimate.RIDGE_PROMPT) + np.eye(2) / estimate.RIDGE_LABEL)

    def loss(x: Any) -> float:
        theta, beta = x[:10].reshape(5, 2), x[10:]
        logit = theta[:, label] + beta
        likelihood = np.where(seen, correct * logit - np.logaddexp(0, logit), 0).sum()
        off = theta - theta.mean(axis=0)
        return float(-likelihood + 0.5 * ((off @ prior) * off).sum() + 0.5 * estimate.RIDGE_ROW * (beta**2).sum())

    best = minimize(loss, np.zeros(34), tol=1e-10).x
    chance = 1 / (1 + np.exp(-(best[:10].reshape(5, 2)[:, label] + best[10:])))
    expected = np.where(seen, correct, chance).mean(axis=1)
    assert estimate.rasch(correct, seen, label, 200) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("right", [True, False])
def test_a_sample_that_is_all_right_or_all_wrong_has_values_and_no_spread(right: bool) -> None:
    label = np.arange(R) % 2
    whole = grid_of(np.full((P, R), right), label)
    found = metrics.grid_objective(only(whole, cells_of(label, 0.1)), "accuracy", 1.0)
    assert (found.mean, found.std, found.min, found.value) == (right, 0.0, right, right)
    assert found.stderr == 0.0


def test_rare_labels_share_a_stratum_until_every_prompt_has_cells() -> None:
    label = np.repeat([0, 1, 2, 3], [70, 24, 4, 2])
    seen = cells_of(label, 0.2, 10)
    groups = estimate.strata(label, seen)
    assert sorted(j for g in groups for j in g) == list(range(100))
    assert all(seen[:, g].sum(axis=1).min() >= estimate.THIN for g in groups)
    assert [set(label[g]) for g in groups] == [{1, 2, 3}, {0}]


@pytest.mark.parametrize(("p", "r", "kinds"), [(1, 40, 2), (2, 9, 2), (3, 200, 50), (12, 30, 1)])
def test_small_and_odd_grids_have_finite_estimates(p: int, r: int, kinds: int) -> None:
    rng = np.random.default_rng(8)
    label = rng.integers(0, kinds, r)
    seen = cells_of(label, 0.15, p)
    correct = rng.random((p, r)) < 0.8
    found = estimate.estimate_grid(correct.astype(float), seen, label, r, estimate.rasch(correct, seen, label))
    assert np.isfinite([*found.each, found.mean, found.std, found.value_error(1.0)]).all()
    assert found.std == 0.0 if p == 1 else found.std >= 0.0
    assert ((found.each >= 0) & (found.each <= 1)).all()
