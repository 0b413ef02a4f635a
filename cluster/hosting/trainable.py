"""The Tune trainable: a light process that takes a slot in its accelerator's host and reports one rung per step.

It imports no torch. Its only state is the number of rungs reported, since all finished work is in the run folder: a new
process, a resumed one and one on another node all go on from the same point. The scheduler keeps that number in the
trial's config; in a checkpoint it would cost two more calls for each rung.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.exceptions import RayActorError, RayTaskError

from cluster.hosting.gang import PlaceLostError
from cluster.hosting.hosts import Fleet
from trainer.errors import BaseModelError
from trainer.measure.rung import RungReport
from trainer.store import UnwritableError
from trainer.trial import Trial, rung_steps

log = logging.getLogger("steadytune")
RUNGS_DONE = "rungs_done"  # in a trial's config
UNWRITABLE = "unwritable"  # in a result: why the run folder takes no files, which ends the sweep


@dataclass(frozen=True)
class Sweep:
    """What all trials of a sweep share. ``trial_of`` turns Tune's parameters (ids and numbers) into a trial. A trial
    that raises an error is tried again ``failures`` times; Tune counts lost processes and nodes apart from these."""

    fleet: Fleet
    trial_of: Callable[[Mapping[str, Any]], Trial]
    rungs: Sequence[float]  # shares of a trial's steps
    std_weight: float
    failures: int = 0
    test: bool = False  # whether a trial is also scored on the test pool after its last rung


class SlotTrainable(tune.Trainable):
    """One ``step()`` brings the trial to its next rung. The last one also scores the test prompts, while the adapter is
    in its slot and other trials train."""

    def setup(self, config: dict[str, Any], sweep: Sweep) -> None:  # type: ignore[override]
        self.sweep = sweep
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.trial = self.sweep.trial_of(new_config)
        self.rung = new_config.get(RUNGS_DONE, 0)
        return True

    def train(self) -> dict[str, Any]:
        """Unlike Tune's own ``train``, adds no times, process, host and config: what is kept is in the run folder."""
        return {**self.step(), "training_iteration": self.rung}  # Tune's loggers need it if they are on

    def step(self) -> dict[str, Any]:
        steps = rung_steps(self.sweep.rungs, self.trial.optimization.steps)
        found = self._ensure(steps[self.rung], "dev")
        if isinstance(found, str):
            return {"failed": found, "objective": math.nan, "done": True}
        if isinstance(found, UnwritableError):
            return {"failed": str(found), UNWRITABLE: str(found), "objective": math.nan, "done": True}
        rows, record = found
        report = RungReport.of(self.trial, self.rung, rows, record, self.sweep.std_weight)
        self.rung += 1
        if self.sweep.test and self.rung == len(steps) and math.isfinite(report.objective):
            self._ensure(steps[-1], "test")  # where this fails, it is tried again when the sweep is over
        done = self.rung == len(steps) or "nan" in record
        return {**report.encode(), "done": done}

    def _ensure(self, rung: int, pool: str) -> Any:
        """Score rows and record of ``rung`` on ``pool``, or, after the last attempt, the error as text. Where the run
        folder takes no files, that error, at once. Raises if the place is lost."""
        for attempt in range(self.sweep.failures + 1):
            try:
                return self.sweep.fleet.ensure(self.trial, rung, pool)
            except (PlaceLostError, RayActorError):
                raise
            except UnwritableError as error:
                return error
            except Exception as error:
                log.warning("trial %s, attempt %d: %s", self.trial.id, attempt + 1, error)
                why = str(error).strip().splitlines()
                last = why[-1] if isinstance(error, RayTaskError) and why else str(error)
                if attempt == self.sweep.failures or isinstance(error, BaseModelError):  # the same again
                    return last or type(error).__name__
                time.sleep(2**attempt)
        raise AssertionError
