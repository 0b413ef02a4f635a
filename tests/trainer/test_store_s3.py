"""The run folder on an object store: a real S3 protocol, a server in another process that can be told to fail."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from checkout import ROOT
from s3_server import BUCKET, S3, s3_server
from score_rows import KINDS, RECORD, damaged, read_score_files, rows

from trainer import store as store_module
from trainer.store import Store, StoreError, checkpoint_name, scores_name


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as server:
        yield server


@pytest.fixture
def store(server: S3, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Store:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.fail(0)
    name = re.sub(r"\W", "-", request.node.name)
    return Store.open(f"s3://{BUCKET}/{name}/run")


def by_query(server: S3, folder: str) -> Store:
    """The same bucket, the server named in the address instead of the environment."""
    host = server.endpoint.removeprefix("http://")
    return Store.open(f"s3://{BUCKET}/{folder}?endpoint_override={host}&scheme=http&region=us-east-1")


# the contract ---------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_listed(store: Store) -> None:
    assert store.read_scores("aa11", 10, "dev") is None
    assert store.rungs("aa11", "dev") == []
    assert store.folders("scores") == []
    for rung, pool in ((20, "dev"), (10, "dev"), (1_000_000, "dev"), (10, "test")):
        store.write_scores("aa11", rung, pool, rows(rung=rung, pool=pool), RECORD)
    store.write_scores("bb22", 10, "dev", rows(8, "bb22"), RECORD)
    found = store.read_scores("aa11", 10, "dev")
    assert found is not None
    assert found[0].equals(rows())
    assert found[1] == RECORD
    assert store.rungs("aa11", "dev") == [10, 20, 1_000_000]
    assert store.folders("scores") == ["aa11", "bb22"]
    assert [(i, r, t.num_rows) for i, r, t, _ in read_score_files(store, "dev")] == [
        ("aa11", 10, 40), ("aa11", 20, 40), ("aa11", 1_000_000, 40), ("bb22", 10, 8),
    ]  # fmt: skip
    store.write("study.yaml", b"first")
    store.write("study.yaml", b"second")
    assert store.read("study.yaml") == b"second"
    assert (store.exists("study.yaml"), store.exists("study"), store.exists("scores")) == (True, False, False)


def test_a_server_may_be_named_in_the_address(store: Store, server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    other = by_query(server, "by-query/run")
    other.write_scores("aa11", 10, "dev", rows(), RECORD)
    assert other.rungs("aa11", "dev") == [10]
    assert other.address("report.html") == f"s3://{BUCKET}/by-query/run/report.html"
    with pytest.raises(StoreError, match=rf"^s3://{BUCKET}/by-query/run/none: no such file$"):
        other.read("none")


def test_a_write_costs_no_request_for_folders(store: Store, server: S3) -> None:
    before = len(server.log())
    store.write("scores/aa11/000010-dev.parquet", b"x")
    asked = server.log()[before:]
    assert not [a for a in asked if a.startswith("PUT") and a.rstrip("?").endswith("/")]
    assert len(asked) <= 3


# damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "another format"])
def test_a_damaged_file_is_set_aside(store: Store, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    name = scores_name("aa11", 10, "dev")
    store.write_scores("aa11", 10, "dev", rows(), RECORD)
    store.write(name, wrong := damaged(kind, store.read(name)))
    with caplog.at_level(logging.WARNING, "steadytune"):
        assert store.read_scores("aa11", 10, "dev") is None
    assert "the rung is made again" in caplog.text
    assert store.rungs("aa11", "dev") == []
    assert store.read(name + ".corrupt") == wrong
    store.write_scores("aa11", 10, "dev", rows(), RECORD)
    assert store.rungs("aa11", "dev") == [10]


WRITER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from trainer.store import Store
store = Store.open({uri!r})
for turn in range(10**9):
    store.write("checkpoints/aa11/000010.safetensors", bytes([turn % 256]) * 24_000_000)  # three parts
    print(turn, flush=True)
"""


