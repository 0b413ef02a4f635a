"""The rows of the live table where a study has several seeds: one per configuration."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from sweeps.live.rows import ORDER, TrialRow
from trainer.measure.replicates import error_of_seeds, objective_of_seeds


def by_configuration(rows: Iterable[TrialRow], std_weight: float) -> list[TrialRow]:
    """One row per configuration: the state of the seed that is furthest from its end, the rung that all have reached,
    and the objective there over its seeds. Fresh seeds of ``confirm`` that choose, and those that report, have a row of
    their own. Rows without replicates stay as they are. ``std_weight``: of the study's objective."""
    groups: dict[tuple[str, str], list[TrialRow]] = {}
    for row in rows:
        groups.setdefault((row.configuration or row.id, row.role), []).append(row)
    if all(len(members) == 1 for members in groups.values()):
        return [members[0] for members in groups.values()]
    return [_joined(name, members, std_weight) for (name, _), members in groups.items()]


def _joined(name: str, members: list[TrialRow], std_weight: float) -> TrialRow:
    first = min(members, key=lambda row: (ORDER.index(row.state) if row.state in ORDER else 0, row.rung))
    rung = min(row.rung for row in members)
    there = [row for row in members if row.rung == rung]
    values = [row.objective for row in there if row.objective is not None]
    known = len(values) == len(members)
    tests = [row.test for row in members if row.test is not None]
    whole = len(tests) == len(members)
    axes = {axis: value for axis, value in first.axes.items() if axis != "seed"}
    return replace(
        first,
        id=name,
        axes={**axes, "seeds": f"{len(members)} {first.role}".strip()},
        rung=rung,
        objective=objective_of_seeds(values, [row.std or 0.0 for row in there], std_weight) if known else None,
        stderr=error_of_seeds(values, [row.stderr for row in there]) if known else math.nan,
        degenerate=any(row.degenerate for row in members),
        unread=any(row.unread for row in members),
        seconds=sum(row.seconds for row in members),
        spent=sum(row.spent for row in members),
        test=_mean(tests) if whole else None,
    )


def _mean(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs)
