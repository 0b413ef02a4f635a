"""Hosts and gangs on a real local Ray: sharing, death of a host, death of a worker, shares of an accelerator."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkout import ROOT
from small_study import prepared, wait_until

from cluster.hosting.hosts import Fleet, Host, HostError
from cluster.hosting.tensorboard import BoardRun
from cluster.resources import Resources
from trainer.errors import BaseModelError
from trainer.setup import Setup
from trainer.store import Store, scores_name


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support"), str(Path(__file__).parent)])
    env = {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}}
    ray.init(address="local", num_cpus=4, num_gpus=0, include_dashboard=False, log_to_driver=False, runtime_env=env)
    yield
    ray.shutdown()


def ensure(fleet: Fleet, trial: Any, rung: int) -> Any:
    return fleet.ensure(trial, rung, "dev")[0]


def logprobs(table: Any) -> Any:
    return np.array(table["label_logprobs"].to_pylist())


@pytest.mark.parametrize("slots", [1, 3, 7, 8])
def test_all_slots_fit_one_accelerator(slots: int) -> None:
    share = Resources(slots=slots, cpus=2, gpus=1).share()
    assert slots * share["GPU"] <= 1
    assert (slots + 1) * share["GPU"] > 1
    assert slots * share["CPU"] <= 2


def test_what_no_node_of_the_cluster_has_is_named(cluster: None) -> None:
    assert Resources(slots=2, cpus=8).lacking() == ""
    assert Resources(cpus=5).lacking() == "no node has 5 CPU (cluster: 4 CPU)"
    assert Resources(slots=2, cpus=2, gpus=1).lacking() == "no node has 1 CPU and 0.5 GPU (cluster: 4 CPU, 0 GPU)"
    assert Resources(cpus=2, workers=2).lacking() == ""
    assert Resources(cpus=2, workers=3).lacking() == "no room for 3 workers of 2 CPU (cluster: 4 CPU)"


def test_a_host_that_dies_is_replaced_and_its_trials_go_on(cluster: None, tmp_path: Path) -> None:
    """Two trials share a host; it is killed while both train; the rows are those of an undisturbed run."""
    import ray

    assets, model, trials = prepared(tmp_path, steps=30)
    setup = Setup(slots=2, max_r=4, threads=1)
    task = ray.remote(ensure).options(num_cpus=1)
    found = {}
    for name in ("whole", "torn"):
        fleet = Fleet.start(model, setup, assets, Store.open(tmp_path / name), Resources(2, 4))
        running = [task.remote(fleet, t, 30) for t in trials]
        if name == "torn":
            wait_until(lambda fleet=fleet: len(ray.get(fleet.registry.hosts.remote())) == 1)  # type: ignore[misc]
            host = ray.get(fleet.registry.hosts.remote())[0]
            wait_until(lambda host=host: ray.get(host.work_done.remote()).steps > 10)  # type: ignore[misc]
            os.kill(ray.get(host.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
            assert len(ray.wait(running, num_returns=2, timeout=0)[1]) == 2, "both were still training"
        found[name] = ray.get(running, timeout=200)
        ray.kill(fleet.registry)
    for whole, torn in zip(found["whole"], found["torn"], strict=True):
        assert torn["predicted"].equals(whole["predicted"])
        assert np.abs(logprobs(torn) - logprobs(whole)).max() < 1e-3  # who shares a batch moves the last digits


def test_a_host_that_cannot_start_says_why_in_a_line_and_is_not_tried_for_ever(cluster: None, tmp_path: Path) -> None:
    import ray

    assets, model, trials = prepared(tmp_path, steps=3)
    setup = Setup(slots=1, max_r=4, target_modules=("q_porj",), threads=1)
    fleet = Fleet.start(model, setup, assets, Store.open(tmp_path / "run"), Resources(1, 1))
    with pytest.raises(HostError) as error:
        fleet.ensure(trials[0], 3, "dev")
    assert re.fullmatch(
        rf"trial {trials[0].id}: its host on cpu\d? of node \w{{8}} cannot start: "
        r'axes.lora.target_modules = "q_porj" is no linear layer of this model. Did you mean "q_proj"\? Known: .*',
        str(error.value),
    )
    ray.kill(fleet.registry)


def test_no_host_is_started_again_for_a_base_model_that_is_unfit(cluster: None, tmp_path: Path) -> None:
    """CASES V2: the second trial is told at once what the first one's host found."""
    import ray
    from safetensors.torch import load_file, save_file

    assets, model, trials = prepared(tmp_path, steps=3)
    model = dataclasses.replace(model, path=str(shutil.copytree(model.path, tmp_path / "model")))
    weights = tmp_path / "model" / "model.safetensors"
    save_file({**load_file(weights), "extra": torch.zeros(2)}, weights)
    setup = Setup(slots=1, max_r=4, threads=1)
    fleet = Fleet.start(model, setup, assets, Store.open(tmp_path / "run"), Resources(1, 1))
    for trial in trials[:2]:
        with pytest.raises(BaseModelError, match="its weights hold extra, for which a model"):
            fleet.ensure(trial, 3, "dev")
        assert ray.get(fleet.registry.hosts.remote()) == []
    assert fleet.unfit().startswith(f'model.path = "{model.path}": its weights hold extra')
    ray.kill(fleet.registry)


