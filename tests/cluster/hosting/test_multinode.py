"""A study over separate machines that break: nodes with their own address, disk and memory, token authentication on.

Run by ``make test-cluster``, as root. Every node is a set of namespaces (tests/support/nodes.py), so a killed node, a
cut link and a disk that is not shared are the real thing and not a mock of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkout import ROOT
from nodes import Machines, Node, children, cluster, traces, why_not
from s3_server import BUCKET, s3_server
from score_rows import read_score_files
from small_study import score_files, wait_for, write_study

from trainer.store import Store

REASON = why_not()
pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(REASON), reason=REASON)]


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    """No link, no process: whether the test passes or not."""
    yield
    wait_for(lambda: not traces(os.getpid()), 20)


def steady(machines: Machines, *words: str, log: Path) -> subprocess.Popen[str]:
    """``steadytune`` on the head."""
    out = log.open("a")
    return machines.popen(machines.head, sys.executable, "-m", "sweeps", *words, stdout=out, stderr=subprocess.STDOUT)


def ended(process: subprocess.Popen[str], log: Path, seconds: float = 300) -> str:
    """What it said; it must have ended well."""
    code = process.wait(seconds)
    text = log.read_text()
    assert code == 0, text[-6000:]
    return text


def parquets(folder: Path) -> int:
    return len(list(folder.glob("scores/*/*.parquet")))


def check_rows(tables: dict[str, Any], trials: int, dev: int, test: int) -> None:
    """Every trial has its rows once: no cell is missing and none is there twice."""
    seen: dict[tuple[str, int, str], int] = {}
    for name, table in tables.items():
        match = re.fullmatch(r"scores/(\w+)/(\d+)-(dev|test)\.parquet", name)
        assert match, name
        trial, rung, pool = match[1], int(match[2]), match[3]
        cells = set(zip(table["prompt_id"].to_pylist(), table["row_id"].to_pylist(), strict=True))
        assert len(cells) == table.num_rows == (dev if pool == "dev" else test), name
        assert set(table["trial_id"].to_pylist()) == {trial}
        assert set(table["rung"].to_pylist()) == {rung}
        seen[trial, rung, pool] = seen.get((trial, rung, pool), 0) + 1
    assert set(seen.values()) == {1}
    assert len({t for t, _, pool in seen if pool == "test"}) == trials


@pytest.fixture(scope="module")
def sizes() -> dict[str, int]:
    return {"dev": 4 * 24, "test": 5 * 30}  # of write_study: prompts times rows


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Ended with its namespace's own process at the latest."""
    try:
        yield process
    finally:
        for child in children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        process.wait(30)


READY = "ray::Host "  # the title of a host that has its model


def victim(machines: Machines, busy: str = "Host") -> Node:
    """A node that is not the head and has a process of this title."""
    found: list[Node] = []
    wait_for(lambda: found.extend(n for n in machines.nodes[1:] if n.processes(busy)) or found)
    return found[0]


# a node is killed, a link is cut, a node comes ------------------------------------------------------------------


def test_a_study_survives_a_killed_node_a_cut_link_and_a_new_node_bit_for_bit(
    tmp_path: Path, sizes: dict[str, int]
) -> None:
    """ASHA off, one slot a host: the rows are those of an undisturbed run, to the last bit."""
    shared = tmp_path / "shared"
    shared.mkdir()
    axes = {"lr": [1e-3, 2e-3, 3e-3], "plw": [0, 0.1, 0.5], "pool": ["many"], "steps": 60}
    study = write_study(shared, scheduler={"name": "none"}, axes=axes, resources={"slots": 1, "cpus": 1})
    with cluster(tmp_path, [1, 1, 1], shared) as machines:
        log = tmp_path / "whole.log"
        ended(steady(machines, "run", str(study), "--out", str(shared / "whole"), log=log), log)
        log, out = tmp_path / "torn.log", shared / "torn"
        with running(steady(machines, "run", str(study), "--out", str(out), log=log)) as process:
            wait_for(lambda: parquets(out) >= 2 or process.poll() is not None)
            machines.kill(victim(machines))
            machines.start(1)
            wait_for(lambda: parquets(out) >= 4 or process.poll() is not None)
            machines.cut(victim(machines))
            ended(process, log)
    whole, torn = score_files(shared / "whole"), score_files(out)
    check_rows(torn, 9, **sizes)
    assert whole.keys() == torn.keys()
    assert [name for name in whole if not whole[name].equals(torn[name])] == []
    trials = pq.read_table(out / "trials.parquet").to_pylist()
    assert {t["status"] for t in trials} == {"finished"}


