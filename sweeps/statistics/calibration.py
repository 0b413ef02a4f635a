"""The bins of a calibration curve: those over which the calibration error of tables/binary is the mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sweeps.statistics.binary import BINS, Bools
from trainer.measure.grid import Floats


@dataclass(frozen=True)
class Reliability:
    """Sums over the cells of each bin [BINS]."""

    cells: Floats
    chances: Floats
    happened: Floats  # cells in which it came true


def reliability(happened: Bools, p: Floats) -> Reliability:
    """``p``: chances of any shape; ``happened``: what came true, of the same shape."""
    flat = p.ravel()
    bins = np.minimum((flat * BINS).astype(int), BINS - 1)
    weights = (np.ones(flat.size), flat, happened.ravel())
    cells, chances, came = (np.bincount(bins, weights=w, minlength=BINS).astype(np.float64) for w in weights)
    return Reliability(cells, chances, came)
