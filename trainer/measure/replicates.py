"""The objective of a configuration: of trials that differ in their seed alone."""

from __future__ import annotations

import math
from collections.abc import Sequence


def objective_of_seeds(objectives: Sequence[float], stds: Sequence[float], std_weight: float) -> float:
    """``mean - std_weight * std`` over seeds and prompts together. ``objectives`` and ``stds`` are those of the seeds:
    ``mean - std_weight * std`` over the prompts, and that std.

    A user gets one seed and meets one prompt, so the std is that of both: the seeds' mean variance over prompts, and
    the variance (ddof 1) between the seeds' means. A setting whose fine-tunes differ much is worth less for it; by the
    mean alone it would win more often than others, as the best of many noisy results does. With one seed it is that
    seed's objective. NaN if one seed's is."""
    n = len(objectives)
    if n == 1:
        return objectives[0]
    means = [value + std_weight * std for value, std in zip(objectives, stds, strict=True)]
    mean = sum(means) / n
    between = sum((m - mean) ** 2 for m in means) / (n - 1)
    return mean - std_weight * math.sqrt(sum(std**2 for std in stds) / n + between)


def error_of_seeds(objectives: Sequence[float], stderrs: Sequence[float | None]) -> float:
    """Standard error of the mean of the seeds' ``objectives``, each with its own ``stderrs``. Prompts and rows are
    shared, so their part does not shrink with seeds: it is the mean of the squared errors, and the variance between
    seeds (ddof 1) over their number is added. NaN where the error of one seed is not known."""
    n = len(objectives)
    if None in stderrs:
        return math.nan
    mean = sum(objectives) / n
    between = sum((value - mean) ** 2 for value in objectives) / (n - 1) / n if n > 1 else 0.0
    return math.sqrt(sum(float(e) ** 2 for e in stderrs if e is not None) / n + between)
