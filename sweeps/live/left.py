"""How much time a sweep still takes: what is left to do, and how long hosts have needed for as much.

A host does one thing at a time: a step of all trials in its slots, or the scoring of a grid. So its time is the sum of
its steps and cells, each times the seconds that one has taken, and the sweep's time is that of the host with most to
do. Trials are counted as early stopping counts them: at each rung exactly its quota goes on.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sweeps.live.rows import OVER, TrialRow
from sweeps.schedule.asha import number_to_come
from sweeps.trials.study_work import StudyWork
from trainer.work import TrialGrid, WorkDone

ENOUGH = 5  # ticks of one number of trials after which their mean is taken, and no line through those of others
NOTHING: Mapping[str, int] = {}
SHARED = 0.5  # of a GPU's tick with several trials: what it takes however many they are, where nothing was measured


@dataclass(frozen=True)
class Told:
    """What the hosts of a sweep have told of their work, all of them together."""

    work: WorkDone = field(default_factory=WorkDone)
    hosts: int = 1  # that can work at once
    busy: int = 1  # that work now
    steps_per_s: float | None = None  # at present
    cells_per_s: float | None = None
    doing: str = ""  # before there is work to tell of: what the hosts do


class Work(NamedTuple):
    """What is left of one trial's way to its next report, or to its scores on the test pool."""

    steps: float = 0.0
    dev: float = 0.0  # cells
    test: float = 0.0


class Part(NamedTuple):
    """What is left of one rung, or of the test pool when the sweep is over: of each trial that is on its way there, and
    of each that is to come."""

    begun: tuple[Work, ...] = ()
    to_come: tuple[Work, ...] = ()

    @property
    def trials(self) -> list[Work]:
        return [*self.begun, *self.to_come]


def parts_left(
    work: StudyWork, rows: Collection[TrialRow], done: WorkDone, tests: Mapping[str, int] = NOTHING
) -> list[Part]:
    """What is left: a part for each rung, then the test pool for trials that were stopped; for all, where it is
    sampled. ``tests``: trial -> how many cells of its sample are to be scored in all, when that is known."""
    to_come = trials_to_come(work, rows)
    parts = [_rung_left(work, rows, done, rung, n) for rung, n in enumerate(to_come)]
    return [*parts, _samples_left(work, rows, done, tests) if work.whole_tests else _tests_left(work, rows, done)]


def trials_to_come(work: StudyWork, rows: Iterable[TrialRow]) -> list[int]:
    """For each rung, how many trials have yet to be scored there."""
    rungs = range(len(work.quotas))
    arrived, invalid = [0 for _ in rungs], [0 for _ in rungs]
    for row in rows:
        for r in range(min(row.rung, len(rungs))):
            arrived[r] += 1
        if row.state == "failed" and row.rung < len(rungs):
            arrived[row.rung] += 1
            invalid[row.rung] += 1
        elif row.rung and is_nan(row):
            invalid[row.rung - 1] += 1
    return number_to_come(work.quotas, arrived, invalid)


def _rung_left(work: StudyWork, rows: Collection[TrialRow], done: WorkDone, rung: int, trials: int) -> Part:
    """Trials that are not on their way yet take as many steps as those take that may still come."""
    if not trials:
        return Part()
    open_rows = [row for row in rows if row.state not in OVER and row.rung <= rung] or [*rows]
    last = rung == len(work.quotas) - 1 and work.tested and not work.whole_tests
    dev, test = work.dev_cells[rung], work.test_cells if last else 0
    found = []
    for row in open_rows:
        if row.rung != rung or rung >= len(row.rungs):
            continue
        target = row.rungs[rung]
        trained = TrialGrid(row.id, target, "dev") in done.scored  # also while it waits for the next of its host
        if not trained and row.id not in done.step_of:
            continue
        ahead = 0 if trained else max(0, target - done.step_of[row.id])
        of_test = _scored(done, row.id, target, "test", test)
        of_dev = dev if of_test else _scored(done, row.id, target, "dev", dev)
        found.append(Work(min(ahead, row.steps_to(rung)), dev - of_dev, test - of_test))
    whole = Work(sum(row.steps_to(rung) for row in open_rows) / max(1, len(open_rows)), dev, test)
    return Part(tuple(found[:trials]), (whole,) * (trials - len(found)))


def _tests_left(work: StudyWork, rows: Collection[TrialRow], done: WorkDone) -> Part:
    """Trials that finish are scored on the test pool at their last rung; the others when the sweep is over."""
    last = len(work.quotas)
    unfit = sum(row.state == "failed" or is_nan(row) for row in rows)
    later = max(0, min(work.tested, work.quotas[0] - unfit) - work.quotas[-1])
    later -= sum(row.test is not None and row.rung < last for row in rows)
    later += sum(row.state == "testing" and row.rung >= last for row in rows)  # which failed at first
    cells = work.test_cells
    testing = [row for row in rows if row.state == "testing"]
    placed = [r for r in testing if r.id in done.step_of or TrialGrid(r.id, r.step, "test") in done.scored]
    begun = tuple(Work(test=cells - _scored(done, r.id, r.step, "test", cells)) for r in placed[: max(0, later)])
    return Part(begun, (Work(test=cells),) * (later - len(begun)))


