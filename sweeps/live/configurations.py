"""The rows of the live table where a study has several seeds: one per configuration."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from sweeps.live.rows import ORDER, TrialRow


def by_configuration(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """One row per configuration: the state of the seed that is furthest from its end, the rung that all have reached,
    and the mean objective there. Rows without replicates stay as they are."""
    groups: dict[str, list[TrialRow]] = {}
    for row in rows:
        groups.setdefault(row.configuration or row.id, []).append(row)
    if all(len(members) == 1 for members in groups.values()):
        return [members[0] for members in groups.values()]
    return [_joined(name, members) for name, members in groups.items()]


def _joined(name: str, members: list[TrialRow]) -> TrialRow:
    first = min(members, key=lambda row: (ORDER.index(row.state) if row.state in ORDER else 0, row.rung))
    rung = min(row.rung for row in members)
    values = [row.objective for row in members if row.rung == rung and row.objective is not None]
    tests = [row.test for row in members if row.test is not None]
    whole = len(tests) == len(members)
    axes = {axis: value for axis, value in first.axes.items() if axis != "seed"}
    return replace(
        first,
        id=name,
        axes={**axes, "seeds": str(len(members))},
        rung=rung,
        objective=sum(values) / len(values) if len(values) == len(members) else None,
        stderr=math.nan,
        degenerate=any(row.degenerate for row in members),
        unread=any(row.unread for row in members),
        seconds=sum(row.seconds for row in members),
        spent=sum(row.spent for row in members),
        test=_mean(tests) if whole else None,
    )


def _mean(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs)
