"""Asking in several wordings: against loops over cells, the decision rules of scoring, and a simulated truth."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from sweeps.statistics import intervals as st
from sweeps.statistics import wordings as w
from trainer.measure.grid import NO_ANSWER, Grid
from trainer.score.decide import decide


def grid_of(logprobs: Any, label: Any) -> Grid:
    p, r, k = logprobs.shape
    predicted = logprobs.argmax(axis=2)
    names = tuple(tuple(f"{c}{i:03d}" for i in range(n)) for c, n in (("p", p), ("r", r), ("l", k)))
    return Grid(*names, label, predicted, predicted == label, logprobs, False)


def random_grid(seed: int, p: int = 6, r: int = 30, k: int = 3) -> Grid:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, r)
    logprobs = rng.normal(0, 1, (p, r, k)) + rng.normal(0, 1, (p, 1, k)) + 1.2 * (np.arange(k) == label[:, None])
    return grid_of(logprobs - 3, label)


def by_hand(grid: Grid, chosen: tuple[int, ...], method: str, prior: Any = None) -> list[int]:
    """The answers of one set of prompts, row by row."""
    assert grid.label_logprobs is not None
    found = []
    for i in range(len(grid.rows)):
        total = np.zeros(len(grid.labels))
        for j in chosen:
            x = grid.label_logprobs[j, i]
            if method == "calibrated":
                x = x - grid.label_logprobs[j].mean(axis=0) + (0 if prior is None else np.log(prior / prior.sum()))
            total += np.exp(x) / np.exp(x).sum()
        if method == "vote":
            counts = Counter(int(grid.predicted[j, i]) for j in chosen)
            tied = [y for y, c in counts.items() if c == max(counts.values())]
            total = np.full(len(grid.labels), -np.inf)
            for y in tied:
                total[y] = grid.label_logprobs[list(chosen), i, y].mean()
        found.append(int(total.argmax()))
    return found


@pytest.mark.parametrize("method", w.METHODS)
def test_answers_equal_the_loop_over_rows(method: str) -> None:
    grid, prior = random_grid(0), np.array([3.0, 1.0, 2.0])
    for n in (1, 2, 4, 6):
        members = w.draws(grid.prompts, n)
        assert len(members) == math.comb(6, n)
        theirs = [by_hand(grid, tuple(np.flatnonzero(m)), method, prior) for m in members]
        assert w.answers(grid, method, members, prior).tolist() == theirs


def test_one_wording_is_decided_as_in_scoring() -> None:
    grid, prior = random_grid(1, p=4), np.array([5.0, 1.0, 1.0])
    assert grid.label_logprobs is not None
    flat = grid.label_logprobs.reshape(-1, 3)
    names = [p for p in grid.prompts for _ in grid.rows]
    for method, rule in (("probabilities", "raw"), ("calibrated", "batch")):
        theirs = decide(rule, flat, prompts=names, prior=list(prior)).reshape(4, -1)
        assert np.array_equal(w.answers(grid, method, w.draws(grid.prompts, 1), prior), theirs)
    one = w.asked([grid], "vote", "accuracy")[0]
    cells = grid.correct.astype(float)
    assert one.estimate.value == pytest.approx(cells.mean())


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro"])
def test_the_value_is_the_mean_over_the_draws(metric: str) -> None:
    grid = random_grid(2, p=12)
    for found in w.asked([grid], "probabilities", metric):
        members = w.draws(grid.prompts, found.wordings)
        scored = []
        for m in members:
            given = by_hand(grid, tuple(np.flatnonzero(m)), "probabilities")
            right = np.array(given) == grid.label
            f1 = f1_score(grid.label, given, labels=range(3), average="macro", zero_division=0)
            scored.append(right.mean() if metric == "accuracy" else f1)
        assert found.draws == len(members)
        assert found.estimate.value == pytest.approx(np.mean(scored))


def test_ensembles_are_ranked_by_their_averaged_probabilities() -> None:
    """The area under the ROC curve of an ensemble; a vote ranks nothing."""
    grid = random_grid(6, p=12, k=2)
    assert grid.label_logprobs is not None
    shares = np.exp(grid.label_logprobs) / np.exp(grid.label_logprobs).sum(axis=2, keepdims=True)
    found = w.asked([grid], "probabilities", "roc_auc")
    assert [a.wordings for a in found] == [1, 2, 4, 8, 12]
    for one in found:
        theirs = [roc_auc_score(grid.label, shares[m, :, 1].mean(axis=0)) for m in w.draws(grid.prompts, one.wordings)]
        assert one.estimate.value == pytest.approx(np.mean(theirs))
    assert w.asked([grid], "vote", "roc_auc") == []


def test_a_metric_below_zero_has_intervals_below_zero() -> None:
    grid = random_grid(7, p=12, r=200, k=2)
    turned = replace(grid, label=1 - grid.label, correct=grid.predicted != grid.label)
    for one in w.asked([turned], "probabilities", "matthews_corrcoef"):
        assert -1.0 <= one.estimate.low < one.estimate.value < one.estimate.high < 0.0


def test_draws_are_fixed_balanced_sets_and_the_same_for_all_trials() -> None:
    names = [f"p{i}" for i in range(30)]
    members = w.draws(names, 4)
    assert np.array_equal(members, w.draws(names, 4))
    assert members.shape == (200, 30)
    assert set(members.sum(axis=1)) == {4}
    assert not np.array_equal(members, w.draws([f"q{i}" for i in range(30)], 4))
    assert [tuple(np.flatnonzero(m)) for m in w.draws(names[:6], 2)] == list(itertools.combinations(range(6), 2))
    assert np.array_equal(w.draws(names, 1), np.eye(30, dtype=bool))
    assert [a.wordings for a in w.asked([random_grid(0, p=6)], "vote", "accuracy")] == [1, 2, 4, 6]
    assert [a.wordings for a in w.asked([random_grid(0, p=1)], "vote", "accuracy")] == [1]


def test_seeds_are_averaged() -> None:
    grids = [random_grid(3), replace(random_grid(4), label=random_grid(3).label)]
    grids = [replace(g, correct=g.predicted == g.label) for g in grids]
    both = w.asked(grids, "probabilities", "accuracy")
    each = [w.asked([g], "probabilities", "accuracy") for g in grids]
    for found, one, two in zip(both, *each, strict=True):
        assert found.estimate.value == pytest.approx((one.estimate.value + two.estimate.value) / 2)


def test_unread_answers_nan_and_samples() -> None:
    grid = random_grid(5, p=3, r=8)
    assert grid.label_logprobs is not None
    unread = replace(grid, predicted=np.full_like(grid.predicted, NO_ANSWER), label_logprobs=None)
    assert w.asked([unread], "probabilities", "accuracy") == []
    assert (w.answers(unread, "vote", w.draws(grid.prompts, 2)) == NO_ANSWER).all()
    generated = replace(grid, label_logprobs=None)
    assert set(w.answers(generated, "vote", w.draws(grid.prompts, 3)).ravel()) <= {0, 1, 2}
    logprobs = grid.label_logprobs.copy()
    logprobs[0, 2, 1] = np.nan
    broken = replace(grid, label_logprobs=logprobs)
    members = w.draws(grid.prompts, 2)
    for method in ("probabilities", "calibrated"):
        given = w.answers(broken, method, members)
        assert (given[members[:, 0], 2] == NO_ANSWER).all()
        assert (given[~members[:, 0], 2] != NO_ANSWER).all()
    logprobs[2, 5, 0] = -np.inf
    given = w.answers(replace(grid, label_logprobs=logprobs), "probabilities", members)
    assert (given[:, 5] != NO_ANSWER).all(), "a label of probability 0 leaves the others theirs"
    with pytest.raises(ValueError, match="sample"):
        w.asked([replace(grid, seen=np.ones((3, 8), bool), pool_rows=9)], "vote", "accuracy")


def simulated(rng: np.random.Generator, p: int, r: int) -> Grid:
    """Two labels: prompts lean to one label and are more or less clear; rows are easy or hard."""
    label = rng.integers(0, 2, r)
    lean, clear = 0.8 * rng.standard_normal((p, 1)), np.exp(0.3 * rng.standard_normal((p, 1)))
    ease = 1.0 + 0.8 * rng.standard_normal(r)
    margin = clear * ease * (2 * label - 1) + lean + 1.2 * rng.standard_normal((p, r))
    return grid_of(np.stack([-np.logaddexp(0, margin), -np.logaddexp(0, -margin)], axis=2), label)


def coverage(p: int, r: int, times: int) -> dict[int, float]:
    """How often the interval at each number of wordings holds the mean over ``times`` studies. All prompts: the truth
    given these prompts, so by the mean over as many rows again and again of one set of prompts."""
    rng = np.random.default_rng([p, r, times])
    found = [w.asked([simulated(rng, p, r)], "probabilities", "accuracy") for _ in range(times)]
    truth = np.mean([[a.estimate.value for a in f] for f in found], axis=0)
    hits = [[a.estimate.low <= x <= a.estimate.high for a, x in zip(f, truth, strict=True)] for f in found]
    return dict(zip([a.wordings for a in found[0]], np.mean(hits, axis=0).tolist(), strict=True))


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    found = coverage(12, 100, 150)
    for n in (1, 2, 4):
        assert 0.89 <= found[n] <= 0.99, found


@pytest.mark.long
@pytest.mark.parametrize(("p", "r"), [(10, 100), (20, 200), (50, 200)])
def test_coverage_of_intervals_of_several_wordings(p: int, r: int) -> None:
    found = coverage(p, r, 1000)
    print(p, r, {n: round(x, 3) for n, x in found.items()})
    assert all(0.92 <= found[n] <= 0.98 for n in (1, 2, 4)), found


def test_more_wordings_answer_better_where_prompts_lean_differently_and_all_alike_has_width() -> None:
    found = w.asked([simulated(np.random.default_rng(1), 20, 400)], "probabilities", "accuracy")
    values = [a.estimate.value for a in found]
    assert values == sorted(values)
    assert values[-1] - values[0] > 0.02
    sure = grid_of(np.log(np.tile([[[0.9, 0.1]]], (12, 40, 1))), np.zeros(40, int))
    for one in w.asked([sure], "probabilities", "accuracy"):
        assert (one.estimate.value, one.estimate.high) == (1.0, 1.0)
        assert one.estimate.low == pytest.approx(0.025 ** (1 / 40)), st.LEVEL
