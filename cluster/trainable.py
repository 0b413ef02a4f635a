"""The Tune trainable: a light process that takes a slot in its accelerator's host and reports one rung per step.

It imports no torch. It holds no state but the number of rungs reported: whatever is finished is found in the run
folder, so a fresh process, a resumed one and one on another node all go on at the same place. That number travels to
Tune and back in memory: as a file it would need a disk that all nodes share.
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
from ray.train._internal.session import _TrainingResult

from cluster.gang import PlaceLostError
from cluster.hosts import Fleet
from trainer.reports import report_of
from trainer.trial import Trial, rung_steps

log = logging.getLogger("steadytune")


@dataclass(frozen=True)
class Sweep:
    """What all trials of a sweep share. ``trial_of`` turns Tune's parameters (ids and numbers) into a trial. A trial
    that breaks on something is tried again ``failures`` times; a lost process or node is Tune's to count."""

    fleet: Fleet
    trial_of: Callable[[Mapping[str, Any]], Trial]
    rungs: Sequence[float]  # shares of a trial's steps
    std_weight: float
    failures: int = 0


class SlotTrainable(tune.Trainable):
    """One ``step()`` brings the trial to its next rung."""

    def setup(self, config: dict[str, Any], sweep: Sweep) -> None:  # type: ignore[override]
        self.sweep = sweep
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.trial = self.sweep.trial_of(new_config)
        self.rung = 0
        return True

    def step(self) -> dict[str, Any]:
        steps = rung_steps(self.sweep.rungs, self.trial.optimization.steps)
        found = self._ensure(steps[self.rung])
        if isinstance(found, str):
            return {"failed": found, "objective": math.nan, "done": True}
        rows, record = found
        told = report_of(self.trial, self.rung, rows, record, self.sweep.std_weight)
        self.rung += 1
        return {**told, "done": self.rung == len(steps) or "nan" in record}

    def _ensure(self, rung: int) -> Any:
        """Rows and record of ``rung``, or why there are none after all attempts. Raises where the place is lost."""
        for attempt in range(self.sweep.failures + 1):
            try:
                return self.sweep.fleet.ensure(self.trial, rung, "dev")
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

    def save(self, checkpoint_dir: str | None = None) -> Any:
        """Tune asks for a checkpoint (a path that is never read) before it pauses a trial, and gives its metrics back
        when the trial goes on, wherever that is."""
        return _TrainingResult(tune.Checkpoint("/dev/null"), {"rung": self.rung})

    def restore(self, checkpoint_path: Any) -> None:
        self.rung = checkpoint_path.metrics["rung"]
