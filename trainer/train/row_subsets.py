"""Parts of the train rows with which a trial begins: a fixed share of them until a rung, a larger one until the next.

The part is a function of the rows' ids and labels alone, so it is the same for every trial, on every machine and after
any restart. A smaller share is contained in a larger one, and every label has its share of the rows in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.trial import digest

Places = NDArray[np.int64]


@dataclass(frozen=True)
class RowStage:
    """Training from ``first`` to before the next stage's ``first`` (rows of the stream) draws from ``places`` alone."""

    first: int
    first_epoch: int  # passes over the stages before, so that no two epochs of a trial share a number
    places: Places


def all_rows(count: int) -> RowStage:
    """The only stage of a trial that draws from all rows, always."""
    return RowStage(0, 0, np.arange(count))


def nested_order(ids: Sequence[str], labels: Sequence[str]) -> Places:
    """Places of all rows, so that the first n of them are the part of n rows. Rows of a label are ordered by a hash of
    their ids, and labels take turns in proportion to their rows."""
    hashes = [digest(["row", one]) for one in ids]
    by_label: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        by_label.setdefault(label, []).append(place)
    turn = np.empty(len(ids))
    for places in by_label.values():
        for rank, place in enumerate(sorted(places, key=lambda p: hashes[p])):
            turn[place] = (rank + 0.5) / len(places)
    return np.array(sorted(range(len(ids)), key=lambda p: (turn[p], hashes[p])), dtype=np.int64)


def row_stages(
    shares: Sequence[tuple[int, float]], rows_per_step: int, ids: Sequence[str], labels: Sequence[str]
) -> tuple[RowStage, ...]:
    """The stages of a trial from ``shares``: (optimizer step, share of the rows until it). The last is of all rows."""
    order = nested_order(ids, labels) if shares else np.arange(len(ids))
    found, begin, epoch = [], 0, 0
    for step, share in shares:
        places = np.sort(order[: max(1, math.ceil(share * len(ids) - 1e-9))])
        found.append(RowStage(begin, epoch, places))
        epoch += -(-(step * rows_per_step - begin) // len(places))
        begin = step * rows_per_step
    return (*found, RowStage(begin, epoch, np.arange(len(ids))))
