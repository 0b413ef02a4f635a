"""Metrics of a task with two labels, of which one may be rare: at a threshold, over all thresholds, and of chances.

The positive label is the second one in the study; its chance is its share of the two labels' probabilities. One
threshold for all prompts is tuned on the dev prompts (largest mean f1_macro) and then used on the test prompts. The
best threshold for each test prompt is computed as well; a user could not know it. The difference in f1_macro between
the two is the threshold drift: it shows how far a prompt moves all chances up or down together. Generated text has no
chances, so it has none of these metrics.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trainer.measure.grid import Floats, Grid
from trainer.measure.placements import Sorted, roc_aucs

Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]
BINS = 10  # bins of equal width for the calibration error
EQUAL = 1e-9  # means of f1_macro that differ by less are equal: they are sums of up to millions of small steps
NUMBERS = (
    "f1_half", "threshold", "f1_tuned", "f1_own", "drift", "threshold_std", "roc_auc", "pr_auc", "brier", "ece",
    "positive_share", "chance_mean",
)  # fmt: skip
TITLES = {
    "f1_half": "macro-F1 at 0.5", "threshold": "tuned threshold", "f1_tuned": "macro-F1 tuned",
    "f1_own": "macro-F1, own thresholds", "drift": "drift", "threshold_std": "std of own thresholds",
    "roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "brier": "Brier score", "ece": "ECE",
    "positive_share": "positive rows", "chance_mean": "mean probability",
}  # fmt: skip
SAYS = {
    "f1_half": "f1_macro at a threshold of 0.5",
    "threshold": "the one threshold that is best on the dev prompts",
    "f1_tuned": "f1_macro on the test prompts at that threshold",
    "f1_own": "f1_macro if every test prompt had its own best threshold, which no user knows",
    "drift": "macro-F1 with own thresholds minus macro-F1 tuned, the threshold drift across prompts",
    "threshold_std": "standard deviation of the best thresholds of the test prompts",
    "roc_auc": "area under the ROC curve",
    "pr_auc": "average precision of the positive label",
    "brier": "mean squared error of the probability",
    "ece": f"expected calibration error, {BINS} bins",
    "positive_share": "share of rows with the positive label",
    "chance_mean": "mean probability of the positive label; where it differs from the share, all are moved up or down",
}


def binary_metrics(dev: Grid | None, test: Grid) -> dict[str, float | None]:
    """The metrics of one trial, averaged over the prompts of ``test``, which is whole; both have log-probabilities of
    two labels. Without dev scores there is no tuned threshold."""
    tuned = math.nan if dev is None else tuned_threshold(dev)
    p, positive = chances(test), test.label == 1
    own = own_thresholds(p, positive)
    at_own = float(f1_macro(p, positive, own[:, None]).mean())
    at_tuned = math.nan if dev is None else float(f1_macro(p, positive, tuned).mean())
    found = {
        "f1_half": float(f1_macro(p, positive, 0.5).mean()),
        "threshold": tuned,
        "f1_tuned": at_tuned,
        "f1_own": at_own,
        "drift": at_own - at_tuned,
        "threshold_std": float(own.std(ddof=1)) if len(own) > 1 else math.nan,
        "roc_auc": float(roc_aucs(positive, p).mean()),
        "pr_auc": float(average_precisions(positive, p).mean()),
        "brier": float(((p - positive) ** 2).mean()),
        "ece": float(calibration_errors(positive, p).mean()),
        "positive_share": float(positive.mean()),
        "chance_mean": float(p.mean()),
    }
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def tuned_threshold(dev: Grid) -> float:
    """The one threshold that is best on the dev prompts; of a sample, on the cells that were scored."""
    return common_threshold(chances(dev), dev.label == 1, dev.seen)


def chances(grid: Grid) -> Floats:
    """[P, R] chances of the second label, from the two labels' log-probabilities."""
    assert grid.label_logprobs is not None
    return np.asarray(1.0 / (1.0 + np.exp(grid.label_logprobs[:, :, 0] - grid.label_logprobs[:, :, 1])))


def f1_macro(p: Floats, positive: Bools, threshold: Floats | float) -> Floats:
    """[P] macro-F1 over the rows of each prompt of ``p`` [P, R]; the answer is positive where the chance is above the
    threshold, one or [P, 1]."""
    below, n_pos = p <= threshold, int(positive.sum())
    return _f1_macro((below & positive).sum(axis=1), (below & ~positive).sum(axis=1), n_pos, positive.size - n_pos)


def _f1_macro(missed: Counts, kept: Counts, n_pos: int, n_neg: int) -> Floats:
    """f1_macro where ``missed`` positives and ``kept`` negatives are not above the threshold. A label that is neither
    right nor answered anywhere counts 0, as in scikit-learn."""
    true, false = n_pos - missed, n_neg - kept
    of_positive = 2.0 * true / np.maximum(true + false + n_pos, 1)
    of_negative = 2.0 * kept / np.maximum(missed + kept + n_neg, 1)
    return np.asarray((of_positive + of_negative) / 2.0)


