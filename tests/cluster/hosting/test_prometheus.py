"""What Prometheus gets of a run: scraped from a real Ray while a study runs, with a trial process killed on the way.
And the Grafana dashboard: that it asks for what there is, and has the shape that Grafana imports."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from checkout import ROOT
from small_study import write_study

from cluster.hosting.prometheus import METRICS, HostMetrics, Publisher, publish_host
from sweeps.driver.heartbeat import Speed
from trainer.runner import Counters

DASHBOARD = json.loads((ROOT / "ray_configs" / "grafana" / "steadytune.json").read_text())
STEPS = 400  # so long that a trial can be killed while it trains, on a fast machine as well
RAYS_LABELS = {"SessionName", "NodeAddress", "WorkerId"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
OURS = {tag for metric in METRICS.values() for tag in metric.tags}


def exported(name: str) -> str:
    """The name under which Prometheus finds a metric."""
    return f"ray_{name}_total" if METRICS[name].kind == "counter" else f"ray_{name}"


def scrape(port: int) -> Samples:
    """(exported name, our labels) -> value, summed over the rest of the labels."""
    from prometheus_client.parser import text_string_to_metric_families

    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for s in family.samples:
            if "steadytune" in s.name:
                key = (s.name, frozenset((k, v) for k, v in s.labels.items() if k in OURS))
                found[key] = found.get(key, 0.0) + s.value
    return found


class Scraper(threading.Thread):
    """Scrapes twice a second and keeps every answer."""

    def __init__(self, port: int):
        super().__init__(daemon=True)
        self.port, self.over, self.seen = port, threading.Event(), list[Samples]()

    def run(self) -> None:
        while not self.over.wait(0.5):
            try:
                self.seen.append(scrape(self.port))
            except OSError:  # the agent is not up yet
                continue

    def values(self, name: str, **labels: str) -> list[float]:
        """What a metric was in each answer that had it, summed over the labels that are not given."""
        wanted = set(labels.items())
        answers = []
        for samples in self.seen:
            parts = [v for (n, found), v in samples.items() if n == exported(name) and wanted <= found]
            answers += [sum(parts)] if parts else []
        return answers


@pytest.fixture
def port() -> Iterator[int]:
    import ray

    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,  # as a local run has it: the agents export without
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
        _system_config={"metrics_report_interval_ms": 1000},
    )
    yield next(n["MetricsExportPort"] for n in ray.nodes())
    ray.shutdown()


def kill_a_trial(scraper: Scraper) -> None:
    """SIGKILL one trial process of this test's Ray once steps are taken."""
    while not scraper.over.wait(0.2):
        if max(scraper.values("steadytune_optimizer_steps"), default=0) > 0:
            ours = psutil.Process().children(recursive=True)
            trials = [p for p in ours if re.fullmatch(r"ray::\w+\.train", " ".join(p.cmdline()).strip())]
            if trials:
                os.kill(trials[0].pid, signal.SIGKILL)
                return


