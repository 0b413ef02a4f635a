"""How often one configuration beats another under the same prompt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.measure.grid import Floats

TIE = 1e-9  # values that differ by less are equal: those of several seeds are averages


def wins(values: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """``values`` [C, P]: of each configuration under each prompt; NaN where it was not asked. Returns [C, C] the share
    of the common prompts under which the row's is higher than the column's, ties counted half (NaN without a common
    prompt, and against itself), and [C, C] how many these prompts are."""
    gap = values[:, None] - values[None]
    prompts = np.isfinite(gap).sum(axis=2)
    won = (gap > TIE).sum(axis=2) + (np.abs(gap) <= TIE).sum(axis=2) / 2
    some = (prompts > 0) & ~np.eye(len(values), dtype=bool)
    return np.where(some, won / np.maximum(prompts, 1), np.nan), prompts
