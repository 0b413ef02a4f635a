"""Which trials go on: successive halving of the promotion type, whatever the order of arrival.

The rule. ``trials`` trials enter rung 0. At a rung a trial reports its objective and waits. Exactly the best
``quotas[k + 1]`` of the entrants of rung k go on, ranked by objective, then by id; ``quotas[0]`` is the number
of trials and ``quotas[k + 1] = max(1, floor(quotas[k] / eta))``. So the promoted set is a function of the
values alone. Nobody waits longer than needed: a trial goes on as soon as no trial still to come can push it
out, and is stopped as soon as enough better ones have reported.

* NaN and infinity arrive as the worst and are stopped at once. A failed trial arrives as the worst too, so it
  never blocks a rung; if fewer valid trials than the quota are left, only those go on.
* A degenerate trial (one answer nearly always) ranks below every other valid one, whatever its objective.
* A trial that fails while it waits keeps its value and its place (others may have been stopped because of it);
  if it is promoted it counts as failed at the next rung.

Ray's ``AsyncHyperBandScheduler`` is the stopping type: it compares with those that happened to arrive before,
so the first arrivals always go on and eight equal scores keep eight trials (Li et al., 2020, "A System for
Massively Parallel Hyperparameter Tuning", Algorithm 2, promotes asynchronously and depends on order as well).

This file is the rule alone, without Ray: one report costs O(log n) comparisons. ``sweeps/schedule/tune_scheduler.py``
is the same rule as a Ray Tune scheduler.
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
    """What happens to a trial and why. ``rung`` counts from 0 and, like ``step`` and ``objective``, is the last
    one reported; None where the trial has reported nothing."""

    action: Action
    reason: str
    rung: int | None = None
    step: int | None = None  # optimizer steps
    objective: float | None = None

    @property
    def status(self) -> Status:
        """The word of trials.parquet; ``running`` covers waiting."""
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
    """For each rung, how many trials may still arrive there: an upper bound, exact once the rungs below are full.

    ``arrived`` counts reports and failures, ``invalid`` those of them that cannot go on (NaN, failed).
    """
    to_come = []
    entrants = quotas[0]
    for rung, quota in enumerate(quotas):
        entrants = min(quota, entrants - invalid[rung - 1]) if rung else quota
        to_come.append(max(0, entrants - arrived[rung]))
    return to_come


def _digits(value: float, other: float | None = None) -> str:
    """Six significant digits, or all of them where six would make two different values look the same."""
    text = f"{value:.6g}"
    return repr(value) if other is not None and other != value and text == f"{other:.6g}" else text


@dataclass(frozen=True)
class _Report:
    rung: int
    objective: float
    step: int | None
    stderr: float | None
    degenerate: bool

    def key(self, trial: str) -> Key:
        return rank_key(trial, self.objective, self.degenerate)

    def value(self, other: float | None = None) -> str:
        error = "" if self.stderr is None or not math.isfinite(self.stderr) else f" ± {self.stderr:.2g}"
        note = " (degenerate: one answer nearly always)" if self.degenerate else ""
        return f"objective {_digits(self.objective, other)}{error}{note}"


@dataclass
class _Entrant:
    state: State = "running"
    last: _Report | None = None
    failure: str = ""  # set at once, also while its value still holds its place

    def waits_at(self, rung: int) -> bool:
        """False for one that was promoted from ``rung`` earlier and waits further up by now."""
        return self.state == "waiting" and self.last is not None and self.last.rung == rung


@dataclass
class _Rung:
    ranked: list[Key] = field(default_factory=list)  # valid reports, best first
    promoted: int = 0  # the first so many of ``ranked``
    invalid: int = 0  # arrived with NaN, or failed on the way

    @property
    def arrived(self) -> int:
        return len(self.ranked) + self.invalid


class Rungs:
    """Reports and failures in, decisions out. ``count`` rungs; one rung means that nothing is cut.

    A trial needs no registration: it exists from its first report or failure on. Reporting a rung again, as a
    retried trial does when it replays its finished rungs, changes nothing and returns the decision that stands.
    """

    def __init__(self, trials: int, eta: float, count: int) -> None:
        for name, value in (("trials", trials), ("eta", eta), ("count", count)):  # with eta 1 all go on
            if not value >= 1:
                raise ValueError(f"scheduler: {name} = {value} is too small. Give 1 or more.")
        self.eta = eta
        self.count = count
        self.quotas = rung_quotas(trials, eta, count)
        self._rungs = [_Rung() for _ in range(count)]
        self._entrants: dict[str, _Entrant] = {}
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
    ) -> Decision:
        """Records the objective of ``trial`` at ``rung`` (from 0) and returns what it does now."""
        entrant = self._enter(trial)
        due = 0 if entrant.last is None else entrant.last.rung + 1
        if rung < due or entrant.state in ("stopped", "finished", "failed"):
            return self.decide(trial)
        if rung > due or entrant.state == "waiting" or rung >= self.count:
            raise ValueError(f"trial {trial}: a report of rung {rung + 1} of {self.count} came, rung {due + 1} was due")
        report = _Report(rung, float(objective), step, stderr, bool(degenerate))
        entrant.last = report
        fresh = None
        if not math.isfinite(report.objective):
            entrant.state = "stopped"
            self._rungs[rung].invalid += 1
        else:
            ranked, key = self._rungs[rung].ranked, report.key(trial)
            fresh = bisect_left(ranked, key)
            ranked.insert(fresh, key)
            entrant.state = "finished" if rung == self.count - 1 else "waiting"
        self._settle(rung, fresh)
        self._newly_decided = [
            name for name in self._newly_decided if name != trial
        ]  # the caller gets this one as the answer
        return self.decide(trial)

    def fail(self, trial: str, why: str = "the trial failed") -> Decision:
        """The trial ends without another report. No effect on one that is stopped or finished already."""
        entrant = self._enter(trial)
        if entrant.state == "running":
            entrant.state, entrant.failure = "failed", why
            rung = 0 if entrant.last is None else entrant.last.rung + 1
            self._rungs[rung].invalid += 1
            self._settle(rung)
        elif entrant.state == "waiting":
            entrant.failure = entrant.failure or why
        return self.decide(trial)

    def no_more_trials(self, trials: int) -> None:
        """Only ``trials`` trials exist after all: the search ended early, or some never appear.

        The quotas become those of ``trials``. No decision taken before is contradicted, since a missing trial
        lowers the number to come by one and a quota by at most one: the outcome is what it would have been
        with the number known from the start.
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
        """What ``trial`` does now. The reason is put into words from what is known now, so after the last
        report it does not depend on the order of arrival either."""
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

    def _enter(self, trial: str) -> _Entrant:
        entrant = self._entrants.get(trial)
        if entrant is None:
            if len(self._entrants) >= self.trials:
                raise ValueError(f"trial {trial} is one more than the {self.trials} trials that were announced.")
            entrant = self._entrants[trial] = _Entrant()
        return entrant

    def _settle(self, start: int, fresh: int | None = None) -> None:
        """Takes every decision that has become certain, from rung ``start`` up: an arrival or a failure bears
        on its own rung and on those above. ``fresh`` is the place of the new report in rung ``start``."""
        for number in range(start, self.count - 1):
            rung, quota = self._rungs[number], self.quotas[number + 1]
            sure = min(len(rung.ranked), max(rung.promoted, quota - self.to_come()[number]))
            places = [*range(rung.promoted, sure)]
            if fresh is not None and number == start and fresh < sure:
                places.append(fresh)
            for place in places:
                self._promote(rung.ranked[place][2], number)
            rung.promoted = sure
            # Behind the quota all but the new report and the ones that it (or a smaller quota) pushed out are stopped.
            for place in range(quota, len(rung.ranked)):
                if not self._stop(rung.ranked[place][2], number):
                    break
            if fresh is not None and number == start and fresh >= quota:
                self._stop(rung.ranked[fresh][2], number)

    def _promote(self, trial: str, rung: int) -> None:
        entrant = self._entrants[trial]
        if not entrant.waits_at(rung):
            return
        entrant.state = "running"
        self._newly_decided.append(trial)
        if entrant.failure:
            entrant.state = "failed"
            self._rungs[rung + 1].invalid += 1

    def _stop(self, trial: str, rung: int) -> bool:
        entrant = self._entrants[trial]
        if not entrant.waits_at(rung):
            return False
        entrant.state = "failed" if entrant.failure else "stopped"
        self._newly_decided.append(trial)
        return True

    def _reason(self, trial: str, entrant: _Entrant) -> str:
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
        ranked = self._rungs[last.rung].ranked
        quota, to_come = self.quotas[last.rung + 1], self.to_come()[last.rung]
        entrants = self._rungs[last.rung].arrived + to_come
        best = f"the {quota} best of {entrants}" if quota > 1 else f"the best of {entrants}"
        if entrant.state == "running":
            return f"promoted from {where}: {last.value()} is {'among ' if quota > 1 else ''}{best}"
        if entrant.state == "waiting":
            place = f"number {bisect_left(ranked, last.key(trial)) + 1} of {len(ranked)}"
            return f"waits at {where}: {last.value()} is {place}, {to_come} to come, {quota} to go on"
        degenerate, worst, _ = ranked[quota - 1]
        cutoff = -worst
        if cutoff == last.objective and degenerate == last.degenerate:
            return f"stopped at {where}: {last.value()} equals the cut-off of {best}, whose ids come first"
        below = "is below" if degenerate == last.degenerate else "ranks below"
        return f"stopped at {where}: {last.value(cutoff)} {below} {best} (cut-off {_digits(cutoff, last.objective)})"
