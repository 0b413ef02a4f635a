"""What of a run folder a tracker shows: a run for the study, and below it a run for each of its trials.

A run's ``key`` depends on the study's name and the trial's id alone, so every machine and every start finds the run
that an earlier one made. Its ``stamp`` changes with what it shows: a tracker that holds a run with the same stamp has
nothing to add, and no score file is read for it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.fs as pafs

from cluster.hosting.tensorboard import CURVE, DEV, STDERR, TEST
from sweeps.display.text import shown
from sweeps.run_folder.columns import SEARCH
from sweeps.run_folder.reading import RunFolder, Rung
from sweeps.tables.current import winning_row, written_tables
from trainer.errors import short
from trainer.measure.metrics import grid_objective
from trainer.measure.registry import ACCURACY
from trainer.store import Store, scores_name
from trainer.trial import AXES, metric_today

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"  # as in trials.parquet
LONGEST_TAG = 1000  # characters; MLflow takes 8,000
REPORT, STUDY = "report.html", "study.yaml"
BOUNDS = {"test/mean_low": "mean_low", "test/mean_high": "mean_high"}  # name of a value -> column of tables/trials
SHOWN_TABLES = ("md", "csv", "parquet")


@dataclass(frozen=True)
class LoggedStep:
    """Values at one optimizer step."""

    step: int
    time: float  # seconds since 1970
    values: Mapping[str, float]  # all finite


def _no_points() -> list[LoggedStep]:
    return []


def _no_files() -> dict[str, bytes]:
    return {}


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker shows it. ``points`` and ``files`` read the run folder when they are called."""

    key: str
    name: str
    study: str
    status: str  # RUNNING, FINISHED, STOPPED or FAILED
    settings: Mapping[str, bool | float | str]  # of the trial's axes
    tags: Mapping[str, str]
    parent: str = ""  # key of the study's run; "" for that run itself
    group: str = ""  # id of the configuration, whose seeds belong together
    step: int = 0  # optimizer steps at its last report
    final: Mapping[str, float] = field(default_factory=dict)  # of the test prompts; they may still change
    points: Callable[[], list[LoggedStep]] = _no_points
    files: Callable[[], dict[str, bytes]] = _no_files  # name in the run folder -> content
    changed: str = ""  # what else decides whether the run must be looked at: rungs, or files

    @property
    def stamp(self) -> str:
        """Changes with anything that the run shows."""
        what = (self.name, self.status, self.settings, self.tags, self.step, self.final, self.changed)
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def study_key(study: str) -> str:
    return f"study-{_short_hash(study)}"