def test_a_place_whose_host_could_not_start_gets_a_new_one(cluster: None, tmp_path: Path) -> None:
    """The weights are away for a moment, as on storage that other nodes see late."""
    import ray

    assets, model, trials = prepared(tmp_path, steps=3)
    model = dataclasses.replace(model, path=str(shutil.copytree(model.path, tmp_path / "model")))
    weights = tmp_path / "model" / "model.safetensors"
    away = weights.rename(weights.with_suffix(".away"))
    setup = Setup(slots=1, max_r=4, threads=1)
    fleet = Fleet.start(model, setup, assets, Store.open(tmp_path / "run"), Resources(1, 1))
    with pytest.raises(HostError, match="cannot start: "):
        fleet.ensure(trials[0], 3, "dev")
    away.rename(weights)
    assert fleet.ensure(trials[0], 3, "dev")[0].num_rows == 96
    ray.kill(fleet.registry)


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (ValueError("a row that cannot be rendered"), False),
    ],
)
def test_a_host_whose_accelerator_is_lost_ends_and_any_other_goes_on(
    error: Exception, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: an accelerator cannot be broken at will."""

    class Ended(BaseException):
        pass

    class Broken:
        def submit(self, job: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    def end(code: int) -> None:
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    host = Host.__new__(Host)
    host.runner, host._busy = Broken(), 0  # type: ignore[assignment]
    with pytest.raises(Ended if ends else type(error)):
        asyncio.run(host._do(None))


def test_the_cpus_of_a_machine_are_shared_out_among_hosts(cluster: None, tmp_path: Path) -> None:
    """Hosts of 2 of 4 CPUs: two trials at a time get one each, a third goes where one has left, and both work."""
    import ray

    from cluster.hosting.hosts import here

    assets, model, trials = prepared(tmp_path, steps=3)
    store = Store.open(tmp_path / "run")
    fleet = Fleet.start(model, Setup(slots=1, max_r=4, threads=1), assets, store, Resources(1, 2))
    place = here()
    assert fleet._parts(place) == 2

    def host_of(trial: str) -> str:
        found = ray.get(fleet.registry.host.remote(place, 2, trial, None, fleet.arguments))
        return str(found._actor_id.hex())

    first, second = host_of("first"), host_of("second")
    assert first != second
    ray.get(fleet.registry.leave.remote("second"))
    assert host_of("third") == second
    task = ray.remote(ensure).options(num_cpus=1)
    assert [t.num_rows for t in ray.get([task.remote(fleet, t, 3) for t in trials])] == [96, 96]
    hosts = ray.get(fleet.registry.hosts.remote())
    assert {h._actor_id.hex() for h in hosts} == {first, second}
    assert sum(done.steps for done in ray.get([h.work_done.remote() for h in hosts])) == 6
    assert [len(store.names(f"tensorboard/{BoardRun.of(t, ()).name}")) for t in trials] == [
        1,
        1,
    ]  # the host's, before it said it was done
    assert fleet.ensure(trials[0], 3, "dev")[1]["replayed"]
    ray.kill(fleet.registry)


def test_a_large_grid_is_scored_by_all_hosts_and_outlives_those_that_help(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two hosts helps; then another process is faster; it hangs; it is dead. The rows are those of the
    grid in one piece."""
    import ray

    from cluster.hosting.hosts import here

    assets, model, trials = prepared(tmp_path, steps=3)
    store = Store.open(tmp_path / "run")
    fleet = Fleet.start(model, Setup(slots=2, max_r=4, threads=1), assets, store, Resources(2, 2))
    task = ray.remote(ensure).options(num_cpus=1)
    ray.get([task.remote(fleet, t, 3) for t in trials])
    assert not store.rungs(trials[0].id, "test")
    idle = ray.get(fleet.registry.idle.remote())
    assert len(idle) == 2
    whole, record = fleet.ensure(trials[0], 3, "test")
    prompts, rows = fleet.grids["test"]
    assert whole.num_rows == prompts * rows
    own = ray.get(fleet.registry.host.remote(here(), 2, trials[0].id, None, fleet.arguments))
    helper = next(h for h in idle if h._actor_id != own._actor_id)
    process = ray.get(helper.__ray_call__.remote(lambda _: os.getpid()))

    monkeypatch.setattr("cluster.hosting.hosts.BLOCK", whole.num_rows // prompts)  # a prompt each
    at_once: list[int] = []
    wait = ray.wait

    def counted(references: list[Any], **more: Any) -> Any:
        at_once.append(len(references))
        if case == "overtaken":  # another process writes the rows while the first blocks are scored
            store.write_scores(trials[0].id, 3, "test", whole, record)
        return wait(references, **more)

    monkeypatch.setattr(ray, "wait", counted)
    for case in ("helped", "overtaken", "stopped", "dead"):
        store.fs.delete_file(store.path(*scores_name(trials[0].id, 3, "test").split("/")))
        if case in ("stopped", "dead"):
            os.kill(process, {"stopped": signal.SIGSTOP, "dead": signal.SIGKILL}[case])
        found, told = fleet.ensure(trials[0], 3, "test")
        assert found["predicted"].equals(whole["predicted"]), case
        assert found["prompt_id"].equals(whole["prompt_id"]), case
        assert np.abs(logprobs(found) - logprobs(whole)).max() < 1e-4, case
        assert told["tokens"] == record["tokens"] == 0
        assert told["seconds"] == told["score_seconds"] > 0
        assert max(at_once) == 2, case
        assert len(at_once) < prompts or case != "overtaken"
        at_once.clear()
    ray.kill(fleet.registry)


def test_the_last_rung_brings_the_test_rows_and_stands_without_them(cluster: None, tmp_path: Path) -> None:
    """The first trial's test prompts break, which is left for the end of the sweep; the second's are there with its
    last report."""
    import ray

    from cluster.hosting.trainable import SlotTrainable, Sweep

    assets, model, trials = prepared(tmp_path, steps=3)
    store = Store.open(tmp_path / "run")
    fleet = Fleet.start(model, Setup(slots=2, max_r=4, threads=1), assets, store, Resources(2, 4))
    asked = []

    class Breaking:
        def ensure(self, trial: Any, rung: int, pool: str) -> Any:
            asked.append((trial.id, rung, pool))
            if (trial.id, pool) == (trials[0].id, "test"):
                raise MemoryError("not enough for a single row")
            return fleet.ensure(trial, rung, pool)

    for trial, tested in ((trials[0], []), (trials[1], [3])):
        process = SlotTrainable.__new__(SlotTrainable)
        process.setup({}, Sweep(Breaking(), lambda _, t=trial: t, (1 / 3, 1.0), 1.0, test=True))  # type: ignore[arg-type, misc]
        first, last = process.step(), process.step()
        assert (first["done"], last["done"]) == (False, True)
        assert "failed" not in last
        assert math.isfinite(last["objective"])
        assert store.rungs(trial.id, "dev") == [1, 3]
        assert store.rungs(trial.id, "test") == tested
    assert asked == [(t.id, rung, pool) for t in trials for rung, pool in ((1, "dev"), (3, "dev"), (3, "test"))]
    ray.kill(fleet.registry)


def run_gang(fleet: Fleet, trial: Any, rung: int, victim: int | None) -> tuple[Any, float]:
    """In a placement group: train over a gang; kill rank ``victim`` on the way. Rows or the error, and seconds."""
    import threading

    from cluster.hosting.gang import Gang, GangError

    gang = Gang(fleet.resources.workers, fleet.resources.cpus, 0, fleet.arguments, fleet.registry)
    import ray

    began = time.monotonic()
    if victim is not None:
        process = ray.get(gang.workers[victim].__ray_call__.remote(lambda _: os.getpid()))
        threading.Timer(1.0, lambda: os.kill(process, signal.SIGKILL)).start()
        began += 1.0
    try:
        gang.advance(trial, rung, "dev")
    except GangError as error:
        return str(error), time.monotonic() - began
    found = Store.open(fleet.store_uri).read_scores(trial.id, rung, "dev")
    gang.end()
    return found[0] if found else None, time.monotonic() - began


@pytest.mark.parametrize("zero", [pytest.param(2, marks=pytest.mark.long), 3])
def test_a_gang_of_two_gives_the_rows_of_one_worker(zero: int, cluster: None, tmp_path: Path) -> None:
    import ray

    assets, model, trials = prepared(tmp_path, steps=2)
    rows = {}
    for workers in (1, 2):
        setup = Setup(slots=1, max_r=4, zero=zero, threads=1)
        store = Store.open(tmp_path / f"w{workers}")
        fleet = Fleet.start(model, setup, assets, store, Resources(1, 1, 0, workers))
        with Resources(1, 1, 0, 2).for_tasks() as options:
            rows[workers], _ = ray.get(ray.remote(run_gang).options(**options).remote(fleet, trials[0], 2, None))
        assert len(store.names(f"tensorboard/{BoardRun.of(trials[0], ()).name}")) == 1
    assert np.abs(logprobs(rows[1]) - logprobs(rows[2])).max() < 1e-4
    assert rows[1]["predicted"].equals(rows[2]["predicted"])


def test_a_gang_tells_how_far_it_is_until_it_ends(cluster: None, tmp_path: Path) -> None:
    import ray

    from sweeps.driver.heartbeat import work_by_host

    assets, model, trials = prepared(tmp_path, steps=100_000)
    setup = Setup(slots=1, max_r=4, zero=2, threads=1)
    fleet = Fleet.start(model, setup, assets, Store.open(tmp_path / "out"), Resources(1, 1, 0, 2))
    ended: set[str] = set()

    def told() -> list[Any]:
        return [*work_by_host(fleet.registry, ended)[1].values()]

    with fleet.resources.for_tasks() as options:
        running = ray.remote(run_gang).options(**options).remote(fleet, trials[0], 100_000, None)
        wait_until(lambda: any(work.steps > 2 for work in told()))
        [work] = told()
        assert list(work.step_of) == [trials[0].id]
        ray.cancel(running, force=True)
    wait_until(lambda: work_by_host(fleet.registry, ended)[0] == [])
    assert len(ended) == 1
    ray.kill(fleet.registry)


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_dead_worker_fails_the_gang_instead_of_leaving_it_in_a_collective(
    victim: int, cluster: None, tmp_path: Path
) -> None:
    import ray

    assets, model, trials = prepared(tmp_path, steps=100_000)
    setup = Setup(slots=1, max_r=4, zero=2, threads=1)
    fleet = Fleet.start(model, setup, assets, Store.open(tmp_path / "out"), Resources(1, 1, 0, 2))
    with fleet.resources.for_tasks() as options:
        why, _ = ray.get(ray.remote(run_gang).options(**options).remote(fleet, trials[0], 100_000, victim), timeout=120)
    assert "worker of this trial's gang was lost" in why
