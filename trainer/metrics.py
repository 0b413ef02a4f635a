"""What a trial's score rows are worth: per-prompt metrics, and the one objective that trials are compared by.

A score table holds one row per (prompt, row) cell. ``grid`` turns it into prompts x rows matrices and refuses a
table with a doubled, missing or contradictory cell. ``objective`` is ``mean - std_weight * std`` of the per-prompt
metric. Prompts and rows are crossed random factors: every prompt meets the same rows, so the error of a mean has a
prompt part, a row part and a cell part, and treating cells as independent would understate it many times.
Only numpy and pyarrow: the scheduler's side reads this too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainer.errors import UserError, nearest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

METRICS = ("accuracy", "macro_f1")
DEGENERATE_SHARE = 0.95  # one answer on more than this share of the cells: the trial answers without reading
NO_ANSWER = -1  # code of a null ``predicted``: the generated text could not be parsed


class ScoreError(UserError):
    """Score rows that cannot be summarised; the message names the place, the prompt and the row."""


@dataclass(frozen=True)
class Grid:
    """One trial's scores on prompts x rows. ``P`` prompts, ``R`` rows, ids sorted; labels index ``labels``."""

    prompts: tuple[str, ...]
    rows: tuple[str, ...]
    labels: tuple[str, ...]
    label: Ints  # [R] the right label
    predicted: Ints  # [P, R]; NO_ANSWER where nothing could be parsed
    correct: NDArray[np.bool_]  # [P, R]
    label_logprobs: Floats | None  # [P, R, K] in nats; None where text was generated or rows differ in options
    nan: bool  # some label log-probability is NaN

    @property
    def top_label_share(self) -> float:
        """Share of all cells that the most frequent answer takes; an answer that cannot be parsed is one too."""
        return float(self._answer_counts().max() / self.predicted.size)

    @property
    def parse_fail_rate(self) -> float:
        return float((self.predicted == NO_ANSWER).mean())

    @property
    def degenerate(self) -> bool:
        """One answer takes more than ``DEGENERATE_SHARE`` of the cells. Where the rows themselves carry that label
        almost always (share t > 0.9) the limit is half way from t to 1, so that a faithful trial is not accused."""
        counts = self._answer_counts()
        top = int(counts.argmax()) - 1
        truth = float((self.label == top).mean())
        return bool(counts[top + 1] / self.predicted.size > max(DEGENERATE_SHARE, (1.0 + truth) / 2.0))

    def _answer_counts(self) -> Ints:
        return np.bincount(self.predicted.ravel() + 1, minlength=len(self.labels) + 1)


def grid(table: pa.Table, labels: Sequence[str] = (), where: str = "score rows") -> Grid:
    """The complete prompts x rows grid of one trial at one rung under one pool (columns of ``store.SCORES``).

    ``labels`` are the task's labels in the order of ``label_logprobs``; without them, every label and answer that
    occurs, sorted. ``where`` names the file in messages. Raises ``ScoreError`` for an empty table, a cell that occurs
    twice or not at all, a row with two right labels, an unknown label, or ``correct`` against ``predicted``."""
    if table.num_rows == 0:
        raise ScoreError(f"{where}: no score rows. The file was cut short: remove it and run again")
    prompts, p = _codes(table["prompt_id"], where, "prompt_id")
    rows, r = _codes(table["row_id"], where, "row_id")
    shape = (len(prompts), len(rows))
    place = p * shape[1] + r
    counts = np.bincount(place, minlength=shape[0] * shape[1])
    _refuse_doubled(table, prompts, rows, place, counts, where)
    if (counts == 0).any():
        i, j = np.unravel_index(int((counts == 0).argmax()), shape)
        missing = int((counts == 0).sum())
        raise ScoreError(
            f'{where}: no score for prompt "{prompts[i]}" on row "{rows[j]}" ({missing} of {counts.size} cells missing)'
            ". Every prompt must be scored on the same rows: remove the file and run again"
        )
    names = tuple(labels) or _occurring(table)
    order = np.argsort(place)
    truth = _label_codes(table["label"], names, where, "label")[order].reshape(shape)
    predicted = _label_codes(table["predicted"], names, where, "predicted")[order].reshape(shape)
    correct = np.asarray(table["correct"].to_numpy(zero_copy_only=False), dtype=bool)[order].reshape(shape)
    _refuse_contradiction(truth != truth[:1], prompts, rows, where, "its label differs between prompts")
    _refuse_contradiction(truth == NO_ANSWER, prompts, rows, where, "has no right label")
    against = correct != (predicted == truth)
    _refuse_contradiction(against, prompts, rows, where, "`correct` contradicts `predicted` and `label`")
    logprobs, nan = _logprobs(table["label_logprobs"], order, shape)
    return Grid(prompts, rows, names, truth[0], predicted, correct, logprobs, nan)


