"""What a run tells Prometheus, through Ray's own metrics: every node's agent serves them beside Ray's.

Ray adds ``ray_`` in front of each name and ``_total`` behind a counter's, and the labels ``NodeAddress``,
``WorkerId`` and ``SessionName`` (Ray 2.60; ``exported`` gives the final name). A host publishes what its runner
counted, the driver what only the scheduler knows. They are for watching: what a process had not told yet when it
died is missing, and a resumed study counts from 0 again. The run folder has the exact figures.

Nothing here raises. A trial must not fail because a metric could not be recorded, so that is one warning a process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from trainer.store import Store

log = logging.getLogger("steadytune")

EVERY = 5.0  # seconds between two looks at a runner's counters; Ray's agents are told every 10 s by default


@dataclass(frozen=True)
class Metric:
    kind: Literal["counter", "gauge"]
    meaning: str
    tags: tuple[str, ...] = ("study", "host")


METRICS: Mapping[str, Metric] = {
    "steadytune_slots": Metric("gauge", "Slots of the host"),
    "steadytune_slots_used": Metric("gauge", "Slots whose trial is being trained or scored"),
    "steadytune_hosts_started": Metric("counter", "Hosts started, again after a death too"),
    "steadytune_optimizer_steps": Metric("counter", "Optimizer steps over all trials of the host"),
    "steadytune_trained_tokens": Metric("counter", "Tokens that went through the model in training"),
    "steadytune_scored_rows": Metric("counter", "Score rows made: a prompt and a row each"),
    "steadytune_training_seconds": Metric("counter", "Seconds of the accelerator in optimizer steps"),
    "steadytune_scoring_seconds": Metric("counter", "Seconds of the accelerator in scoring"),
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


def exported(name: str) -> str:
    """The name under which Prometheus finds a metric."""
    return f"ray_{name}_total" if METRICS[name].kind == "counter" else f"ray_{name}"


class Publisher:
    """Records metrics of one process under ``tags``."""

    def __init__(self, **tags: str):
        self.tags = tags
        self._metrics: dict[str, Any] = {}
        self._warned = False

    def add(self, name: str, value: float) -> None:
        """Raise a counter by ``value``; 0 and less change nothing."""
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
    """Publishes a runner's counters: at each ``publish``, what was added since the last."""

    def __init__(self, runner: Any, publisher: Publisher):
        self.runner, self.publisher = runner, publisher
        self._told = dict.fromkeys(_COUNTED, 0.0)
        publisher.add("steadytune_hosts_started", 1)

    def publish(self) -> None:
        self.publisher.set("steadytune_slots", self.runner.setup.slots)
        self.publisher.set("steadytune_slots_used", self.runner.busy)
        for name, field in _COUNTED.items():
            now = float(getattr(self.runner.counters, field))
            self.publisher.add(name, now - self._told[name])
            self._told[name] = now


def publish_host(runner: Any, place: str, every: float = EVERY) -> None:
    """Publish ``runner``'s counters from now on, until this process ends; ``place`` is the accelerator on its node."""
    try:
        import ray

        node = ray.util.get_node_ip_address()
        metrics = HostMetrics(runner, Publisher(study=study_name(runner.store), host=f"{node}/{place}"))
        threading.Thread(target=_publish_forever, args=(metrics, every), name="metrics", daemon=True).start()
    except Exception as error:
        log.warning("metrics: this host's cannot be published (%s). The run goes on without", error)


def _publish_forever(metrics: HostMetrics, every: float) -> None:
    pause = threading.Event()
    while True:
        metrics.publish()
        pause.wait(every)


def study_name(store: Store) -> str:
    """The study that a run folder holds; the folder's own name where ``study.yaml`` cannot tell."""
    try:
        name = yaml.safe_load(store.read("study.yaml"))["name"]
        return str(name)
    except Exception:  # no file, no bucket, no YAML, no name: a label is not worth a run
        return store.root.rsplit("/", 1)[-1]