@pytest.mark.cluster
def test_prometheus_sees_a_study_run(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sweeps.driver.watcher
    from sweeps.run import run
    from sweeps.study.load import load_study

    monkeypatch.setattr(sweeps.driver.watcher, "BEAT_EVERY", 1.0)
    study = load_study(write_study(tmp_path, axes={"steps": STEPS}))
    scraper = Scraper(port)
    scraper.start()
    killer = threading.Thread(target=kill_a_trial, args=(scraper,), daemon=True)
    killer.start()
    assert run(study, str(tmp_path / "out")) == 0
    time.sleep(3)  # one more report of the driver
    scraper.over.set()
    scraper.join()
    killer.join()

    for name in METRICS:
        assert scraper.values(name, study="small"), f"{name} was never seen"
    for name in ("optimizer_steps", "trained_tokens", "scored_rows", "training_seconds", "scoring_seconds"):
        values = scraper.values(f"steadytune_{name}")
        assert len(set(values)) > 1, f"{name} does not move"
        assert values == sorted(values), f"{name} goes down"
    hosts = {dict(labels)["host"] for n, labels in scraper.seen[-1] if n == exported("steadytune_optimizer_steps")}
    assert {h.split("/")[1] for h in hosts} == {"cpu"}
    assert max(scraper.values("steadytune_slots")) == 2
    assert max(scraper.values("steadytune_slots_used")) == 2
    steps, rows = scraper.values("steadytune_optimizer_steps")[-1], scraper.values("steadytune_scored_rows")[-1]
    again = STEPS // 2  # the killed trial's steps since its last rung
    assert 0 < steps <= 2 * STEPS + 2 * STEPS // 2 + again
    assert rows >= 6 * 4 * 24  # the rungs on the dev grid; of the test grid, what was told before the hosts' end
    assert scraper.values("steadytune_hosts_started")[-1] == 1
    assert scraper.values("steadytune_cuts")[-1] == 2
    assert scraper.values("steadytune_retries")[-1] == 1
    assert max(scraper.values("steadytune_trials", state="running")) >= 2  # one promoted counts at once
    assert scraper.values("steadytune_trials", state="stopped")[-1] == 2


class Recorder(Publisher):
    """Keeps what is recorded instead of giving it to Ray."""

    def __init__(self, **tags: str):
        super().__init__(**tags)
        self.log: list[tuple[str, str, float]] = []

    def _record(self, name: str, act: str, value: float, tags: Any) -> None:
        self.log.append((name, act, value))


def test_a_host_tells_what_was_added_since_the_last_time() -> None:
    runner = SimpleNamespace(setup=SimpleNamespace(slots=4), busy=3, counters=Counters())
    told = Recorder(study="s", host="h")
    metrics = HostMetrics(runner, told)
    metrics.publish()
    assert told.log == [
        ("steadytune_hosts_started", "inc", 1),
        ("steadytune_slots", "set", 4),
        ("steadytune_slots_used", "set", 3),
    ]
    for steps, expected in ((5, 5), (5, None), (7, 2)):
        runner.counters.steps = steps
        told.log.clear()
        metrics.publish()
        counted = [value for name, act, value in told.log if name == "steadytune_optimizer_steps"]
        assert counted == ([] if expected is None else [expected])


def test_a_metric_that_cannot_be_published_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    publisher = Publisher(study=3)  # type: ignore[arg-type]  # Ray refuses a label that is no text
    for _ in range(3):
        publisher.add("steadytune_cuts", 1)
        publisher.set("steadytune_trials", 1, state="running")
    assert len(caplog.records) == 1
    assert "The run goes on without" in caplog.text
    publish_host(SimpleNamespace(setup=None, busy=None), "cpu")  # a runner that is none of ours
    assert len(caplog.records) <= 2


def test_speed_counts_a_host_that_began_anew_from_its_beginning() -> None:
    speed = Speed()
    assert speed.update(0.0, {"a": 100}) is None
    assert speed.update(10.0, {"a": 150, "b": 0}) == 5.0
    assert speed.update(20.0, {"b": 50}) == 5.0  # a died; its steps stay counted
    assert speed.update(30.0, {"c": 50, "b": 50}) == 5.0
    assert speed.update(40.0, {}) is None
    assert speed.update(100.0, {"c": 50, "b": 50}) == 0.0  # what is past the window is forgotten


# the dashboard ------------------------------------------------------------------------------------------------


def panels() -> list[dict[str, Any]]:
    return [p for p in DASHBOARD["panels"] if p["type"] != "row"]


def queries() -> list[str]:
    return [t["expr"] for p in panels() for t in p["targets"]]


def test_the_dashboard_asks_for_every_metric_and_for_no_other() -> None:
    asked = {name for query in queries() for name in re.findall(r"\b\w*steadytune_\w+", query)}
    assert asked == {exported(name) for name in METRICS}
    listed = {name for v in DASHBOARD["templating"]["list"] for name in re.findall(r"ray_\w+", v.get("definition", ""))}
    assert listed <= asked


def test_the_dashboard_filters_by_labels_that_the_metrics_have() -> None:
    for query in queries():
        selectors = re.findall(r"ray_(steadytune_\w+?)(?:_total)?\{([^}]*)\}", query)
        assert len(selectors) == query.count("ray_steadytune_")
        for name, labels in selectors:
            used = set(re.findall(r"(\w+)=", labels))
            assert {"study", "SessionName"} <= used <= {*METRICS[name].tags, *RAYS_LABELS}, query
        for by in re.findall(r"by \((\w+)\)", query):
            assert all(by in METRICS[name].tags for name, _ in selectors), query
    variables = {v["name"] for v in DASHBOARD["templating"]["list"]}
    own = {v for text in [*queries(), json.dumps(DASHBOARD["templating"])] for v in re.findall(r"\$\{?(\w+)", text)}
    assert {v for v in own if not v.startswith("__")} <= variables
    assert {"datasource", "study", "host"} <= variables


def test_the_dashboard_has_the_shape_that_grafana_imports() -> None:
    """Classic model, as Grafana 11, 12 and 13 import it: one version, ids, a grid of 24 columns, one data source."""
    assert DASHBOARD["schemaVersion"] >= 39
    assert DASHBOARD["id"] is None  # else an import would overwrite what has this number
    assert re.fullmatch(r"[\w-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["title"]
    ids = [p["id"] for p in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert {p["type"] for p in panels()} == {"timeseries", "stat"}  # "graph" and the like are gone since 12
    source = {"type": "prometheus", "uid": "${datasource}"}
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == source
        assert [t["refId"] for t in panel["targets"]] == list("ABCDEF"[: len(panel["targets"])])
        assert all(t["datasource"] == source for t in panel["targets"])
    [of] = [v for v in DASHBOARD["templating"]["list"] if v["type"] == "datasource"]
    assert (of["name"], of["query"]) == ("datasource", "prometheus")
