"""How much time a sweep still takes: what is left to do, and how long hosts have needed for as much.

A host does one thing at a time: a step of all trials in its slots, or the scoring of a grid. So its time is the sum of
its steps and cells, each times the seconds that one has taken, and the sweep's time is that of the host with most to
do. Trials are counted as early stopping counts them: at each rung exactly its quota goes on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from sweeps.live.rows import OVER, TrialRow
from sweeps.schedule.asha import number_to_come
from sweeps.trials.study_work import StudyWork
from trainer.work import TrialGrid, WorkDone

ENOUGH = 5  # ticks of one number of trials after which their mean is taken, and no line through those of others
SHARED = 0.5  # of a GPU's tick with several trials: what it takes however many they are, where nothing was measured


@dataclass(frozen=True)
class Told:
    """What the hosts of a sweep have told of their work, all of them together."""

    work: WorkDone = field(default_factory=WorkDone)
    hosts: int = 1  # that can work at once
    steps_per_s: float | None = None  # at present
    cells_per_s: float | None = None
    doing: str = ""  # before there is work to tell of: what the hosts do


@dataclass(frozen=True)
class Part:
    """What is left of one rung for all trials, or of the test pool when the sweep is over."""

    trials: int = 0
    steps: float = 0.0
    dev: float = 0.0  # cells
    test: float = 0.0


def parts_left(work: StudyWork, rows: Collection[TrialRow], done: WorkDone) -> list[Part]:
    """What is left: a part for each rung, then the test pool for trials that were stopped."""
    last = len(work.quotas) - 1
    to_come = trials_to_come(work, rows)
    parts = [_rung_left(work, rows, done, r, n, r == last) for r, n in enumerate(to_come)]
    return [*parts, _tests_left(work, rows, done)]


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


def _rung_left(work: StudyWork, rows: Collection[TrialRow], done: WorkDone, rung: int, trials: int, last: bool) -> Part:
    """Trials that are not in this rung yet take as many steps as those take that may still come to it."""
    if not trials:
        return Part()
    open_rows = [row for row in rows if row.state not in OVER and row.rung <= rung] or [*rows]
    steps = trials * sum(row.steps_to(rung) for row in open_rows) / max(1, len(open_rows))
    dev = float(trials * work.dev_cells[rung])
    test = float(trials * work.test_cells) if last and work.tested else 0.0
    for row in open_rows:
        if row.rung != rung or rung >= len(row.rungs):
            continue
        target = row.rungs[rung]
        trained = TrialGrid(row.id, target, "dev") in done.scored  # also while it waits for the next of its host
        ahead = 0 if trained else target - done.step_of.get(row.id, 0)
        steps -= max(0, row.steps_to(rung) - max(0, ahead))
        dev -= _scored(done, row.id, target, "dev", work.dev_cells[rung])
        test -= _scored(done, row.id, target, "test", work.test_cells) if test else 0.0
    return Part(trials, max(steps, 0.0), max(dev, 0.0), max(test, 0.0))


def _tests_left(work: StudyWork, rows: Collection[TrialRow], done: WorkDone) -> Part:
    """Trials that finish are scored on the test pool at their last rung; the others when the sweep is over."""
    last = len(work.quotas)
    unfit = sum(row.state == "failed" or is_nan(row) for row in rows)
    later = max(0, min(work.tested, work.quotas[0] - unfit) - work.quotas[-1])
    later -= sum(row.test is not None and row.rung < last for row in rows)
    later += sum(row.state == "testing" and row.rung >= last for row in rows)  # which failed at first
    if later <= 0:
        return Part()
    under_way = sum(_scored(done, row.id, row.step, "test", work.test_cells) for row in rows if row.state == "testing")
    return Part(later, test=max(0.0, later * work.test_cells - under_way))


def _scored(done: WorkDone, trial: str, step: int, pool: str, cells: int) -> float:
    return min(float(cells), done.scored.get(TrialGrid(trial, step, pool), 0.0))


def is_nan(row: TrialRow) -> bool:
    return row.objective is not None and math.isnan(row.objective)


# time ---------------------------------------------------------------------------------------------------------


def seconds_left(work: StudyWork, parts: Iterable[Part], told: Told) -> float | None:
    """None while something is left of a kind that has not been measured: at the start, before the first scoring."""
    total, hosts = 0.0, max(1, told.hosts)
    for part in parts:
        if not part.trials:
            continue
        most = math.ceil(part.trials / hosts)  # trials of the host that has most
        together = min(work.slots, most)
        tick = tick_seconds(told.work.ticks, together, work.gpus)
        dev, test = seconds_of_cell(told.work, "dev"), seconds_of_cell(told.work, "test")
        if (tick is None and part.steps) or (dev is None and part.dev) or (test is None and part.test):
            return None
        trained = part.steps * (tick or 0.0) / together
        alone = sum(cells * (each or 0.0) for cells, each, split in _scorings(work, part, dev, test) if not split)
        shared = sum(cells * (each or 0.0) for cells, each, split in _scorings(work, part, dev, test) if split)
        total += (trained + alone) / part.trials * most + shared / hosts
    return total


def _scorings(
    work: StudyWork, part: Part, dev: float | None, test: float | None
) -> list[tuple[float, float | None, bool]]:
    """(cells, seconds of each, whether all hosts take part)."""
    return [
        (part.dev, dev, work.scored_by_all(work.dev_cells[-1])),
        (part.test, test, work.scored_by_all(work.test_cells)),
    ]


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
    """Seconds of a cell of ``pool`` on one host; until one was scored, of the other pool."""
    for name in (pool, *(p for p in done.cells if p != pool)):
        if done.cells.get(name, 0.0) > 0:
            return done.cell_seconds.get(name, 0.0) / done.cells[name]
    return None
