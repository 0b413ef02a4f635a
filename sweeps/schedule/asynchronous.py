"""Asynchronous successive halving as published: a trial goes on as soon as it is among the best that have reported.

Li et al., 2020, "A System for Massively Parallel Hyperparameter Tuning", Algorithm 2: of the n trials that have
reported at a rung, the best floor(n / eta) are promotable, and a free worker takes a promotable trial of the highest
rung, or else a new one. A report makes at most one trial promotable, and the worker that made the report is free then.
So a trial is promoted here by the very report that makes it promotable; ``sweeps.schedule.tune_scheduler`` runs
promoted trials from the highest rung down, and new ones after them.

No trial waits for one that is slow. The price: which trials are promoted depends on the order of the reports, and more
are than with ``sweeps.schedule.asha``, since the first to report are compared with few. The driver records the order
(``sweeps.driver.decisions``), so that a second start decides as the first did.

The paper draws configurations without end; a study has so many. Therefore:

* A waiting trial is stopped as soon as it could not be promoted even if all that may still report were worse.
* Where nobody was promoted from a rung and nobody else can report there, the best one goes on, so that one trial
  finishes.

A trial whose objective is NaN or infinite is stopped and counts as having reported the worst value. A trial that fails
never reports, so it is not counted, as a job that is lost in the paper.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, insort
from dataclasses import dataclass

from sweeps.schedule.asha import Decision, Key, Report, Rungs, State, below_cutoff, best_of


@dataclass(frozen=True)
class Promotion:
    trial: str
    rung: int  # from which
    last_left: bool = False  # because nobody was promoted from the rung, and nobody else can report there


class AsynchronousRungs(Rungs):
    """``Rungs`` that promote by the reports so far. ``promotions`` are all so far, in order."""

    def __init__(self, trials: int, eta: float, count: int) -> None:
        super().__init__(trials, eta, count)
        self.promotions: list[Promotion] = []
        self._waiting: list[list[Key]] = [[] for _ in range(count)]  # of each rung, the best first
        self._best_when_promoted: dict[tuple[str, int], str] = {}  # what the trial was among

    def promote_last(self, trial: str, rung: int) -> None:
        """Let the best trial of a rung that promoted nobody go on, as it did before. No effect if it does not wait."""
        last = self._entrants[trial].last if trial in self._entrants else None
        if last is not None and self._entrants[trial].waits_at(rung):
            self._go_on(last.key(trial), rung, best_of(1, self._rungs[rung].reported), last_left=True)
            self._close()

    def fail(self, trial: str, why: str = "the trial failed") -> Decision:
        super().fail(trial, why)
        self._close()
        return self.decide(trial)

    def to_come(self) -> list[int]:
        """For each rung, the most trials that may still report there."""
        found: list[int] = []
        for number, rung in enumerate(self._rungs):
            if number == 0:
                found.append(max(0, self.trials - rung.arrived))
            else:
                before = self._rungs[number - 1]
                on_the_way = before.promoted - rung.arrived
                found.append(max(0, on_the_way) + len(self._waiting[number - 1]) + found[-1])
        return found

    def _settle(self, start: int, new_place: int | None = None) -> None:
        rung, waiting = self._rungs[start], self._waiting[start]
        if start < self.count - 1:
            if new_place is not None:
                insort(waiting, rung.ranked[new_place])
            promotable = math.floor(rung.reported / self.eta + 1e-9)
            while waiting and bisect_left(rung.ranked, waiting[0]) < promotable:
                self._go_on(waiting[0], start, best_of(promotable, rung.reported))
        self._close()

    def _close(self) -> None:
        """What no further report can change: the best of a rung that promoted nobody goes on, and those that cannot be
        promoted any more are stopped."""
        for number in range(self.count - 1):
            rung, waiting = self._rungs[number], self._waiting[number]
            to_come = self.to_come()[number]
            most = math.floor((rung.reported + to_come) / self.eta + 1e-9)
            if rung.promoted == 0:
                sound = [key for key in waiting if not self._entrants[key[2]].failure]
                most = max(most, 1 if to_come or sound else 0)
                if to_come == 0 and sound:
                    self._go_on(sound[0], number, best_of(1, rung.reported), last_left=True)
            while waiting and bisect_left(rung.ranked, waiting[-1]) >= most:
                self._stop(waiting.pop()[2], number)

    def _go_on(self, key: Key, rung: int, among: str, last_left: bool = False) -> None:
        trial = key[2]
        self._waiting[rung].remove(key)
        self._rungs[rung].promoted += 1
        self.promotions.append(Promotion(trial, rung, last_left))
        self._best_when_promoted[trial, rung] = among
        self._promote(trial, rung)

    def _reason_among(self, trial: str, state: State, last: Report, where: str) -> str:
        rung, key = self._rungs[last.rung], last.key(trial)
        if state == "running":
            among = self._best_when_promoted[trial, last.rung]
            one = among.startswith("the best")
            return f"promoted from {where}: {last.value()} {'was' if one else 'was among'} {among} so far"
        place = bisect_left(rung.ranked, key)
        promotable = math.floor(rung.reported / self.eta + 1e-9)
        if state == "waiting":
            return (
                f"waits at {where}: {last.value()} is number {place + 1} of {rung.reported} so far, of which the best "
                f"{promotable} go on"
            )
        cut = max(1, promotable)
        if place < cut:  # it was stopped when others failed that might have reported
            return f"stopped at {where}: {last.value()} is number {place + 1} of {rung.reported}"
        return f"stopped at {where}: {below_cutoff(last, rung.ranked[cut - 1], best_of(cut, rung.reported))}"


SIMULATED = 20_000  # reports at rung 0, over which the usual number of entrants is averaged


def usual_entrants(trials: int, eta: float, count: int) -> tuple[int, ...]:
    """How many trials enter each rung on average over orders of reports, each rung being as long as the others are."""
    n = min(trials, SIMULATED)
    runs = max(1, SIMULATED // n)
    entered = [0] * count
    for run in range(runs):
        draw, rungs = random.Random(run), AsynchronousRungs(n, eta, count)
        under_way = [(f"{i:06d}", draw.random(), 0) for i in range(n)]
        while under_way:
            trial, value, rung = under_way.pop(draw.randrange(len(under_way)))
            entered[rung] += 1
            action = rungs.report(trial, rung, value).action
            found = ([trial] if action == "continue" else []) + rungs.newly_decided()
            for name in found:
                decision = rungs.decide(name)
                if decision.action == "continue" and decision.rung is not None and decision.objective is not None:
                    under_way.append((name, decision.objective, decision.rung + 1))
    return tuple(max(1, round(e / runs * trials / n)) for e in entered)
