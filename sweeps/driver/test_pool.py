"""Scoring the test pool after a sweep, for trials that did not reach their last rung."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from sweeps.driver.progress import BEAT_EVERY, QUIET_WRITE_EVERY, WRITE_EVERY, Progress
from sweeps.driver.session import LOSSES
from sweeps.schedule.asha import Decision
from sweeps.study.study import Study
from trainer.trial import Trial


def trials_to_test(
    study: Study, trials: Mapping[str, Trial], decisions: Mapping[str, Decision]
) -> list[tuple[Trial, int]]:
    """The trials to score on the test pool, each with its last rung; with ``finalists`` only those that finished."""
    wanted = ("finished",) if study.tables.test == "finalists" else ("finished", "stopped")
    return [
        (trials[i], d.step)
        for i, d in decisions.items()
        if d.status in wanted and d.step is not None and d.objective is not None and math.isfinite(d.objective)
    ]


def score_test_pool(progress: Progress, fleet: Any, beat: Callable[[], None] = lambda: None) -> None:
    """Score the test pool in Ray tasks that take the same share of an accelerator as a trial. Trials that finished have
    scored it themselves. ``beat`` is called every few seconds."""
    import ray

    from cluster.hosting.gang import PlaceLostError

    jobs = []
    for trial, step in trials_to_test(progress.study, progress.trials, progress.decisions):
        ended = progress.decisions[trial.id].status == "finished"
        scored = progress.store.read_scores(trial.id, step, "test") if ended else None
        if scored is None:
            jobs.append((trial, step))
        else:
            progress.add_test_scores(trial.id, *scored)
    with fleet.resources.for_tasks() as options:
        task = ray.remote(_test_rows).options(**options, max_retries=LOSSES, retry_exceptions=[PlaceLostError])
        running = {task.remote(fleet, trial, step): trial for trial, step in jobs}
        for trial in running.values():
            progress.live.testing(trial.id)
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
            trial = running.pop(done[0])
            try:
                progress.add_test_scores(trial.id, *ray.get(done[0]))
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                why = f"test scoring failed: {cause if isinstance(cause, Exception) else error}"
                progress.live.failed(trial.id, why)
                progress.decisions[trial.id] = replace(progress.decisions[trial.id], action="fail", reason=why)


def _test_rows(fleet: Any, trial: Trial, step: int) -> tuple[pa.Table, dict[str, Any]]:
    try:
        found: tuple[pa.Table, dict[str, Any]] = fleet.ensure(trial, step, "test")
        return found
    finally:
        fleet.leave()
