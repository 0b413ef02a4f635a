"""The state of every trial of a sweep, as ``trials.parquet`` and the live table show it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from sweeps.live.table import LiveTable
from sweeps.run_folder.columns import SEARCH
from sweeps.run_folder.trials_file import study_checksum, write_trials
from sweeps.schedule.asha import Decision
from sweeps.study.study import Study
from trainer.measure.metrics import Objective, objective
from trainer.measure.rung import RungReport
from trainer.store import Store
from trainer.trial import Trial, axis_columns, rung_steps

BEAT_EVERY = 3.0  # seconds after which the hosts are asked again what they have done
WRITE_EVERY = 5.0  # seconds between writings of trials.parquet while the study runs
QUIET_WRITE_EVERY = 15.0  # where no trial has changed: how far the hosts are is in the file as well


def on_wall_clock(monotonic: float) -> float:
    """When by the wall clock it was ``monotonic``, for the times that people are shown."""
    return time.time() - (time.monotonic() - monotonic)


@dataclass
class Progress:
    """Collects reports, decisions and test scores; writes ``trials.parquet`` and updates the live table."""

    study: Study
    store: Store
    live: LiveTable
    trials: dict[str, Trial] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    reported: set[tuple[str, int]] = field(default_factory=set)
    decisions: dict[str, Decision] = field(default_factory=dict)
    tests: dict[str, Objective] = field(default_factory=dict)
    test_seconds: dict[str, float] = field(default_factory=dict)  # of scoring the test pool; in ``seconds`` as well
    earlier_rows: list[dict[str, Any]] = field(default_factory=list)  # of trials from earlier stages
    roles: dict[str, str] = field(default_factory=dict)  # trial -> what it is for, where that is not the search
    scores_test_pool: bool = True  # whether the trials are scored on the test pool
    began: float = field(default_factory=time.time)  # by the wall clock
    _written: str = ""
    _study: str = ""  # checksum of the study.yaml beside it

    def add(self, trial: Trial) -> None:
        if trial.id not in self.trials:
            self.trials[trial.id] = trial
            rungs = rung_steps(self.study.scheduler.shares, trial.optimization.steps)
            role = self.roles.get(trial.id, "")
            self.live.trial_added(trial.id, axis_columns(trial), len(rungs), rungs, trial.configuration, role)

    def report(self, report: RungReport) -> None:
        trial_id = report.trial_id
        if self.has_report(report):
            return  # a retried trial replays its finished rungs
        self.reported.add((trial_id, report.rung_index))
        self.seconds[trial_id] = self.seconds.get(trial_id, 0.0) + report.seconds
        self.tokens[trial_id] = self.tokens.get(trial_id, 0) + report.tokens
        self.live.report(report)

    def has_report(self, report: RungReport) -> bool:
        """Whether this rung of the trial was reported before."""
        return (report.trial_id, report.rung_index) in self.reported

    def add_test_scores(self, trial_id: str, rows: pa.Table, record: Mapping[str, Any]) -> None:
        trial = self.trials[trial_id]
        where = f"trial {trial_id}, test"
        found = objective(rows, trial.task.metric, 0.0, trial.task.labels, where, record.get("sample"))
        more = record["seconds"] - self.test_seconds.get(trial_id, 0.0)  # a record tells of all stages of the scoring
        self.test_seconds[trial_id] = record["seconds"]
        self.seconds[trial_id] = self.seconds.get(trial_id, 0.0) + more
        self.tests[trial_id] = found
        self.live.tested(trial_id, found.mean, found.std, more, found.n_cells)

    def decide(self, decisions: Mapping[str, Decision]) -> None:
        """Store the scheduler's decisions, and show those that changed in the live table."""
        for trial_id, decision in decisions.items():
            if self.decisions.get(trial_id) != decision:
                before = self.decisions.get(trial_id)
                self.decisions[trial_id] = decision
                first = before is None and decision.rung is not None  # before its first report there is nothing to show
                if first or decision.action != (before.action if before else "continue"):
                    self.live.decided(
                        trial_id, "waiting" if decision.action == "pause" else decision.status, decision.reason
                    )

    def write(self, even_if_unchanged: bool = False, finished: bool = False) -> None:
        """Write ``trials.parquet``, one row per trial. It is not written again while its rows stay the same, unless
        ``even_if_unchanged``: the time of writing in it shows that the driver is alive. ``finished``: the run is over,
        and nothing will change any more."""
        rows = self.rows()
        if not (even_if_unchanged or finished) and repr(rows) == self._written:  # as text, where a NaN equals itself
            return
        if not self._study and self.store.exists("study.yaml"):
            self._study = study_checksum(self.store.read("study.yaml"))
        state = {"began": self.began, "written": time.time(), "over": finished, "study": self._study}
        write_trials(self.store, rows, state | asdict(self.live.overview()))
        self._written = repr(rows)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``trials.parquet``."""
        live_rows = self.live.rows()
        rows = [row for row in self.earlier_rows if row["trial_id"] not in self.trials]
        for trial_id, trial in list(self.trials.items()):
            decision, row, test = self.decisions.get(trial_id), live_rows[trial_id], self.tests.get(trial_id)
            rows.append(
                {
                    "trial_id": trial_id,
                    **axis_columns(trial),
                    "status": decision.status if decision else "running",
                    "rung": decision.step if decision else None,
                    "reason": decision.reason if decision else "",
                    "seconds": self.seconds.get(trial_id, 0.0),
                    "tokens": self.tokens.get(trial_id, 0),
                    "state": row.state,
                    "objective": row.objective,
                    "stderr": row.stderr,
                    "dev_std": row.std,
                    "degenerate": row.degenerate,
                    "unread": row.unread,
                    "test_mean": test.mean if test else None,
                    "test_std": test.std if test else None,
                    "test_degenerate": test.degenerate if test else None,
                    "configuration": trial.configuration,
                    "role": self.roles.get(trial_id, SEARCH),
                }
            )
        return rows
