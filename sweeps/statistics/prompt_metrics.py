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


def consistency_rate(predicted: Ints, seen: NDArray[np.bool_] | None = None) -> float:
    """The CR of SCORE: mean over rows of the share of prompt pairs with the same answer; NaN with one prompt. Of a
    sample, in which the cells are ``seen``: over the rows that have such pairs."""
    seen = np.ones(predicted.shape, bool) if seen is None else seen
    met = seen.sum(axis=0)
    if not (met > 1).any():
        return math.nan
    counts = np.stack([((predicted == answer) & seen).sum(axis=0) for answer in np.unique(predicted[seen])])
    agree = (counts * (counts - 1)).sum(axis=0)
    return float((agree[met > 1] / (met * (met - 1))[met > 1]).mean())


def prompt_sensitivity(correct: NDArray[np.bool_], seen: NDArray[np.bool_] | None = None) -> float:
    """The PSS of ProSA: mean over rows of the mean |difference| in correctness of two prompts, 2 q (1 - q) P/(P - 1)
    of the P prompts that the row has met; NaN with one prompt."""
    seen = np.ones(correct.shape, bool) if seen is None else seen
    met = seen.sum(axis=0)
    if not (met > 1).any():
        return math.nan
    several = met[met > 1]
    q = (correct & seen).sum(axis=0)[met > 1] / several
    return float((2.0 * q * (1.0 - q) * several / (several - 1)).mean())