def test_with_several_slots_the_rows_after_killed_processes_and_a_killed_node_are_the_same_to_rounding(
    tmp_path: Path, sizes: dict[str, int]
) -> None:
    """All trial processes of one node are killed, then the host of another, then a node."""
    shared = tmp_path / "shared"
    shared.mkdir()
    axes = {"lr": [1e-3, 2e-3, 3e-3], "plw": [0, 0.1], "pool": ["many"], "steps": 80}
    study = write_study(shared, scheduler={"name": "none"}, axes=axes, resources={"slots": 2, "cpus": 2})
    with cluster(tmp_path, [2, 2, 2], shared) as machines:
        log = tmp_path / "whole.log"
        ended(steady(machines, "run", str(study), "--out", str(shared / "whole"), log=log), log)
        log, out = tmp_path / "torn.log", shared / "torn"
        with running(steady(machines, "run", str(study), "--out", str(out), log=log)) as process:
            for busy in ("ray::ResourceTrainable.train", READY):
                for pid in victim(machines, busy).processes(busy):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            machines.kill(victim(machines, READY))
            ended(process, log)
    whole, torn = score_files(shared / "whole"), score_files(out)
    check_rows(torn, 6, **sizes)
    assert whole.keys() == torn.keys()
    for name in whole:
        a, b = (np.array(t[name]["label_logprobs"].to_pylist()) for t in (whole, torn))
        # who shares a batch with whom differs, and so does rounding, over 80 steps: 1.05e-5 nats was seen
        assert np.abs(a - b).max() < 3e-5, name


def test_a_disk_that_takes_no_writes_ends_the_run_and_a_slow_node_costs_time_only(
    tmp_path: Path, sizes: dict[str, int]
) -> None:
    """The shared folder is read-only for the one worker, which ends the run in a line (CASES E6). The same command goes
    on when it is writable again; the other worker then stands still most of the time, until the study is over."""
    shared = tmp_path / "shared"
    shared.mkdir()
    axes = {"lr": [1e-3, 2e-3], "plw": [0, 0.1], "pool": ["many"], "steps": 40}
    study = write_study(shared, scheduler={"name": "none"}, axes=axes, resources={"slots": 1, "cpus": 1})
    out, log = shared / "out", tmp_path / "log"
    with cluster(tmp_path, [1, 1, 1], shared) as machines:
        with running(steady(machines, "run", str(study), "--out", str(out), log=log)) as process:
            writer = victim(machines)
            machines.read_only(writer)
            wait_for(lambda: process.poll() is not None)
        assert process.returncode == 2, log.read_text()[-3000:]
        assert "cannot be written" in log.read_text()
        machines.read_only(writer, False)
        slow = next(n for n in machines.nodes[1:] if n is not writer)
        with running(steady(machines, "run", str(study), "--out", str(out), log=log)) as process:
            while process.poll() is None:
                machines.freeze(slow)
                time.sleep(0.4)
                machines.freeze(slow, False)
                time.sleep(0.2)
            ended(process, log)
        assert machines.alive() == {n.address for n in machines.nodes}
    check_rows(score_files(out), 4, **sizes)
    trials = pq.read_table(out / "trials.parquet").to_pylist()
    assert {t["status"] for t in trials} == {"finished"}