def trial_key(study: str, trial_id: str) -> str:
    return f"{trial_id}-{_short_hash(study)}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class Source:
    """Reads a run folder again and again, and files that have not changed only once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._digests: dict[str, tuple[tuple[int | None, int | None], str]] = {}  # file -> size and time, SHA-256

    def runs(self, run: RunFolder) -> Iterator[TrackedRun]:
        """The study's run first, then those of the trials that ``trials.parquet`` lists."""
        study = run.outline.name
        trials = run.trials_by_id
        over = run.has_trials and run.driver_state.over
        made = written_tables(run) if over else None
        best = winning_row(made) if made is not None else None
        winner = best["trial_id"] if best is not None else ""
        tested = {} if made is None else {row["trial_id"]: row for row in made.trials.to_pylist()}
        yield self._study_run(run, study, over, winner)
        several = len({row["configuration"] for row in trials.values()}) < len(trials)
        varied = [a for a in AXES if a != "seed" and len({row.get(a) for row in trials.values()}) > 1]
        for row in trials.values():
            yield self._trial_run(run, study, row, varied, several, row["trial_id"] == winner, tested)

    def _study_run(self, run: RunFolder, study: str, over: bool, winner: str) -> TrackedRun:
        names = self._files()
        statuses = [row["status"] for row in run.trials_by_id.values()]
        status = RUNNING if not over else FAILED if FAILED in statuses else FINISHED
        counts = {s: str(statuses.count(s)) for s in (RUNNING, FINISHED, STOPPED, FAILED)}
        tags = {"study": study, "trials": str(len(statuses)), **({"winner": winner} if winner else {})}
        return TrackedRun(
            key=study_key(study),
            name=study,
            study=study,
            status=status,
            settings={},
            tags=tags | {f"trials.{s}": n for s, n in counts.items()},
            files=lambda: {name: self._store.read(name) for name in names},
            changed=json.dumps({name: self._digest(name) for name in names}),
        )

    def _trial_run(
        self,
        run: RunFolder,
        study: str,
        row: Mapping[str, Any],
        varied: Sequence[str],
        several: bool,
        is_winner: bool,
        tested: Mapping[str, Mapping[str, Any]],
    ) -> TrackedRun:
        trial_id, status = row["trial_id"], row["status"]
        rungs = [step for step in self._store.rungs(trial_id, "dev") if not run.went_on(trial_id, step)]
        axes = {name: row[name] for name in AXES if row.get(name) is not None}
        tags = {
            "study": study,
            "trial": trial_id,
            "configuration": row["configuration"],
            "status": status,
            "reason": short(row.get("reason") or "", LONGEST_TAG),
            "role": "" if row["role"] == SEARCH else row["role"],
            "degenerate": "true" if row.get("degenerate") or row.get("test_degenerate") else "",
            "winner": "true" if is_winner else "",
        }
        return TrackedRun(
            key=trial_key(study, trial_id),
            name=", ".join(
                [*(f"{a}={shown(axes[a])}" for a in varied if a in axes), f"seed={shown(row['seed'])}", trial_id]
            ),
            study=study,
            status=status,
            settings=axes,
            tags={name: text for name, text in tags.items() if text},
            parent=study_key(study),
            group=row["configuration"] if several else "",
            step=int(row.get("rung") or 0),
            final=_final(row, tested.get(trial_id, {})),
            points=lambda: self._points(run, trial_id),
            changed=json.dumps(rungs),
        )

    def _points(self, run: RunFolder, trial_id: str) -> list[LoggedStep]:
        """Training step by step, and the objective at every rung."""
        found: dict[int, LoggedStep] = {}
        last = 0
        for rung in run.rungs(trial_id, "dev"):
            if run.went_on(trial_id, rung.step):  # another study in the folder trained it further
                continue
            info = self._store.fs.get_file_info(self._store.path(scores_name(trial_id, rung.step, "dev")))
            end = info.mtime_ns / 1e9 if info.mtime_ns else 0.0
            for point in _curve(rung, last, end):
                found[point.step] = point
            before = found.get(rung.step)
            values = _objective(rung, run.outline.std_weight)
            if values:
                found[rung.step] = LoggedStep(rung.step, end, {**(before.values if before else {}), **values})
            last = rung.step
        return [found[step] for step in sorted(found)]

    def _files(self) -> list[str]:
        top = [name for name in (STUDY, REPORT) if self._store.exists(name)]
        tables = [n for n in self._store.names("tables") if n.rpartition(".")[2] in SHOWN_TABLES]
        return [*top, *(f"tables/{name}" for name in tables)]

    def _digest(self, name: str) -> str:
        info: pafs.FileInfo = self._store.fs.get_file_info(self._store.path(*name.split("/")))
        known = self._digests.get(name)
        if known is None or known[0] != (info.size, info.mtime_ns) or info.mtime_ns is None:
            known = ((info.size, info.mtime_ns), hashlib.sha256(self._store.read(name)).hexdigest())
            self._digests[name] = known
        return known[1]


def _final(row: Mapping[str, Any], tested: Mapping[str, Any]) -> dict[str, float]:
    """The result on the test prompts: as the driver recorded it, and once the tables are made what they add."""
    mean, std, worst = TEST
    values = {mean: row.get("test_mean"), std: row.get("test_std"), worst: tested.get("min")}
    for name, column in {mean: "mean", std: "std"}.items():
        values[name] = tested.get(column) if values[name] is None else values[name]
    values |= {name: tested.get(column) for name, column in BOUNDS.items()}
    return {name: float(v) for name, v in values.items() if v is not None and math.isfinite(v)}


def _curve(rung: Rung, after: int, end: float) -> list[LoggedStep]:
    """The rung's training steps beyond ``after``; the last was at ``end``."""
    curve: Mapping[str, Sequence[Any]] = rung.record.get("curve") or {}
    steps = [(i, int(step)) for i, step in enumerate(curve.get("step", ())) if step > after]
    began = end - float(rung.record.get("seconds") or 0.0)
    points = []
    for nth, (i, step) in enumerate(steps, 1):
        values = {tag: curve[name][i] for name, tag in CURVE.items() if i < len(curve.get(name, ()))}
        finite = {tag: float(v) for tag, v in values.items() if v is not None and math.isfinite(v)}
        if finite:
            points.append(LoggedStep(step, began + (end - began) * nth / len(steps), finite))
    return points


def _objective(rung: Rung, std_weight: float) -> dict[str, float]:
    if rung.grid is None:  # it ended in NaN
        return {}
    task = (rung.record.get("trial") or {}).get("task") or {}
    found = grid_objective(rung.grid, metric_today(task.get("metric") or ACCURACY), std_weight)
    values = dict(zip((*DEV, STDERR), (found.value, found.mean, found.std, found.min, found.stderr), strict=True))
    return {tag: float(v) for tag, v in values.items() if math.isfinite(v)}
