"""A joint search in the folder of a staged run begins with the points that the stages have trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sweeps.run_folder import stages as record
from sweeps.search.points import Axes, Point, combinations, encode, grid_points
from trainer.store import Store
from trainer.trial import Trial

MOST = 20_000  # more points than this are not searched


def staged_points(store: Store, axes: Axes, trial_of: Callable[[Mapping[str, Any]], Trial]) -> list[Point]:
    """The points of ``axes`` whose trials some stage has trained, in the grid's order; none if the run has no stages or
    an axis is continuous. ``trial_of`` makes the trial of an encoded point."""
    found = record.read(store)
    total = combinations(axes)
    if found is None or total is None or total > MOST:
        return []
    trained = {i for s in found["stages"] for c in s.get("candidates", ()) for i in c["trials"]}
    trained |= {row["trial"] for s in found["stages"] for row in s.get("rows", ())}
    return [point for point in grid_points(axes) if trial_of(encode(point)).id in trained]
