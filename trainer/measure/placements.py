"""The area under the ROC curve from the placements of the rows (Mann-Whitney; Hanley and McNeil 1982).

A row's placement is the share of the other label's rows that the scores put on the right side of it, ties counting
half. The mean over the rows of either label is the area, and the spread within each label gives its error (DeLong,
DeLong and Clarke-Pearson 1988). numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.measure.grid import Floats, Grid, Ints, ScoreError

Bools = NDArray[np.bool_]


def areas(scores: Grid) -> Floats:
    """[P] the area of every prompt, between the two labels. A cell without an answer lies on the wrong side of all."""
    second = scores.label == 1
    found: Floats = placements(second, _scores_of(scores))[:, second].mean(axis=1)
    return found


def sampled_areas(scores: Grid) -> Floats:
    """[P] of a sample, each over the prompt's own cells; NaN where these are of one label."""
    assert scores.seen is not None
    gaps = _gaps(scores)
    return np.array([roc_auc(scores.label[own] == 1, gap[own]) for gap, own in zip(gaps, scores.seen, strict=True)])


def area_pseudo_values(scores: Grid) -> Floats:
    """[P, R] the area plus R times its derivative with respect to the row's weight."""
    second = scores.label == 1
    placed = placements(second, _scores_of(scores))
    area = placed[:, second].mean(axis=1, keepdims=True)
    share = np.where(second, second.mean(), 1.0 - second.mean())
    found: Floats = area + (placed - area) / share
    return found


def roc_auc(second: Bools, score: Floats) -> float:
    """The chance that a row of the second label scores above one of the first, from ``score`` [R]; NaN where the rows
    have one label only, or a score is NaN."""
    return float(roc_aucs(second, score[None])[0])


def roc_aucs(second: Bools, score: Floats) -> Floats:
    """[P] ``roc_auc`` of every prompt, from ``score`` [P, R]."""
    if second.all() or not second.any():
        return np.full(len(score), np.nan)
    of_second = np.ascontiguousarray(placements(second, score)[:, second])
    return np.where(np.isnan(score).any(axis=1), np.nan, of_second.mean(axis=1))


def placements(second: Bools, score: Floats) -> Floats:
    """[P, R] of the rows under every prompt, from ``score`` [P, R] without NaN; both labels occur in ``second`` [R]."""
    at = Sorted.of(score)
    n_second = int(second.sum())
    of_second = np.cumsum(second[at.order], axis=1, dtype=np.int64)
    of_first = np.arange(1, second.size + 1) - of_second
    # twice the rows of the other label on the right side: those that are passed, and half of those that are equal
    below = at.through(of_first) + at.before(of_first)
    above = 2 * n_second - at.through(of_second) - at.before(of_second)
    found = np.empty(score.shape)
    placed = np.where(second[at.order], below / (2.0 * (second.size - n_second)), above / (2.0 * n_second))
    np.put_along_axis(found, at.order, placed, axis=1)
    return found


@dataclass(frozen=True)
class Sorted:
    """Rows [R] of every prompt by ascending value, where equal values stand as one group."""

    order: Ints  # [P, R]
    values: Floats  # [P, R] in this order
    first: Ints  # [P, R] the place where the group of each place begins
    last: Ints  # [P, R] and where it ends

    @classmethod
    def of(cls, values: Floats) -> Sorted:
        order = np.argsort(values, axis=1)
        ordered = np.take_along_axis(values, order, axis=1)
        p, r = values.shape
        new = np.ones((p, r + 1), bool)  # a group begins here; behind the last place, too
        new[:, 1:-1] = ordered[:, 1:] != ordered[:, :-1]
        place = np.arange(r)
        first = np.maximum.accumulate(np.where(new[:, :-1], place, 0), axis=1)
        last = np.minimum.accumulate(np.where(new[:, 1:], place, r)[:, ::-1], axis=1)[:, ::-1]
        return cls(order, ordered, first, last)

    @property
    def ends(self) -> Bools:
        """[P, R] whether a group ends at the place."""
        return self.last == np.arange(self.order.shape[1])

    def through(self, counts: Ints) -> Ints:
        """``counts`` [P, R] up to each place, up to the end of its group instead."""
        return np.take_along_axis(counts, self.last, axis=1)

    def before(self, counts: Ints) -> Ints:
        """``counts`` [P, R] up to each place, up to where its group begins instead."""
        return np.where(self.first > 0, np.take_along_axis(counts, np.maximum(self.first - 1, 0), axis=1), 0)


def ranks_rows(scores: Grid) -> bool:
    """Whether the grid has what the area needs: rows of both labels, and their log-probabilities in every cell that was
    scored."""
    logprobs = scores.label_logprobs
    two = logprobs is not None and len(scores.labels) == 2 and logprobs.shape[2] == 2
    return two and len(np.unique(scores.label)) == 2


def _scores_of(scores: Grid) -> Floats:
    """``_gaps`` of a whole grid: ScoreError where it has none, or is a sample."""
    if scores.seen is not None or not ranks_rows(scores):
        raise ScoreError(
            'task.metric = "roc_auc" needs rows of two labels, and the log-probability of both in every cell. '
            "Use balanced_accuracy, f1_macro or matthews_corrcoef"
        )
    return _gaps(scores)


def _gaps(scores: Grid) -> Floats:
    """[P, R] by how much the second label's log-probability is higher."""
    assert scores.label_logprobs is not None
    with np.errstate(invalid="ignore"):  # of two infinite ones
        gap = scores.label_logprobs[:, :, 1] - scores.label_logprobs[:, :, 0]
    worst = np.where(scores.label == 1, -np.inf, np.inf)
    found: Floats = np.where(np.isnan(gap) | (scores.predicted == -1), worst, gap)
    return found
