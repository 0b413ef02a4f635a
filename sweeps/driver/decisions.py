"""The order in which reports came, and whom each let go on: ``decisions/`` of the run folder.

Under ``scheduler.rule: asynchronous`` decisions depend on the order of the reports. Each report is recorded before
anything follows from it, so that the next start decides as this one did: it takes the recorded reports in their order,
then those that come. The files of a sweep have the name of what decides: its trials, rungs, eta and objective. A sweep
of other trials is decided anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from sweeps.schedule.asha import Rungs
from sweeps.schedule.asynchronous import AsynchronousRungs, Promotion
from sweeps.schedule.configurations import ConfigurationRungs, give
from sweeps.study.study import Study
from trainer.errors import UserError
from trainer.measure.rung import RungReport
from trainer.store import Store
from trainer.trial import Trial, digest

FOLDER = "decisions"
LINES = 64  # of a file, which is written anew with each of them
ANEW = "Remove the folder decisions of the run folder, and the sweep is decided anew from its scores"


class DecisionRecord:
    """Of one sweep; ``rungs`` decide it, and have had no report yet."""

    def __init__(
        self, store: Store, study: Study, trials: Sequence[Trial], rungs: AsynchronousRungs | ConfigurationRungs
    ) -> None:
        self.store, self.study, self.rungs = store, study, rungs
        self.trials = {trial.id: trial for trial in trials}
        scheduler, weight = study.scheduler, study.objective.std_weight
        key = digest([sorted(self.trials), scheduler.eta, scheduler.shares, weight])
        self.folder = f"{FOLDER}/{key}"
        self._lines: list[str] = []  # of the file that is not full
        self._files = 0  # that are full
        self._known: set[tuple[str, int]] = set()
        self._told = 0  # promotions that are recorded
        self.lost: list[str] = []  # trials with a recorded report whose scores are gone

    @classmethod
    def of(
        cls, store: Store, study: Study, trials: Sequence[Trial], rungs: Rungs | ConfigurationRungs
    ) -> DecisionRecord | None:
        """None where the order of reports decides nothing."""
        inner = rungs.rungs if isinstance(rungs, ConfigurationRungs) else rungs
        if isinstance(inner, AsynchronousRungs) and isinstance(rungs, AsynchronousRungs | ConfigurationRungs):
            return cls(store, study, trials, rungs)
        return None

    def replay(self) -> list[RungReport]:
        """Give the recorded reports to the rungs, in their order. The reports, as the scores in the run folder say.
        Raises UserError where the scores, or what follows from them, are not as recorded."""
        found = []
        for where, line in self._read():
            if line["report"] is not None:
                report = self._report(where, line["report"])
                found.append(report)
                give(self.rungs, report)
                self._known.add((report.trial_id, report.rung_index))
            elif line["failed"] is not None:
                self.rungs.fail(*self._of_sweep(where, line["failed"]))
            now = [[p.trial, p.rung] for p in self._new() if not p.last_left]
            if now != line["promoted"]:
                raise UserError(
                    f"{where}: says that {json.dumps(line['promoted'])} (trial, rung) went on here, "
                    f"and by scheduler.rule = asynchronous it is {json.dumps(now)}. {ANEW}"
                )
            for trial, rung in line["last_left"]:
                self.rungs.promote_last(trial, rung)
                self._new()
        self.rungs.newly_decided()  # nobody waits for these
        return found

    def add(self, report: RungReport) -> None:
        """Record a report that the rungs have had, and what followed. No effect for one that is recorded."""
        if (report.trial_id, report.rung_index) not in self._known and report.trial_id in self.trials:
            self._known.add((report.trial_id, report.rung_index))
            self._write(report)

    def fail(self, trial: str, why: str) -> None:
        """Record that a trial fails which has reported before, since others were compared with it. One that has not
        is trained again at the next start."""
        if trial in self.trials:
            decision = self.rungs.decide(trial)
            if decision.rung is not None and decision.status == "running":
                self._write(None, [trial, why])

    def note(self) -> None:
        """Record what followed from an event that was no report."""
        if len(self.rungs.promotions) > self._told:
            self._write(None)

    def _new(self) -> Sequence[Promotion]:
        new = self.rungs.promotions[self._told :]
        self._told += len(new)
        return new

    def _write(self, report: RungReport | None, failed: Sequence[str] | None = None) -> None:
        new = self._new()
        line = {
            "report": None if report is None else asdict(report),
            "failed": failed,
            "promoted": [[p.trial, p.rung] for p in new if not p.last_left],
            "last_left": [[p.trial, p.rung] for p in new if p.last_left],
        }
        self._lines.append(json.dumps(line) + "\n")
        self.store.write(self._file(self._files), "".join(self._lines).encode())
        if len(self._lines) == LINES:
            self._lines, self._files = [], self._files + 1

    def _file(self, number: int) -> str:
        return f"{self.folder}/{number:06d}.jsonl"

    def _read(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(place, line) of every line, in order."""
        while self.store.exists(name := self._file(self._files)):
            lines = self.store.read(name).decode(errors="replace").splitlines(keepends=True)
            for i, text in enumerate(lines, 1):
                where = f"{self.store.address(name)}, line {i}"
                try:
                    line = json.loads(text)
                    if line["report"] is not None:
                        line["report"] = RungReport(**line["report"])
                    line = {"failed": line.get("failed")} | {n: line[n] for n in ("report", "promoted", "last_left")}
                except (ValueError, TypeError, KeyError) as error:
                    raise UserError(f"{where}: is damaged ({error}). {ANEW}") from None
                yield where, line
            if len(lines) < LINES:
                self._lines = lines
                return
            self._files += 1

    def _report(self, where: str, recorded: RungReport) -> RungReport:
        """The report as the scores give it; as recorded where they are lost."""
        trial = self.trials[self._of_sweep(where, [recorded.trial_id])[0]]
        scores = self.store.read_scores(trial.id, recorded.step, "dev")
        if scores is None:
            self.lost.append(trial.id)
            return recorded
        found = RungReport.of(trial, recorded.rung_index, *scores, self.study.objective.std_weight)
        if not _equal(found.objective, recorded.objective):
            raise UserError(
                f"{where}: says that trial {trial.id} had the objective {recorded.objective:.12g} at rung "
                f"{recorded.rung_index + 1}, and its scores give {found.objective:.12g}. Put the scores back. Or: "
                f"{ANEW}"
            )
        return found

    def _of_sweep(self, where: str, said: Sequence[str]) -> Sequence[str]:
        """``said``, which begins with a trial's id."""
        if said[0] not in self.trials:
            raise UserError(f"{where}: is of trial {said[0]}, which is none of this sweep. {ANEW}")
        return said


def _equal(a: float, b: float) -> bool:
    return a == b or abs(a - b) < 1e-9 or (a != a and b != b)
