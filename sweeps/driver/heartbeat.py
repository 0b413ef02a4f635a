"""What the driver finds out between the trials' reports: how fast the hosts go, and what Prometheus is to be told.

It runs beside the scheduler. Hosts that do not answer in time are left out; nothing that fails here ends a sweep.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any

from cluster.hosting.hosts import Fleet
from cluster.hosting.prometheus import Publisher
from cluster.ray_private import actor_id
from sweeps.driver.progress import Progress
from sweeps.live.table import ORDER

ANSWER_TIMEOUT = 3.0  # seconds that hosts have to answer; one that loads its model does not
WINDOW = 60.0  # seconds over which the speed is measured, so that training and scoring are both in it


class Heartbeat:
    def __init__(self, progress: Progress, fleet: Fleet):
        self.progress, self.fleet = progress, fleet
        self.retries = 0  # trials started again after a failure
        self._publisher = Publisher(study=progress.study.name)
        self._speed = Speed()
        self._published: Counter[str] = Counter()

    def beat(self) -> None:
        """Ask the hosts, and tell the live table and Prometheus."""
        self.progress.steps_per_s = self._speed.update(time.monotonic(), steps_by_host(self.fleet.registry))
        self.progress.live.pulse(self.progress.steps_per_s, self.fleet.resources.lacking())
        self.publish()

    def publish(self) -> None:
        states = Counter(row.state for row in self.progress.live.rows().values())
        for state in ORDER:
            self._publisher.set("steadytune_trials", states[state], state=state)
        stopped = sum(d.status == "stopped" for d in list(self.progress.decisions.values()))
        for name, now in (("steadytune_cuts", stopped), ("steadytune_retries", self.retries)):
            self._publisher.add(name, now - self._published[name])
            self._published[name] = now


class Speed:
    """Steps a second from counts that begin anew when a host does."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._totals: deque[tuple[float, int]] = deque()

    def update(self, now: float, counts: dict[str, int]) -> float | None:
        """Steps a second over the window that ends ``now``; None while one look, or none, is in it."""
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


def steps_by_host(registry: Any) -> dict[str, int]:
    """Optimizer steps that each host has taken since it started, of those that answer."""
    import ray

    try:
        hosts = ray.get(registry.hosts.remote(), timeout=ANSWER_TIMEOUT)
        asked = {host.steps.remote(): actor_id(host) for host in hosts}
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_TIMEOUT) if asked else ([], [])
    except ray.exceptions.RayError:  # no answer in time, or the registry has gone with its driver
        return {}
    found = {}
    for reference in done:
        try:
            found[asked[reference]] = int(ray.get(reference))
        except ray.exceptions.RayError:  # it died, and its trials will find out
            continue
    return found
