"""Passes on what Tune reports to the live table, ``trials.parquet`` and TensorBoard."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ray import tune

from cluster.hosting.tensorboard import Board, chart
from cluster.hosting.trainable import UNWRITABLE
from sweeps.driver.heartbeat import Heartbeat
from sweeps.driver.progress import BEAT_EVERY, QUIET_WRITE_EVERY, WRITE_EVERY, Progress
from sweeps.schedule.tune_scheduler import PromotionScheduler
from sweeps.search.points import Domain
from sweeps.trials.from_points import axes_of, varied_axes
from trainer.data.wording import Prompt
from trainer.measure.rung import RungReport
from trainer.store import UnwritableError
from trainer.trial import Trial, modules_text


class Watcher(tune.Callback):
    """A callback of Tune that updates ``Progress``, and lets a thread write files and ask the hosts."""

    def __init__(
        self,
        progress: Progress,
        scheduler: PromotionScheduler,
        trial_of: Callable[[Mapping[str, Any]], Trial],
        heartbeat: Heartbeat,
        pools: Mapping[str, Sequence[Prompt]],
    ):
        self.progress, self.scheduler, self.trial_of, self.heartbeat = progress, scheduler, trial_of, heartbeat
        self.pools = pools
        self._board = Board(progress.store)
        self._pool = ThreadPoolExecutor(1)  # writes files and asks hosts, so that the scheduler does not wait
        self._writing: Future[None] | None = None
        self._beating: Future[None] | None = None
        self._written = time.monotonic()
        self._beaten = -math.inf
        self._written_anyway = self._written
        self._unwritable = ""  # why the run folder takes no files

    def __reduce__(self) -> tuple[Any, ...]:
        return (tune.Callback, ())  # Tune pickles its callbacks for a restore that we never do

    def __enter__(self) -> Watcher:
        self._beside("trials.parquet", self.progress.write)
        self._beside("TensorBoard", self._describe)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)  # the next start writes them
        self.heartbeat.publish()  # the cuts of the last rung

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        ours = self.trial_of(trial.config)
        self.progress.add(ours)
        self.progress.live.started(ours.id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._unwritable = result.get(UNWRITABLE, self._unwritable)
        report = RungReport.decode(result)
        if report is not None:
            if report.replayed and not self.progress.has_report(report):
                self._chart(self.trial_of(trial.config), report)
            self.progress.report(report)
        self.progress.decide(self.scheduler.changes())

    def replayed(self, trial: Trial, report: RungReport) -> None:
        """Pass on a report of an earlier start, before Tune begins."""
        self.progress.add(trial)
        self._chart(trial, report)
        self.progress.report(report)

    def _chart(self, trial: Trial, report: RungReport) -> None:
        """Write TensorBoard's file of a rung of an earlier start: its host may have died before it did."""
        study = self.progress.study
        weight = study.objective.std_weight
        self._beside("TensorBoard", chart, self.progress.store, trial, report.step, weight, varied_axes(study))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called many times a second, with or without news; a job is not started again while it still runs. Raises
        where the run folder takes no files: every trial would fail on it, and what it has trained would be lost."""
        if self._unwritable:
            raise UnwritableError(self._unwritable)
        self.progress.decide(self.scheduler.changes())
        now = time.monotonic()
        if now - self._beaten > BEAT_EVERY and (self._beating is None or self._beating.done()):
            self._beaten = now
            self._beating = self._beside("the hosts", self.heartbeat.beat)
        if now - self._written > WRITE_EVERY and (self._writing is None or self._writing.done()):
            self._written = now
            self.progress.decide(self.scheduler.decisions())  # with the present reasons of waiting trials
            anyway = now - self._written_anyway > QUIET_WRITE_EVERY
            self._written_anyway = now if anyway else self._written_anyway
            self._writing = self._beside("trials.parquet", self.progress.write, anyway)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.heartbeat.retries += 1
        self.progress.live.decided(
            self.trial_of(trial.config).id, "waiting", "lost its process; goes on from its last rung"
        )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._unwritable = (trial.last_result or {}).get(UNWRITABLE, self._unwritable)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.scheduler.requeue()
        self.progress.decide(self.scheduler.changes())

    def _beside(self, what: str, act: Callable[..., None], *args: Any) -> Future[None]:
        return self._pool.submit(self._safely, what, act, *args)

    def _safely(self, what: str, act: Callable[..., None], *args: Any) -> None:
        try:
            act(*args)
        except UnwritableError as error:
            self._unwritable = str(error)
        except Exception as error:  # a failure to show something must not end a sweep
            logging.getLogger("steadytune").warning("%s: %s", what, error)

    def _describe(self) -> None:
        """Write the axes that vary and the prompts. The axes are the study's, so they cover trials that a search has
        yet to choose. What is None TensorBoard collects itself: seeds, since a run may be of all of them, and the
        steps of stages, of which one may train for fewer."""
        study = self.progress.study
        varied, axes = varied_axes(study), axes_of(study)
        values: dict[str, Any] = {n: axes.get(n) for n in varied if not isinstance(axes.get(n), Domain)}
        values |= {n: None for n in ("seed", *(["steps"] if study.stages else [])) if n in varied}
        if "epochs" in axes and "steps" in varied and study.stages is None and study.search.method != "tpe":
            values["steps"] = {t.optimization.steps for t in list(self.progress.trials.values())}
        if "target_modules" in values:
            values["target_modules"] = [modules_text(m) for m in values["target_modules"]]
        ranges = {n: (v.low, v.high) for n in varied if isinstance(v := axes.get(n), Domain)}
        self._board.study(values, ranges)
        self._board.prompts(self.pools)
