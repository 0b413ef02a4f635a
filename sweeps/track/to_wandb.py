"""Runs in Weights & Biases: sent to its server, or written for ``wandb sync`` where W&B is offline.

A run's id is its key, and W&B goes on with a run of the same id. It takes steps in rising order alone, so the last step
that it has says what is new. What may change later, as the result on the test prompts, is in the run's summary. The
stamp and the files' digests are there, too, each with the step before which the history must be there: W&B may write a
summary before the history that it is of.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_SILENT", "true")  # before wandb is imported: it prints many lines for every run
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import pyarrow.parquet as pq
import wandb

from sweeps.run_folder.reading import ROBUSTNESS_FILE
from sweeps.track.runs import FAILED, REPORT, TrackedRun
from sweeps.track.tracker import Added, TrackerError
from sweeps.track.wandb_files import KnownRun, read_offline_runs
from trainer.errors import UserError, short

STAMP = "steadytune/stamp"
LONGEST_TAG = 64  # characters that W&B takes
LONGEST_ERROR = 300


class WeightsAndBiases:
    """``url``: of the server, by default the one that W&B's own settings name."""

    def __init__(self, project: str, url: str | None) -> None:
        self._project = project
        self._known: dict[str, KnownRun] = {}
        with self._errors():
            settings = wandb.setup(wandb.Settings(base_url=url) if url else None).settings
            self._offline = settings.mode == "offline"
            self._folder = Path(settings.wandb_dir)
            self._url = url or settings.base_url
            if settings.mode == "disabled":
                raise UserError("--to wandb: WANDB_MODE is disabled, so W&B would keep nothing. Unset it")
            if not self._offline and not wandb.login(host=url, prompt=False, verify=True):
                raise TrackerError(
                    "--to wandb: not logged in. Run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline, which "
                    "writes files for `wandb sync`"
                )

    @property
    def where(self) -> str:
        if self._offline:
            return f"{self._folder} (send it with `wandb sync`)"
        return f"{self._url.rstrip('/')}, project {self._project}"

    def stamps(self, study: str) -> Mapping[str, str]:
        with self._errors():
            if self._offline:
                wandb.teardown()  # waits until all that was logged is in the files
                self._known = read_offline_runs(self._folder, self._project)
            else:
                self._known = self._on_server()
        return {key: _noted(run, STAMP) for key, run in self._known.items()}

    def _on_server(self) -> dict[str, KnownRun]:
        api = wandb.Api()
        path = f"{api.default_entity}/{self._project}"
        try:
            summaries = {run.id: dict(run.summary_metrics) for run in api.runs(path)}
        except ValueError:  # there is no such project yet
            return {}
        return {key: KnownRun(int(summary.get("_step", -1)), summary) for key, summary in summaries.items()}

    def put(self, run: TrackedRun) -> Added:
        known = self._known.setdefault(run.key, KnownRun())
        with self._errors(), self._opened(run) as opened:
            last = known.last_step = max(known.last_step, opened.starting_step - 1)
            values = 0
            for point in run.points():
                if point.step > last:
                    opened.log(dict(point.values), step=point.step)
                    values, known.last_step = values + len(point.values), point.step
            values += self._summarise(opened, known, run.final)
            files = run.files()
            new = {name: data for name, data in files.items() if _noted(known, _digest_of(name)) != _digest(data)}
            if new:
                known.last_step = last + 1
                digests = {_digest_of(name): f"{_digest(data)} {known.last_step}" for name, data in files.items()}
                self._put_files(opened, files, digests, known.last_step)
                known.summary.update(digests)
            self._summarise(opened, known, {STAMP: f"{run.stamp} {known.last_step}"})
        return Added(values, len(new))

    def _summarise(self, opened: wandb.Run, known: KnownRun, values: Mapping[str, Any]) -> int:
        new = {name: value for name, value in values.items() if known.summary.get(name) != value}
        if new:
            opened.summary.update(new)
            known.summary.update(new)
        return len(new)

    @contextlib.contextmanager
    def _opened(self, run: TrackedRun) -> Iterator[wandb.Run]:
        """The run, to be added to. What was logged is written when it is left."""
        if self._offline:  # W&B names the folder by the second, and would write over one that has this name
            while list(self._folder.glob(f"*run-{time.strftime('%Y%m%d_%H%M%S')}-{run.key}")):
                time.sleep(0.1)
        tags = [run.status, *(name for name in ("winner", "degenerate", "role") if name in run.tags and run.parent)]
        opened = wandb.init(
            project=self._project,
            id=run.key,
            name=run.name,
            group=run.group or run.study,
            job_type="trial" if run.parent else "study",
            tags=[tag[:LONGEST_TAG] for tag in tags],
            notes=run.tags.get("reason"),
            resume="allow",
            settings=wandb.Settings(
                console="off", disable_code=True, disable_git=True, save_code=False,
                x_disable_meta=True, x_disable_stats=True, x_save_requirements=False,
            ),
        )  # fmt: skip
        code = 1
        try:
            opened.config.update({**run.settings, "steadytune": dict(run.tags)}, allow_val_change=True)
            yield opened
            code = 1 if run.status == FAILED else 0
        finally:
            opened.finish(exit_code=code)

    def _put_files(self, opened: wandb.Run, files: Mapping[str, bytes], digests: Mapping[str, str], step: int) -> None:
        """The files as an artifact, whose next version W&B makes only of other content; report and table are shown on
        the run's page as well."""
        shown: dict[str, Any] = {}
        if ROBUSTNESS_FILE in files:
            table = pq.read_table(io.BytesIO(files[ROBUSTNESS_FILE]))
            rows = [list(row.values()) for row in table.to_pylist()]
            shown["robustness"] = wandb.Table(columns=table.column_names, data=rows, allow_mixed_types=True)
        with tempfile.TemporaryDirectory() as folder:
            artifact = wandb.Artifact(f"run-folder-{opened.id}", type="run-folder")
            for name, data in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                artifact.add_file(str(path), name, policy="mutable")
            if REPORT in files:
                shown["report"] = wandb.Html(str(Path(folder, REPORT)), inject=False)
            opened.log_artifact(artifact)
            opened.log({**shown, **digests}, step=step)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        logging.getLogger("wandb").setLevel(logging.ERROR)
        try:
            yield
        except (wandb.Error, OSError, ValueError, TimeoutError) as error:
            text = short(" ".join(str(error).split()), LONGEST_ERROR).rstrip(".")
            raise TrackerError(f"W&B: {text}. WANDB_MODE=offline needs no server") from error


def _noted(run: KnownRun, name: str) -> str:
    """A stamp or a digest of the summary. Empty where the history lacks the step that is noted beside it."""
    text, _, step = str(run.summary.get(name, "")).partition(" ")
    return text if step and run.last_step >= int(step) else ""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _digest_of(file: str) -> str:
    """The name under which the summary keeps a file's digest."""
    return f"steadytune/{file}"
