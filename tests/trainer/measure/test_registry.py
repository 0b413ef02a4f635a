"""Every metric against scikit-learn on random answers, its pseudo-values against leaving rows out, and its refusals."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from trainer.measure import metrics
from trainer.measure.grid import NO_ANSWER, Grid, ScoreError
from trainer.measure.registry import METRICS, OF_WHOLE_TASK, f1_of, kind_of, label_of, misfit, task_metrics

NAMES = ("no", "yes", "maybe")
NAMED = {
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "f1_macro": lambda y, p: sk.f1_score(y, p, labels=[0, 1, 2], average="macro", zero_division=0),
    "f1_weighted": lambda y, p: sk.f1_score(y, p, labels=[0, 1, 2], average="weighted", zero_division=0),
    "f1[yes]": lambda y, p: sk.f1_score(y, p, labels=[1], average="macro", zero_division=0),
    "matthews_corrcoef": sk.matthews_corrcoef,
}
COUNTED = list(NAMED)


def grid_of(predicted: Any, label: Any, names: tuple[str, ...] = NAMES, logprobs: Any = None) -> Grid:
    predicted, label = np.atleast_2d(predicted), np.asarray(label)
    p, r = predicted.shape
    prompts, rows = tuple(f"p{i:03d}" for i in range(p)), tuple(f"r{j:05d}" for j in range(r))
    return Grid(prompts, rows, names, label, predicted, predicted == label, logprobs, nan=False)


def random_answers(seed: int, p: int = 5, r: int = 90, share: tuple[float, ...] = (0.6, 0.3, 0.1)) -> tuple[Any, Any]:
    """Right answers [R] of uneven labels, and answers [P, R] of which some are missing."""
    rng = np.random.default_rng(seed)
    label = rng.choice(len(share), r, p=share)
    return np.where(rng.random((p, r)) < 0.6, label, rng.integers(-1, len(share), (p, r))), label


def random_scores(seed: int, p: int = 5, r: int = 90) -> tuple[Grid, Any]:
    """A grid of two labels with their log-probabilities, and the score that ranks its rows, with ties."""
    rng = np.random.default_rng(seed)
    label = (rng.random(r) < 0.3).astype(int)
    score = np.round(label + rng.normal(size=(p, r)), 1)
    logprobs = np.stack([np.zeros((p, r)), score], axis=2)
    return grid_of((score > 0.3).astype(int), label, ("no", "yes"), logprobs), score


def test_every_metric_is_tested() -> None:
    assert {*COUNTED, "roc_auc", "f1"} == {*METRICS, "f1[yes]"}


@pytest.mark.parametrize("metric", COUNTED)
@pytest.mark.parametrize("seed", range(3))
def test_the_value_is_scikit_learns(metric: str, seed: int) -> None:
    predicted, label = random_answers(seed)
    assert (predicted == NO_ANSWER).any(), "cells without an answer are among them"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an answer is no label of the rows
        expected = [NAMED[metric](label, p) for p in predicted]
    assert metrics.per_prompt(grid_of(predicted, label), metric) == pytest.approx(expected, abs=1e-12)


def test_the_area_is_scikit_learns() -> None:
    grid, score = random_scores(0)
    expected = [sk.roc_auc_score(grid.label, s) for s in score]
    assert metrics.per_prompt(grid, "roc_auc") == pytest.approx(expected, abs=1e-12)


def test_a_cell_without_an_answer_is_ranked_on_the_wrong_side_of_all() -> None:
    grid, score = random_scores(1)
    assert grid.label_logprobs is not None
    lost = np.random.default_rng(2).random(score.shape) < 0.1
    logprobs = np.where(lost[:, :, None], np.nan, grid.label_logprobs)
    found = metrics.per_prompt(dataclasses.replace(grid, label_logprobs=logprobs, nan=True), "roc_auc")
    wrong = np.where(lost, np.where(grid.label == 1, -99.0, 99.0), score)
    assert found == pytest.approx([sk.roc_auc_score(grid.label, s) for s in wrong], abs=1e-12)


@pytest.mark.parametrize("metric", COUNTED)
def test_a_label_that_no_row_has_counts_as_scikit_learn_counts_it(metric: str) -> None:
    """Answered or not: told all labels of the task, with zero_division=0."""
    for answers in ([0, 1, 1, 0, 0, 1], [0, 1, 2, 0, 2, 1]):
        label = [0, 1, 0, 0, 1, 1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = NAMED[metric](label, answers)
        assert metrics.per_prompt(grid_of(answers, label), metric)[0] == pytest.approx(expected)
    absent = metrics.per_prompt(grid_of([0, 2, 1], [0, 1, 1]), "f1[maybe]")
    assert absent.tolist() == [0.0]


@pytest.mark.parametrize("metric", [*COUNTED, "roc_auc"])
def test_one_label_everywhere_has_a_value_or_is_an_error(metric: str) -> None:
    """All answers are one label: nothing is NaN. All rows as well: the area does not exist."""
    label = [0, 1, 0, 0]
    constant = grid_of([0, 0, 0, 0], label, ("no", "yes"), np.zeros((1, 4, 2)))
    assert np.isfinite(metrics.cells(constant, metric)).all()
    expected = 0.5 if metric == "roc_auc" else NAMED[metric](label, [0, 0, 0, 0])
    found = metrics.per_prompt(constant, metric)[0]
    assert found == pytest.approx(expected if metric != "f1_macro" else sk.f1_score(label, [0] * 4, average="macro"))
    alike = grid_of([0, 0, 1, 0], [0] * 4, ("no", "yes"), np.zeros((1, 4, 2)))
    if metric == "roc_auc":
        with pytest.raises(ScoreError, match=r"roc_auc.* needs rows of two labels"):
            metrics.per_prompt(alike, metric)
    else:
        assert np.isfinite(metrics.cells(alike, metric)).all()


def without(grid: Grid, row: int) -> Grid:
    keep = np.arange(len(grid.rows)) != row
    rows = tuple(np.array(grid.rows)[keep].tolist())
    scores = None if grid.label_logprobs is None else grid.label_logprobs[:, keep]
    return dataclasses.replace(
        grid, rows=rows, label=grid.label[keep], predicted=grid.predicted[:, keep], correct=grid.correct[:, keep],
        label_logprobs=scores,
    )  # fmt: skip


@pytest.mark.parametrize("metric", [*COUNTED, "roc_auc"])
def test_pseudo_values_average_to_the_metric_and_say_what_a_row_adds(metric: str) -> None:
    """Every row left out in turn: its pseudo-value is the metric plus what the metric loses, times R - 1, to first
    order in 1/R."""
    grid = random_scores(3, 2, 800)[0] if metric == "roc_auc" else grid_of(*random_answers(3, 2, 800))
    cells, value = metrics.cells(grid, metric), metrics.per_prompt(grid, metric)
    assert cells.mean(axis=1) == pytest.approx(value, abs=1e-12)
    for row in range(0, 800, 40):
        left_out = value + 799 * (value - metrics.per_prompt(without(grid, row), metric))
        assert cells[:, row] == pytest.approx(left_out, abs=0.05)
    spread = np.concatenate([cells[0], cells[1]]).std()
    assert spread > 0.3, "the values differ by much more than what is allowed above"


def mann_whitney(draw: np.random.Generator, r: int) -> Grid:
    label = np.zeros(r, int)
    label[: r // 4] = 1
    score = label + draw.normal(size=(1, r))
    return grid_of(score > 0.5, label, ("no", "yes"), np.stack([0 * score, score], axis=2))


def of_three_labels(draw: np.random.Generator, r: int) -> Grid:
    label = draw.choice(3, r, p=[0.6, 0.25, 0.15])
    answers = np.where(draw.random((1, r)) < 0.65, label, draw.choice(4, (1, r), p=[0.4, 0.3, 0.2, 0.1]) - 1)
    return grid_of(answers, label)


@pytest.mark.parametrize("metric", [*COUNTED, "roc_auc"])
def test_the_spread_of_pseudo_values_is_the_error_over_new_rows(metric: str) -> None:
    make: Callable[[np.random.Generator, int], Grid] = mann_whitney if metric == "roc_auc" else of_three_labels
    draw, values, errors = np.random.default_rng(4), [], []
    for _ in range(800):
        cells = metrics.cells(make(draw, 200), metric)
        values.append(cells.mean())
        errors.append(cells.std(ddof=1) / np.sqrt(200))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.1)


def test_names_and_their_labels() -> None:
    assert label_of(f1_of("not [yet]")) == "not [yet]"
    assert label_of("f1_macro") is None
    assert kind_of("f1[yes]") is METRICS["f1"]
    assert set(OF_WHOLE_TASK) == {*METRICS} - {"f1"}
    assert list(task_metrics(("no", "yes"))) == [*OF_WHOLE_TASK, "f1[no]", "f1[yes]"]
    assert "roc_auc" not in task_metrics(NAMES)
    assert list(task_metrics(())) == ["accuracy"]
    assert not any(label_of(m) for m in task_metrics([str(i) for i in range(11)])), "a table of many labels has no end"


@pytest.mark.parametrize(
    ("metric", "labels", "said"),
    [
        ("acuracy", NAMES, 'is not known. Did you mean "accuracy"? Known: accuracy, balanced_accuracy'),
        ("f1_makro", NAMES, 'Did you mean "f1_macro"?'),
        ("f1", NAMES, "stands in brackets: f1[no] or f1[yes]"),
        ("f1[yess]", NAMES, 'is of no label of the task. Did you mean "f1[yes]"?'),
        ("f1_macro", (), "needs task.labels: options are not classes. Use accuracy"),
        ("f1[a]", (), "needs task.labels"),
        ("roc_auc", NAMES, "tells two labels apart, and the task has 3"),
    ],
)
def test_a_name_that_does_not_fit_the_task_is_told(metric: str, labels: tuple[str, ...], said: str) -> None:
    assert said in misfit(metric, labels)
    if labels:
        with pytest.raises(ScoreError) as error:
            metrics.per_prompt(grid_of([0, 1], [0, 1], labels), metric)
        assert said in str(error.value)