def per_prompt(scores: Grid, metric: str) -> Floats:
    """[P] accuracy or macro-F1 of every prompt, as a fraction of 1. A cell without an answer counts as wrong."""
    _known(metric)
    if metric == "accuracy":
        return scores.correct.mean(axis=1)
    f1, _ = _f1(scores)
    return f1.mean(axis=1)


def cells(scores: Grid, metric: str) -> Floats:
    """[P, R] values whose mean over rows is the per-prompt metric, and whose spread over rows gives its error.

    Accuracy: 1 where correct, else 0. Macro-F1 is no mean of cells; these are its pseudo-values, the metric plus R
    times its derivative with respect to the row's weight (infinitesimal jackknife), so one set of formulas and one
    bootstrap serve both metrics. Exact for accuracy, first order in 1/R for macro-F1."""
    _known(metric)
    if metric == "accuracy":
        return scores.correct.astype(np.float64)
    f1, size = _f1(scores)  # F1_k = 2 TP_k / size_k with size_k = right + predicted
    n, k = len(scores.rows), len(scores.labels)
    slope = np.where(size > 0, 1.0 / np.maximum(size, 1.0), 0.0)  # [P, K]
    at = np.arange(len(scores.prompts))[:, None]
    answered = scores.predicted != NO_ANSWER
    answer = np.where(answered, scores.predicted, 0)
    right = np.broadcast_to(scores.label, scores.predicted.shape)
    lost = (f1 * slope)[at, right] + np.where(answered, (f1 * slope)[at, answer], 0.0)
    step = 2.0 * scores.correct * slope[at, right] - lost
    return f1.mean(axis=1, keepdims=True) + step * (n / k)


@dataclass(frozen=True)
class TwoWay:
    """Analysis of variance of one value per cell, prompts and rows crossed and both random (Searle, Casella and
    McCulloch 1992, ch. 4). ``ms_*`` are mean squares; variances are never negative."""

    n_prompts: int
    n_rows: int
    mean: float
    ms_prompts: float
    ms_rows: float
    ms_residual: float

    @property
    def var_prompts(self) -> float:
        """Variance between prompts with the noise of the finite rows removed."""
        return max(self.ms_prompts - self.ms_residual, 0.0) / self.n_rows

    @property
    def var_rows(self) -> float:
        return max(self.ms_rows - self.ms_residual, 0.0) / self.n_prompts

    @property
    def var_mean(self) -> float:
        """Squared standard error of the grand mean: var_prompts / P + var_rows / R + ms_residual / (P R)."""
        noise = self.ms_residual / (self.n_prompts * self.n_rows)
        return self.var_prompts / self.n_prompts + self.var_rows / self.n_rows + noise


