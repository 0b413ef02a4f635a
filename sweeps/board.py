"""What TensorBoard shows of a sweep: one run per trial, scalars and hparams from its first rung on.

``tensorboard --logdir <run folder>/tensorboard`` reads it. The files are written here, with the ``tensorboard``
package's own records and messages and without torch or tensorflow, for two reasons: Tune's logger writes hparams only
when a trial ends, so a sweep that is running shows none; and a resumed sweep would write every point twice.

A trial's points of one rung go into one file named by trial and rung, written whole through ``Store.write``. So the
run folder may be remote (the upload is that one write), and a rung that is replayed after a resume finds its file and
is left alone. A rung between two others (the study was run again with other rungs) brings its objective only: the
later rung's file holds those training steps already.
"""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.metrics import Objective
from trainer.store import Store, StoreError

log = logging.getLogger("steadytune")

FOLDER = "tensorboard"
# names in a rung record's curve -> names in TensorBoard; the two losses stay apart, their sum changes with PLW
CURVE = {
    "completion_loss": "loss/completion",
    "prompt_loss": "loss/prompt",
    "lr": "lr",
    "tokens_per_s": "tokens_per_s",
    "grad_norm": "grad_norm",
}
METRICS = ("objective", "objective_stderr", "rung/mean", "rung/std", "rung/min")
_PREFIX = "events.out.tfevents."  # TensorBoard reads files with "tfevents" in their name, in the order of names
_MOST_VALUES = 50  # an axis with more values than this (a random search) is described by its interval alone


class Board:
    """Writes TensorBoard files into ``store``. A file that cannot be written is a warning, never the end of a sweep:
    everything in it can be read from the score files."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def study(self, trials: Iterable[Mapping[str, Any]]) -> None:
        """Describe the axes (one mapping per trial) and the metrics of the hparams page. Written anew each time, so
        trials that a search adds later are covered by calling it again."""
        from tensorboard.plugins.hparams import summary_v2 as hp

        columns: dict[str, dict[Any, None]] = {}
        for axes in trials:
            for name, value in axes.items():
                columns.setdefault(name, {})[_plain(value)] = None
        params = [hp.HParam(name, _domain(list(values))) for name, values in columns.items()]
        metrics = [hp.Metric(name, display_name=name) for name in METRICS]
        summary = hp.hparams_config_pb(hparams=params, metrics=metrics, time_created_secs=0.0)
        self._write(f"{FOLDER}/{_PREFIX}0.study", _events([(0, time.time(), summary)]))

    def rung(self, trial_id: str, axes: Mapping[str, Any], record: Mapping[str, Any], objective: Objective) -> None:
        """Write one rung of one trial: its ``record`` (``rung``, ``seconds``, ``curve``) and the dev objective.
        ``axes`` become the hparams; values other than text, numbers and truth values are shown as text."""
        from tensorboard.plugins.hparams import summary_v2 as hp

        rung = int(record["rung"])
        others = self._rungs(trial_id)
        if rung in others:
            return
        now = time.time()
        began = now - float(record.get("seconds") or 0.0)
        hparams = {name: _plain(value) for name, value in axes.items()}
        # in every rung's file: each file can be read alone, and the first report already shows the hparams
        events = [(0, began, hp.hparams_pb(hparams, trial_id=trial_id, start_time_secs=began))]
        after = rung if any(r > rung for r in others) else max(others, default=0)
        points = _curve_points(record.get("curve") or {}, after)
        for i, (step, values) in enumerate(points):
            events.append((step, began + (now - began) * (i + 1) / len(points), _scalars(values)))
        events.append((rung, now, _scalars(_objective_values(objective))))
        self._write(f"{FOLDER}/{trial_id}/{_name(rung)}", _events(events))

    def _rungs(self, trial_id: str) -> list[int]:
        """Rungs of the trial that have a file."""
        try:
            names = self._store.names(f"{FOLDER}/{trial_id}")
        except OSError:
            return []
        return [int(n.rsplit(".", 1)[1]) for n in names if n.startswith(_PREFIX) and n.rsplit(".", 1)[1].isdigit()]

    def _write(self, name: str, data: bytes) -> None:
        try:
            self._store.write(name, data)
        except StoreError as error:
            log.warning("TensorBoard: %s. The sweep goes on; the score files hold the same numbers", error)


def _name(rung: int) -> str:
    """Padded, so that the order of names is the order of steps: TensorBoard reads a run's files in that order."""
    return f"{_PREFIX}{rung:010d}.{rung}"


def _curve_points(curve: Mapping[str, Sequence[Any]], after: int) -> list[tuple[int, dict[str, float]]]:
    """(step, tag -> value) of the curve's steps beyond ``after``; a value that is missing (null) is left out."""
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
    """A NaN objective is shown, it is news; an error that cannot be known is left out."""
    found = (objective.value, objective.stderr, objective.mean, objective.std, objective.min)
    values = dict(zip(METRICS, found, strict=True))
    if not math.isfinite(objective.stderr):
        del values["objective_stderr"]
    return values


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
        return hp.Discrete(sorted(values))
    return None  # mixed kinds or many texts: TensorBoard collects them itself