# the head dies, the driver's disk is its own --------------------------------------------------------------------


def test_after_the_head_died_the_same_command_goes_on(tmp_path: Path, sizes: dict[str, int]) -> None:
    """The driver is on the head and dies with it. A new head, the same command: finished rungs are not made again."""
    shared = tmp_path / "shared"
    shared.mkdir()
    study = write_study(shared, axes={"steps": 40}, resources={"slots": 1, "cpus": 1})
    out, log = shared / "out", tmp_path / "log"
    with cluster(tmp_path, [1, 1], shared) as machines:
        with running(steady(machines, "run", str(study), "--out", str(out), log=log)):
            wait_for(lambda: parquets(out) >= 2)
            machines.kill(machines.head)
        for node in list(machines.nodes):  # as whatever keeps the cluster up would: they have no head to go to
            machines.kill(node)
        before = {p: p.stat().st_mtime_ns for p in out.glob("scores/*/*.parquet")}
        machines.start(1, first=True)
        machines.start(1)
        machines.wait_until_alive(2)
        ended(steady(machines, "run", str(study), "--out", str(out), log=log), log)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    check_rows(score_files(out), 4, **sizes)


def test_on_s3_no_node_needs_the_disk_of_another(tmp_path: Path, sizes: dict[str, int]) -> None:
    """Only the head sees the study; the nodes share nothing but the bucket. The driver is killed and started again
    while the bucket says 503 for some seconds; report and export read the bucket from elsewhere."""
    mine = tmp_path / "mine"
    mine.mkdir()
    study = write_study(mine, resources={"slots": 1, "cpus": 1})
    uri, log = f"s3://{BUCKET}/runs/small", tmp_path / "log"
    machines = Machines(tmp_path, mine, head_only=True)
    with machines, s3_server(tmp_path / "s3.log", machines.gateway) as server:
        machines.env = server.environment
        for number in range(3):
            machines.start(1, first=number == 0)
        machines.wait_until_alive(3)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment.items():
                patch.setenv(name, value)
            store = Store.open(uri)
            with running(steady(machines, "run", str(study), "--out", uri, log=log)) as process:
                wait_for(lambda: store.folders("scores") or process.poll() is not None)
                assert process.poll() is None, log.read_text()[-5000:]
            dev = {i: store.rungs(i, "dev") for i in store.folders("scores")}
            with running(steady(machines, "run", str(study), "--out", uri, log=log)) as process:
                wait_for(lambda: machines.nodes[1].processes("Host") or machines.nodes[2].processes("Host"))
                server.fail(8, "/runs/small")
                ended(process, log)
            assert "Trial task failed" not in log.read_text()
            assert all(set(dev[i]) <= set(store.rungs(i, "dev")) for i in dev)
            tables = {
                f"scores/{i}/{rung:06d}-{pool}.parquet": table
                for pool in ("dev", "test")
                for i, rung, table, _ in read_score_files(store, pool)
            }
            check_rows(tables, 4, **sizes)
            status = pq.read_table(pa.BufferReader(store.read("trials.parquet"))).column("status").to_pylist()
            assert sorted(status) == ["finished", "finished", "stopped", "stopped"]
            for words in (["report", uri], ["export", uri, "--to", str(tmp_path / "adapter")]):
                done = subprocess.run(
                    [sys.executable, "-m", "sweeps", *words], cwd=ROOT, capture_output=True, text=True
                )
                assert done.returncode == 0, done.stderr[-3000:]
            assert store.exists("report.html")
            assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size > 1000


# notice of an end --------------------------------------------------------------------------------------------------


