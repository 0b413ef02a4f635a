"""Scoring the test pool after a sweep: for trials that did not reach their last rung, and, where the grid is scored in
stages, for all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from sweeps.driver.progress import BEAT_EVERY, QUIET_WRITE_EVERY, WRITE_EVERY, Progress
from sweeps.driver.session import LOSSES
from sweeps.driver.test_stages import GridJob, GridStages, trials_to_test
from sweeps.study.precision import usual_cells
from trainer.trial import Trial


def score_test_pool(
    progress: Progress, fleet: Any, stages: GridStages, beat: Callable[[], None] = lambda: None
) -> None:
    """Score the test pool in Ray tasks that take the same share of an accelerator as a trial. Of a grid that is scored
    whole, trials that finished have scored it themselves. ``beat`` is called every few seconds."""
    while True:
        tested = trials_to_test(progress.study, progress.trials, progress.decisions)
        jobs = stages.next(tested, progress.decisions)
        missing = {job.trial.id for job in jobs}
        for trial, _ in tested:
            if trial.id not in progress.tests and trial.id not in missing:
                progress.add_test_scores(trial.id, *stages.found[trial.id])
        if not jobs:
            return
        if stages.wanted is not None:
            progress.live.expect_tests(_expected(progress, stages, tested))
        _score(progress, fleet, jobs, beat)


def _expected(progress: Progress, stages: GridStages, tested: Sequence[tuple[Trial, int]]) -> dict[str, int]:
    """How many cells of each trial will have been scored at the end, as far as it is known by now."""
    grid = len(stages.assets.pools["test"]), len(stages.assets.rows["test"])
    ranked = stages.ranked(tested, progress.decisions)[: stages.best]
    best = {t.id for members in ranked for t, _ in members if stages.reports(t)}
    cells = stages.cells or usual_cells(progress.study, "test", *grid)
    return {t.id: stages.whole if t.id in best else cells for t, _ in tested}


def _score(progress: Progress, fleet: Any, jobs: Sequence[GridJob], beat: Callable[[], None]) -> None:
    import ray

    from cluster.hosting.gang import PlaceLostError

    with fleet.resources.for_tasks() as options:
        task = ray.remote(_test_rows).options(**options, max_retries=LOSSES, retry_exceptions=[PlaceLostError])
        running = {task.remote(fleet, job.trial, job.step, job.cells): job for job in jobs}
        for job in running.values():
            progress.live.testing(job.trial.id, job.cells)
        written = beaten = time.monotonic()
        while running:
            done, _ = ray.wait(list(running), num_returns=1, timeout=BEAT_EVERY)
            if time.monotonic() - beaten > BEAT_EVERY:
                try:
                    beat()
                except Exception as error:  # a failure to show something must not end a sweep
                    logging.getLogger("steadytune").warning("how far the hosts are is not known: %s", error)
                beaten = time.monotonic()
            if time.monotonic() - written > (WRITE_EVERY if done else QUIET_WRITE_EVERY):
                progress.write(even_if_unchanged=True)
                written = time.monotonic()
            if not done:
                continue
            trial = running.pop(done[0]).trial
            try:
                progress.add_test_scores(trial.id, *ray.get(done[0]))
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                why = f"test scoring failed: {cause if isinstance(cause, Exception) else error}"
                progress.live.failed(trial.id, why)
                progress.decisions[trial.id] = replace(progress.decisions[trial.id], action="fail", reason=why)


def _test_rows(fleet: Any, trial: Trial, step: int, cells: int) -> tuple[pa.Table, dict[str, Any]]:
    try:
        found: tuple[pa.Table, dict[str, Any]] = fleet.ensure(trial, step, "test", cells)
        return found
    finally:
        fleet.leave()
