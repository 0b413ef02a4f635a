"""Between the trials' reports the driver asks the hosts what they have done, and publishes metrics for Prometheus.

This runs in a thread beside the scheduler. Hosts that do not answer in time are left out; no failure here ends a sweep.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cluster.hosting.hosts import Fleet
from cluster.hosting.prometheus import Publisher
from cluster.ray_private import actor_id
from sweeps.display.text import counted
from sweeps.driver.progress import Progress
from sweeps.live.left import Told
from sweeps.live.rows import ORDER
from trainer.work import TrialGrid, WorkDone

ANSWER_TIMEOUT = 2.0  # seconds; a host that loads its model does not answer in time
WINDOW = 60.0  # seconds over which the speed is measured, long enough to hold both training and scoring


class Heartbeat:
    def __init__(self, progress: Progress, fleet: Fleet):
        self.progress, self.fleet = progress, fleet
        self.retries = 0  # trials started again after a failure
        self._publisher = Publisher(study=progress.study.name)
        self._steps, self._cells = Speed(), Speed()
        self._last: dict[str, WorkDone] = {}  # what each host told last, also of hosts that have ended
        self._ended: set[str] = set()  # ids of hosts
        self._most = 0  # hosts that were at work at once
        self._published: Counter[str] = Counter()

    def beat(self) -> None:
        """Ask the hosts, and update the live table and Prometheus."""
        now = time.monotonic()
        known, answers = work_by_host(self.fleet.registry, self._ended)
        self._last |= answers
        told = {host: self._last[host] for host in known if host in self._last}
        busy = sum(bool(work.step_of) for work in told.values())
        self._most = max(self._most, busy)
        rows = self.progress.live.rows().values()
        queued = any(row.state == "waiting" and not row.rung for row in rows)
        self.progress.live.pulse(
            Told(
                work=together(self._last.values(), told.values()),
                hosts=busy if queued and busy else self._most,  # where trials queue, no other host is to be had now
                busy=busy,
                steps_per_s=self._steps.update(now, {host: work.steps for host, work in told.items()}),
                cells_per_s=self._cells.update(now, {h: sum(work.cells.values()) for h, work in told.items()}),
                doing=_doing(known, told, bool(self._last)),
            ),
            self.fleet.resources.lacking(),
        )
        self.publish()

    def publish(self) -> None:
        states = Counter(row.state for row in self.progress.live.rows().values())
        for state in ORDER:
            self._publisher.set("steadytune_trials", states[state], state=state)
        stopped = sum(d.status == "stopped" for d in list(self.progress.decisions.values()))
        for name, now in (("steadytune_cuts", stopped), ("steadytune_retries", self.retries)):
            self._publisher.add(name, now - self._published[name])
            self._published[name] = now


def together(ever: Collection[WorkDone], now: Collection[WorkDone]) -> WorkDone:
    """Of all hosts: what those of ``ever`` have done, and how far the trials are on those of ``now``."""
    ticks: dict[int, tuple[int, float]] = {}
    cells: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for work in ever:
        for k, (n, took) in work.ticks.items():
            before = ticks.get(k, (0, 0.0))
            ticks[k] = (before[0] + n, before[1] + took)
        cells.update(work.cells)
        seconds.update(work.cell_seconds)
    tokens: dict[str, float] = {pool: n for work in ever for pool, n in work.cell_tokens.items() if n}
    step_of: dict[str, int] = {}
    seconds_of: dict[str, float] = {}
    scored: Counter[TrialGrid] = Counter()
    for work in now:
        step_of |= {trial: max(step, step_of.get(trial, 0)) for trial, step in work.step_of.items()}
        seconds_of |= {trial: took + seconds_of.get(trial, 0.0) for trial, took in work.seconds_of.items()}
        scored.update(work.scored)
    return WorkDone(ticks, cells, seconds, tokens, step_of, seconds_of, scored)


def _doing(known: Iterable[str], told: Mapping[str, WorkDone], ever: bool) -> str:
    loading = [host for host in known if host not in told]
    if loading:
        return f"{counted(len(loading), 'host')} loading the base model"
    return "" if ever else "starting hosts"  # later they end when they have nothing to do


class Speed:
    """Steps or cells a second, from counts that begin at 0 when a host starts again."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._totals: deque[tuple[float, float]] = deque()

    def update(self, now: float, counts: Mapping[str, float]) -> float | None:
        """A second, over the window that ends ``now``; None while it holds fewer than two counts."""
        if not counts:
            return None
        new = sum(max(count - self._last.get(host, 0), 0) for host, count in counts.items())
        self._last |= counts
        total = self._totals[-1][1] + new if self._totals else 0
        self._totals.append((now, total))
        while len(self._totals) > 2 and now - self._totals[0][0] > WINDOW:
            self._totals.popleft()
        then, before = self._totals[0]
        return (total - before) / (now - then) if now > then else None


def work_by_host(registry: Any, ended: set[str]) -> tuple[list[str], dict[str, WorkDone]]:
    """The ids of all hosts, or first workers of gangs, and what each has done that answers. Those that turn out to have
    ended are added to ``ended``."""
    import ray

    try:
        hosts = ray.get(registry.at_work.remote(ended), timeout=ANSWER_TIMEOUT)
        asked = {host.work_done.remote(): actor_id(host) for host in hosts}
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_TIMEOUT) if asked else ([], [])
    except ray.exceptions.RayError:  # no answer in time, or the registry has gone with its driver
        return [], {}
    found = {}
    for reference in done:
        try:
            found[asked[reference]] = ray.get(reference)
        except ray.exceptions.ActorDiedError:
            ended.add(asked[reference])
        except ray.exceptions.RayError:  # its trials notice that themselves
            continue
    return [host for host in asked.values() if host not in ended], found
