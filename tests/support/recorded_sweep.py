"""The events of a real run, as its live table got them, and their replay.

``recorded_sweep.jsonl`` is a run of SmolLM2-135M on two CPU cores: four trials, two of them in slots at a time, two
rungs, early stopping, and a test pool that takes as long as all the rest. A line is (seconds since the start, method of
``LiveTable``, arguments)."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simulated_sweep import Clock

from sweeps.live.left import Told
from sweeps.live.table import LiveTable
from sweeps.trials.study_work import StudyWork
from trainer.measure.rung import RungReport
from trainer.work import TrialGrid, WorkDone

RECORDED = Path(__file__).with_suffix(".jsonl")


def recorded() -> list[tuple[float, str, list[Any]]]:
    return [tuple(json.loads(line)) for line in RECORDED.read_text().splitlines()]  # type: ignore[misc]


def replay(table: LiveTable, clock: Clock) -> Iterator[tuple[float, str]]:
    """Play the run on ``table``; gives the time and the name of each event once it was played."""
    for at, name, arguments in recorded():
        clock.now = at
        if name == "end":
            return
        getattr(table, name)(*(_MADE[name](*arguments) if name in _MADE else arguments))
        yield at, name


def end() -> float:
    return next(at for at, name, _ in recorded() if name == "end")


def new_table(clock: Clock) -> LiveTable:
    return LiveTable("recorded", io.StringIO(), False, clock)


def _told(told: Mapping[str, Any]) -> list[Any]:
    work = told["work"]
    ticks = {int(k): tuple(v) for k, v in work["ticks"].items()}
    scored = {TrialGrid(*key): cells for *key, cells in work["scored"]}
    done = WorkDone(
        ticks, work["cells"], work["cell_seconds"], work["cell_tokens"], work["step_of"], work["seconds_of"], scored
    )
    rest = {name: told[name] for name in ("hosts", "busy", "steps_per_s", "cells_per_s", "doing")}
    return [Told(done, **rest)]


def _report(report: Mapping[str, Any]) -> list[Any]:
    return [RungReport(**{name: math.nan if value is None else value for name, value in report.items()})]


def _work(work: Mapping[str, Any]) -> list[Any]:
    return [StudyWork(**{name: tuple(v) if isinstance(v, list) else v for name, v in work.items()})]


_MADE = {
    "pulse": _told,
    "report": _report,
    "expect": _work,
    "trial_added": lambda name, axes, n, rungs: [name, axes, n, tuple(rungs)],
}
