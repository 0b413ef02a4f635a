"""The grid's refusals, and the objective's standard error by simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from trainer.measure import design, metrics
from trainer.measure.grid import ScoreError, read_grid
from trainer.measure.rung import RungReport
from trainer.store import SCORES


def table(
    predicted: Any, label: Any, logprobs: Any = None, names: tuple[str, ...] = ("no", "yes", "maybe")
) -> pa.Table:
    """Score rows of predicted [P][R] (indices, -1 for no answer) and label [R], in a shuffled order."""
    predicted, label = np.asarray(predicted), np.asarray(label)
    cells = [(i, j) for i in range(predicted.shape[0]) for j in range(predicted.shape[1])]
    np.random.default_rng(1).shuffle(cells)
    rows = [
        {
            "trial_id": "t", "rung": 3, "pool": "test", "prompt_id": f"p{i:02d}", "row_id": f"r{j:04d}",
            "label": names[label[j]],
            "predicted": None if predicted[i, j] < 0 else names[predicted[i, j]],
            "correct": bool(predicted[i, j] == label[j]),
            "label_logprobs": None if logprobs is None else list(logprobs[i][j]),
            "new_tokens": None,
        }
        for i, j in cells
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCORES)


def random_answers(rng: np.random.Generator, p: int = 4, r: int = 60, k: int = 3) -> tuple[Any, Any]:
    label = rng.integers(0, k, r)
    return np.where(rng.random((p, r)) < 0.6, label, rng.integers(-1, k, (p, r))), label


def test_majority_answer_on_edos_has_f1_macro_of_4310() -> None:
    label = np.zeros(4000, dtype=int)
    label[:970] = 1  # share .2425
    found = metrics.objective(table(np.zeros((1, 4000), dtype=int), label), "f1_macro", 1.0, ("no", "yes"))
    assert found.mean == pytest.approx(0.4310, abs=5e-5)
    assert found.degenerate
    assert found.std == 0.0


def test_an_answer_that_cannot_be_parsed_is_wrong_and_counted() -> None:
    found = metrics.objective(table([[0, -1, 1, -1], [0, 0, 1, 1]], [0, 0, 1, 1]), "accuracy", 0.5, ("no", "yes"))
    assert found.parse_fail_rate == 0.25
    assert (found.mean, found.min) == (0.75, 0.5)
    assert found.value == pytest.approx(0.75 - 0.5 * np.std([0.5, 1.0], ddof=1))


def test_nan_log_probability_makes_the_value_nan_and_nothing_else_does() -> None:
    good = [[(-0.1, -2.0), (-3.0, -0.05)]]
    assert metrics.objective(table([[0, 1]], [0, 1], good), "accuracy", 1.0, ("no", "yes")).value == 1.0
    bad = [[(-0.1, -2.0), (math.nan, -0.05)]]
    assert math.isnan(metrics.objective(table([[0, 1]], [0, 1], bad), "accuracy", 1.0, ("no", "yes")).value)


def test_log_probabilities_lie_in_the_cell_they_belong_to() -> None:
    logprobs = np.arange(2 * 3 * 2, dtype=float).reshape(2, 3, 2)
    grid = read_grid(table([[0, 1, 0], [1, 1, 0]], [0, 1, 0], logprobs), ("no", "yes"))
    assert grid.label_logprobs is not None
    assert np.array_equal(grid.label_logprobs, logprobs)


@pytest.mark.parametrize(
    ("share", "truth", "degenerate"), [(0.96, 0.5, True), (0.95, 0.5, False), (0.97, 0.97, False), (1.0, 0.97, True)]
)
def test_degenerate_is_one_answer_beyond_the_share_that_the_rows_justify(
    share: float, truth: float, degenerate: bool
) -> None:
    answers, label = np.ones(100, dtype=int), np.ones(100, dtype=int)
    answers[: round(100 * share)], label[: round(100 * truth)] = 0, 0
    found = metrics.objective(table([answers, answers], label), "accuracy", 1.0)
    assert found.top_label_share == share
    assert found.degenerate is degenerate


def test_silence_is_degenerate_too() -> None:
    assert metrics.objective(table(np.full((2, 10), -1), np.arange(10) % 2), "accuracy", 1.0).degenerate


def test_a_missing_cell_is_named() -> None:
    rows = table([[0, 1], [1, 1]], [0, 1]).to_pylist()
    gone = next(i for i, r in enumerate(rows) if (r["prompt_id"], r["row_id"]) == ("p01", "r0000"))
    short = pa.Table.from_pylist(rows[:gone] + rows[gone + 1 :], schema=SCORES)
    with pytest.raises(ScoreError, match=r'scores/x: no score for prompt "p01" on row "r0000" \(1 of 4'):
        read_grid(short, where="scores/x")


def test_a_doubled_cell_is_named_and_contradiction_said() -> None:
    rows = table([[0, 1], [1, 1]], [0, 1]).to_pylist()
    same = pa.Table.from_pylist([*rows, rows[0]], schema=SCORES)
    cell = f'prompt "{rows[0]["prompt_id"]}" on row "{rows[0]["row_id"]}"'
    with pytest.raises(ScoreError, match=f"{cell} is scored 2 times with the same answer"):
        read_grid(same)
    other = {**rows[0], "predicted": "maybe", "correct": False}
    with pytest.raises(ScoreError, match=f"{cell} is scored 2 times with contradictory answers"):
        read_grid(pa.Table.from_pylist([*rows, other], schema=SCORES))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": False}, "contradicts"),
        ({"label": "yes", "correct": False}, "its label differs between prompts"),
        ({"predicted": "nono", "correct": False}, r'"nono" is not a label of the task. Did you mean "no"\?'),
    ],
)
def test_a_row_against_itself_or_the_task_is_refused(change: dict[str, Any], message: str) -> None:
    rows = table([[0, 1], [0, 1]], [0, 1]).to_pylist()
    at = next(i for i, r in enumerate(rows) if (r["prompt_id"], r["row_id"]) == ("p01", "r0000"))
    rows[at] = {**rows[at], **change}
    with pytest.raises(ScoreError, match=message):
        read_grid(pa.Table.from_pylist(rows, schema=SCORES), ("no", "yes"))


def test_no_rows_and_unknown_metric_are_errors() -> None:
    with pytest.raises(ScoreError, match="no score rows"):
        read_grid(SCORES.empty_table())
    with pytest.raises(ScoreError, match=r'task.metric = "acuracy" is not known. Did you mean "accuracy"\?'):
        metrics.objective(table([[0]], [0]), "acuracy", 1.0)


def test_two_way_mean_squares_equal_the_textbook_sums() -> None:
    y = np.random.default_rng(3).normal(size=(4, 7))
    fit = metrics.two_way(y)
    a, b, m = y.mean(1), y.mean(0), y.mean()
    assert fit.ms_prompts == pytest.approx(7 * ((a - m) ** 2).sum() / 3)
    assert fit.ms_rows == pytest.approx(4 * ((b - m) ** 2).sum() / 6)
    squares = [(y[i, j] - a[i] - b[j] + m) ** 2 for i in range(4) for j in range(7)]
    assert fit.ms_residual == pytest.approx(sum(squares) / 18)


@pytest.mark.parametrize("std_weight", [0.0, 1.0])
def test_stderr_is_the_spread_of_the_objective_over_repetitions(std_weight: float) -> None:
    rng = np.random.default_rng(8)
    values, errors = [], []
    for _ in range(600):
        effects = 1.0 + 0.4 * rng.standard_normal((20, 1)) + rng.standard_normal((1, 100))
        y = (effects + rng.standard_normal((20, 100)) > 0).astype(float)
        a = y.mean(axis=1)
        values.append(a.mean() - std_weight * a.std(ddof=1))
        errors.append(metrics.objective_stderr(y, std_weight))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.12)


def test_stderr_with_one_prompt_or_one_row_is_the_plain_one() -> None:
    y = (np.random.default_rng(2).random((1, 50)) < 0.7).astype(float)
    assert metrics.objective_stderr(y, 1.0) == pytest.approx(y.std(ddof=1) / np.sqrt(50))
    assert metrics.objective_stderr(y.T, 0.0) == pytest.approx(y.std(ddof=1) / np.sqrt(50))
    assert math.isnan(metrics.objective_stderr(np.ones((1, 1)), 1.0))


# a sample of the grid ------------------------------------------------------------------------------------------------

SAMPLE = {"prompts": 6, "rows": 20, "cells": 44}


def sample_rows(size: dict[str, int] = SAMPLE) -> list[dict[str, Any]]:
    """Score rows of the sample of a grid of 6 x 20."""
    predicted, label = random_answers(np.random.default_rng(9), 6, 20, 2)
    names = [f"r{j:04d}" for j in range(20)]
    kept = design.choose_rows(names, [str(k) for k in label], design.rows_used(size["cells"], 6, 20))
    rows, labels = [names[j] for j in kept], [("no", "yes")[label[j]] for j in kept]
    seen = design.balanced([f"p{i:02d}" for i in range(6)], rows, labels, size["cells"])
    cells = {(f"p{i:02d}", rows[j]) for i, j in zip(*np.nonzero(seen), strict=True)}
    return [r for r in table(predicted, label).to_pylist() if (r["prompt_id"], r["row_id"]) in cells]


def read(rows: list[dict[str, Any]], sample: dict[str, int] | None = SAMPLE, metric: str = "accuracy") -> Any:
    return metrics.objective(pa.Table.from_pylist(rows, schema=SCORES), metric, 1.0, ("no", "yes"), "x", sample)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1_macro", "f1[yes]", "matthews_corrcoef"])
def test_a_sample_is_read_as_an_estimate_of_the_whole_grid(metric: str) -> None:
    found = read(sample_rows(), metric=metric)
    assert (found.n_prompts, found.n_rows, found.n_cells) == (6, 20, 44)
    assert 0 < found.sampling <= found.stderr
    assert found.value == found.mean - found.std
    assert read(sample_rows()[::-1], metric=metric) == found
    scores = read_grid(pa.Table.from_pylist(sample_rows(), schema=SCORES), ("no", "yes"), "x", SAMPLE)
    each = metrics.per_prompt(scores, metric)
    assert (each.mean(), each.std(ddof=1)) == (pytest.approx(found.mean), pytest.approx(found.std))


def test_a_sample_may_leave_rows_out() -> None:
    small = {**SAMPLE, "cells": 24}
    assert len({r["row_id"] for r in sample_rows(small)}) == 12
    assert (read(sample_rows(small), small).n_rows, read(sample_rows(small), small).n_cells) == (20, 24)


def test_shares_of_answers_count_the_cells_that_were_scored() -> None:
    rows = [{**r, "predicted": None, "correct": False} for r in sample_rows()]
    found = read(rows)
    assert (found.parse_fail_rate, found.top_label_share, found.degenerate) == (1.0, 1.0, True)
    assert (found.mean, found.std) == (0.0, 0.0)


def test_a_table_that_is_not_the_declared_sample_is_refused() -> None:
    rows = sample_rows()
    with pytest.raises(ScoreError, match="cells missing"):
        read(rows, None)  # no sample was declared
    with pytest.raises(ScoreError, match=r"x: no score for prompt .* \(1 of 44 cells missing\). The sample's"):
        read(rows[1:])
    with pytest.raises(ScoreError, match="is scored 2 times"):
        read([*rows, rows[0]])
    taken = {(r["prompt_id"], r["row_id"]) for r in rows}
    free = next(r["prompt_id"] for r in rows if (r["prompt_id"], rows[0]["row_id"]) not in taken)
    with pytest.raises(ScoreError, match="is not in the sample"):
        read([*rows, {**rows[0], "prompt_id": free}])
    with pytest.raises(ScoreError, match="6 prompts and 20 rows, but the sample has 7 and 20"):
        read(rows, {**SAMPLE, "prompts": 7})
    whole = table(*random_answers(np.random.default_rng(9), 6, 20, 2)).to_pylist()
    assert read(whole, {**SAMPLE, "cells": 120}) == read(whole, None)


def test_a_nan_without_a_nan_among_the_labels_makes_the_objective_nan() -> None:
    """CASES B7: in what the decision rule compares with, or in generated text."""
    columns = {"prompt_id": ["p"] * 2, "row_id": ["a", "b"], "label": ["no", "yes"], "predicted": ["no", None]}
    columns |= {"correct": [True, False], "trial_id": ["t"] * 2, "rung": [1] * 2, "pool": ["dev"] * 2}

    def value(logprobs: list[list[float] | None], new_tokens: int | None) -> float:
        rows = {**columns, "label_logprobs": logprobs, "new_tokens": [new_tokens] * 2}
        return metrics.objective(pa.table(rows, schema=SCORES), "accuracy", 1.0, ("no", "yes")).value

    assert math.isnan(value([[-1.0, -2.0], [-1.0, -2.0]], None))
    assert math.isnan(value([None, [math.nan]], 3))
    assert value([None, None], 3) == 0.5


def test_answers_that_cannot_be_read_are_told_from_one_label() -> None:
    """CASES V14."""
    unread = metrics.objective(table([[-1] * 40], [0, 1] * 20), "accuracy", 1.0, ("no", "yes"))
    one_label = metrics.objective(table([[0] * 40], [0, 1] * 20), "accuracy", 1.0, ("no", "yes"))
    assert (unread.degenerate, unread.unread) == (True, True), "it must not rank above a trial that answers"
    assert (one_label.degenerate, one_label.unread) == (True, False)
    assert "could not be read" in RungReport("t", 0, 1, 0.0, degenerate=True, unread=True).note
    assert "one answer" in RungReport("t", 0, 1, 0.0, degenerate=True).note
