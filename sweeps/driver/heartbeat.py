"""Between the trials' reports the driver asks the hosts how fast they are, and publishes metrics for Prometheus.

This runs in a thread beside the scheduler. Hosts that do not answer in time are left out; no failure here ends a sweep.
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

ANSWER_TIMEOUT = 3.0  # seconds; a host that loads its model does not answer in time
WINDOW = 60.0  # seconds over which the speed is measured, long enough to hold both training and scoring


class Heartbeat:
    def __init__(self, progress: Progress, fleet: Fleet):
        self.progress, self.fleet = progress, fleet
        self.retries = 0  # trials started again after a failure
        self._publisher = Publisher(study=progress.study.name)
        self._speed = Speed()
        self._published: Counter[str] = Counter()

    def beat(self) -> None:
        """Ask the hosts, and update the live table and Prometheus."""
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
    """Steps a second, from counts that begin at 0 when a host starts again."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._totals: deque[tuple[float, int]] = deque()

    def update(self, now: float, counts: dict[str, int]) -> float | None:
        """Steps a second over the window that ends ``now``; None while it holds fewer than two counts."""
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
    """Optimizer steps since its start, of each host that answers."""
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
        except ray.exceptions.RayError:  # it died; its trials notice that themselves
            continue
    return found
