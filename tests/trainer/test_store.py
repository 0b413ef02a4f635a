"""The run folder's files are whole or not there, whatever kills their writer or damages their disk."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from checkout import ROOT
from score_rows import KINDS, RECORD, can_mount, damaged, read_score_files, rows

from trainer.errors import UserError
from trainer.store import DamagedError, Store, StoreError, UnwritableError, checkpoint_name, scores_name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "run")


def file_of(store: Store, rung: int = 10, pool: str = "dev") -> Path:
    return Path(store.root, scores_name("aa11", rung, pool))


# round trips ------------------------------------------------------------------------------------------------------


def places(tmp_path: Path) -> Iterator[tuple[str, Store]]:
    """The same store on a path, a URI, a path that needs quoting in a URI, and on two file systems that, like an
    object store, know streams but no rename of ours."""
    import fsspec

    yield "path", Store.open(tmp_path / "path")
    yield "uri", Store.open((tmp_path / "uri").as_uri())
    yield "quoted", Store.open(tmp_path / "a b%20#ü")
    yield "sub tree", Store("sub", pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "bucket/run")
    memory = fsspec.filesystem("memory", skip_instance_cache=True)
    yield "memory", Store("memory", pafs.PyFileSystem(pafs.FSSpecHandler(memory)), f"steadytune-{os.getpid()}")


def test_what_is_written_is_read_and_listed_on_every_file_system(tmp_path: Path) -> None:
    for name, store in places(tmp_path):
        assert store.read_scores("aa11", 10, "dev") is None, name
        assert store.rungs("aa11", "dev") == [], name
        for rung, pool in ((20, "dev"), (10, "dev"), (1_000_000, "dev"), (10, "test")):
            store.write_scores("aa11", rung, pool, rows(rung=rung, pool=pool), RECORD)
        store.write_scores("bb22", 10, "dev", rows(8, "bb22"), RECORD)
        found = store.read_scores("aa11", 10, "dev")
        assert found is not None, name
        assert found[0].equals(rows()), name
        assert found[1] == RECORD, name
        assert store.rungs("aa11", "dev") == [10, 20, 1_000_000], name
        assert store.rungs("aa11", "test") == [10], name
        assert store.folders("scores") == ["aa11", "bb22"], name
        assert [(i, r, t.num_rows) for i, r, t, _ in read_score_files(store, "dev")] == [
            ("aa11", 10, 40), ("aa11", 20, 40), ("aa11", 1_000_000, 40), ("bb22", 10, 8),
        ]  # fmt: skip
        store.write("study.yaml", b"first")
        store.write("study.yaml", b"second")
        assert store.read("study.yaml") == b"second", name
        assert (store.exists("study.yaml"), store.exists("study"), store.exists("scores")) == (True, False, False), name


def test_a_store_travels_to_other_processes(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (store, Store.open("relative")):
        assert pickle.loads(pickle.dumps(given)) == given
    assert Store.open("relative").root == str(tmp_path / "relative")


def test_rows_of_other_types_are_brought_to_the_schema_and_a_missing_column_is_refused(store: Store) -> None:
    wide = rows().set_column(1, "rung", pa.array([10] * 40, pa.int64())).append_column("more", pa.array([1] * 40))
    store.write_scores("aa11", 10, "dev", wide, RECORD)
    found = store.read_scores("aa11", 10, "dev")
    assert found is not None
    assert found[0].equals(rows())
    with pytest.raises(KeyError, match="label_logprobs"):
        store.write_scores("aa11", 20, "dev", rows().drop_columns(["label_logprobs"]), RECORD)
    assert store.rungs("aa11", "dev") == [10]


@pytest.mark.parametrize("place", [("bb22", 10, "dev"), ("aa11", 20, "dev"), ("aa11", 10, "test")], ids=str)
def test_a_score_file_in_another_ones_place_is_set_aside(
    store: Store, place: tuple[str, int, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Another trial's scores, or another rung's, must not count as the trial's own (case V3)."""
    store.write_scores("aa11", 10, "dev", rows(), RECORD)
    foreign = Path(store.root, scores_name(*place))
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(file_of(store).read_bytes())
    assert store.read_scores(*place) is None
    assert f"{scores_name(*place)}: not readable (its bytes are not those that were written for this" in caplog.text
    assert store.read_scores("aa11", 10, "dev") is not None


