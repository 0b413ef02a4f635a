"""Single numbers for a trial over prompts: combined performance, consistency, sensitivity."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trainer.measure.grid import Floats, Ints


def cps(per_prompt: Floats) -> float:
    """The combined performance score (Mizrahi et al. 2024): (1 - (max - mean)) * max."""
    best = float(per_prompt.max())
    return (1.0 - (best - float(per_prompt.mean()))) * best


def consistency_rate(predicted: Ints) -> float:
    """The CR of SCORE: mean over rows of the share of prompt pairs with the same answer; NaN with one prompt."""
    p = predicted.shape[0]
    if p < 2:
        return math.nan
    counts = np.stack([(predicted == answer).sum(axis=0) for answer in np.unique(predicted)])
    return float((counts * (counts - 1)).sum() / (predicted.shape[1] * p * (p - 1)))


def prompt_sensitivity(correct: NDArray[np.bool_]) -> float:
    """The PSS of ProSA: mean over rows of the mean |difference| in correctness of two prompts, 2 q (1 - q) P/(P -
    1)."""
    p = correct.shape[0]
    if p < 2:
        return math.nan
    q = correct.mean(axis=0)
    return float((2.0 * q * (1.0 - q)).mean() * p / (p - 1))