def test_a_writer_that_is_killed_in_the_middle_of_an_upload_leaves_the_last_whole_object(
    store: Store, server: S3
) -> None:
    code = WRITER.format(root=str(ROOT), tests=str(ROOT / "tests" / "support"), uri=store.uri)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    before = len(server.log())
    while not any("partNumber=2" in a for a in server.log()[before:]):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    data = store.read("checkpoints/aa11/000010.safetensors")
    assert len(data) == 24_000_000
    assert len(set(data)) == 1
    assert store.names("checkpoints/aa11") == ["000010.safetensors"]


def test_an_upload_whose_second_part_fails_leaves_the_object_as_it_was(
    store: Store, server: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = checkpoint_name("aa11", 10)
    store.write(name, b"first")
    monkeypatch.setattr(store_module, "PATIENCE", 0.0)
    server.fail(60, "partNumber=2")
    with pytest.raises(StoreError, match=r"000010.safetensors: cannot be written \("):
        store.write(name, bytes(24_000_000))
    server.fail(0)
    assert store.read(name) == b"first"


# storage that is away for a while ---------------------------------------------------------------------------------


def test_a_server_that_says_503_for_some_seconds_costs_time_and_nothing_else(
    store: Store, server: S3, caplog: pytest.LogCaptureFixture
) -> None:
    store.write_scores("aa11", 10, "dev", rows(), RECORD)
    server.fail(12)  # longer than the SDK's own attempts
    with caplog.at_level(logging.WARNING, "steadytune"), ThreadPoolExecutor(3) as pool:
        written = pool.submit(store.write_scores, "aa11", 20, "dev", rows(8, rung=20), RECORD)
        there, listed = pool.submit(store.read_scores, "aa11", 10, "dev"), pool.submit(store.rungs, "aa11", "test")
        written.result()
        assert there.result() is not None
        assert listed.result() == []
    assert caplog.text.count("trying again for 1") == 3
    found = store.read_scores("aa11", 20, "dev")
    assert found is not None
    assert found[0].equals(rows(8, rung=20))


def test_a_server_that_stays_away_is_an_error_in_the_end(
    store: Store, server: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "PATIENCE", 2.0)
    server.fail(60)
    with pytest.raises(StoreError, match="Nothing was lost: free space"):
        store.write("study.yaml", b"x")
    server.fail(0)
    assert not store.exists("study.yaml")


def test_what_waiting_cannot_mend_is_told_at_once(store: Store, server: S3, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "steadytune"):
        with pytest.raises(StoreError, match="cannot be written"):
            Store.open("s3://no-such-bucket/run").write("study.yaml", b"x")
        server.fail(600, status=403)
        for act in (lambda: store.write("study.yaml", b"x"), lambda: store.names("scores")):
            with pytest.raises(StoreError, match=r"cannot be (written|looked into)"):
                act()
        server.fail(0)
        with pytest.raises(StoreError, match="no such file"):
            store.read("none")
    assert "trying again" not in caplog.text


def test_a_secret_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(StoreError, match="AWS_SECRET_ACCESS_KEY") as told:
        Store.open("s3://someone:hush@bucket/run")
    assert "hush" not in str(told.value)
    assert "s3://…@bucket/run" in str(told.value)


def test_addresses_of_google_storage_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Google server can be had on one machine; what is tested is the address and that a dead one is told."""
    store = Store.open("gs://bucket/runs/a")
    assert (store.fs.type_name, store.root) == ("gcs", "bucket/runs/a")
    assert store.address("x") == "gs://bucket/runs/a/x"
    assert "retry_limit_seconds=120" in store.uri
    monkeypatch.setattr(store_module, "PATIENCE", 1.0)
    dead = Store.open("gs://anonymous@bucket/run?endpoint_override=127.0.0.1:1&scheme=http")
    with pytest.raises(StoreError, match=r"^gs://anonymous@bucket/run/study.yaml: cannot be "):
        dead.read("study.yaml")