def test_a_node_that_is_drained_takes_no_new_trials_and_its_trials_go_on_elsewhere(
    tmp_path: Path, sizes: dict[str, int]
) -> None:
    """As a spot machine does that is told it will be taken away: Ray's own drain, with a deadline."""
    shared = tmp_path / "shared"
    shared.mkdir()
    axes = {"lr": [1e-3, 2e-3, 3e-3], "plw": [0, 0.1], "pool": ["many"], "steps": 60}
    study = write_study(shared, scheduler={"name": "none"}, axes=axes, resources={"slots": 1, "cpus": 1})
    out, log = shared / "out", tmp_path / "log"
    with (
        cluster(tmp_path, [1, 1], shared) as machines,
        running(steady(machines, "run", str(study), "--out", str(out), log=log)) as process,
    ):
        wait_for(lambda: parquets(out) >= 1 or process.poll() is not None)
        drained = victim(machines)
        node = machines.ask(
            "print(next(n['NodeID'] for n in ray.nodes() if n['NodeManagerAddress'] == sys.argv[1]))",
            drained.address,
        ).strip()
        drain = [str(Path(sys.executable).parent / "ray"), "drain-node", "--address", machines.address]
        drain += ["--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        drain += ["--reason-message", "the machine is taken away", "--deadline-remaining-seconds", "3"]
        done = machines.popen(machines.head, *drain, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said, _ = done.communicate(timeout=60)
        assert done.returncode == 0, said
        ended(process, log)
        assert machines.alive() == {machines.head.address}
    check_rows(score_files(out), 6, **sizes)


# the nodes themselves ------------------------------------------------------------------------------------------------


def test_nodes_have_their_own_address_disk_memory_and_processes(tmp_path: Path) -> None:
    with Machines(tmp_path) as machines:
        first, second = (machines.boot(f"node{n}", f"{machines.net}.{20 + n}", ["sleep", "100"], None) for n in (1, 2))
        look = "hostname; hostname -I; ls /tmp /dev/shm; ls -d /proc/[0-9]*"
        wait_for(lambda: all(len(n.processes("sleep 100")) == 2 for n in (first, second)))  # the shell, then sleep
        machines.popen(first, "touch", "/tmp/mine", "/dev/shm/mine").wait()
        said = [machines.popen(n, "sh", "-c", look, stdout=subprocess.PIPE).communicate()[0] for n in (first, second)]
        assert said[0].startswith(f"node1\n{first.address}")
        assert said[1].startswith(f"node2\n{second.address}")
        assert [text.count("mine") for text in said] == [2, 0]
        assert max(text.count("/proc/") for text in said) < 8
        ping = ["ping", "-c", "1", "-W", "1", second.address] if shutil.which("ping") else None
        for cut in (False, True, False):
            (machines.cut if cut else machines.mend)(second)
            if ping:
                wait_for(
                    lambda cut=cut: bool(machines.popen(first, *ping, stdout=subprocess.DEVNULL).wait()) is cut, 20
                )


def test_a_test_that_fails_leaves_no_node_behind(tmp_path: Path) -> None:
    def failing() -> None:
        with Machines(tmp_path) as machines:
            machines.boot("node1", f"{machines.net}.20", ["sleep", "100"], None)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()


ABANDONED = """
import os, signal, sys, time
from pathlib import Path
from nodes import Machines
machines = Machines(Path(sys.argv[1])).__enter__()
node = machines.boot("node1", f"{machines.net}.20", ["sleep", "100"], None)
while not node.processes("sleep 100"): time.sleep(0.01)
print(machines.switch, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nor_does_one_that_is_killed(tmp_path: Path) -> None:
    """Its nodes end with it; its switch goes when the next one comes."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support")}
    process = subprocess.Popen(
        [sys.executable, "-c", ABANDONED, str(tmp_path)], env=env, stdout=subprocess.PIPE, text=True
    )
    switch = f"link {process.communicate()[0].strip()}"
    assert process.returncode == -signal.SIGKILL
    wait_for(lambda: traces(process.pid) == {switch}, 20)
    with Machines(tmp_path):
        assert traces(process.pid) == set()