def test_files_of_others_are_passed_over(store: Store) -> None:
    store.write_scores("aa11", 10, "dev", rows(), RECORD)
    folder = file_of(store).parent
    for name in (
        "._000010-dev.parquet",
        "notes.txt",
        "x-dev.parquet",
        "000020-dev.parquet.ab12cd34.part",
        "000030-dev.parquet.corrupt",
    ):
        (folder / name).write_bytes(b"?")
    (folder / "000040-dev.parquet").mkdir()
    assert store.rungs("aa11", "dev") == [10]
    assert "000020-dev.parquet.ab12cd34.part" not in store.names("scores/aa11")
    assert store.read_scores("aa11", 20, "dev") is None
    assert store.read_scores("aa11", 40, "dev") is None


# damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_set_aside_with_a_warning_and_counts_as_absent(
    store: Store, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.write_scores("aa11", 10, "dev", rows(), RECORD)
    store.write_scores("aa11", 20, "dev", rows(rung=20), RECORD)
    path = file_of(store)
    path.write_bytes(wrong := damaged(kind, path.read_bytes()))
    with caplog.at_level(logging.WARNING, "steadytune"):
        assert store.read_scores("aa11", 10, "dev") is None
    assert f"{store.uri}/{scores_name('aa11', 10, 'dev')}: not readable (" in caplog.text
    assert "the rung is made again" in caplog.text
    assert store.rungs("aa11", "dev") == [20]
    assert path.with_name(path.name + ".corrupt").read_bytes() == wrong
    store.write_scores("aa11", 10, "dev", rows(), RECORD)
    assert [rung for _, rung, _, _ in read_score_files(store, "dev")] == [10, 20]


def test_every_flipped_byte_is_told(store: Store) -> None:
    """CASES V3: wherever it is in the file, in a page, the schema, the record, or the checksum itself."""
    store.write_scores("aa11", 10, "dev", rows(8), RECORD)
    path = file_of(store)
    sound = path.read_bytes()
    rng = random.Random(0)
    for at in range(0, len(sound), 3):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ (1 << rng.randrange(8))]) + sound[at + 1 :])
        with pytest.raises(DamagedError):
            store.load_scores("aa11", 10, "dev")
    path.write_bytes(sound)
    found = store.load_scores("aa11", 10, "dev")
    assert found is not None
    assert found[2], "a file with a checksum"


def without_checksum(data: bytes) -> bytes:
    """A score file as versions before checksums wrote it."""
    table = pq.read_table(pa.BufferReader(data))
    sink = pa.BufferOutputStream()
    record = (table.schema.metadata or {})[b"steadytune"]
    pq.write_table(table.replace_schema_metadata({b"steadytune": record}), sink, write_page_checksum=True)
    return bytes(sink.getvalue())


def test_a_file_without_a_checksum_is_read_and_known_as_unchecked(store: Store) -> None:
    store.write_scores("aa11", 10, "dev", rows(), RECORD)
    file_of(store).write_bytes(without_checksum(file_of(store).read_bytes()))
    found = store.load_scores("aa11", 10, "dev")
    assert found is not None
    assert found[0].equals(rows())
    assert (found[1], found[2]) == (RECORD, False)
    other = file_of(store, 20)
    other.write_bytes(file_of(store).read_bytes())
    with pytest.raises(DamagedError, match="its rows are of rung 10, not 20"):
        store.load_scores("aa11", 20, "dev")


@pytest.mark.parametrize(
    "wrong", [{"tokens": "many"}, {"curve": [1]}, {"curve": {"step": "x"}}, {"rung": 11}, {"nan": 1}]
)
def test_a_record_of_other_types_is_damage(store: Store, wrong: dict[str, Any]) -> None:
    """CASES B4, of a file without a checksum."""
    store.write_scores("aa11", 10, "dev", rows(), {**RECORD, **wrong})
    file_of(store).write_bytes(without_checksum(file_of(store).read_bytes()))
    with pytest.raises(DamagedError, match="its record "):
        store.load_scores("aa11", 10, "dev")


# death ------------------------------------------------------------------------------------------------------------

WRITER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from score_rows import RECORD, rows
from trainer.store import Store
store = Store.open({folder!r})
tables = [rows(2000, rung=rung) for rung in range(5)]
print("ready", flush=True)
for turn in range(10**9):
    for rung in range(5):
        store.write_scores("aa11", rung, "dev", tables[rung], {{**RECORD, "turn": turn}})
        store.write(f"checkpoints/aa11/{{rung:06d}}.safetensors", bytes([turn % 256]) * 300_000)
