"""Metrics of right and given answers: the value of every prompt, and its derivative with respect to the counts.

All of them are functions of three counts per label: rows that have it (``right``), answers that give it (``answered``)
and both at once (``hits``). So one gradient per metric gives its pseudo-values: the weight of a row moves the counts of
its right label and of its answer, and nothing else (the infinitesimal jackknife; Efron and Tibshirani 1993, ch. 22).
The formulas are scikit-learn's, see ``registry.py``. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainer.measure.grid import NO_ANSWER, Floats, Grid, Ints
from trainer.measure.registry import label_of

PRIOR = 10.0  # weight, in cells, of all prompts' answers where a prompt's counts are estimated from a sample
assert NO_ANSWER == -1, "it indexes the last column of ``LabelCounts.answered``"


@dataclass(frozen=True)
class LabelCounts:
    """Counts of each of P prompts and K labels; derivatives with respect to them have the same form."""

    hits: Floats  # [P, K] rows of the label that are answered right
    answered: Floats  # [P, K + 1] answers that give the label; the last: cells without an answer
    right: Floats  # [P, K], or [1, K] where all prompts have the same


Formula = Callable[[LabelCounts], tuple[Floats, LabelCounts]]  # to values [P], and their derivatives


def formula_of(metric: str, labels: tuple[str, ...]) -> Formula:
    """KeyError for a metric that is none of counts."""
    label = label_of(metric)
    return _FORMULAS[metric] if label is None else _f1_of(labels.index(label))


def pseudo_values(scores: Grid, counts: LabelCounts, formula: Formula) -> Floats:
    """[P, R] the value at ``counts`` plus R times its derivative with respect to the row's weight."""
    value, slope = formula(counts)
    at = np.arange(len(scores.prompts))[:, None]
    of_right = np.broadcast_to(slope.right, slope.hits.shape).take(scores.label, axis=1)
    step = of_right + slope.answered[at, scores.predicted] + scores.correct * slope.hits.take(scores.label, axis=1)
    found: Floats = value[:, None] + len(scores.rows) * step
    return found


def count_labels(scores: Grid) -> LabelCounts:
    """Of a whole grid."""
    return counted_answers(scores.predicted, scores.label, len(scores.labels))


def counted_answers(predicted: Ints, label: Ints, k: int) -> LabelCounts:
    """Of the answers ``predicted`` [P, R] to rows whose right labels are ``label`` [R], numbers below ``k``."""
    p = len(predicted)
    at = np.arange(p)[:, None]
    right = (predicted == label).ravel()
    hits = np.bincount((at * k + label).ravel(), weights=right, minlength=p * k).reshape(p, k)
    none_first = np.bincount((at * (k + 1) + predicted - NO_ANSWER).ravel(), minlength=p * (k + 1)).reshape(p, k + 1)
    answered = np.roll(none_first, NO_ANSWER, axis=1).astype(float)
    return LabelCounts(hits.astype(float), answered, np.bincount(label, minlength=k)[None].astype(float))


def answer_counts(scores: Grid) -> Ints:
    """[K, K + 1] the scored cells of each right label by answer; the last column: cells without an answer."""
    k = len(scores.labels)
    place = scores.label * (k + 1) + np.where(scores.predicted == NO_ANSWER, k, scores.predicted)
    scored = place.ravel() if scores.seen is None else place[scores.seen]
    return np.bincount(scored, minlength=k * (k + 1)).reshape(k, k + 1)


def smoothed_counts(scores: Grid) -> LabelCounts:
    """Of a sample, for the rows that it touches: each prompt's answers to the rows of a label, with ``PRIOR`` cells of
    all prompts' answers mixed in. The pseudo-values around it make up for the mixture to first order; without it a few
    cells would put the derivative far off."""
    assert scores.seen is not None
    p, n, k = len(scores.prompts), len(scores.rows), len(scores.labels)
    hits, answered = np.zeros((p, k)), np.zeros((p, k + 1))
    right = np.bincount(scores.label, minlength=k).astype(np.float64)
    for label in np.flatnonzero(right):
        columns = scores.label == label
        seen = scores.seen[:, columns]
        answer = np.where(scores.predicted[:, columns] == NO_ANSWER, k, scores.predicted[:, columns])
        place = (np.arange(p)[:, None] * (k + 1) + answer)[seen]
        counts = np.bincount(place, minlength=p * (k + 1)).reshape(p, k + 1)
        prior = PRIOR * right[label] / n
        mixed = counts + prior * counts.sum(axis=0) / max(int(seen.sum()), 1)
        share = mixed / (seen.sum(axis=1, keepdims=True) + prior)
        answered += right[label] * share
        hits[:, label] = right[label] * share[:, label]
    return LabelCounts(hits, answered, right[None])


