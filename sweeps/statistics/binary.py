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
from trainer.measure.placements import roc_auc

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
    own = [own_threshold(each, positive) for each in p]
    at_tuned = math.nan if dev is None else float(np.mean([f1_macro(each, positive, tuned) for each in p]))
    at_own = float(np.mean([value for _, value in own]))
    found = {
        "f1_half": float(np.mean([f1_macro(each, positive, 0.5) for each in p])),
        "threshold": tuned,
        "f1_tuned": at_tuned,
        "f1_own": at_own,
        "drift": at_own - at_tuned,
        "threshold_std": float(np.std([t for t, _ in own], ddof=1)) if len(own) > 1 else math.nan,
        "roc_auc": float(np.mean([roc_auc(positive, each) for each in p])),
        "pr_auc": float(np.mean([average_precision(positive, each) for each in p])),
        "brier": float(((p - positive) ** 2).mean()),
        "ece": float(np.mean([calibration_error(positive, each) for each in p])),
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


def f1_macro(p: Floats, positive: Bools, threshold: float) -> float:
    """Macro-F1 over the rows [R] of one prompt; the answer is positive where the chance is above the threshold."""
    below, n_pos = p <= threshold, int(positive.sum())
    missed, kept = np.array([(below & positive).sum()]), np.array([(below & ~positive).sum()])
    return float(_f1_macro(missed, kept, n_pos, positive.size - n_pos)[0])


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
    of_prompt = zip(p, np.ones(p.shape, bool) if seen is None else seen, strict=True)
    steps = [_steps(each[at], positive[at]) for each, at in of_prompt if at.any()]
    passed, change = (np.concatenate(parts) for parts in zip(*((v, c) for v, c, _ in steps), strict=True))
    order = np.argsort(passed)
    passed = passed[order]
    mean = np.append(0.0, np.cumsum(change[order])) / len(steps) + np.mean([first for _, _, first in steps])
    edges = np.unique(np.concatenate([[0.0], passed, [1.0]]))
    tried = np.concatenate([(edges[1:] + edges[:-1]) / 2.0, [0.5, 1.0]])
    value = mean[np.searchsorted(passed, tried, "right")]
    top = tried[value >= value.max() - EQUAL]
    return float(top[np.argmin(np.abs(top - 0.5))])


def _steps(p: Floats, positive: Bools) -> tuple[Floats, Floats, float]:
    """(the chances of one prompt, by how much f1_macro changes where the threshold passes each, and what it is below
    all of them)."""
    n_pos = int(positive.sum())
    order = np.argsort(p)
    values = p[order]
    last = np.flatnonzero(np.diff(values, append=np.inf))  # the last row of each chance that occurs
    missed = np.append(0, np.cumsum(positive[order])[last])
    f1 = _f1_macro(missed, np.append(0, last + 1) - missed, n_pos, p.size - n_pos)
    return values[last], np.diff(f1), float(f1[0])


def own_threshold(p: Floats, positive: Bools) -> tuple[float, float]:
    """(the best threshold for the rows of one prompt, its f1_macro)."""
    best = common_threshold(p[None], positive)
    return best, f1_macro(p, positive, best)


def average_precision(positive: Bools, p: Floats) -> float:
    """Precision at each chance that occurs, weighted by the recall gained there, as in scikit-learn; NaN without
    positives."""
    n_pos = int(positive.sum())
    if n_pos == 0 or np.isnan(p).any():
        return math.nan
    order = np.argsort(-p, kind="stable")
    last = np.append(np.flatnonzero(np.diff(p[order])), p.size - 1)  # the last row of each chance that occurs
    hits = np.cumsum(positive[order])[last]
    return float((hits / (last + 1) * np.diff(hits, prepend=0)).sum() / n_pos)


def calibration_error(positive: Bools, p: Floats) -> float:
    """Mean over rows of the difference between their bin's share of positives and its mean chance (Naeini et al.
    2015)."""
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    off = np.bincount(bins, weights=p - positive, minlength=BINS)
    return float(np.abs(off).sum() / p.size)