"""


def test_a_writer_that_is_killed_leaves_only_whole_files(tmp_path: Path) -> None:
    rng = random.Random(1)
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        code = WRITER.format(root=str(ROOT), tests=str(ROOT / "tests" / "support"), folder=str(folder))
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.2, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        store = Store.open(folder)
        rungs = store.rungs("aa11", "dev")
        assert rungs
        for rung in rungs:
            found = store.read_scores("aa11", rung, "dev")
            assert found is not None
            assert found[0].equals(rows(2000, rung=rung))
        for name in store.names("checkpoints/aa11"):
            data = store.read(f"checkpoints/aa11/{name}")
            assert (len(data), len(set(data))) == (300_000, 1)


# places that cannot be used -----------------------------------------------------------------------------------------


@contextmanager
def nobody() -> Iterator[None]:
    """Permissions mean nothing to root: lay it down for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everyone may enter (pytest's own are closed to others)."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_a_folder_that_may_not_be_written_is_told_with_the_remedy_and_keeps_its_files(open_folder: Path) -> None:
    store = Store.open(open_folder / "run")
    store.write_scores("aa11", 10, "dev", rows(), RECORD)
    before = file_of(store).read_bytes()
    for path in (open_folder / "run", *(open_folder / "run").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    with (
        nobody(),
        pytest.raises(
            StoreError,
            match=r"000010-dev.parquet: cannot be written \(.*Permission denied.*Nothing was lost: ",
        ),
    ):
        store.write_scores("aa11", 10, "dev", rows(8), RECORD)
    assert file_of(store).read_bytes() == before
    assert [p.name for p in file_of(store).parent.iterdir()] == ["000010-dev.parquet"]
    for path in (open_folder / "run", *(open_folder / "run").rglob("*")):
        path.chmod(0o755)


def test_what_may_not_be_read_is_an_error_and_not_taken_for_absent_or_damaged(open_folder: Path) -> None:
    store = Store.open(open_folder / "run")
    store.write_scores("aa11", 10, "dev", rows(), RECORD)
    path = file_of(store)
    path.chmod(0)
    with nobody(), pytest.raises(StoreError, match=r"000010-dev.parquet: cannot be read .*Mend the permissions"):
        store.read_scores("aa11", 10, "dev")
    path.parent.chmod(0)
    with nobody():
        for look in (lambda: store.rungs("aa11", "dev"), lambda: store.exists(scores_name("aa11", 10, "dev"))):
            with pytest.raises(StoreError, match=r"scores/aa11.*: cannot be looked into .*Mend the permissions"):
                look()
    path.parent.chmod(0o755)
    path.chmod(0o644)
    found = store.read_scores("aa11", 10, "dev")
    assert found is not None
    assert found[0].equals(rows())


def test_a_damaged_file_that_cannot_be_moved_says_so(open_folder: Path) -> None:
    store = Store.open(open_folder / "run")
    store.write_scores("aa11", 10, "dev", rows(), RECORD)
    file_of(store).write_bytes(b"PAR1")
    file_of(store).parent.chmod(0o555)
    with nobody(), pytest.raises(StoreError, match=r"is damaged and cannot be set aside .*Delete it and run"):
        store.read_scores("aa11", 10, "dev")
    file_of(store).parent.chmod(0o755)


def test_a_file_in_the_place_of_the_folder_and_an_unknown_scheme_are_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StoreError, match=r"run is a file, where the run folder needs a folder\. Remove or rename"):
        Store.open(tmp_path / "run").write("study.yaml", b"x")
    with pytest.raises(
        StoreError, match=r"^run folder gopher://a/b: cannot be opened .*Give a path, s3://bucket/… or gs://"
    ):
        Store.open("gopher://a/b")
    with pytest.raises(StoreError, match=r"study.yaml: no such file$"):
        Store.open(tmp_path / "other").read("study.yaml")
    assert issubclass(StoreError, UserError)


def test_what_stands_in_the_place_of_a_folder_or_file_is_named(tmp_path: Path) -> None:
    """Not the permissions are to mend."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "scores").write_bytes(b"")
    (tmp_path / "run" / "lease.json").mkdir()
    beside, run = Store.open(tmp_path / "file" / "run"), Store.open(tmp_path / "run")
    mend = "Remove or rename it, and run the same command again"
    for act, told in (
        (
            lambda: Store.open(tmp_path / "file").write("x", b""),
            f"{tmp_path}/file is a file, where the run folder needs",
        ),
        (lambda: beside.write("x", b""), rf"run/x: cannot be used, since {tmp_path}/file is a file, where the run"),
        (lambda: run.write("scores/aa11/x", b""), r"scores/aa11/x: cannot be used, since \S+/run/scores is a file"),
        (
            lambda: run.write("lease.json", b""),
            r"run/lease.json: is a folder, where the run",
        ),
        (lambda: run.folders("scores"), r"scores: cannot be used, since \S+/run/scores is a file, where"),
    ):
        with pytest.raises(UnwritableError, match=rf"{told}.*{mend}"):
            act()


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOTDIR", "ENAMETOOLONG"])
def test_what_waiting_does_not_mend_is_not_waited_for(store: Store, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CASES E6: 121 seconds passed until a read-only folder was told."""
    tries = []

    def refused(*_: Any) -> None:
        tries.append(1)
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(Store, "_put_file", refused)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits"))
    with pytest.raises(
        UnwritableError, match=r"x: cannot be written \(.*free space, mend the permissions or name another"
    ):
        store.write("x", b"")
    assert len(tries) == 1


@pytest.mark.parametrize("name", ["tables/robustness.md", "report.html"])
def test_a_link_that_leads_out_of_the_folder_is_not_written_through(tmp_path: Path, name: str) -> None:
    """CASES B6: a report overwrote a file outside of its run folder."""
    (tmp_path / "mine").mkdir()
    outside = tmp_path / "mine" / "robustness.md"
    outside.write_text("mine")
    real = tmp_path / "disk"
    real.mkdir()
    (tmp_path / "run").symlink_to(real)  # the folder itself may be a link: that is the user's own
    link = real / name.split("/")[0]
    link.symlink_to(outside if name == "report.html" else outside.parent)
    store = Store.open(tmp_path / "run")
    with pytest.raises(
        UnwritableError, match=f"{name}: is not written, since .*{link.name} is a link that leads out of the"
    ):
        store.write(name, b"theirs")
    assert outside.read_text() == "mine"
    link.unlink()
    (real / "inside").mkdir()
    (real / "tables").symlink_to("inside")
    store.write("tables/robustness.md", b"ours")


def test_a_folder_is_deleted_with_what_is_in_it_and_never_outside(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "run")
    store.write("charts/one/a", b"")
    store.write("charts/two/a", b"")
    store.remove_folder("charts/one")
    store.remove_folder("charts/one")  # it is gone
    assert store.folders("charts") == ["two"]
    (tmp_path / "mine" / "three").mkdir(parents=True)
    (tmp_path / "run" / "others").symlink_to(tmp_path / "mine")
    with pytest.raises(UnwritableError, match="others is a link that leads out of the run folder"):
        store.remove_folder("others/three")
    assert (tmp_path / "mine" / "three").is_dir()


FULL = """
import json, os, sys
sys.path[:0] = [{root!r}, {tests!r}]
from score_rows import RECORD, rows
from trainer.store import Store, StoreError, checkpoint_name
store = Store.open({folder!r})
store.write_scores("aa11", 10, "dev", rows(), RECORD)
first = bytes(1000)
store.write(checkpoint_name("aa11", 10), first)
import time; time.sleep = None  # a full disk is not waited for
{fill}
try:
    store.write(checkpoint_name("aa11", 10), bytes(200_000))
    said = None
except StoreError as error:
    said = str(error)
whole = store.read_scores("aa11", 10, "dev")[0].equals(rows()) and store.read(checkpoint_name("aa11", 10)) == first
there = os.listdir({folder!r} + "/checkpoints/aa11")
print(json.dumps([said, whole, store.names("checkpoints/aa11"), there]))
"""


@pytest.mark.parametrize("how", ["a small disk", "a limit on files"])
def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path: Path, how: str) -> None:
    fill = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    code = textwrap.dedent(FULL).format(
        root=str(ROOT),
        tests=str(ROOT / "tests" / "support"),
        folder=str(tmp_path / "run"),
        fill=fill if how == "a limit on files" else "",
    )
    start = [sys.executable, "-c", code]
    if how == "a small disk":
        mount = 'mount -t tmpfs -o size=128k tmpfs "$0" && exec "$@"'
        start = ["unshare", "-rm", "sh", "-c", mount, str(tmp_path), *start]
        if not can_mount(tmp_path):
            pytest.skip("this machine lets no test mount a small disk")
    done = subprocess.run(start, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, whole, names, there = json.loads(done.stdout)
    reason = "File too large" if how == "a limit on files" else "No space left on device"
    assert said is not None
    assert f"{tmp_path}/run/{checkpoint_name('aa11', 10)}: cannot be written (" in said
    assert reason in said
    assert "free space" in said
    assert whole
    assert names == there == ["000010.safetensors"]


def test_space_that_is_freed_lets_the_same_write_succeed(store: Store) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    data: Any = bytes(100_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreError, match="Nothing was lost"):
            store.write("adapters/aa11/adapter_model.safetensors", data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.names("adapters/aa11") == []
    store.write("adapters/aa11/adapter_model.safetensors", data)
    assert store.read("adapters/aa11/adapter_model.safetensors") == data
