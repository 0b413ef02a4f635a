"""``steadytune track RUN --to trackio``: what Trackio's files hold."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from tracked_run import GrowingRun, completion_loss, finished

from sweeps.run_folder.reading import RunFolder
from trainer.store import Store


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> GrowingRun:
    return finished(tmp_path_factory.mktemp("tracked") / "run")


def asked(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: Trackio reads TRACKIO_DIR when it is imported."""
    return python(folder, "-m", "sweeps", "track", *arguments, "--to", "trackio", **more)


def python(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TRACKIO_DIR": str(folder), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}", **more}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300)


def rows(folder: Path, query: str, project: str = "complaints") -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(folder / f"{project}.db")) as db:
        return db.execute(query).fetchall()


def values(folder: Path, key: str, project: str = "complaints") -> list[tuple[int, str, float]]:
    found = rows(folder, f"SELECT step, metrics FROM metrics WHERE run_id LIKE '{key}%'", project)
    return sorted((step, name, value) for step, text in found for name, value in json.loads(text).items())


def test_values_are_those_of_the_run_folder(done: GrowingRun, tmp_path: Path) -> None:
    said = asked(tmp_path, done.uri)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("complaints: 140 values and 17 files added; ")
    best, cut, failed = (trial.id for trial in done.trials)
    found = values(tmp_path, best)
    losses = {step: value for step, name, value in found if name == "train/completion_loss"}
    assert sorted(losses) == list(range(1, 41))
    assert losses[31] == pytest.approx(completion_loss(31))
    row = next(r for r in RunFolder(Store.open(done.uri)).trial_scores() if r["trial_id"] == best)
    assert (40, "test/mean", pytest.approx(row["mean"])) in found
    assert len(values(tmp_path, cut)) == 45
    assert values(tmp_path, failed) == [(0, "started", 1.0)]
    configs = {key: json.loads(text) for key, text in rows(tmp_path, "SELECT run_id, config FROM configs")}
    config = next(config for key, config in configs.items() if key.startswith(failed))
    assert (config["lr"], config["steadytune.status"]) == (0.01, "failed")
    assert config["steadytune.reason"] == "loss became NaN between steps 3 and 4"


def test_tracking_twice_changes_no_row(done: GrowingRun, tmp_path: Path) -> None:
    asked(tmp_path, done.uri)
    tables = [name for (name,) in rows(tmp_path, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    before = {name: rows(tmp_path, f"SELECT * FROM {name}") for name in tables}
    assert len(before["metrics"]) > 60
    assert asked(tmp_path, done.uri).stdout.startswith("complaints: nothing to add; ")
    assert {name: rows(tmp_path, f"SELECT * FROM {name}") for name in tables} == before


def test_the_report_opens_from_there(done: GrowingRun, tmp_path: Path) -> None:
    asked(tmp_path, done.uri)
    fetch = """
        import contextlib, io, sys, trackio
        from sweeps.track.runs import study_key
        with contextlib.redirect_stdout(io.StringIO()):
            trackio.init("complaints", auto_log_cpu=False, auto_log_gpu=False)
            trackio.use_artifact(f"run-folder-{study_key('complaints')}:latest").download(sys.argv[1])
            trackio.finish()
    """
    got = python(tmp_path, "-c", textwrap.dedent(fetch), str(tmp_path / "got"))
    assert got.returncode == 0, got.stderr
    for name in ("report.html", "tables/robustness.csv"):
        assert (tmp_path / "got" / name).read_bytes() == Path(done.uri, name).read_bytes()


def test_a_mirror_that_was_killed_or_came_early_goes_on(done: GrowingRun, tmp_path: Path) -> None:
    for after in (2, 4):
        ended = f"""
            import os
            from trackio.sqlite_storage import SQLiteStorage
            from sweeps.track.mirror import track
            write, left = SQLiteStorage.bulk_log, {after}
            def until_killed(*arguments, **named):
                global left
                write(*arguments, **named)
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), 9)
            SQLiteStorage.bulk_log = until_killed
            track({done.uri!r}, "trackio", "killed{after}")
        """
        assert python(tmp_path, "-c", textwrap.dedent(ended)).returncode == -9
        asked(tmp_path, done.uri, "--project", f"killed{after}")
    grow = f"""
        from pathlib import Path
        from tracked_run import GrowingRun
        from sweeps.track.mirror import track
        run = GrowingRun(Path({str(tmp_path / "grows")!r}))
        acts = iter((run.first_rung, run.second_rung, run.end))
        track(run.uri, "trackio", "growing", follow=True, every=1.0, pause=lambda _: next(acts)())
    """
    grown = python(tmp_path, "-c", textwrap.dedent(grow))
    assert grown.returncode == 0, grown.stderr
    asked(tmp_path, done.uri)
    for project in ("killed2", "killed4", "growing"):
        for trial in done.trials:
            assert values(tmp_path, trial.id, project) == values(tmp_path, trial.id)


@pytest.mark.parametrize(
    ("more", "environment", "said"),
    [
        (("--url", "http://127.0.0.1:9"), {}, "--url http://127.0.0.1:9 is given, but runs are written"),
        ((), {"TRACKIO_SPACE_ID": "me/there"}, "TRACKIO_SPACE_ID is set, but runs are written"),
        (("--project", "registry-x"), {}, "Project name 'registry-x' is not allowed"),
    ],
)
def test_what_trackio_cannot_do(
    done: GrowingRun, tmp_path: Path, more: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    refused = asked(tmp_path, done.uri, *more, **environment)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert refused.stderr.count("\n") == 1
