"""How far chances are those that they claim to be, in bins of equal width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.measure.grid import Floats

Bools = NDArray[np.bool_]
BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Sums over the cells of each bin [BINS]."""

    cells: Floats
    chances: Floats
    happened: Floats  # cells in which it came true

    @property
    def error(self) -> float:
        """Mean over cells of the difference between their bin's mean chance and the share that came true (expected
        calibration error; Naeini et al. 2015)."""
        return float(np.abs(self.chances - self.happened).sum() / self.cells.sum())


def reliability(happened: Bools, p: Floats) -> Reliability:
    """``p``: chances of any shape; ``happened``: what came true, of the same shape."""
    flat = p.ravel()
    bins = np.minimum((flat * BINS).astype(int), BINS - 1)
    weights = (np.ones(flat.size), flat, happened.ravel())
    cells, chances, came = (np.bincount(bins, weights=w, minlength=BINS).astype(np.float64) for w in weights)
    return Reliability(cells, chances, came)
