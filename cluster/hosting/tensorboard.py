"""The TensorBoard files of a sweep: a run per trial, with scalars, histograms and hparams from its first rung on, and
the wordings of the prompts.

Read them with ``tensorboard --logdir <run folder>/tensorboard``. They are written here, with the records and messages
of the ``tensorboard`` package and without torch or tensorflow, and not by Tune's logger, for two reasons. Tune's logger
writes hparams only when a trial ends, so a running sweep would show none; and after a resume it would write every point
again.

A run is named by the values of the axes that vary in the study, the seed and the trial's id
(``template=chat,lr=0.001,seed=0,3f2a91bc7d10``), and these axes alone are its hparams. The scalars that matter stand
first: TensorBoard sorts groups by name, and ``dev`` and ``test`` come before ``train`` and all others.

Each rung of a trial is one file, named by its rung. The host that scored the rung writes it whole, through
``Store.write``; over thousands of trials this would be a third of the driver's work. So the run folder may be remote
(the file is uploaded in one write), and when a rung is replayed after a resume, its file is there and nothing is
written. If a study is run again with other rungs, a rung between two earlier ones brings only its objective, since the
later rung's file already has those training steps. How a trial ended, with its test scores, is one more file, written
when the sweep is over. TensorBoard reads a file on from where it stopped, so no file is ever written again with other
content.

A trial has one run. If a study goes on with other axes, or was begun by a version that named runs and scalars
otherwise, the trial's run of before has another name. The score files hold all that it shows, and each rung of the
trial is replayed; so the run of before is deleted, and the replay writes the new one.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from trainer.data.wording import Prompt
from trainer.measure.grid import COLUMNS, read_grid
from trainer.measure.metrics import Objective, grid_objective, per_prompt
from trainer.store import Store, StoreError
from trainer.trial import Trial, axis_columns

log = logging.getLogger("steadytune")

FOLDER = "tensorboard"
# names in a rung record's curve -> names in TensorBoard. The two losses are separate: their sum depends on PLW
CURVE = {
    "completion_loss": "train/completion_loss",
    "prompt_loss": "train/prompt_loss",
    "lr": "train/lr",
    "tokens_per_s": "train/tokens_per_s",
    "grad_norm": "train/grad_norm",
}
OBJECTIVE, STDERR = "dev/objective", "uncertainty/dev_objective_stderr"
DEV = (OBJECTIVE, "dev/mean", "dev/std", "under_worst_prompt/dev")
TEST = ("test/mean", "test/std", "under_worst_prompt/test")
BETWEEN_SEEDS = "test/std_between_seeds"
EACH_PROMPT = "under_each_prompt/dev"  # a histogram
METRICS = (*DEV[:3], *TEST[:2])  # on the hparams page
BUCKETS = 20  # of a histogram over prompts
MOST_PROMPTS = 500  # of a pool that are listed
_PREFIX = "events.out.tfevents."  # TensorBoard reads files with "tfevents" in their name, in the order of names
_MOST_VALUES = 50  # an axis with more values than this (a random search) is described by its interval alone
_LONGEST_VALUE, _LONGEST_NAME = 40, 200  # characters of an axis value and of all of them; a folder's name may have 255


@dataclass(frozen=True)
class BoardRun:
    """The run of one trial, or of a configuration over all its seeds."""

    id: str
    axes: Mapping[str, Any]  # those that vary in the study: its hparams
    seed: int | str = 0

    @classmethod
    def of(cls, trial: Trial, axes: Collection[str]) -> BoardRun:
        """``axes``: names of those that vary."""
        return cls(trial.id, {name: v for name, v in axis_columns(trial).items() if name in axes}, trial.seed)

    @classmethod
    def over_seeds(cls, trial: Trial, axes: Collection[str]) -> BoardRun:
        """Of the configuration of ``trial``."""
        one = cls.of(trial, axes)
        return cls(trial.configuration, {**one.axes, "seed": "all"}, "all")

    @property
    def name(self) -> str:
        """Its folder, in characters that every file system and object store takes. The id at the end makes it unique,
        and a run that the trial had under another name is found by it."""
        values = ",".join(f"{axis}={_in_a_name(value)}" for axis, value in {**self.axes, "seed": self.seed}.items())
        return f"{values[:_LONGEST_NAME]},{self.id}"


class Board:
    """Writes TensorBoard files into ``store``. A file that cannot be written is a warning and does not end the sweep:
    all it would hold can be read from the score files."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def study(self, axes: Mapping[str, Iterable[Any] | None], ranges: Mapping[str, tuple[float, float]]) -> None:
        """Describe the axes and the metrics for the hparams page: an axis by its values or, in ``ranges``, by its ends.
        For an axis of None, TensorBoard collects the values itself."""
        from tensorboard.plugins.hparams import summary_v2 as hp

        domains = {
            name: None if values is None else _domain([_plain(v) for v in values]) for name, values in axes.items()
        }
        domains |= {name: hp.RealInterval(float(low), float(high)) for name, (low, high) in ranges.items()}
        params = [hp.HParam(name, domain) for name, domain in domains.items()]
        metrics = [hp.Metric(name, display_name=name) for name in METRICS]
        summary = hp.hparams_config_pb(hparams=params, metrics=metrics, time_created_secs=0.0)
        self._only("study", _events([(0, 0.0, summary)]))

    def prompts(self, pools: Mapping[str, Sequence[Prompt]]) -> None:
        """List the prompts of every pool (train.<name>, dev, test), with name and wording, on TensorBoard's text
        page."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        events = [(0, 0.0, text_pb(f"prompts/{pool}", _listed(wordings))) for pool, wordings in pools.items()]
        self._only("prompts", _events(events))

    def rung(self, run: BoardRun, record: Mapping[str, Any], objective: Objective, by_prompt: ArrayLike = ()) -> None:
        """Write one rung of one trial: its ``record`` (``rung``, ``seconds``, ``curve``), the dev objective and the
        metric of each dev prompt as a histogram. Axis values other than text, numbers and truth values are shown as
        text."""
        from tensorboard.plugins.histogram.summary_v2 import histogram_pb

        rung = int(record["rung"])
        others = [int(n.rsplit(".", 1)[1]) for n in self._files(run) if n.rsplit(".", 1)[1].isdigit()]
        if rung in others:
            return
        now = time.time()
        began = now - float(record.get("seconds") or 0.0)
        # in the file of every rung, so that each can be read alone and the first one already shows the hparams
        events = [(0, began, _hparams(run, began))]
        after = rung if any(r > rung for r in others) else max(others, default=0)
        points = _curve_points(record.get("curve") or {}, after)
        for i, (step, values) in enumerate(points):
            events.append((step, began + (now - began) * (i + 1) / len(points), _scalars(values)))
        events.append((rung, now, _scalars(_objective_values(objective))))
        each = np.asarray(by_prompt, np.float64)
        if each.size and np.isfinite(each).all():
            events.append((rung, now, histogram_pb(EACH_PROMPT, each, buckets=BUCKETS)))
        self._write(f"{FOLDER}/{run.name}/{_name(rung)}", _events(events))

    def end(self, run: BoardRun, status: str, rung: int, test: Objective | None) -> None:
        """Write how the trial ended: ``status`` (finished, stopped, failed) and its result on the test prompts."""
        now = time.time()
        events = [(rung, now, _session_end(status == "failed", now))]
        if test is not None:
            values = dict(zip(TEST, (test.mean, test.std, test.min), strict=True))
            events.append((rung, now, _scalars({t: v for t, v in values.items() if math.isfinite(v)})))
        self._write_once(run, f"{_name(rung)}.{status}", events)

    def configuration(self, run: BoardRun, step: int, values: Mapping[str, float]) -> None:
        """Write the run of a configuration with several seeds: its hparams, and ``values`` over its seeds."""
        now = time.time()
        events = [(0, now, _hparams(run, now))]
        events.append((step, now, _scalars({tag: v for tag, v in values.items() if math.isfinite(v)})))
        self._write_once(run, _name(step), events)

    def _write_once(self, run: BoardRun, file: str, events: Sequence[tuple[int, float, Any]]) -> None:
        if file not in self._files(run):
            self._write(f"{FOLDER}/{run.name}/{file}", _events(events))

    def _files(self, run: BoardRun) -> list[str]:
        """The event files of the run. Where there are none, the trial's runs of other names are deleted: it is about to
        get this one."""
        found = [n for n in self._names(f"{FOLDER}/{run.name}") if n.startswith(_PREFIX)]
        for name in [] if found else self._folders():
            if name.endswith(run.id) and name != run.name:
                try:
                    self._store.remove_folder(f"{FOLDER}/{name}")
                except StoreError as error:
                    log.warning("TensorBoard: %s of an earlier study stays (%s)", name, error)
        return found

    def _only(self, what: str, data: bytes) -> None:
        """Write ``data`` and delete older files of its kind: of two files, TensorBoard would use the older one."""
        name = f"{what}.{hashlib.sha256(data).hexdigest()[:8]}"
        here = [n for n in self._names(FOLDER) if n.startswith(_PREFIX) and f".{what}" in n]
        if any(n.endswith(name) for n in here):
            return
        self._write(f"{FOLDER}/{_PREFIX}{int(time.time()):010d}.{name}", data)
        for old in here:
            try:
                self._store.fs.delete_file(self._store.path(FOLDER, old))
            except OSError as error:
                log.warning("TensorBoard: %s of an earlier study stays (%s)", old, error)

    def _names(self, folder: str) -> list[str]:
        try:
            return self._store.names(folder)
        except (OSError, StoreError):
            return []

    def _folders(self) -> list[str]:
        try:
            return self._store.folders(FOLDER)
        except (OSError, StoreError):
            return []

    def _write(self, name: str, data: bytes) -> None:
        try:
            self._store.write(name, data)
        except StoreError as error:
            log.warning("TensorBoard: %s. The sweep goes on; the score files hold the same numbers", error)


def chart(store: Store, trial: Trial, rung: int, std_weight: float, axes: Collection[str]) -> None:
    """Write the event file of one rung that has its score rows. ``axes``: names of those that vary in the study. An
    error is a warning and does not end the trial."""
    try:
        found = store.read_scores(trial.id, rung, "dev", COLUMNS)
        if found is None or "nan" in found[1]:
            return
        rows, record = found
        scores = read_grid(rows, trial.task.labels, sample=record.get("sample"))
        scored = grid_objective(scores, trial.task.metric, std_weight)
        Board(store).rung(BoardRun.of(trial, axes), record, scored, per_prompt(scores, trial.task.metric))
    except Exception as error:  # a missing chart must not end a trial
        log.warning("TensorBoard, trial %s, rung %d: %s", trial.id, rung, error)


def write_ends(store: Store, ends: Iterable[tuple[BoardRun, str, int, Objective | None]]) -> None:
    """Write how each trial ended (run, status, rung, test result), several files at a time."""
    board = Board(store)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda end: board.end(*end), ends))
    except Exception as error:  # a missing chart must not end a sweep
        log.warning("TensorBoard: %s. The sweep goes on", error)


def write_configurations(
    store: Store, trials: Iterable[Trial], tests: Mapping[str, Objective], axes: Collection[str]
) -> None:
    """Write a run for each configuration with several seeds that all have ``tests`` (trial id -> result on the test
    pool): the mean over seeds of mean, std and worst prompt, and the std between the seeds' means. ``axes``: names of
    those that vary in the study."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.configuration, []).append(trial)
    board = Board(store)
    for members in groups.values():
        found = [tests[trial.id] for trial in members if trial.id in tests]
        if len(members) < 2 or len(found) < len(members):
            continue
        columns = (test.mean for test in found), (test.std for test in found), (test.min for test in found)
        values = {tag: float(np.mean(list(column))) for tag, column in zip(TEST, columns, strict=True)}
        values[BETWEEN_SEEDS] = float(np.std([test.mean for test in found], ddof=1))
        board.configuration(BoardRun.over_seeds(members[0], axes), members[0].optimization.steps, values)