def two_way(values: Floats) -> TwoWay:
    """Mean squares of ``values`` [P, R]. With one prompt the row mean square takes all, with one row the prompts'."""
    p, r = values.shape
    mean = float(values.mean())
    by_prompt, by_row = values.mean(axis=1), values.mean(axis=0)
    ss_prompts = r * float(((by_prompt - mean) ** 2).sum())
    ss_rows = p * float(((by_row - mean) ** 2).sum())
    residual = values - by_prompt[:, None] - by_row[None, :] + mean
    ss_residual = float((residual**2).sum())
    return TwoWay(
        p, r, mean, ss_prompts / max(p - 1, 1), ss_rows / max(r - 1, 1), ss_residual / max((p - 1) * (r - 1), 1)
    )


@dataclass(frozen=True)
class Objective:
    """What the scheduler compares. Fractions of 1; ``value`` is NaN when a label log-probability was NaN."""

    value: float  # mean - std_weight * std
    stderr: float  # of ``value``, prompts and rows both random; NaN for a single cell
    mean: float  # over prompts, of the per-prompt metric
    std: float  # over prompts, ddof 1, sampling noise of the rows included; 0 with one prompt
    min: float  # the worst prompt
    n_prompts: int
    n_rows: int
    degenerate: bool
    top_label_share: float
    parse_fail_rate: float


def objective(
    table: pa.Table, metric: str, std_weight: float, labels: Sequence[str] = (), where: str = "score rows"
) -> Objective:
    """``mean - std_weight * std`` of the per-prompt metric over one complete grid, with its standard error."""
    return grid_objective(grid(table, labels, where), metric, std_weight)


def grid_objective(scores: Grid, metric: str, std_weight: float) -> Objective:
    """``objective`` of a grid that has been read already."""
    values = cells(scores, metric)
    accuracies = per_prompt(scores, metric)
    mean, std = float(accuracies.mean()), spread(accuracies)
    return Objective(
        value=math.nan if scores.nan else mean - std_weight * std,
        stderr=objective_stderr(values, std_weight),
        mean=mean,
        std=std,
        min=float(accuracies.min()),
        n_prompts=len(scores.prompts),
        n_rows=len(scores.rows),
        degenerate=scores.degenerate,
        top_label_share=scores.top_label_share,
        parse_fail_rate=scores.parse_fail_rate,
    )


def spread(values: Floats) -> float:
    """Standard deviation with ddof 1; 0 for a single value."""
    return float(values.std(ddof=1)) if values.size > 1 else 0.0


def objective_stderr(values: Floats, std_weight: float) -> float:
    """Standard error of ``mean - std_weight * std`` for cells [P, R], by a two-way delete-one jackknife.

    Leaving out prompts sees prompt and cell noise, leaving out rows sees row and cell noise, so their sum counts the
    cell noise twice; its delta-method size, ms_residual / R * (1/P + std_weight^2/(P-1)), is taken off once
    (the two-way rule V = V_prompts + V_rows - V_cells; Owen 2007; Cameron, Gelbach and Miller 2011). Never below
    the larger of the two parts. NaN for a single cell, where nothing can be known."""
    p, r = values.shape
    if p * r == 1:
        return math.nan
    by_prompt = values.mean(axis=1)
    of_prompts = of_rows = 0.0
    if p > 1:
        left = (p * by_prompt.mean() - by_prompt) / (p - 1)
        value = left
        if p > 2:
            squares = ((by_prompt**2).sum() - by_prompt**2) / (p - 1) - left**2
            value = left - std_weight * np.sqrt(np.maximum(squares, 0.0) * (p - 1) / (p - 2))
        of_prompts = float((p - 1) / p * ((value - value.mean()) ** 2).sum())
    if r > 1:
        without = (r * by_prompt[:, None] - values) / (r - 1)  # [P, R] per-prompt metric without row i
        value = without.mean(axis=0)
        if p > 1:
            value = value - std_weight * without.std(axis=0, ddof=1)
        of_rows = float((r - 1) / r * ((value - value.mean()) ** 2).sum())
    twice = two_way(values).ms_residual / r * (1 / p + std_weight**2 / (p - 1)) if p > 1 and r > 1 else 0.0
    return math.sqrt(max(of_prompts + of_rows - twice, of_prompts, of_rows))


