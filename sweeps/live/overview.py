"""What the live table says above and beside the trials: how far the sweep is, how fast, and what each trial does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from sweeps.display.text import one_line
from sweeps.live.left import NOTHING, Told, is_nan, parts_left, seconds_left
from sweeps.live.rows import OVER, TrialRow
from sweeps.live.text import clock_time
from sweeps.trials.study_work import StudyWork
from trainer.work import TrialGrid, WorkDone


@dataclass(frozen=True)
class Overview:
    """Made by the driver; ``watch`` reads it from ``trials.parquet``."""

    left: float | None = None  # seconds until the sweep ends; None where that is not known yet
    steps: tuple[int, int] = (0, 0)  # of all trials: done, and to do in all
    dev_cells: tuple[int, int] = (0, 0)  # scored, and to score in all
    test_cells: tuple[int, int] = (0, 0)
    steps_per_s: float | None = None  # of all hosts together, at present
    cells_per_s: float | None = None
    doing: str = ""  # what the hosts do before they train
    now: Mapping[str, str] = field(default_factory=dict)  # trial -> how far it is with what it does

    @property
    def bars(self) -> list[tuple[str, tuple[int, int], str]]:
        """What a terminal shows as bars: (title, done and all, unit) of what a study has to do."""
        found = [
            ("training", self.steps, "steps"),
            ("scoring", self.dev_cells, "dev cells"),
            ("test pool", self.test_cells, "test cells"),
        ]
        return [bar for bar in found if bar[1][1]]

    def words(self, over: bool, cells_too: bool = True) -> list[str]:
        """For the header. ``over``: nothing more is to come. ``cells_too``: where no bars show the cells."""
        said = [one_line(self.doing)] if self.doing else []
        for pool, (done, cells) in (("dev", self.dev_cells), ("test", self.test_cells)):
            if cells and cells_too:
                said.append(f"{pool} cells {done:,} of {cells:,}")
        if over:
            return said
        for rate, what in ((self.steps_per_s, "steps/s"), (self.cells_per_s, "cells/s")):
            if rate:
                said.append(f"{rate:,.0f} {what}" if rate >= 100 else f"{rate:.3g} {what}")
        if self.left is None:
            return [*said, "time left: known once cells are scored"] if self.dev_cells[1] else said
        return [*said, f"left about {clock_time(self.left)}"]


def overview(
    work: StudyWork | None, rows: Collection[TrialRow], told: Told, tests: Mapping[str, int] = NOTHING
) -> Overview:
    """``work`` is None where it is not known what the study has to do; ``tests`` as of ``parts_left``."""
    now = {row.id: text for row in rows if (text := now_of(work, row, told.work))}
    found = Overview(steps_per_s=told.steps_per_s, cells_per_s=told.cells_per_s, doing=told.doing, now=now)
    if work is None:
        return found
    parts = parts_left(work, rows, told.work, tests)
    steps_left, dev_left, test_left = (sum(trial[kind] for part in parts for trial in part.trials) for kind in range(3))
    steps = sum(_steps_done(row, told.work) for row in rows)
    dev, test = _dev_reported(work, rows), _tests_reported(work, rows)
    rungs_left, tests_left = [len(part.trials) for part in parts[:-1]], len(parts[-1].trials)
    dev_all = dev + sum(n * cells for n, cells in zip(rungs_left, work.dev_cells, strict=True))
    test_all = test + ((rungs_left[-1] if work.tested else 0) + tests_left) * work.test_cells
    if work.whole_tests:
        test_all = sum(tests.values()) or round(test_left)
    return replace(
        found,
        left=seconds_left(work, parts, told),
        steps=(steps, steps + round(steps_left)),
        dev_cells=(max(0, dev_all - round(dev_left)), dev_all),
        test_cells=(max(0, test_all - round(test_left)), test_all),
    )


def _steps_done(row: TrialRow, done: WorkDone) -> int:
    """Optimizer steps of the trial: up to its last report, and what its host has told of since."""
    if row.state in OVER or row.rung >= len(row.rungs):
        return row.step
    target = row.rungs[row.rung]
    if TrialGrid(row.id, target, "dev") in done.scored:
        return target
    return min(target, max(row.step, done.step_of.get(row.id, 0)))


def _dev_reported(work: StudyWork, rows: Collection[TrialRow]) -> int:
    return sum(sum(work.dev_cells[: row.rung]) for row in rows)


def _tests_reported(work: StudyWork, rows: Collection[TrialRow]) -> int:
    """Cells of trials whose test scores are there: a finished trial's are, before it reports its last rung."""
    last = len(work.quotas)

    def is_tested(row: TrialRow) -> bool:
        ended = row.rung >= last and row.state not in ("testing", "failed") and not is_nan(row)
        return row.test is not None or (ended and work.tested > 0)

    return work.test_cells * sum(is_tested(row) for row in rows)


def now_of(work: StudyWork | None, row: TrialRow, done: WorkDone) -> str:
    """How far the trial is on its way to its next report: ``step 40 of 75``, ``dev 320 of 2,000``; empty where no host
    has told of it."""
    if row.state == "testing":
        cells = max(0, row.asked_cells - row.test_cells) or (work.test_cells if work else 0)
        return _scoring(done, TrialGrid(row.id, row.step, "test", row.asked_cells), cells)
    if row.rung >= len(row.rungs):
        return ""
    target = row.rungs[row.rung]
    test = _scoring(done, TrialGrid(row.id, target, "test"), work.test_cells if work else 0)
    dev = _scoring(done, TrialGrid(row.id, target, "dev"), work.dev_cells[row.rung] if work else 0)
    return test or dev or (f"step {done.step_of[row.id]} of {target}" if row.id in done.step_of else "")


def _scoring(done: WorkDone, scoring: TrialGrid, whole: int) -> str:
    cells = done.scored.get(scoring)
    if cells is None:
        return ""
    return f"{scoring.pool} {min(round(cells), whole):,} of {whole:,}" if whole else f"{scoring.pool} {cells:,.0f}"
