"""A grid of scores in half of its memory, for a reader that needs many of them several times."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trainer.measure.grid import Grid

_NOTHING = np.empty(0, np.int64)
_ID = 64  # bytes of an id


@dataclass(frozen=True)
class Packed:
    """``label_logprobs`` are stored as float32 in the run folder, so nothing of them is lost."""

    rest: Grid  # without the arrays below
    label: NDArray[np.int32]  # [R]
    predicted: NDArray[np.int32]  # [P, R]
    label_logprobs: NDArray[np.float32] | None  # [P, R, K]

    @classmethod
    def of(cls, grid: Grid) -> Packed:
        logprobs = grid.label_logprobs
        return cls(
            replace(grid, label=_NOTHING, predicted=_NOTHING, label_logprobs=None),
            grid.label.astype(np.int32),
            grid.predicted.astype(np.int32),
            None if logprobs is None else logprobs.astype(np.float32),
        )

    @property
    def size(self) -> int:
        """Bytes, about: of the arrays, and of the ids as texts."""
        arrays = (self.label, self.predicted, self.label_logprobs, self.rest.correct, self.rest.seen)
        ids = _ID * (len(self.rest.prompts) + len(self.rest.rows))
        return ids + sum(array.nbytes for array in arrays if array is not None)

    def whole(self) -> Grid:
        """The grid, with arrays of its own."""
        logprobs = self.label_logprobs
        return replace(
            self.rest,
            label=self.label.astype(np.int64),
            predicted=self.predicted.astype(np.int64),
            correct=self.rest.correct.copy(),
            label_logprobs=None if logprobs is None else logprobs.astype(np.float64),
        )
