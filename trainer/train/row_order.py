"""Which train row stands where in the stream of rows: all rows in turn, or each label equally often.

Both are pure functions of the seed, the stage and the position, so they are the same for any number of workers or
slots, and after any restart. What they remember of the last position only saves time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from trainer.train.row_subsets import Places, RowStage


class RowOrder(Protocol):
    def row(self, at: int) -> int:
        """The index of the row at position ``at`` (from 0) of the stream, which is in the order's stage."""
        ...


class AllRows:
    """Every row of ``stage`` once in every epoch, which has as many positions, in a new order."""

    def __init__(self, seed: int, stage: RowStage):
        self.seed, self.stage = seed, stage
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def row(self, at: int) -> int:
        epoch, place = divmod(at - self.stage.first, len(self.stage.places))
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, self.stage.first_epoch + epoch])
            self._epoch, self._order = epoch, self.stage.places[rng.permutation(len(self.stage.places))]
        return int(self._order[place])


class BalancedRows:
    """Of every K successive positions each of the K labels has one, in a new order. ``labels`` are those of all rows;
    the rows of ``stage`` are drawn. Each label goes through its own rows, and begins again in a new order when all of
    them were drawn; a stage may begin within such a pass. Labels stand in the order in which they first occur."""

    def __init__(self, seed: int, labels: Sequence[str], stage: RowStage):
        self.seed, self._first = seed, stage.first
        number = {label: k for k, label in enumerate(dict.fromkeys(labels))}
        rows: dict[int, list[int]] = {}
        for place in stage.places.tolist():
            rows.setdefault(number[labels[place]], []).append(place)
        self._labels = sorted(rows)  # numbers of those that the stage's rows have
        self._rows = {k: np.array(rows[k], dtype=np.int64) for k in self._labels}
        self._rounds = -(-stage.first // len(rows))  # before the stage, so that no two of a trial share a number
        self._round, self._turns = -1, np.empty(0, dtype=np.int64)
        self._drawn: dict[int, tuple[int, Places]] = {}  # of each label: pass and its order

    def row(self, at: int) -> int:
        turn, place = divmod(at - self._first, len(self._labels))
        turn += self._rounds
        if turn != self._round:
            self._turns = np.random.default_rng([self.seed, 1, turn]).permutation(len(self._labels))
            self._round = turn
        label = self._labels[self._turns[place]]
        own = self._rows[label]
        times, place = divmod(turn, len(own))
        if self._drawn.get(label, (-1, own))[0] != times:
            order = np.random.default_rng([self.seed, 2, label, times]).permutation(len(own))
            self._drawn[label] = (times, own[order])
        return int(self._drawn[label][1][place])
