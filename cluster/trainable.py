"""The Tune trainable: a light process that takes a slot in its accelerator's host and reports one rung per step.

It imports no torch. It holds no state but the number of rungs reported: whatever is finished is found in the run
folder, so a fresh process, a resumed one and one on another node all go on at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import tune

from cluster.hosts import Fleet
from trainer.reports import report_of
from trainer.trial import Trial, rung_steps


@dataclass(frozen=True)
class Sweep:
    """What all trials of a sweep share. ``trial_of`` turns Tune's parameters (ids and numbers) into a trial."""

    fleet: Fleet
    trial_of: Callable[[Mapping[str, Any]], Trial]
    rungs: Sequence[float]  # shares of a trial's steps
    std_weight: float


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
        rows, record = self.sweep.fleet.ensure(self.trial, steps[self.rung], "dev")
        told = report_of(self.trial, self.rung, rows, record, self.sweep.std_weight)
        self.rung += 1
        return {**told, "done": self.rung == len(steps) or "nan" in record}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"rung": self.rung}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        self.rung = (checkpoint or {"rung": 0})["rung"]