def _f1(scores: Grid) -> tuple[Floats, Floats]:
    """[P, K] F1 of every label under every prompt (0 where it neither occurs nor is answered), and its denominator."""
    p, k = len(scores.prompts), len(scores.labels)
    at = np.broadcast_to(np.arange(p)[:, None], scores.predicted.shape)
    right = np.broadcast_to(scores.label, scores.predicted.shape)
    hits = np.bincount((at * k + right)[scores.correct], minlength=p * k).reshape(p, k)
    answered = scores.predicted != NO_ANSWER
    answers = np.bincount((at * k + scores.predicted)[answered], minlength=p * k).reshape(p, k)
    size = (answers + np.bincount(scores.label, minlength=k)).astype(np.float64)
    return np.where(size > 0, 2.0 * hits / np.maximum(size, 1.0), 0.0), size


def _known(metric: str) -> None:
    if metric not in METRICS:
        raise ScoreError(f'task.metric = "{metric}" is not known.{nearest(str(metric), METRICS)}')


def _codes(column: pa.ChunkedArray, where: str, name: str) -> tuple[tuple[str, ...], Ints]:
    if column.null_count:
        raise ScoreError(f"{where}: {column.null_count} score rows have no {name}")
    ids = sorted(pc.unique(column).to_pylist())
    return tuple(ids), pc.index_in(column, pa.array(ids, column.type)).to_numpy().astype(np.int64)


def _occurring(table: pa.Table) -> tuple[str, ...]:
    found = {*pc.unique(table["label"]).to_pylist(), *pc.unique(table["predicted"]).to_pylist()}
    return tuple(sorted(v for v in found if v is not None))


def _label_codes(column: pa.ChunkedArray, labels: tuple[str, ...], where: str, name: str) -> Ints:
    codes = pc.index_in(column, pa.array(labels, pa.string())).fill_null(NO_ANSWER).to_numpy().astype(np.int64)
    unknown = (codes == NO_ANSWER) & column.is_valid().to_numpy()
    if unknown.any():
        value = column[int(unknown.argmax())].as_py()
        raise ScoreError(f'{where}: {name} = "{value}" is not a label of the task.{nearest(value, labels)}')
    return codes


def _refuse_doubled(
    table: pa.Table, prompts: tuple[str, ...], rows: tuple[str, ...], place: Ints, counts: Ints, where: str
) -> None:
    if not (counts > 1).any():
        return
    cell = int((counts > 1).argmax())
    i, j = divmod(cell, len(rows))
    twins = table.take(pa.array(np.flatnonzero(place == cell))).select(["label", "predicted", "correct"]).to_pylist()
    kind = "the same answer" if all(t == twins[0] for t in twins) else "contradictory answers"
    raise ScoreError(
        f'{where}: prompt "{prompts[i]}" on row "{rows[j]}" is scored {counts[cell]} times with {kind} '
        f"({int((counts > 1).sum())} such cells). One score per cell: remove the file and run again"
    )


def _refuse_contradiction(
    bad: NDArray[np.bool_], prompts: tuple[str, ...], rows: tuple[str, ...], where: str, what: str
) -> None:
    if bad.any():
        i, j = np.unravel_index(int(bad.argmax()), bad.shape)
        raise ScoreError(f'{where}: prompt "{prompts[i]}", row "{rows[j]}": {what}')


def _logprobs(column: pa.ChunkedArray, order: Ints, shape: tuple[int, int]) -> tuple[Floats | None, bool]:
    flat = pc.list_flatten(column).to_numpy(zero_copy_only=False).astype(np.float64)
    nan = bool(np.isnan(flat).any())
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    if lengths[0] == 0 or (lengths != lengths[0]).any():
        return None, nan
    return flat.reshape(len(order), int(lengths[0]))[order].reshape(*shape, int(lengths[0])), nan
