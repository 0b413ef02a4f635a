"""One run at a time in a run folder: who is refused, who takes over, and what a taken-over run is told."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from checkout import ROOT

from sweeps.run_folder import lease
from sweeps.run_folder.lease import Holder, Lease, LeaseError, read_holder
from trainer.store import Store, UnwritableError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "run"))


def quick(store: Store, every: float = 0.1, patience: float = 1.0) -> Lease:
    return Lease(store, every=every, patience=patience, settle=0.05)


def leave(store: Store, holder: Holder) -> None:
    """As a run that was killed leaves its lease."""
    store.write(lease.NAME, json.dumps(asdict(holder)).encode())


def elsewhere(**changes: object) -> Holder:
    """A holder of whom this machine cannot know whether it is alive."""
    return replace(Holder.this(), token="other", host="node-7", machine="another", pid=4711, **changes)  # type: ignore[arg-type]


def test_a_lease_is_there_while_the_run_is_and_gone_afterwards(store: Store) -> None:
    with quick(store):
        held = read_holder(store)
        assert held is not None
        assert (held.pid, held.host) == (os.getpid(), Holder.this().host)
    assert read_holder(store) is None
    with pytest.raises(ZeroDivisionError), quick(store):
        raise ZeroDivisionError
    assert read_holder(store) is None
    assert store.names("") == []


def test_a_lease_is_renewed(store: Store) -> None:
    with quick(store, every=0.02):
        end = time.monotonic() + 30
        while (found := read_holder(store)) is None or found.renewals < 3:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_second_run_is_refused_with_who_holds_the_folder_and_how_to_go_on(store: Store) -> None:
    with quick(store), pytest.raises(LeaseError) as error, quick(store, patience=60):
        pass
    text = str(error.value)
    for part in (
        store.uri,
        "in use",
        f"process {os.getpid()}",
        f"host {Holder.this().host}",
        " s ago, and still runs",
        "--out",
    ):
        assert part in text
    assert read_holder(store) is None, "the first one's lease ended with it, the second left none"


def test_the_job_that_holds_it_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"runtime_env": {}, "metadata": {"job_submission_id": "small-1a2b-1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(about))
    with quick(store), pytest.raises(LeaseError, match=r"job small-1a2b-1.*steadytune stop small-1a2b-1"), quick(store):
        pass


def test_of_two_that_begin_together_one_stays(store: Store) -> None:
    begun, refused = [], []
    barrier = threading.Barrier(4)

    def start() -> None:
        mine = Lease(store, every=0.05, patience=2, settle=0.5)
        mine.mine = replace(mine.mine, machine=mine.mine.token)
        barrier.wait()
        try:
            with mine:
                begun.append(mine.mine.token)
                time.sleep(1.5)
        except LeaseError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(begun), len(refused)) == (1, 3)


def test_a_killed_process_of_this_machine_holds_nothing(store: Store) -> None:
    """No waiting after kill -9: the process is known to have ended."""
    code = (
        "import os, sys; from sweeps.run_folder.lease import Lease; from trainer.store import Store\n"
        "with Lease(Store.open(sys.argv[1]), settle=0): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, store.uri], cwd=ROOT)
    assert read_holder(store) is not None
    with Lease(store, patience=3600):
        pass


def test_another_process_with_the_old_number_is_not_taken_for_the_holder(store: Store) -> None:
    leave(store, replace(Holder.this(), token="old", born="1"))
    with Lease(store, patience=3600):
        pass


def test_a_lease_of_another_machine_ends_when_nobody_renews_it(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    leave(store, elsewhere(started=time.time() + 1e6, renewed=0.0))  # whatever its clock says
    with quick(store):
        held = read_holder(store)
        assert held is not None
        assert held.pid == os.getpid()
    assert "node-7, process 4711" in caplog.text
    assert "taken over" in caplog.text


def test_a_lease_of_another_machine_that_is_renewed_holds(store: Store) -> None:
    over = threading.Event()

    def renew() -> None:
        n = 0
        while not over.wait(0.05):
            leave(store, elsewhere(started=time.time() - 7200, renewals=(n := n + 1)))

    thread = threading.Thread(target=renew)
    leave(store, elsewhere())
    thread.start()
    try:
        with (
            pytest.raises(LeaseError, match="host node-7, process 4711, started 2 hours ago"),
            quick(store, patience=60),
        ):
            pass
    finally:
        over.set()
        thread.join()


def test_a_run_that_was_taken_over_ends_and_says_so(store: Store) -> None:
    other = elsewhere()
    with pytest.raises(LeaseError, match=r"another run took this folder over \(host node-7"), quick(store):  # noqa: PT012
        leave(store, other)
        time.sleep(60)  # ended by the interrupt
    assert read_holder(store) == other, "the other's lease is left alone"


def test_storage_that_cannot_be_written_for_a_moment_ends_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with quick(store, every=0.05) as held:
        folder = Path(store.uri)
        moved = folder.rename(folder.with_name("away"))
        folder.write_text("no folder")
        end = time.monotonic() + 30
        while "cannot be renewed" not in caplog.text:
            assert time.monotonic() < end
            time.sleep(0.02)
        folder.unlink()
        moved.rename(folder)
        before = held.mine.renewals
        while held.mine.renewals < before + 3:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert read_holder(store) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"token": "x"}', '{"token": "x", "pid": "y"}'])
def test_a_file_that_is_no_lease_holds_nothing(store: Store, text: str) -> None:
    store.write(lease.NAME, text.encode())
    with quick(store):
        pass


def test_on_object_storage_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3_server import BUCKET, s3_server

    with s3_server(tmp_path / "log") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        store = Store.open(f"s3://{BUCKET}/leased/run")
        with quick(store, every=0.1):
            with pytest.raises(LeaseError, match="in use"), quick(store):
                pass
            end = time.monotonic() + 60
            while (found := read_holder(store)) is None or found.renewals < 2:
                assert time.monotonic() < end
                time.sleep(0.05)
        assert read_holder(store) is None
        leave(store, elsewhere())
        with quick(store):
            pass
        assert read_holder(store) is None


def test_a_folder_that_takes_no_files_ends_the_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """CASES E5: on a full disk a run had not ended after five minutes."""

    def full(self: Store, target: str, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def work() -> None:
        with quick(store, 0.02):
            monkeypatch.setattr(Store, "_put_file", full)
            time.sleep(60)
            pytest.fail("the run went on")

    with pytest.raises(UnwritableError, match=r"lease.json: cannot be written \(.*No space left"):
        work()
