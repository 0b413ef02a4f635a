"""Which train row stands where in the stream of rows: all rows in turn, or each label equally often.

Both are pure functions of the seed and the position, so they are the same for any number of workers or slots, and after
any restart. What they remember of the last position only saves time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


class RowOrder(Protocol):
    def row(self, at: int) -> int:
        """The index of the row at position ``at`` (from 0) of the stream."""
        ...


class AllRows:
    """Every row once in every epoch of ``n_rows`` positions, in a new order."""

    def __init__(self, seed: int, n_rows: int):
        self.seed, self.n_rows = seed, n_rows
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def row(self, at: int) -> int:
        epoch, place = divmod(at, self.n_rows)
        if epoch != self._epoch:
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(self.n_rows)
            self._epoch = epoch
        return int(self._permutation[place])


class BalancedRows:
    """Of every K successive positions each of the K labels has one, in a new order; ``labels`` are the rows'. Each
    label goes through its own rows, and begins again in a new order when all of them were drawn. Labels stand in the
    order in which they first occur."""

    def __init__(self, seed: int, labels: Sequence[str]):
        self.seed = seed
        rows: dict[str, list[int]] = {}
        for i, label in enumerate(labels):
            rows.setdefault(label, []).append(i)
        self._rows: list[Places] = [np.array(own) for own in rows.values()]
        self._round, self._labels = -1, np.empty(0, dtype=np.int64)
        self._drawn: list[tuple[int, Places]] = [(-1, own) for own in self._rows]  # of each label: pass and its order

    def row(self, at: int) -> int:
        turn, place = divmod(at, len(self._rows))
        if turn != self._round:
            self._labels = np.random.default_rng([self.seed, 1, turn]).permutation(len(self._rows))
            self._round = turn
        label = int(self._labels[place])
        own = self._rows[label]
        times, place = divmod(turn, len(own))
        if times != self._drawn[label][0]:
            order = np.random.default_rng([self.seed, 2, label, times]).permutation(len(own))
            self._drawn[label] = (times, own[order])
        return int(self._drawn[label][1][place])
