"""Metrics of two labels: against scikit-learn, by hand where it has none, and what a shift of the chances does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from sweeps.statistics import binary
from trainer.measure.grid import Grid

LABELS = ("no", "yes")


def grid_of(p: np.ndarray, positive: np.ndarray) -> Grid:
    """A whole grid whose chances of "yes" are ``p`` [P, R]."""
    logprobs = np.log(np.stack([1 - p, p], axis=2))
    predicted = (p > 0.5).astype(np.int64)
    label = positive.astype(np.int64)
    prompts, rows = (tuple(f"{k}{i:04d}" for i in range(n)) for k, n in zip("pr", p.shape, strict=True))
    return Grid(prompts, rows, LABELS, label, predicted, predicted == label, logprobs, False)


def sample(seed: int, prompts: int = 3, rows: int = 200, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(rows) < 0.25
    logit = 1.5 * positive - 1 + rng.standard_normal((prompts, rows))
    logit = logit + shift * np.linspace(-1, 1, prompts)[:, None]
    return np.round(1 / (1 + np.exp(-logit)), 3).clip(0.001, 0.999), positive  # rounded: with ties


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_scikit_learn(seed: int) -> None:
    p, positive = sample(seed)
    found = binary.binary_metrics(grid_of(*sample(seed + 100)), grid_of(p, positive))
    t = found["threshold"]
    reference = {
        "f1_half": np.mean([sk.f1_score(positive, x > 0.5, average="macro") for x in p]),
        "f1_tuned": np.mean([sk.f1_score(positive, x > t, average="macro") for x in p]),
        "roc_auc": np.mean([sk.roc_auc_score(positive, x) for x in p]),
        "pr_auc": np.mean([sk.average_precision_score(positive, x) for x in p]),
        "brier": np.mean([sk.brier_score_loss(positive, x) for x in p]),
        "positive_share": positive.mean(),
    }
    for name, value in reference.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_calibration_error_by_hand() -> None:
    p = np.array([0.05, 0.15, 0.15, 0.95, 1.0])
    positive = np.array([False, True, False, True, True])
    # bins: 0.05 against 0; 0.15 against 0.5 (two rows); 0.975 against 1 (two rows)
    assert binary.calibration_errors(positive, np.stack([p, p])) == pytest.approx(
        [(0.05 + 2 * 0.35 + 2 * 0.025) / 5] * 2
    )


def test_the_common_threshold_of_a_sample_is_that_of_its_cells() -> None:
    p, positive = sample(7, prompts=4, rows=60)
    seen = np.random.default_rng(0).random(p.shape) < 0.5
    chosen = binary.common_threshold(np.where(seen, p, np.nan), positive, seen)
    tried = np.unique(p[seen])
    tried = np.append((tried[1:] + tried[:-1]) / 2, 0.5)

    def mean_f1(t: float) -> float:
        return float(
            np.mean(
                [
                    sk.f1_score(positive[at], x[at] > t, average="macro", labels=[False, True], zero_division=0)
                    for x, at in zip(p, seen, strict=True)
                ]
            )
        )

    assert mean_f1(chosen) == pytest.approx(max(map(mean_f1, tried)), abs=1e-12)


def test_without_dev_scores_nothing_is_tuned() -> None:
    found = binary.binary_metrics(None, grid_of(*sample(3)))
    assert {n for n, v in found.items() if v is None} == {"threshold", "f1_tuned", "drift"}


def test_the_common_threshold_is_the_best_of_all() -> None:
    p, positive = sample(3, prompts=2, rows=60)
    chosen = binary.common_threshold(p, positive)
    best = binary.f1_macro(p, positive, chosen).mean()
    for t in np.unique(p):
        assert binary.f1_macro(p, positive, float(t)).mean() <= best + 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_for_a_rare_label_are_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.permutation(4000) < 20
    p = 1 / (1 + np.exp(-(rng.standard_normal((2, 4000)) + 2.5 * positive - 4)))

    def f1(x: np.ndarray, t: float) -> float:
        yes = x > t
        wrong_yes, wrong_no = (yes & ~positive).sum(), (~yes & positive).sum()
        right_yes, right_no = (yes & positive).sum(), (~yes & ~positive).sum()
        wrong = wrong_yes + wrong_no
        return float(right_yes / (right_yes + wrong / 2) + right_no / (right_no + wrong / 2)) / 2

    own = float(binary.own_thresholds(p[:1], positive)[0])
    best = f1(p[0], own)
    assert best == pytest.approx(max(f1(p[0], t) for t in p[0]), abs=1e-9)
    assert best == pytest.approx(sk.f1_score(positive, p[0] > own, average="macro"), abs=1e-12)
    every = np.unique(p)
    mean = np.mean([[f1(x, t) for t in every] for x in p], axis=0)
    common = binary.common_threshold(p, positive)
    at_common = np.mean([sk.f1_score(positive, x > common, average="macro") for x in p])
    assert at_common == pytest.approx(mean.max(), abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), min_size=1, max_size=20), st.floats(0, 1))
def test_no_threshold_is_better_than_those_chosen(rows: list[tuple[float, float, bool]], threshold: float) -> None:
    p, positive = np.array([row[:2] for row in rows]).T, np.array([row[2] for row in rows])
    common, own = binary.common_threshold(p, positive), binary.own_thresholds(p, positive)
    best = binary.f1_macro(p, positive, own[:, None])
    for t in (threshold, *p.ravel()):
        assert (binary.f1_macro(p, positive, t) <= best + 1e-9).all()
        of_t, of_common = (binary.f1_macro(p, positive, at).mean() for at in (t, common))
        assert of_t <= of_common + 1e-9
    assert own.tolist() == [binary.common_threshold(x[None], positive) for x in p]


def test_drift_is_what_prompts_shift_the_chances_by() -> None:
    dev = grid_of(*sample(1, prompts=6, rows=800))
    steady = binary.binary_metrics(dev, grid_of(*sample(2, prompts=6, rows=800)))
    shifted = binary.binary_metrics(dev, grid_of(*sample(2, prompts=6, rows=800, shift=2.0)))
    assert steady["drift"] is not None
    assert shifted["drift"] is not None
    assert steady["drift"] < 0.03
    assert shifted["drift"] > 0.1
    assert shifted["roc_auc"] == pytest.approx(steady["roc_auc"], abs=0.005), "the order of rows does not shift"
    assert (shifted["threshold_std"] or 0) > 2 * (steady["threshold_std"] or 0)


def test_a_constant_chance_is_no_detector() -> None:
    p, positive = np.full((2, 40), 0.3), np.arange(40) < 10
    found = binary.binary_metrics(grid_of(p, positive), grid_of(p, positive))
    assert found["roc_auc"] == 0.5
    assert found["pr_auc"] == pytest.approx(0.25)
    assert found["f1_half"] == pytest.approx((0 + 2 * 30 / 70) / 2)
    assert found["drift"] == 0


def test_without_a_positive_row_what_cannot_be_known_is_null() -> None:
    p, positive = np.full((2, 10), 0.3), np.zeros(10, bool)
    found = binary.binary_metrics(grid_of(p, positive), grid_of(p, positive))
    assert found["roc_auc"] is None
    assert found["pr_auc"] is None


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30), st.floats(0, 1))
def test_f1_macro_at_any_threshold(rows: list[tuple[float, bool]], threshold: float) -> None:
    p, positive = np.array([x for x, _ in rows]), np.array([y for _, y in rows])
    wanted = sk.f1_score(positive, p > threshold, average="macro", labels=[False, True], zero_division=0)
    assert math.isclose(binary.f1_macro(p[None], positive, threshold)[0], wanted, abs_tol=1e-12)
