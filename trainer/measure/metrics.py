"""Metrics of a trial's score rows: per prompt, and the one objective by which trials are compared.

``objective`` is ``mean - std_weight * std`` of the per-prompt metric. Prompts and rows are crossed random factors:
every prompt meets the same rows, so the error of a mean has a prompt part, a row part and a cell part, and treating
cells as independent would understate it many times. Of a sample of the grid every number is an estimate of what the
whole grid would give (``trainer.measure.estimate``). Only numpy and pyarrow: the scheduler's side reads this too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from trainer.errors import nearest
from trainer.measure.estimate import GridEstimate, estimate_grid, rasch
from trainer.measure.grid import NO_ANSWER, Floats, Grid, ScoreError, read_grid

METRICS = ("accuracy", "macro_f1")
PRIOR = 10.0  # weight, in cells, of all prompts' answers where a prompt's macro-F1 is estimated from a sample


def per_prompt(scores: Grid, metric: str) -> Floats:
    """[P] accuracy or macro-F1 of every prompt, as a fraction of 1. A cell without an answer counts as wrong. Of a
    sample: values whose mean, spread and order are the best estimates of the whole grid's."""
    _check_metric(metric)
    if scores.seen is not None:
        return grid_estimate(scores, metric).each
    if metric == "accuracy":
        return scores.correct.mean(axis=1)
    f1, _ = _f1(scores)
    return f1.mean(axis=1)


def cells(scores: Grid, metric: str) -> Floats:
    """[P, R] values whose mean over rows is the per-prompt metric, and whose spread over rows gives its error.

    Accuracy: 1 where correct, else 0. Macro-F1 is no mean of cells; these are its pseudo-values, the metric plus R
    times its derivative with respect to the row's weight (infinitesimal jackknife), so one set of formulas and one
    bootstrap serve both metrics. Exact for accuracy, first order in 1/R for macro-F1. Of a sample, cells that were not
    scored hold a number without meaning, and macro-F1 is expanded around each prompt's smoothed answers."""
    _check_metric(metric)
    if metric == "accuracy":
        return scores.correct.astype(np.float64)
    # F1_k = 2 TP_k / size_k with size_k = right + predicted
    f1, size = _f1(scores) if scores.seen is None else _smoothed_f1(scores)
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
    n_rows: int  # of the whole grid
    degenerate: bool
    top_label_share: float
    parse_fail_rate: float
    n_cells: int = 0  # that were scored
    sampling: float = 0.0  # standard error of ``value`` against the whole grid's; 0 where that was scored
    unread: bool = False  # degenerate because nearly no answer could be read


def objective(
    table: pa.Table,
    metric: str,
    std_weight: float,
    labels: Sequence[str] = (),
    where: str = "score rows",
    sample: Mapping[str, int] | None = None,
) -> Objective:
    """``mean - std_weight * std`` of the per-prompt metric over one grid, or the ``sample`` of it that the record
    declares, with its standard error."""
    return grid_objective(read_grid(table, labels, where, sample), metric, std_weight)


def grid_objective(scores: Grid, metric: str, std_weight: float) -> Objective:
    """``objective`` of a grid that has been read already."""
    if scores.seen is None:
        values = cells(scores, metric)
        each = per_prompt(scores, metric)
        mean, std = float(each.mean()), spread(each)
        stderr, sampling = objective_stderr(values, std_weight), 0.0
    else:
        found = grid_estimate(scores, metric)
        each, mean, std, sampling = found.each, found.mean, found.std, found.value_error(std_weight)
        stderr = math.sqrt(_prompt_variance(each, std_weight) + found.rows_variance + sampling**2)
    return Objective(
        value=math.nan if scores.nan else mean - std_weight * std,
        stderr=stderr,
        mean=mean,
        std=std,
        min=float(each.min()),
        n_prompts=len(scores.prompts),
        n_rows=scores.n_rows,
        degenerate=scores.degenerate,
        top_label_share=scores.top_label_share,
        parse_fail_rate=scores.parse_fail_rate,
        n_cells=scores.n_cells,
        sampling=sampling,
        unread=scores.unread,
    )


def grid_estimate(scores: Grid, metric: str) -> GridEstimate:
    """What a sample says about the whole grid. Accuracy takes the distances between prompts from the Rasch model;
    macro-F1, which is no mean of chances, from its pseudo-values."""
    if scores.seen is None:
        raise ValueError("the whole grid was scored: there is nothing to estimate")
    shape = rasch(scores.correct, scores.seen, scores.label) if metric == "accuracy" else None
    return estimate_grid(cells(scores, metric), scores.seen, scores.label, scores.n_rows, shape)


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
    of_prompts, of_rows = _prompt_variance(by_prompt, std_weight), 0.0
    if r > 1:
        without = (r * by_prompt[:, None] - values) / (r - 1)  # [P, R] per-prompt metric without row i
        value = without.mean(axis=0)
        if p > 1:
            value = value - std_weight * without.std(axis=0, ddof=1)
        of_rows = float((r - 1) / r * ((value - value.mean()) ** 2).sum())
    twice = two_way(values).ms_residual / r * (1 / p + std_weight**2 / (p - 1)) if p > 1 and r > 1 else 0.0
    return math.sqrt(max(of_prompts + of_rows - twice, of_prompts, of_rows))


def _prompt_variance(by_prompt: Floats, std_weight: float) -> float:
    """Variance of ``mean - std_weight * std`` of the per-prompt values [P] for new prompts: delete-one jackknife."""
    p = len(by_prompt)
    if p < 2:
        return 0.0
    left = (p * by_prompt.mean() - by_prompt) / (p - 1)
    value = left
    if p > 2:
        squares = ((by_prompt**2).sum() - by_prompt**2) / (p - 1) - left**2
        value = left - std_weight * np.sqrt(np.maximum(squares, 0.0) * (p - 1) / (p - 2))
    return float((p - 1) / p * ((value - value.mean()) ** 2).sum())


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


def _smoothed_f1(scores: Grid) -> tuple[Floats, Floats]:
    """``_f1`` of a sample: each prompt's answers to the rows of a label, with ``PRIOR`` cells of all prompts' answers
    mixed in. The pseudo-values around it make up for the mixture to first order; without it a few cells would put
    the derivative far off."""
    assert scores.seen is not None
    n, k = len(scores.rows), len(scores.labels)
    f1_hits, answers = np.zeros((len(scores.prompts), k)), np.zeros((len(scores.prompts), k))
    rows_of = np.bincount(scores.label, minlength=k).astype(np.float64)
    for label in np.flatnonzero(rows_of):
        columns = scores.label == label
        seen = scores.seen[:, columns]
        given = np.where(seen, scores.predicted[:, columns], NO_ANSWER)
        counts = np.stack([(given == answer).sum(axis=1) for answer in range(k)], axis=1)  # [P, K]
        prior = PRIOR * rows_of[label] / n
        mixed = counts + prior * counts.sum(axis=0) / max(int(seen.sum()), 1)
        share = mixed / (seen.sum(axis=1, keepdims=True) + prior)
        answers += rows_of[label] * share
        f1_hits[:, label] = rows_of[label] * share[:, label]
    size = answers + rows_of
    return np.where(size > 0, 2.0 * f1_hits / np.maximum(size, 1e-300), 0.0), size


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise ScoreError(f'task.metric = "{metric}" is not known.{nearest(str(metric), METRICS)}')
