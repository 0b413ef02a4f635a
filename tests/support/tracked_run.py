"""A run folder that grows as a run's does, for what reads it meanwhile: three trials of two rungs, of which the second
is cut after the first rung and the third fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from reported_run import make_run, make_study, make_trial, record, score_rows

from sweeps.report.write import write_report
from sweeps.run_folder import trials_file
from trainer.store import Store
from trainer.trial import Trial, axis_columns

LEVEL = 0.5  # of the losses


class GrowingRun:
    """Call ``first_rung``, ``second_rung`` and ``end`` in this order."""

    def __init__(self, folder: Path) -> None:
        self.store: Store = make_run(folder, make_study(scheduler={"name": "asha", "rungs": [0.5, 1.0]}))
        self.trials: list[Trial] = [make_trial(lr) for lr in (1e-3, 3e-3, 1e-2)]
        self.uri = str(folder)
        self.list_trials(("running", 0), ("running", 0), ("running", 0))

    def first_rung(self) -> None:
        self.add_scores(self.trials[0], 20, "dev", 0.76)
        self.add_scores(self.trials[1], 20, "dev", 0.55)
        self.list_trials(("running", 20), ("stopped", 20), ("failed", 0))

    def second_rung(self) -> None:
        self.add_scores(self.trials[0], 40, "dev", 0.86)
        self.list_trials(("running", 40), ("stopped", 20), ("failed", 0))

    def end(self) -> None:
        self.add_scores(self.trials[0], 40, "test", 0.86)
        self.list_trials(("finished", 40), ("stopped", 20), ("failed", 0), over=True)
        write_report(self.uri)

    def add_scores(self, trial: Trial, rung: int, pool: str, quality: float) -> None:
        right = quality + 0.06 * np.sin(np.arange(6))
        rows = score_rows(trial.id, rung, pool, right, [f"{pool}{i}" for i in range(6)])
        self.store.write_scores(trial.id, rung, pool, rows, record(trial, rung, LEVEL))

    def list_trials(self, *states: tuple[str, int], over: bool = False) -> None:
        why = {"stopped": "rung 1: 0.450 is 2nd of 2", "failed": "loss became NaN between steps 3 and 4"}
        rows: list[dict[str, Any]] = [
            {
                "trial_id": trial.id,
                **axis_columns(trial),
                "status": status,
                "rung": rung,
                "reason": why.get(status, ""),
                "seconds": 24.0,
                "tokens": 10000,
                "configuration": trial.configuration,
                "role": "search",
            }
            for trial, (status, rung) in zip(self.trials, states, strict=True)
        ]
        trials_file.write_trials(self.store, rows, {"over": over})


def finished(folder: Path) -> GrowingRun:
    run = GrowingRun(folder)
    run.first_rung()
    run.second_rung()
    run.end()
    return run


def completion_loss(step: int) -> float:
    """What the trials' curves hold."""
    return float(2.5 * LEVEL * np.exp(-step / 25) + 0.3 + 0.05 * np.sin(step * 3))
