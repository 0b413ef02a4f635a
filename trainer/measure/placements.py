"""The area under the ROC curve from the placements of the rows (Mann-Whitney; Hanley and McNeil 1982).

A row's placement is the share of the other label's rows that the scores put on the right side of it, ties counting
half. The mean over the rows of either label is the area, and the spread within each label gives its error (DeLong,
DeLong and Clarke-Pearson 1988). numpy only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.measure.grid import Floats, Grid, ScoreError

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
    if second.all() or not second.any() or np.isnan(score).any():
        return float("nan")
    return float(placements(second, score[None])[0, second].mean())


def placements(second: Bools, score: Floats) -> Floats:
    """[P, R] of the rows under every prompt, from ``score`` [P, R]; both labels occur in ``second`` [R]."""
    found = np.empty(score.shape)
    for own, sign in ((second, 1.0), (~second, -1.0)):
        for row, placed in zip(sign * score, found, strict=True):
            others = np.sort(row[~own])
            below = np.searchsorted(others, row[own], "left") + np.searchsorted(others, row[own], "right")
            placed[own] = below / (2.0 * len(others))
    return found


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
