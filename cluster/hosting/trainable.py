"""The Tune trainable: a light process that takes a slot in its accelerator's host and reports one rung per step.

It imports no torch. It holds no state but the number of rungs reported: whatever is finished is found in the run
folder, so a fresh process, a resumed one and one on another node all go on at the same place. That number comes with
the trial's config, where the scheduler keeps it: a checkpoint would be two more calls for each rung.
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
from trainer.measure.rung import RungReport
from trainer.trial import Trial, rung_steps

log = logging.getLogger("steadytune")
RUNGS_DONE = "rungs_done"  # in a trial's config


@dataclass(frozen=True)
class Sweep:
    """What all trials of a sweep share. ``trial_of`` turns Tune's parameters (ids and numbers) into a trial. A trial
    that breaks on something is tried again ``failures`` times; a lost process or node is Tune's to count."""

    fleet: Fleet
    trial_of: Callable[[Mapping[str, Any]], Trial]
    rungs: Sequence[float]  # shares of a trial's steps
    std_weight: float
    failures: int = 0
    test: bool = False  # whether a trial that reaches its last rung is scored on the test pool, too


class SlotTrainable(tune.Trainable):
    """One ``step()`` brings the trial to its next rung; the last one scores the test prompts as well, while the adapter
    is at hand and other trials train."""

    def setup(self, config: dict[str, Any], sweep: Sweep) -> None:  # type: ignore[override]
        self.sweep = sweep
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.trial = self.sweep.trial_of(new_config)
        self.rung = new_config.get(RUNGS_DONE, 0)
        return True

    def train(self) -> dict[str, Any]:
        """Without the times, process, host and config that Tune's own adds: the run folder has what is to be kept."""
        return {**self.step(), "training_iteration": self.rung}  # which Tune's loggers ask for, where they are on

    def step(self) -> dict[str, Any]:
        steps = rung_steps(self.sweep.rungs, self.trial.optimization.steps)
        found = self._ensure(steps[self.rung], "dev")
        if isinstance(found, str):
            return {"failed": found, "objective": math.nan, "done": True}
        rows, record = found
        report = RungReport.of(self.trial, self.rung, rows, record, self.sweep.std_weight)
        self.rung += 1
        if self.sweep.test and self.rung == len(steps) and math.isfinite(report.objective):
            self._ensure(steps[-1], "test")  # where this fails, it is tried again when the sweep is over
        done = self.rung == len(steps) or "nan" in record
        return {**report.encode(), "done": done}

    def _ensure(self, rung: int, pool: str) -> Any:
        """Rows and record of ``rung`` under ``pool``, or why there are none after all attempts. Raises where the place
        is lost."""
        for attempt in range(self.sweep.failures + 1):
            try:
                return self.sweep.fleet.ensure(self.trial, rung, pool)
            except (PlaceLostError, RayActorError):
                raise
            except Exception as error:
                log.warning("trial %s, attempt %d: %s", self.trial.id, attempt + 1, error)
                why = str(error).strip().splitlines()
                last = why[-1] if isinstance(error, RayTaskError) and why else str(error)
                if attempt == self.sweep.failures:
                    return last or type(error).__name__
                time.sleep(2**attempt)
        raise AssertionError