def _name(rung: int) -> str:
    """With the step padded by zeros: TensorBoard reads a run's files in the order of their names."""
    return f"{_PREFIX}{rung:010d}.{rung}"


def _curve_points(curve: Mapping[str, Sequence[Any]], after: int) -> list[tuple[int, dict[str, float]]]:
    """(step, tag -> value) of the curve's steps beyond ``after``; missing values (null) are left out."""
    points = []
    for i, step in enumerate(curve.get("step", ())):
        if step <= after:
            continue
        found = {tag: curve[key][i] for key, tag in CURVE.items() if key in curve and i < len(curve[key])}
        values = {tag: float(value) for tag, value in found.items() if value is not None}
        if values:
            points.append((int(step), values))
    return points


def _objective_values(objective: Objective) -> dict[str, float]:
    """A NaN objective is shown; a standard error that could not be estimated is left out."""
    values = dict(zip(DEV, (objective.value, objective.mean, objective.std, objective.min), strict=True))
    return values | ({STDERR: objective.stderr} if math.isfinite(objective.stderr) else {})


def _in_a_name(value: Any) -> str:
    """An axis value as part of a folder's name: ASCII alone, since file systems change other letters."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", text)[:_LONGEST_VALUE]


def _hparams(run: BoardRun, began: float) -> Any:
    from tensorboard.plugins.hparams import summary_v2 as hp

    hparams = {name: _plain(value) for name, value in run.axes.items()}
    return hp.hparams_pb(hparams, trial_id=run.id, start_time_secs=began)


def _session_end(failed: bool, now: float) -> Any:
    """The status that TensorBoard's hparams page shows. Its own function for this needs tensorflow."""
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=now)
    about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=info))
    value = summary_pb2.Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR)
    return summary_pb2.Summary(value=[value])