# the formulas ---------------------------------------------------------------------------------------------------------


def _accuracy(c: LabelCounts) -> tuple[Floats, LabelCounts]:
    """hits / rows."""
    n = c.right.sum()
    value = c.hits.sum(axis=1) / n
    return value, _slopes(c, hits=1.0 / n, right=-value[:, None] / n)


def _balanced_accuracy(c: LabelCounts) -> tuple[Floats, LabelCounts]:
    """The mean of hits / right over the labels that rows have."""
    labels = np.count_nonzero(c.right, axis=1)[:, None]
    recall = _ratio(c.hits, c.right)
    slope = _ratio(1.0 / labels, c.right)
    return recall.sum(axis=1) / labels[:, 0], _slopes(c, hits=slope, right=-recall * slope)


def _f1(c: LabelCounts) -> tuple[Floats, Floats]:
    """[P, K] F1 of every label, 2 hits / (answered + right), 0 where it neither occurs nor is answered; and
    1 / (answered + right)."""
    inverse = _ratio(1.0, c.answered[:, :-1] + c.right)
    return 2.0 * c.hits * inverse, inverse


def _f1_macro(c: LabelCounts) -> tuple[Floats, LabelCounts]:
    f1, inverse = _f1(c)
    k = f1.shape[1]
    return f1.mean(axis=1), _slopes(c, hits=2.0 * inverse / k, right=-f1 * inverse / k, answered=-f1 * inverse / k)


def _f1_weighted(c: LabelCounts) -> tuple[Floats, LabelCounts]:
    f1, inverse = _f1(c)
    n, weight = c.right.sum(), c.right / c.right.sum()
    value = (weight * f1).sum(axis=1)
    lost = -weight * f1 * inverse
    of_weight = (f1 - value[:, None]) / n
    return value, _slopes(c, hits=2.0 * weight * inverse, right=lost + of_weight, answered=lost)


def _f1_of(label: int) -> Formula:
    def formula(c: LabelCounts) -> tuple[Floats, LabelCounts]:
        f1, inverse = _f1(c)
        only = np.arange(f1.shape[1]) == label
        lost = -f1 * inverse * only
        return f1[:, label], _slopes(c, hits=2.0 * inverse * only, right=lost, answered=lost)

    return formula


def _matthews_corrcoef(c: LabelCounts) -> tuple[Floats, LabelCounts]:
    """With n rows: (n hits - right . answered) / sqrt((n² - answered²) (n² - right²)); Gorodkin 2004. 0 where all
    answers, or all rows, are of one label: there it has no derivative either."""
    n, hits = c.right.sum(), c.hits.sum(axis=1, keepdims=True)
    answered = c.answered[:, :-1]
    spread_answered = n**2 - (c.answered**2).sum(axis=1, keepdims=True)
    spread_right = n**2 - (c.right**2).sum(axis=1, keepdims=True)
    product = spread_answered * spread_right
    some = np.minimum(spread_answered, spread_right) > 1e-11 * n**2  # less is rounding
    scale = np.where(some, 1.0 / np.sqrt(np.where(some, product, 1.0)), 0.0)
    value = (n * hits - (c.right * answered).sum(axis=1, keepdims=True)) * scale
    by_answered = np.where(some, value / np.where(some, spread_answered, 1.0), 0.0)
    by_right = np.where(some, value / np.where(some, spread_right, 1.0), 0.0)
    of_right = (hits - answered) * scale - n * by_answered - (n - c.right) * by_right
    of_answered = by_answered * c.answered
    of_answered[:, :-1] -= c.right * scale
    return value[:, 0], LabelCounts(np.broadcast_to(n * scale, c.hits.shape), of_answered, of_right)


_FORMULAS: dict[str, Formula] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "f1_macro": _f1_macro,
    "f1_weighted": _f1_weighted,
    "matthews_corrcoef": _matthews_corrcoef,
}


def _ratio(above: Floats | float, below: Floats) -> Floats:
    """0 where ``below`` is 0."""
    found: Floats = np.where(below > 0, above / np.where(below > 0, below, 1.0), 0.0)
    return found


def _slopes(c: LabelCounts, hits: Floats | float, right: Floats | float, answered: Floats | float = 0.0) -> LabelCounts:
    """Derivatives in the form of ``c``; a cell without an answer moves none of these metrics by itself."""
    of_answered = np.zeros(c.answered.shape)
    of_answered[:, :-1] = answered
    return LabelCounts(np.broadcast_to(hits, c.hits.shape), of_answered, np.broadcast_to(right, c.hits.shape))