def _samples_left(work: StudyWork, rows: Collection[TrialRow], done: WorkDone, tests: Mapping[str, int]) -> Part:
    if not tests:
        unfit = sum(row.state == "failed" or is_nan(row) for row in rows)
        trials = max(0, min(work.tested, work.quotas[0] - unfit))
        best = min(work.best, trials)
        return Part((), (*[Work(test=work.whole_tests)] * best, *[Work(test=work.test_cells)] * (trials - best)))
    begun, to_come = [], []
    for row in rows:
        left = max(0, tests.get(row.id, 0) - row.test_cells)
        key = TrialGrid(row.id, row.step, "test", row.asked_cells)
        if row.state == "testing" and (row.id in done.step_of or key in done.scored):
            begun.append(Work(test=max(0.0, left - done.scored.get(key, 0.0))))
        elif left and row.state != "failed":
            to_come.append(Work(test=left))
    return Part(tuple(begun), tuple(to_come))


def _scored(done: WorkDone, trial: str, step: int, pool: str, cells: int) -> float:
    return min(float(cells), done.scored.get(TrialGrid(trial, step, pool), 0.0))


def is_nan(row: TrialRow) -> bool:
    return row.objective is not None and math.isnan(row.objective)


# time ---------------------------------------------------------------------------------------------------------


def seconds_left(work: StudyWork, parts: Iterable[Part], told: Told) -> float | None:
    """None while something is left of a kind that has not been measured: at the start, before the first scoring."""
    hosts, dev, test = max(1, told.hosts), seconds_of_cell(told.work, "dev"), seconds_of_cell(told.work, "test")
    total = 0.0
    for part in parts:
        together = max(1, min(work.slots, math.ceil(len(part.trials) / hosts)))
        tick = tick_seconds(told.work.ticks, together, work.gpus)
        rates = (None if tick is None else tick / together, dev, test)
        if any(rate is None and any(trial[kind] for trial in part.trials) for kind, rate in enumerate(rates)):
            return None
        step, dev_cell, test_cell = (rate or 0.0 for rate in rates)
        dev_alone = dev_cell * (not work.scored_by_all(work.dev_cells[-1]))
        test_alone = test_cell * (not work.scored_by_all(work.test_cells))
        begun, to_come = (
            [one.steps * step + one.dev * dev_alone + one.test * test_alone for one in trials] for trials in part
        )
        shared = [trial.dev * (dev_cell - dev_alone) + trial.test * (test_cell - test_alone) for trial in part.trials]
        total += longest(begun, to_come, min(told.busy, hosts), hosts, work.slots) + sum(shared) / hosts
    return total


def longest(begun: Sequence[float], to_come: Sequence[float], busy: int, hosts: int, slots: int) -> float:
    """The seconds of the host with most to do. What has begun is on the ``busy`` hosts, as many trials on each, and
    those that are equally far on the same one. Other trials take the slots that are free; the trials of a host are done
    at about the same time, and it then takes as many again."""
    each = max(1, math.ceil(len(begun) / max(1, busy)))
    ordered = sorted(begun, reverse=True)
    load = [sum(ordered[i * each : (i + 1) * each]) for i in range(hosts)]
    free = max(0, hosts * slots - len(begun))
    heapq.heapify(load)
    for one in to_come[:free]:
        heapq.heapreplace(load, load[0] + one)
    for start in range(free, len(to_come), slots):
        heapq.heapreplace(load, load[0] + sum(to_come[start : start + slots]))
    return max(load)


def tick_seconds(ticks: Mapping[int, tuple[int, float]], together: int, gpus: bool) -> float | None:
    """Seconds of a step of so many trials at once: as measured, or else by a line through what was measured with other
    numbers of trials. None where nothing was measured."""
    known = {k: (n, seconds / n) for k, (n, seconds) in ticks.items() if n}
    sure = {k: v for k, v in known.items() if v[0] >= ENOUGH} or known
    if not sure:
        return None
    if together in sure:
        return sure[together][1]
    if len(sure) == 1:
        ((k, (_, each)),) = sure.items()
        fixed = SHARED if gpus else 0.0  # a core is busy with one trial already
        return each * (fixed + (1 - fixed) * together / k)
    total = sum(n for n, _ in sure.values())
    mean_k = sum(n * k for k, (n, _) in sure.items()) / total
    mean = sum(n * each for n, each in sure.values()) / total
    slope = sum(n * (k - mean_k) * (each - mean) for k, (n, each) in sure.items()) / sum(
        n * (k - mean_k) ** 2 for k, (n, _) in sure.items()
    )
    slope = min(max(slope, 0.0), mean / mean_k)  # neither less for more trials, nor less than nothing for none
    return mean + slope * (together - mean_k)


def seconds_of_cell(done: WorkDone, pool: str) -> float | None:
    """Seconds of a cell of ``pool`` on one host. Until one was scored: of another pool, for as many tokens."""
    for name in (pool, *(p for p in done.cells if p != pool)):
        if done.cells.get(name, 0.0) > 0:
            tokens, measured = done.cell_tokens.get(pool, 0.0), done.cell_tokens.get(name, 0.0)
            return (
                done.cell_seconds.get(name, 0.0)
                / done.cells[name]
                * (tokens / measured if tokens and measured else 1.0)
            )
    return None
