"""How many cells are done while several trials are scored together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from trainer.score.pool import PoolRequests, Tally


def asked(cells: int, baseline: int = 0) -> PoolRequests:
    compared: Any = SimpleNamespace(requests=[None] * baseline)
    return PoolRequests([], [None] * cells, compared if baseline else None)  # type: ignore[list-item]


def test_parts_add_up_to_all_cells() -> None:
    told: list[float] = []
    grids = [asked(30), asked(10)]
    tally = Tally(grids, told.append)
    first = tally.part(grids[0].count)
    first(0.5)
    first(1.0)
    second = tally.part(grids[1].count)
    second(0.5)
    second(1.3)  # a batch that ran out of memory counts twice
    assert told == [15, 30, 35, 40]


def test_requests_that_are_only_compared_with_are_work_but_no_cells() -> None:
    told: list[float] = []
    tally = Tally([asked(30, baseline=10)], told.append)
    part = tally.part(40)
    part(0.5)
    part(1.0)
    assert told == [15, 30]


def test_a_part_without_requests_says_nothing() -> None:
    """The answers of trials that have thought: their cells count once the thoughts are written."""
    told: list[float] = []
    tally = Tally([asked(8)], told.append)
    tally.part(8)(1.0)
    tally.part(0)(0.5)
    assert told == [8]
