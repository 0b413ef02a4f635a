"""Rows that are answered in parts get the answers of the single process, each row once, whatever ends the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_run
from checkout import ROOT

from cluster.connect import connected
from sweeps.export import many_rows
from sweeps.export.export import export
from sweeps.export.many_rows import Asking, RowFile, RowPart, files_of, parts_of, predict_many, read_part
from sweeps.export.predict import predict
from trainer.errors import UserError


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The run folder of one trial with two labels, and its export."""
    uri, trials = tiny_run.made("labels", tmp_path_factory)
    return uri, export(uri, trials[-1].id, str(tmp_path_factory.mktemp("many") / "out"))


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One local Ray for the tests that need no start of their own."""
    with connected(cpus=1):
        yield


@pytest.fixture
def texts(exported: tuple[str, str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(tiny_run.data(exported[0], "test.jsonl")).read_text().splitlines()]


def write(path: Path, records: list[dict[str, Any]], group: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path, row_group_size=group)
    return path


def answers(folder: Path) -> list[dict[str, Any]]:
    return [r for p in sorted(folder.rglob("*.parquet")) for r in pq.read_table(p).to_pylist()]


def single(folder: str, rows: Path, tmp_path: Path) -> list[dict[str, Any]]:
    out = tmp_path / "single.parquet"
    assert predict(folder, str(rows), str(out)) == 0
    return pq.read_table(out).to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("group", [1, 3, 7, 100])
def test_a_part_is_its_rows_however_the_file_is_divided(
    tmp_path: Path, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many_rows, "PART", 5)
    path = write(tmp_path / "rows.parquet", [{"x": i} for i in range(23)], group)
    [file] = files_of(str(path))
    parts = parts_of(file)
    assert [p.n for p in parts] == [5, 5, 5, 5, 3]
    assert [read_part(p)["x"].to_pylist() for p in parts] == [list(range(i, min(i + 5, 23))) for i in range(0, 23, 5)]


def test_a_file_a_folder_and_a_pattern_name_rows(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet", "deep/c.parquet"):
        write(tmp_path / name, [{"x": 1}])
    (tmp_path / "notes.txt").touch()

    def names(rows: Path | str) -> list[str]:
        return [f.name for f in files_of(str(rows))]

    assert names(tmp_path) == ["a", "b", "deep/c"]
    assert names(tmp_path / "deep" / "c.parquet") == ["c"]
    assert names(f"{tmp_path}/[ab]*.parquet") == ["a", "b"]


def test_other_content_has_another_footer(tmp_path: Path) -> None:
    found: set[str] = set()
    for value in (1, 2):
        [file] = files_of(str(write(tmp_path / "rows.parquet", [{"x": value}])))
        found.add(file.footer)
    assert len(found) == 2


@pytest.mark.usefixtures("ray")
def test_rows_without_ids_are_numbered_over_all_parts_and_answered_as_in_one_process(
    exported: tuple[str, str], texts: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported[1]
    rows = write(tmp_path / "rows" / "all.parquet", [{k: v for k, v in t.items() if k != "id"} for t in texts], 3)
    expected = single(folder, rows, tmp_path)
    monkeypatch.setattr(many_rows, "PART", 4)
    said: list[str] = []
    assert predict_many(Asking((folder,), str(tmp_path / "out")), str(tmp_path / "rows"), say=said.append) == 0
    found = answers(tmp_path / "out")
    assert [r["id"] for r in found] == [r["id"] for r in expected] == [f"row-{i}" for i in range(len(texts))]
    assert [r["label"] for r in found] == [r["label"] for r in expected]
    for column in ("p_no", "p_yes"):
        assert np.allclose([r[column] for r in found], [r[column] for r in expected], atol=1e-6)
    assert len(list((tmp_path / "out").glob("*.parquet"))) == -(-len(texts) // 4)
    assert said[-1].startswith(f"{tmp_path / 'out'}: the answers to {len(texts)} rows")

    # again: nothing is left to do, so no Ray is started and no file is written
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.parquet")}
    monkeypatch.setattr(many_rows, "connected", None)
    said.clear()
    assert predict_many(Asking((folder,), str(tmp_path / "out")), str(tmp_path / "rows"), say=said.append) == 0
    assert said[0] == f"{len(texts)} of {len(texts)} rows were answered before"
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.parquet")} == times

    # a part without its file is answered again, and no other
    monkeypatch.undo()
    monkeypatch.setattr(many_rows, "PART", 4)
    lost = sorted(times)[1]
    lost.unlink()
    assert predict_many(Asking((folder,), str(tmp_path / "out")), str(tmp_path / "rows"), say=said.append) == 0
    assert answers(tmp_path / "out") == found
    now = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.parquet")}
    assert [p for p, at in now.items() if times[p] != at] == [lost]

    # what the folder holds is not mixed with answers of another kind, nor with those to other rows
    def refused(rows: Path = tmp_path / "rows", **options: Any) -> str:
        with pytest.raises(UserError) as error:
            predict_many(Asking((folder,), str(tmp_path / "out"), **options), str(rows))
        return str(error.value)

    assert "holds answers with another --threshold" in refused(threshold="0.3")
    assert "holds answers with another --prompt" in refused(prompt="{{ text }} Yes or no?")
    write(tmp_path / "rows" / "all.parquet", [{"text": "it other it"}])
    assert "holds answers to all.parquet as it was before it changed" in refused()


@pytest.mark.usefixtures("ray")
def test_several_exports_answer_each_part_together(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri, trials = tiny_run.made("labels", tmp_path_factory)
    first, second = (export(uri, trials[i].id, str(tmp_path / name)) for i, name in ((0, "one"), (-1, "two")))
    rows = write(tmp_path / "rows.parquet", [{k: v for k, v in t.items() if k != "id"} for t in texts], 3)
    alone = [single(folder, rows, tmp_path) for folder in (second, first)]
    expected = [r for pair in zip(*alone, strict=True) for r in pair]
    out = tmp_path / "out"
    monkeypatch.setattr(many_rows, "PART", 6)
    assert predict_many(Asking((second, first), str(out)), str(rows)) == 0
    assert [len(pq.read_table(p)) for p in sorted(out.glob("*.parquet"))] == [12, 12, 8]
    found = answers(out)
    assert [r.pop("export") for r in found] == ["two", "one"] * len(texts)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine["p_yes"] == pytest.approx(theirs["p_yes"], abs=1e-5)
        assert {**mine, "p_no": 0, "p_yes": 0} == {**theirs, "p_no": 0, "p_yes": 0}
    assert max(abs(a["p_yes"] - b["p_yes"]) for a, b in zip(*alone, strict=True)) > 1e-3
    manifest = json.loads((out / "answers.json").read_text())
    assert [name for name, _ in manifest["of"]["export"]] == ["two", "one"]

    # neither one of them alone, nor another order, goes on in the same folder
    monkeypatch.setattr(many_rows, "connected", None)
    for folders in ((second,), (first, second)):
        said = refusal(lambda f=folders: predict_many(Asking(f, str(out)), str(rows)))  # type: ignore[misc]
        assert "holds answers with another export" in said
    assert predict_many(Asking((second, first), str(out)), str(rows)) == 0
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "two").symlink_to(first)
    said = refusal(lambda: predict_many(Asking((second, str(tmp_path / "deep" / "two")), str(out)), str(rows)))
    assert 'are both called "two"' in said


KILLED = """
import sys
from cluster.connect import connected
from sweeps.export import many_rows
many_rows.PART = 50
print("started", flush=True)
many_rows.predict_many(many_rows.Asking((sys.argv[1],), sys.argv[2]), sys.argv[3], say=lambda t: print(t, flush=True))
"""


@pytest.mark.long
def test_killed_in_the_middle_and_run_again_no_row_is_lost_or_repeated(
    exported: tuple[str, str], texts: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows = write(tmp_path / "rows.parquet", [{**texts[i % len(texts)], "id": f"n{i}"} for i in range(1500)])
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, exported[1], str(out), str(rows)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while len(list(out.glob("*.parquet"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    there = {p: p.stat().st_mtime_ns for p in out.glob("*.parquet")}
    assert len(there) < 30
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "rows were answered before" in ended.stdout
    assert [r["id"] for r in answers(out)] == [f"n{i}" for i in range(1500)]
    assert all(p.stat().st_mtime_ns == t for p, t in there.items())


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        action()
    return str(error.value)


def test_what_cannot_be_read_is_refused_before_any_work(exported: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("text\nhello\n")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and then something else")
    assert "no parquet file there" in refusal(lambda: files_of(str(tmp_path / "none")))
    assert "no parquet file there" in refusal(lambda: files_of(f"{tmp_path}/*.jsonl"))
    assert "is no parquet file, or damaged" in refusal(lambda: files_of(str(tmp_path / "bad.parquet")))
    empty = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), empty)
    assert "have no rows" in refusal(lambda: files_of(str(empty)))
    rows = write(tmp_path / "rows.parquet", [{"text": "it good it"}])
    asking = Asking((exported[1],), str(tmp_path))
    assert "is not empty and no folder of answers" in refusal(lambda: predict_many(asking, str(rows)))


@pytest.mark.usefixtures("ray")
def test_a_row_that_cannot_be_answered_is_named_with_its_file(exported: tuple[str, str], tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.parquet", [{"text": "it good it"}, {"text": "good " * 5000}])
    said = refusal(lambda: predict_many(Asking((exported[1],), str(tmp_path / "out")), str(rows)))
    assert f"{rows}, rows 1 to 2: " in said
    assert '"row-1"' in said
    assert "goes on from there" in said


def test_the_rule_that_needs_all_rows_at_once_is_refused(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, trials = tiny_run.made("batch", tmp_path_factory)
    folder = export(uri, trials[-1].id, str(tmp_path / "export"))
    rows = write(tmp_path / "rows.parquet", [{"text": "it good it"}])
    said = refusal(lambda: predict_many(Asking((folder,), str(tmp_path / "out")), str(rows)))
    assert 'decision rule "batch"' in said


def test_answers_that_a_node_wrote_elsewhere_are_not_called_there(
    exported: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write(tmp_path / "rows.parquet", [{"text": "it good it"}])
    monkeypatch.chdir(tmp_path)
    asked: list[Asking] = []

    def elsewhere(asking: Asking, parts: object, workers: object) -> list[dict[str, Any]]:
        asked.append(asking)
        return [{"n": 1, "warnings": []}]

    monkeypatch.setattr(many_rows, "_answered", elsewhere)
    said = refusal(lambda: predict_many(Asking((exported[1],), "out"), str(rows)))
    assert asked[0].out == str(tmp_path / "out")
    assert said.startswith(f"--out: 1 of 1 parts were answered, and {tmp_path}/out/rows-00000.parquet is not there")


def test_names_of_parts_tell_files_of_one_name_apart() -> None:
    files = [RowFile("x/a.parquet", "a", 1, ""), RowFile("x/deep/a.parquet", "deep/a", 1, "")]
    assert [p for f in files for p in parts_of(f)] == [
        RowPart("x/a.parquet", 0, 1, "a-00000.parquet"),
        RowPart("x/deep/a.parquet", 0, 1, "deep/a-00000.parquet"),
    ]
