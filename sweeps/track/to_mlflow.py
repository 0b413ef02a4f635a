"""Runs in MLflow, on a tracking server or in a database.

MLflow gives a run its id, so the key is a tag that is written together with the run. Before values are added, those
that the run has are read; a run whose stamp is the same is not looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

# before mlflow is imported. By default it tries for minutes, tells its makers of each use, and prints a line per run
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from sweeps.track.runs import FAILED, FINISHED, RUNNING, STOPPED, TrackedRun, study_key
from sweeps.track.tracker import Added, TrackerError
from trainer.errors import UserError, short

PREFIX = "steadytune."  # of our tags
KEY, STUDY_KEY, STAMP, FILES = (f"{PREFIX}{name}" for name in ("key", "study_key", "stamp", "files"))
OWN = (KEY, STUDY_KEY, STAMP, FILES)
STATUS = {RUNNING: "RUNNING", FINISHED: "FINISHED", STOPPED: "KILLED", FAILED: "FAILED"}
PARENT = "mlflow.parentRunId"
MOST_METRICS = 1000  # in one request
MOST_RUNS = 1000  # on one page of a search
LONGEST_ERROR = 300


class MLflow:
    """``url``: of the server, or what else MLflow takes for its tracking URI; by default MLFLOW_TRACKING_URI."""

    def __init__(self, project: str, url: str | None) -> None:
        self.url = url or os.environ.get("MLFLOW_TRACKING_URI") or ""
        if not self.url:
            raise UserError(
                "--to mlflow: which server? Give --url http://HOST:PORT, or set MLFLOW_TRACKING_URI; "
                "`mlflow server --port 5000` starts one"
            )
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # each retry would be a warning of its own
        self.project = project
        self._runs: dict[str, str] = {}  # key -> run id
        with self._errors():
            self._client = MlflowClient(tracking_uri=self.url)
            found = self._client.get_experiment_by_name(project)
            if found is not None and found.lifecycle_stage != "active":
                raise TrackerError(
                    f'MLflow at {self.url}: its experiment "{project}" is deleted. Restore it there '
                    f"(`mlflow experiments restore -x {found.experiment_id}`), or name another with --project"
                )
            self._experiment = found.experiment_id if found else self._client.create_experiment(project)

    @property
    def where(self) -> str:
        if self.url.startswith("http"):
            return f"{self.url.rstrip('/')}/#/experiments/{self._experiment}"
        return f'{self.url}, experiment "{self.project}"'

    def stamps(self, study: str) -> Mapping[str, str]:
        found = {}
        with self._errors():
            page = None
            while page is None or page.token:
                page = self._client.search_runs(
                    [self._experiment],
                    f"tags.`{STUDY_KEY}` = '{study_key(study)}'",  # a study's name may hold quotes
                    ViewType.ACTIVE_ONLY,
                    MOST_RUNS,
                    page_token=page.token if page else None,
                )
                for run in page:
                    tags = run.data.tags
                    if KEY in tags:
                        self._runs[tags[KEY]] = run.info.run_id
                        found[tags[KEY]] = tags.get(STAMP, "")
        return found

    def put(self, run: TrackedRun) -> Added:
        with self._errors():
            run_id = self._runs.get(run.key) or self._create(run)
            there = self._client.get_run(run_id)
            self._put_params(run, run_id, there.data.params)
            points = self._put_points(run, run_id, there.data.metrics)
            files = self._put_files(run, run_id, there.data.tags)
            self._put_tags(run, run_id, there.data.tags)
            self._put_status(run, run_id, there.info.status)
            self._client.set_tag(run_id, STAMP, run.stamp)  # last: all before it is there
            return Added(points, files)

    def _create(self, run: TrackedRun) -> str:
        tags = {KEY: run.key, STUDY_KEY: study_key(run.study)}
        if run.parent in self._runs:
            tags[PARENT] = self._runs[run.parent]
        run_id: str = self._client.create_run(self._experiment, tags=tags, run_name=run.name).info.run_id
        self._runs[run.key] = run_id
        return run_id

    def _put_params(self, run: TrackedRun, run_id: str, there: Mapping[str, str]) -> None:
        """Params of MLflow cannot be changed: a pool or a template that the study has renamed keeps its first name."""
        new = [Param(name, str(value)) for name, value in run.settings.items() if name not in there]
        if new:
            self._client.log_batch(run_id, params=new)

    def _put_points(self, run: TrackedRun, run_id: str, there: Mapping[str, float]) -> int:
        had = {(m.key, m.step): m.value for name in there for m in self._client.get_metric_history(run_id, name)}
        points = run.points()
        wanted = [(name, p.step, v, p.time) for p in points for name, v in p.values.items()]
        end = points[-1].time if points else 0.0
        wanted += [(name, run.step, value, end) for name, value in run.final.items()]
        new = [Metric(name, v, round(1000 * at), step) for name, step, v, at in wanted if had.get((name, step)) != v]
        for i in range(0, len(new), MOST_METRICS):
            self._client.log_batch(run_id, metrics=new[i : i + MOST_METRICS])
        return len(new)

    def _put_files(self, run: TrackedRun, run_id: str, there: Mapping[str, str]) -> int:
        had: dict[str, str] = json.loads(there.get(FILES, "{}"))
        files = run.files()
        digests = {name: hashlib.sha256(data).hexdigest()[:16] for name, data in files.items()}
        new = [name for name in files if had.get(name) != digests[name]]
        with tempfile.TemporaryDirectory() as folder:
            for name in new:
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(files[name])
                self._client.log_artifact(run_id, str(path), name.rpartition("/")[0] or None)
        if new:
            self._client.set_tag(run_id, FILES, json.dumps(digests))
        return len(new)

    def _put_tags(self, run: TrackedRun, run_id: str, there: Mapping[str, str]) -> None:
        wanted = {f"{PREFIX}{name}": text for name, text in run.tags.items()} | {"mlflow.runName": run.name}
        new = [RunTag(name, text) for name, text in wanted.items() if there.get(name) != text]
        if new:
            self._client.log_batch(run_id, tags=new)
        for name in there:
            if name.startswith(PREFIX) and name not in wanted and name not in OWN:
                self._client.delete_tag(run_id, name)

    def _put_status(self, run: TrackedRun, run_id: str, there: str) -> None:
        status = STATUS[run.status]
        if there == status:
            return
        if run.status == RUNNING:
            self._client.update_run(run_id, status)
        else:
            self._client.set_terminated(run_id, status)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (MlflowException, OSError) as error:
            raise TrackerError(f"MLflow at {self.url}: {_said(error)}") from error


def _said(error: Exception) -> str:
    text = short(" ".join(str(error).split()), LONGEST_ERROR)
    if any(word in text for word in ("Max retries exceeded", "Connection refused", "timed out", "Failed to establish")):
        return f"cannot be reached. Check --url, and that the server runs ({text})"
    return text.rstrip(".")
