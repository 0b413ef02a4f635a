"""Runs in Trackio's files on this machine (TRACKIO_DIR).

Each row of values has a ``log_id`` made of the run's key, the step and the values, and Trackio takes a row with a known
one only once. A run's rows and its configuration, in which the stamp stands, are written in one transaction.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trackio
from trackio.sqlite_storage import SQLiteStorage

from sweeps.track.runs import RUNNING, TrackedRun
from sweeps.track.tracker import Added, TrackerError
from trainer.errors import UserError, short

STAMP = "steadytune.stamp"
GROUP = "_Group"  # Trackio's own key for a run's group
PAGE = "tables/robustness.md"
REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
LONGEST_ERROR = 300


@dataclass(frozen=True)
class LoggedRow:
    """What Trackio keeps of one step."""

    step: int
    time: float  # seconds since 1970
    values: Mapping[str, Any]


STARTED = LoggedRow(0, 0.0, {"started": 1.0})  # of a run without values: Trackio shows a run from its first row on


class Trackio:
    """``url``: must be None. A Space gets the project from ``trackio sync``."""

    def __init__(self, project: str, url: str | None) -> None:
        elsewhere = [f"--url {url} is given"] if url else [f"{name} is set" for name in REMOTE if os.environ.get(name)]
        if elsewhere:
            raise UserError(
                f"--to trackio: {elsewhere[0]}, but runs are written to Trackio's files on this machine. Leave it out; "
                f"`trackio sync --project {project} --space-id OWNER/NAME` sends them to a Space"
            )
        self._project = project
        with self._errors():
            SQLiteStorage.validate_project_name(project)

    @property
    def where(self) -> str:
        file = SQLiteStorage.get_project_db_path(self._project)
        return f"{file} (see it with `trackio show --project {self._project}`)"

    def stamps(self, study: str) -> Mapping[str, str]:
        with self._errors():
            runs = {str(r["id"]): str(r["name"]) for r in SQLiteStorage.get_run_records(self._project)}
            read = SQLiteStorage.get_run_config
            configs = {key: read(self._project, name, run_id=key) or {} for key, name in runs.items()}
        return {key: str(config.get(STAMP, "")) for key, config in configs.items()}

    def put(self, run: TrackedRun) -> Added:
        with self._errors():
            files = run.files()
            rows = [LoggedRow(point.step, point.time, point.values) for point in run.points()]
            if run.final:
                rows.append(LoggedRow(run.step, rows[-1].time if rows else 0.0, run.final))
            if not rows and run.parent and run.status == RUNNING:
                return Added()
            had = self._values(run)
            new = [row for row in rows if not had.issuperset(_values_of(row))]
            values = sum(len(_values_of(row) - had) for row in new)
            new_files = 0
            if files:
                page = [LoggedRow(0, 0.0, {"robustness": _markdown(files[PAGE])})] if PAGE in files else []
                self._write(run, [STARTED, *page], "")
                new_files = self._put_files(run, files)
            self._write(run, new or rows[-1:] or [STARTED], run.stamp)
        return Added(values, new_files)

    def _values(self, run: TrackedRun) -> set[tuple[int, str, float]]:
        logs = SQLiteStorage.get_logs(self._project, run.name, run_id=run.key)
        return {value for row in logs for value in _values_of(LoggedRow(int(row["step"]), 0.0, row))}

    def _write(self, run: TrackedRun, rows: Sequence[LoggedRow], stamp: str) -> None:
        """Add the rows that are not there, and replace the configuration."""
        config = {**run.settings, **{f"steadytune.{name}": text for name, text in run.tags.items()}}
        SQLiteStorage.bulk_log(
            self._project,
            run.name,
            [dict(row.values) for row in rows],
            steps=[row.step for row in rows],
            timestamps=[datetime.fromtimestamp(row.time, UTC).isoformat() for row in rows],
            config={**config, GROUP: run.group or run.study, STAMP: stamp},
            log_ids=[_log_id(run.key, row) for row in rows],
            run_id=run.key,
        )

    def _put_files(self, run: TrackedRun, files: Mapping[str, bytes]) -> int:
        """The files as one artifact, of which Trackio makes a version only for other content."""
        name = f"run-folder-{run.key}"
        before = {a["name"]: a["latest_version"] for a in SQLiteStorage.get_artifacts(self._project)}
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            for file, data in files.items():
                path = Path(folder, file)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            artifact = trackio.Artifact(name, type="run-folder")
            artifact.add_dir(folder)
            trackio.init(self._project, run.name, resume="must", embed=False, auto_log_cpu=False, auto_log_gpu=False)
            try:
                trackio.log_artifact(artifact)
            finally:
                trackio.finish()
        after = {a["name"]: a["latest_version"] for a in SQLiteStorage.get_artifacts(self._project)}
        return len(files) if after.get(name) != before.get(name) else 0

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError, sqlite3.Error) as error:
            text = short(" ".join(str(error).split()), LONGEST_ERROR).rstrip(".")
            raise TrackerError(f'Trackio, project "{self._project}": {text}') from error


def _markdown(page: bytes) -> dict[str, str]:
    """As ``Run.log`` keeps a ``trackio.Markdown``, which the dashboard shows as a report."""
    return {"_type": trackio.Markdown.TYPE, "_value": page.decode()}


def _values_of(row: LoggedRow) -> set[tuple[int, str, float]]:
    return {(row.step, name, value) for name, value in row.values.items() if isinstance(value, float)}


def _log_id(key: str, row: LoggedRow) -> str:
    return hashlib.sha256(json.dumps([key, row.step, dict(row.values)], sort_keys=True).encode()).hexdigest()[:32]