def common_threshold(p: Floats, positive: Bools, seen: Bools | None = None) -> float:
    """The threshold with the largest mean f1_macro over the prompts of ``p`` [P, R], each on its cells in ``seen``
    (default: all); among equals the one nearest to 0.5.

    The mean changes only where the threshold passes a chance, and there by the change of that prompt alone. So the sum
    of the changes up to each chance is the mean above it: all thresholds cost one sort. With a rare label the best one
    lies among the few largest chances."""
    steps = (
        [_steps(p, positive)]
        if seen is None
        else [_steps(each[None, own], positive[own]) for each, own in zip(p, seen, strict=True) if own.any()]
    )
    prompts = len(p) if seen is None else len(steps)
    passed, change = (np.concatenate(parts) for parts in zip(*((v, c) for v, c, _ in steps), strict=True))
    order = np.argsort(passed)
    passed = passed[order]
    mean = np.append(0.0, np.cumsum(change[order])) / prompts + np.mean([first for _, _, first in steps])
    edges = np.unique(np.concatenate([[0.0], passed, [1.0]]))
    tried = np.concatenate([(edges[1:] + edges[:-1]) / 2.0, [0.5, 1.0]])
    value = mean[np.searchsorted(passed, tried, "right")]
    top = tried[value >= value.max() - EQUAL]
    return float(top[np.argmin(np.abs(top - 0.5))])


def _steps(p: Floats, positive: Bools) -> tuple[Floats, Floats, float]:
    """(the chances of some prompts [P, R], by how much their f1_macro changes where the threshold passes each, and what
    it is below all of them)."""
    at = Sorted.of(p)
    change, first = _changes(at, positive)
    return at.values[at.ends], change[at.ends], first


def _changes(at: Sorted, positive: Bools) -> tuple[Floats, float]:
    """([P, R] by how much each prompt's f1_macro changes where the threshold passes the chance at a place of ``at``: 0
    but where a group ends; and what it is below all of them, the same for every prompt)."""
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    missed = np.cumsum(positive[at.order], axis=1, dtype=np.int64)
    above = _f1_macro(missed, np.arange(1, positive.size + 1) - missed, n_pos, n_neg)
    first = float(_f1_macro(np.array(0), np.array(0), n_pos, n_neg))
    below = np.where(at.first > 0, np.take_along_axis(above, np.maximum(at.first - 1, 0), axis=1), first)
    return np.where(at.ends, above - below, 0.0), first


def own_thresholds(p: Floats, positive: Bools) -> Floats:
    """[P] the best threshold for the rows of each prompt: ``common_threshold`` of every prompt by itself."""
    at = Sorted.of(p)
    change, first = _changes(at, positive)
    start = np.zeros((len(p), 1))
    mean = np.append(start, np.cumsum(change, axis=1), axis=1) + first  # [P, R + 1] after so many chances are passed
    edges = np.concatenate([start, at.values, start + 1.0], axis=1)
    between = (edges[:, 1:] + edges[:, :-1]) / 2.0
    # where two chances are neighbours among the numbers there are, what lies between them is the upper one
    through = np.append(at.last + 1, np.full((len(p), 1), positive.size), axis=1)
    passed = np.where(between < edges[:, 1:], np.arange(positive.size + 1), through)
    tried = np.concatenate([between, start + 0.5, start + 1.0], axis=1)
    passed = np.concatenate([passed, *((p <= one).sum(axis=1, keepdims=True) for one in (0.5, 1.0))], axis=1)
    value = np.take_along_axis(mean, passed, axis=1)
    value[:, :-2][edges[:, 1:] == edges[:, :-1]] = -np.inf  # nothing lies between
    away = np.where(value >= value.max(axis=1, keepdims=True) - EQUAL, np.abs(tried - 0.5), np.inf)
    found: Floats = np.take_along_axis(tried, away.argmin(axis=1)[:, None], axis=1)[:, 0]
    return found


def average_precisions(positive: Bools, p: Floats) -> Floats:
    """[P] precision at each chance that occurs, weighted by the recall gained there, as in scikit-learn; NaN without
    positives, or where a chance is NaN."""
    n_pos = int(positive.sum())
    if n_pos == 0:
        return np.full(len(p), np.nan)
    at = Sorted.of(-p)
    hits = np.cumsum(positive[at.order], axis=1, dtype=np.int64)
    terms = hits / np.arange(1, positive.size + 1) * (hits - at.before(hits))
    sums = [of_prompt[ends].sum() for of_prompt, ends in zip(terms, at.ends, strict=True)]
    return np.where(np.isnan(p).any(axis=1), np.nan, np.array(sums) / n_pos)


def calibration_errors(positive: Bools, p: Floats) -> Floats:
    """[P] the mean over rows of the difference between their bin's share of positives and its mean chance (Naeini et
    al. 2015), from ``p`` [P, R]; ``positive`` [R] or [P, R]."""
    prompts, rows = p.shape
    bins = np.minimum((p * BINS).astype(int), BINS - 1) + BINS * np.arange(prompts)[:, None]
    off = np.bincount(bins.ravel(), weights=(p - positive).ravel(), minlength=BINS * prompts).reshape(prompts, BINS)
    found: Floats = np.abs(off).sum(axis=1) / rows
    return found
