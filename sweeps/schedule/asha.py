"""Which trials go on: successive halving that promotes the same trials in whatever order they report.

The rule: ``trials`` trials enter rung 0. At a rung a trial reports its objective and waits. Exactly the best
``quotas[k + 1]`` of the trials that enter rung k go on, ranked by objective, then by id; ``quotas[0]`` is the number of
trials and ``quotas[k + 1] = max(1, floor(quotas[k] / eta))``. So the set of promoted trials depends on the objectives
alone. No trial waits longer than needed: it goes on as soon as no trial that has yet to report can push it out, and is
stopped as soon as enough better trials have reported.

* A trial whose objective is NaN or infinite is stopped at once. It and a failed trial count as having reported the
  worst value, so that the other trials do not wait for them; if fewer valid trials than the quota are left, only those
  go on.
* A degenerate trial (one answer nearly always) ranks below every other valid one, whatever its objective.
* A trial that fails while it waits keeps its value and its place, since others may have been stopped because of it. If
  it is then promoted, it counts as failed at the next rung.

Ray's ``AsyncHyperBandScheduler`` stops a trial by comparing it with the trials that reported before it, so the first
ones always go on, and of eight equal trials all eight are kept. Li et al., 2020, "A System for Massively Parallel
Hyperparameter Tuning", Algorithm 2, promotes asynchronously and depends on the order as well
(``sweeps.schedule.asynchronous``).

This file holds the rule without Ray; one report costs O(log n) comparisons. ``sweeps/schedule/tune_scheduler.py`` makes
a Ray Tune scheduler of it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Action = Literal["continue", "pause", "stop", "finish", "fail"]
Status = Literal["running", "finished", "stopped", "failed"]
State = Literal["running", "waiting", "stopped", "finished", "failed"]
Key = tuple[bool, float, str]  # (degenerate, -objective, trial): the smallest is the best

_ACTIONS: dict[State, Action] = {
    "running": "continue",
    "waiting": "pause",
    "stopped": "stop",
    "finished": "finish",
    "failed": "fail",
}


@dataclass(frozen=True)
class Decision:
    """What a trial does next, and why. ``rung`` (from 0), ``step`` and ``objective`` are those of its last report; None
    if the trial has not reported yet."""

    action: Action
    reason: str
    rung: int | None = None
    step: int | None = None  # optimizer steps
    objective: float | None = None

    @property
    def status(self) -> Status:
        """The status in trials.parquet; a waiting trial is ``running``."""
        words: dict[Action, Status] = {"stop": "stopped", "finish": "finished", "fail": "failed"}
        return words.get(self.action, "running")


def rung_quotas(trials: int, eta: float, count: int) -> tuple[int, ...]:
    """How many trials enter each of ``count`` rungs: (8, 2, 3) -> (8, 4, 2); never less than one."""
    quotas = [trials]
    while len(quotas) < count:
        quotas.append(max(1, math.floor(quotas[-1] / eta + 1e-9)))
    return tuple(quotas)


def rank_key(trial: str, objective: float, degenerate: bool = False) -> Key:
    """Sorts the best first: not degenerate, then the higher objective, then the id."""
    return (degenerate, -objective, trial)


def number_to_come(quotas: Sequence[int], arrived: Sequence[int], invalid: Sequence[int]) -> list[int]:
    """For each rung, the most trials that may still report there; the exact number once the rungs below are complete.

    ``arrived`` counts reports and failures, ``invalid`` those of them that cannot go on (NaN, failed).
    """
    to_come = []
    entrants = quotas[0]
    for rung, quota in enumerate(quotas):
        entrants = min(quota, entrants - invalid[rung - 1]) if rung else quota
        to_come.append(max(0, entrants - arrived[rung]))
    return to_come


def _digits(value: float, other: float | None = None) -> str:
    """``value`` with six significant digits; with all digits if six would make it look equal to a different
    ``other``."""
    text = f"{value:.6g}"
    return repr(value) if other is not None and other != value and text == f"{other:.6g}" else text


@dataclass(frozen=True)
class Report:
    rung: int
    objective: float
    step: int | None
    stderr: float | None
    degenerate: bool
    why_degenerate: str

    def key(self, trial: str) -> Key:
        return rank_key(trial, self.objective, self.degenerate)

    def value(self, other: float | None = None) -> str:
        error = "" if self.stderr is None or not math.isfinite(self.stderr) else f" ± {self.stderr:.2g}"
        note = f" ({self.why_degenerate})" if self.degenerate else ""
        return f"objective {_digits(self.objective, other)}{error}{note}"


@dataclass
class Entrant:
    state: State = "running"
    last: Report | None = None
    failure: str = ""  # set when it fails, even while its value keeps its place

    def waits_at(self, rung: int) -> bool:
        """False if it was promoted from ``rung`` before and now waits at a later one."""
        return self.state == "waiting" and self.last is not None and self.last.rung == rung


@dataclass
class RungStanding:
    ranked: list[Key] = field(default_factory=list)  # valid reports, best first
    promoted: int = 0  # the first so many of ``ranked``
    nan: int = 0  # arrived with NaN or infinity
    failed: int = 0  # on the way

    @property
    def invalid(self) -> int:
        return self.nan + self.failed

    @property
    def reported(self) -> int:
        return len(self.ranked) + self.nan

    @property
    def arrived(self) -> int:
        return self.reported + self.failed


class Rungs:
    """Takes reports and failures of trials and decides which go on, at ``count`` rungs; with one rung none is cut.

    A trial is not registered: its first report or failure adds it. A retried trial replays its finished rungs, and
    reporting a rung again changes nothing and returns the trial's decision.
    """

    def __init__(self, trials: int, eta: float, count: int) -> None:
        for name, value in (("trials", trials), ("eta", eta), ("count", count)):  # with eta 1 all trials go on
            if not value >= 1:
                raise ValueError(f"scheduler: {name} = {value} is too small. Give 1 or more.")
        self.eta = eta
        self.count = count
        self.quotas = rung_quotas(trials, eta, count)
        self._rungs = [RungStanding() for _ in range(count)]
        self._entrants: dict[str, Entrant] = {}
        self._newly_decided: list[str] = []

    @property
    def trials(self) -> int:
        return self.quotas[0]

    def report(
        self,
        trial: str,
        rung: int,
        objective: float,
        *,
        step: int | None = None,
        stderr: float | None = None,
        degenerate: bool = False,
        why_degenerate: str = "degenerate: one answer nearly always",
        std: float = 0.0,
    ) -> Decision:
        """Record the objective of ``trial`` at ``rung`` (from 0) and return what the trial does now. ``std``, of the
        metric over the prompts, matters to configurations of several seeds alone."""
        entrant = self._enter(trial)
        due = 0 if entrant.last is None else entrant.last.rung + 1
        if rung < due or entrant.state in ("stopped", "finished", "failed"):
            return self.decide(trial)
        if rung > due or entrant.state == "waiting" or rung >= self.count:
            raise ValueError(f"trial {trial}: a report of rung {rung + 1} of {self.count} came, rung {due + 1} was due")
        report = Report(rung, float(objective), step, stderr, bool(degenerate), why_degenerate)
        entrant.last = report
        new_place = None
        if not math.isfinite(report.objective):
            entrant.state = "stopped"
            self._rungs[rung].nan += 1
        else:
            ranked, key = self._rungs[rung].ranked, report.key(trial)
            new_place = bisect_left(ranked, key)
            ranked.insert(new_place, key)
            entrant.state = "finished" if rung == self.count - 1 else "waiting"
        self._settle(rung, new_place)
        self._newly_decided = [
            name for name in self._newly_decided if name != trial
        ]  # the caller gets this one as the answer
        return self.decide(trial)

    def fail(self, trial: str, why: str = "the trial failed") -> Decision:
        """Record that the trial ends without another report. No effect if it is stopped or finished already."""
        entrant = self._enter(trial)
        if entrant.state == "running":
            entrant.state, entrant.failure = "failed", why
            rung = 0 if entrant.last is None else entrant.last.rung + 1
            self._rungs[rung].failed += 1
            self._settle(rung)
        elif entrant.state == "waiting":
            entrant.failure = entrant.failure or why
        return self.decide(trial)

    def no_more_trials(self, trials: int) -> None:
        """Record that only ``trials`` trials will exist, because the search ended early.

        The quotas become those of ``trials``. No earlier decision changes: a missing trial lowers the number of trials
        to come by one and a quota by at most one. So the outcome is that of a sweep which had known the number from
        the start.
        """
        if trials > self.trials:
            raise ValueError(f"trials = {trials} is more than the {self.trials} that were announced.")
        if trials < max(1, len(self._entrants)):
            raise ValueError(f"trials = {trials} is less than the {max(1, len(self._entrants))} that have reported.")
        self.quotas = rung_quotas(trials, self.eta, self.count)
        self._settle(0)

    def newly_decided(self) -> list[str]:
        """Trials that waited and have been promoted or stopped since the last call, in order of decision."""
        decided, self._newly_decided = self._newly_decided, []
        return decided

    def decide(self, trial: str) -> Decision:
        """What ``trial`` does now. The reason is worded from all reports so far, so after the last report it does not
        depend on their order either."""
        entrant = self._entrants.get(trial)
        if entrant is None:
            return Decision("continue", f"on its way to rung 1 of {self.count}")
        last = entrant.last
        reason = self._reason(trial, entrant)
        if last is None:
            return Decision(_ACTIONS[entrant.state], reason)
        return Decision(_ACTIONS[entrant.state], reason, last.rung, last.step, last.objective)

    def decisions(self) -> dict[str, Decision]:
        return {trial: self.decide(trial) for trial in self._entrants}

    def to_come(self) -> list[int]:
        """For each rung, how many trials may still arrive."""
        rungs = self._rungs
        return number_to_come(self.quotas, [r.arrived for r in rungs], [r.invalid for r in rungs])

    def _enter(self, trial: str) -> Entrant:
        entrant = self._entrants.get(trial)
        if entrant is None:
            if len(self._entrants) >= self.trials:
                raise ValueError(f"trial {trial} is one more than the {self.trials} trials that were announced.")
            entrant = self._entrants[trial] = Entrant()
        return entrant

    def _settle(self, start: int, new_place: int | None = None) -> None:
        """Take every decision that has become certain, from rung ``start`` up: a report or a failure matters to its own
        rung and to those above. ``new_place`` is the place of the new report in rung ``start``."""
        for number in range(start, self.count - 1):
            rung, quota = self._rungs[number], self.quotas[number + 1]
            sure = min(len(rung.ranked), max(rung.promoted, quota - self.to_come()[number]))
            places = [*range(rung.promoted, sure)]
            if new_place is not None and number == start and new_place < sure:
                places.append(new_place)
            for place in places:
                self._promote(rung.ranked[place][2], number)
            rung.promoted = sure
            # Below the quota, only the new report and those that it (or a smaller quota) pushed out are not stopped
            # yet.
            for place in range(quota, len(rung.ranked)):
                if not self._stop(rung.ranked[place][2], number):
                    break
            if new_place is not None and number == start and new_place >= quota:
                self._stop(rung.ranked[new_place][2], number)

    def _promote(self, trial: str, rung: int) -> None:
        entrant = self._entrants[trial]
        if not entrant.waits_at(rung):
            return
        entrant.state = "running"
        self._newly_decided.append(trial)
        if entrant.failure:
            entrant.state = "failed"
            self._rungs[rung + 1].failed += 1

    def _stop(self, trial: str, rung: int) -> bool:
        entrant = self._entrants[trial]
        if not entrant.waits_at(rung):
            return False
        entrant.state = "failed" if entrant.failure else "stopped"
        self._newly_decided.append(trial)
        return True

    def _reason(self, trial: str, entrant: Entrant) -> str:
        last = entrant.last
        if last is None:
            return f"failed before rung 1 of {self.count}: {entrant.failure}" if entrant.failure else "on its way"
        where = f"rung {last.rung + 1} of {self.count}" + ("" if last.step is None else f" (step {last.step})")
        if entrant.failure:
            return f"failed after {where}: {entrant.failure}"
        if entrant.state == "finished":
            return f"finished at {where}: {last.value()}"
        if not math.isfinite(last.objective):
            return f"stopped at {where}: objective is {last.objective}"
        return self._reason_among(trial, entrant.state, last, where)

    def _reason_among(self, trial: str, state: State, last: Report, where: str) -> str:
        """Why a trial was promoted, waits or was stopped at ``where``, by its place among those that reported there."""
        ranked = self._rungs[last.rung].ranked
        quota, to_come = self.quotas[last.rung + 1], self.to_come()[last.rung]
        entrants = self._rungs[last.rung].arrived + to_come
        best = best_of(quota, entrants)
        if state == "running":
            return f"promoted from {where}: {last.value()} is {'among ' if quota > 1 else ''}{best}"
        if state == "waiting":
            place = f"number {bisect_left(ranked, last.key(trial)) + 1} of {len(ranked)}"
            return f"waits at {where}: {last.value()} is {place}, {to_come} to come, {quota} to go on"
        return f"stopped at {where}: {below_cutoff(last, ranked[quota - 1], best)}"


def best_of(quota: int, entrants: int) -> str:
    return f"the {quota} best of {entrants}" if quota > 1 else f"the best of {entrants}"


def below_cutoff(last: Report, worst: Key, best: str) -> str:
    """Why a trial is not among ``best``, the last of which is ``worst``."""
    cutoff = -worst[1]
    if cutoff == last.objective and worst[0] == last.degenerate:
        return f"{last.value()} equals the cut-off of {best}, whose ids come first"
    below = "is below" if worst[0] == last.degenerate else "ranks below"
    return f"{last.value(cutoff)} {below} {best} (cut-off {_digits(cutoff, last.objective)})"