def _listed(prompts: Sequence[Prompt]) -> str:
    """A Markdown table of names and wordings. A wording is shown literally, never as Markdown."""
    lines = ["| prompt | wording |", "| --- | --- |"]
    lines += [f"| {_literal(p.id)} | {_literal(p.text)} |" for p in prompts[:MOST_PROMPTS]]
    more = len(prompts) - MOST_PROMPTS
    return "\n".join([*lines, *([f"\nand {more} more"] if more > 0 else [])])


def _literal(text: str) -> str:
    """``text`` escaped for Markdown and HTML: otherwise TensorBoard would load an image that a wording links to."""
    lines = re.split(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text)
    return "<br>".join(re.sub(r"[^\w ]|_", lambda m: f"&#{ord(m[0])};", line) for line in lines)


def _scalars(values: Mapping[str, float]) -> Any:
    from tensorboard.compat.proto import summary_pb2

    return summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=t, simple_value=v) for t, v in values.items()])


def _events(summaries: Sequence[tuple[int, float, Any]]) -> bytes:
    """The bytes of an event file: its version, then (step, wall time, summary) each as one record."""
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    sink = io.BytesIO()
    writer = RecordWriter(sink)
    start = summaries[0][1] if summaries else 0.0
    writer.write(event_pb2.Event(wall_time=start, file_version="brain.Event:2").SerializeToString())
    for step, wall_time, summary in summaries:
        writer.write(event_pb2.Event(step=step, wall_time=wall_time, summary=summary).SerializeToString())
    return sink.getvalue()


def _plain(value: Any) -> bool | float | str:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value)
    return "none" if value is None else str(value)


def _domain(values: list[Any]) -> Any:
    """The values of an axis as TensorBoard's filter offers them."""
    from tensorboard.plugins.hparams import summary_v2 as hp

    kinds = {type(v) for v in values}
    if kinds == {float} and len(values) > _MOST_VALUES:
        return hp.RealInterval(min(values), max(values))
    if len(kinds) == 1 and len(values) <= _MOST_VALUES:
        return hp.Discrete(sorted(set(values)))
    return None  # mixed types or many texts: TensorBoard collects the values itself
