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
BINS = 10  # bins of equal width for the calibration error
CANDIDATES = 512  # thresholds that are tried; more would not matter with a few hundred rows
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
    return float(_f1_macro_at(p, positive, np.array([threshold]))[0])


def _f1_macro_at(p: Floats, positive: Bools, thresholds: Floats) -> Floats:
    """[T] f1_macro at each threshold. A label that is neither right nor answered anywhere counts 0, as in
    scikit-learn."""
    n_pos, n = int(positive.sum()), positive.size
    true = n_pos - np.searchsorted(np.sort(p[positive]), thresholds, "right")  # positives above the threshold
    false = (n - n_pos) - np.searchsorted(np.sort(p[~positive]), thresholds, "right")
    size = true + false + n_pos
    of_positive = np.where(size > 0, 2.0 * true / np.maximum(size, 1), 0.0)
    kept = (n - n_pos) - false  # negatives not above it
    size = (n - true - false) + (n - n_pos)
    of_negative = np.where(size > 0, 2.0 * kept / np.maximum(size, 1), 0.0)
    return np.asarray((of_positive + of_negative) / 2.0)


def common_threshold(p: Floats, positive: Bools, seen: Bools | None = None) -> float:
    """The threshold with the largest mean f1_macro over the prompts of ``p`` [P, R], each on its cells in ``seen``
    (default: all); among equals the one nearest to 0.5."""
    of_prompt = list(zip(p, np.ones(p.shape, bool) if seen is None else seen, strict=True))
    tried = _between(p if seen is None else p[seen])
    mean = np.mean([_f1_macro_at(each[at], positive[at], tried) for each, at in of_prompt if at.any()], axis=0)
    return _best(tried, mean)[0]


def own_threshold(p: Floats, positive: Bools) -> tuple[float, float]:
    """(the best threshold for the rows of one prompt, its f1_macro)."""
    tried = _between(p)
    return _best(tried, _f1_macro_at(p, positive, tried))


def _between(p: Floats) -> Floats:
    """The thresholds to try: the middles between neighbouring chances, at most ``CANDIDATES`` of them, and 0.5."""
    values = np.unique(p)
    middles = (values[1:] + values[:-1]) / 2.0
    if middles.size > CANDIDATES:
        middles = middles[np.linspace(0, middles.size - 1, CANDIDATES).round().astype(int)]
    return np.unique(np.append(middles, 0.5))


def _best(tried: Floats, value: Floats) -> tuple[float, float]:
    top = np.flatnonzero(value >= value.max() - 1e-12)
    at = top[np.argmin(np.abs(tried[top] - 0.5))]
    return float(tried[at]), float(value[at])


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
