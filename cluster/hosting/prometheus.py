"""The metrics of a run for Prometheus. They go through Ray's own metrics, so each node's agent serves them with Ray's.

Ray puts ``ray_`` in front of each name and ``_total`` behind a counter's name, and adds the labels ``NodeAddress``,
``WorkerId`` and ``SessionName`` (Ray 2.60). A host publishes its runner's counters, and the driver what only the
scheduler knows. The metrics are for watching a run, and not exact: what a process had not published when it died is
missing, and a resumed study counts from 0 again. The run folder has the exact figures.

Nothing here raises an error: no trial fails because a metric could not be recorded. There is one warning a process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

log = logging.getLogger("steadytune")

EVERY = 5.0  # seconds between two readings of a runner's counters; Ray sends metrics to its agents every 10 s


@dataclass(frozen=True)
class Metric:
    kind: Literal["counter", "gauge"]
    meaning: str
    tags: tuple[str, ...] = ("study", "host")


METRICS: Mapping[str, Metric] = {
    "steadytune_slots": Metric("gauge", "Slots of the host"),
    "steadytune_slots_used": Metric("gauge", "Slots whose trial is being trained or scored"),
    "steadytune_hosts_started": Metric("counter", "Hosts started, those that replace a dead host included"),
    "steadytune_optimizer_steps": Metric("counter", "Optimizer steps over all trials of the host"),
    "steadytune_trained_tokens": Metric("counter", "Tokens that went through the model in training"),
    "steadytune_scored_rows": Metric("counter", "Score rows made, each of one prompt and one row"),
    "steadytune_training_seconds": Metric("counter", "Seconds in which the accelerator took optimizer steps"),
    "steadytune_scoring_seconds": Metric("counter", "Seconds in which the accelerator scored"),
    "steadytune_trials": Metric("gauge", "Trials by state", ("study", "state")),
    "steadytune_cuts": Metric("counter", "Trials stopped by the scheduler", ("study",)),
    "steadytune_retries": Metric("counter", "Trials started again after a failure", ("study",)),
}
_COUNTED = {  # counters of a host -> fields of the runner's
    "steadytune_optimizer_steps": "steps",
    "steadytune_trained_tokens": "tokens",
    "steadytune_scored_rows": "rows",
    "steadytune_training_seconds": "train_seconds",
    "steadytune_scoring_seconds": "score_seconds",
}


class Publisher:
    """Records the metrics of one process, with ``tags``."""

    def __init__(self, **tags: str):
        self.tags = tags
        self._metrics: dict[str, Any] = {}
        self._warned = False

    def add(self, name: str, value: float) -> None:
        """Raise a counter by ``value``; a value of 0 or less changes nothing."""
        if value > 0:
            self._record(name, "inc", value, {})

    def set(self, name: str, value: float, **tags: str) -> None:
        """Give a gauge a value."""
        self._record(name, "set", value, tags)

    def _record(self, name: str, act: str, value: float, tags: Mapping[str, str]) -> None:
        try:
            if name not in self._metrics:
                from ray.util import metrics

                kind = metrics.Counter if METRICS[name].kind == "counter" else metrics.Gauge
                self._metrics[name] = kind(name, METRICS[name].meaning, METRICS[name].tags)
            getattr(self._metrics[name], act)(value, tags={**self.tags, **tags})
        except Exception as error:
            if not self._warned:
                self._warned = True
                log.warning("metrics: %s cannot be published (%s). The run goes on without", name, error)


class HostMetrics:
    """Publishes a runner's counters: each ``publish`` adds what was counted since the one before."""

    def __init__(self, runner: Any, publisher: Publisher):
        self.runner, self.publisher = runner, publisher
        self._published = dict.fromkeys(_COUNTED, 0.0)
        publisher.add("steadytune_hosts_started", 1)

    def publish(self) -> None:
        self.publisher.set("steadytune_slots", self.runner.setup.slots)
        self.publisher.set("steadytune_slots_used", self.runner.busy)
        for name, field in _COUNTED.items():
            now = float(getattr(self.runner.counters, field))
            self.publisher.add(name, now - self._published[name])
            self._published[name] = now


def publish_host(runner: Any, place: str, every: float = EVERY) -> None:
    """Publish ``runner``'s counters from now on, until this process ends; ``place`` is the accelerator on its node."""
    try:
        import ray

        node = ray.util.get_node_ip_address()
        metrics = HostMetrics(runner, Publisher(study=runner.setup.study, host=f"{node}/{place}"))
        threading.Thread(target=_publish_forever, args=(metrics, every), name="metrics", daemon=True).start()
    except Exception as error:
        log.warning("metrics: this host's cannot be published (%s). The run goes on without", error)


def _publish_forever(metrics: HostMetrics, every: float) -> None:
    pause = threading.Event()
    while True:
        metrics.publish()
        pause.wait(every)
