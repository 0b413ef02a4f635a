"""Whether a few prompts lie far from the rest, where intervals over prompts are too short.

A mean over prompts is judged by how much the prompts at hand differ. If 8 % of all wordings are far worse than the
rest, 10 prompts hold none of them in 43 % of studies, and the interval of the mean covers in .69 to .93 instead of .95
(20 to 40 points worse, 10 or 20 prompts, 500 rows: tests/sweeps/statistics/test_prompt_tests.py). What was drawn shows
it by its kurtosis. What was not drawn cannot show: reports say how many such wordings can go unseen
(``sweeps.display.text.unseen``).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from sweeps.statistics.intervals import excess_kurtosis
from trainer.measure.grid import Floats

FEWEST = 6  # prompts: of fewer, one that is far off cannot be told from chance
CHANCE = 0.01  # of normal prompts so many are called heavy-tailed
LEAST = (
    2.0  # excess kurtosis: below it a t interval of the mean holds, however surely the tails are heavier than normal
)


def heavy_tails(values: Floats) -> bool:
    """Whether ``values`` [P], one a prompt, have clearly heavier tails than a normal distribution: the test of
    kurtosis of Anscombe and Glynn (1983), one-sided, and an excess kurtosis above ``LEAST``."""
    if values.size < FEWEST or float(np.ptp(values)) < 1e-12:
        return False
    return bool(excess_kurtosis(values) > LEAST and special.ndtr(-kurtosis_z(values)) < CHANCE)


def kurtosis_z(values: Floats) -> float:
    """The kurtosis of ``values`` as a nearly standard normal number where they are normal (Anscombe and Glynn 1983)."""
    n, centred = values.size, values - values.mean()
    kurtosis = float((centred**4).mean() / (centred**2).mean() ** 2)
    mean = 3.0 * (n - 1) / (n + 1)
    variance = 24.0 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    skew = (
        6.0 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9)) * math.sqrt(6.0 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    )
    a = 6.0 + 8.0 / skew * (2.0 / skew + math.sqrt(1.0 + 4.0 / skew**2))
    ratio = 1.0 + (kurtosis - mean) / math.sqrt(variance) * math.sqrt(2.0 / (a - 4.0))
    root = math.copysign(((1.0 - 2.0 / a) / abs(ratio)) ** (1.0 / 3.0), ratio)
    return (1.0 - 2.0 / (9.0 * a) - root) / math.sqrt(2.0 / (9.0 * a))
