"""Metrics of a trial's score rows: per prompt, and the one objective by which trials are compared.

``objective`` is ``mean - std_weight * std`` of the per-prompt metric. Prompts and rows are crossed random factors:
every prompt meets the same rows, so the error of a mean has a prompt part, a row part and a cell part, and treating
cells as independent would understate it many times. Of a sample of the grid every number is an estimate of what the
whole grid would give (``trainer.measure.estimate``). Only numpy and pyarrow: the scheduler's side reads this too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from trainer.measure.confusion import count_labels, formula_of, pseudo_values, smoothed_counts
from trainer.measure.estimate import GridEstimate, estimate_grid, rasch
from trainer.measure.grid import Floats, Grid, ScoreError, read_grid
from trainer.measure.placements import area_pseudo_values, areas, ranks_rows, sampled_areas
from trainer.measure.registry import ACCURACY, kind_of, label_of, misfit


def per_prompt(scores: Grid, metric: str) -> Floats:
    """[P] the metric of every prompt; ``registry`` says what each is. A cell without an answer counts as wrong. Of a
    sample: values whose mean, spread and order are the best estimates of the whole grid's."""
    _check_metric(scores, metric)
    if scores.seen is not None:
        return grid_estimate(scores, metric).each
    if kind_of(metric).ranks:
        return areas(scores)
    if metric == ACCURACY:
        return scores.correct.mean(axis=1)
    return formula_of(metric, scores.labels)(count_labels(scores))[0]


def means(scores: Grid, metrics: Iterable[str]) -> dict[str, float | None]:
    """Of each metric, averaged over the prompts, and of a sample the estimate of that; None for one that the grid does
    not have. The answers to a whole grid are counted once for all."""
    counts, found = count_labels(scores) if scores.seen is None else None, dict[str, float | None]()
    for metric in metrics:
        if misfit(metric, scores.labels) or (kind_of(metric).ranks and not ranks_rows(scores)):
            found[metric] = None
            continue
        if kind_of(metric).ranks:
            each = areas(scores) if scores.seen is None else sampled_areas(scores)
        elif counts is None:
            each = per_prompt(scores, metric)
        else:
            each = formula_of(metric, scores.labels)(counts)[0]
        mean = float(each.mean())
        found[metric] = None if math.isnan(mean) else mean
    return found


def cells(scores: Grid, metric: str) -> Floats:
    """[P, R] values whose mean over rows is the per-prompt metric, and whose spread over rows gives its error.

    Accuracy: 1 where correct, else 0. Other metrics are no means of cells; these are their pseudo-values, the metric
    plus R times its derivative with respect to the row's weight (infinitesimal jackknife), so one set of formulas and
    one bootstrap serve all metrics. Exact for accuracy, first order in 1/R for the others. Of a sample, cells that were
    not scored hold a number without meaning, and the metric is expanded around each prompt's smoothed answers."""
    _check_metric(scores, metric)
    if metric == ACCURACY:
        return scores.correct.astype(np.float64)
    if kind_of(metric).ranks:
        return area_pseudo_values(scores)
    counts = count_labels(scores) if scores.seen is None else smoothed_counts(scores)
    return pseudo_values(scores, counts, formula_of(metric, scores.labels))


def least_rows(scores: Grid, metric: str) -> int:
    """The rows of the label of which the metric knows least: with few of them, even answers that are all right say
    little. All rows for accuracy."""
    if metric == ACCURACY:
        return len(scores.rows)
    counts, label = np.bincount(scores.label, minlength=len(scores.labels)), label_of(metric)
    return max(int(counts[counts > 0].min() if label is None else counts[scores.labels.index(label)]), 1)


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
    the others, which are no means of chances, from their pseudo-values. ScoreError for a metric that ranks rows: each
    row's placement needs the prompt's other rows."""
    if scores.seen is None:
        raise ValueError("the whole grid was scored: there is nothing to estimate")
    shape = rasch(scores.correct, scores.seen, scores.label) if metric == ACCURACY else None
    lowest = kind_of(metric).lowest
    return estimate_grid(cells(scores, metric), scores.seen, scores.label, scores.n_rows, shape, lowest)


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


def _check_metric(scores: Grid, metric: str) -> None:
    if wrong := misfit(metric, scores.labels):
        raise ScoreError(f'task.metric = "{metric}" {wrong}')
