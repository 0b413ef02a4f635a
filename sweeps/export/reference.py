"""``reference.json`` of an export: how the trial answered the rows of its study, for ``steadytune monitor``.

It holds no row and no row's text: of every figure, how many rows have which value. ``test`` is of the test rows, asked
in up to ``WORDINGS`` of the test prompts, whose wordings it holds; ``dev`` is of the dev rows, asked in the export's
default prompt, as ``predict`` asks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sweeps.export.exported import REFERENCE
from sweeps.run_folder.prompts import kept_prompts
from sweeps.run_folder.reading import RunFolder
from sweeps.statistics.drift import Pseudo, RowSample
from sweeps.study.study import Study
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.measure.grid import NO_ANSWER, Floats, Grid
from trainer.measure.metrics import cells
from trainer.measure.registry import kind_of
from trainer.store import Store
from trainer.trial import Trial

FORMAT = 1
WORDINGS = 4  # each is another pass over the new rows
UNREAD = "no readable answer"
CONFIDENCE, AGREEMENT, ACCURACY = "confidence", "agreement between wordings", "accuracy"


@dataclass(frozen=True)
class AnsweredRows:
    """Rows asked in one or several wordings."""

    wordings: Mapping[str, str]  # id -> text
    n_rows: int
    figures: Mapping[str, RowSample]
    metric: Pseudo | None  # the study's metric, where it is not accuracy

    def to_json(self) -> dict[str, Any]:
        figures = {name: [s.values.tolist(), s.counts.tolist()] for name, s in self.figures.items()}
        metric = [self.metric.value, self.metric.error, self.metric.n] if self.metric else None
        return {"wordings": dict(self.wordings), "n_rows": self.n_rows, "figures": figures, "metric": metric}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> AnsweredRows:
        """Raises KeyError, TypeError or ValueError for what ``to_json`` does not write."""
        figures = {}
        for name, (values, counts) in about["figures"].items():
            sample = RowSample(np.array(values, float), np.array(counts, float))
            if sample.values.shape != sample.counts.shape or sample.counts.min() < 1 or not 0 <= sample.mean <= 1:
                raise ValueError(f"{name}: are no counts of rows")
            figures[str(name)] = sample
        metric = Pseudo(*about["metric"]) if about["metric"] else None
        return cls({str(k): str(v) for k, v in about["wordings"].items()}, int(about["n_rows"]), figures, metric)


@dataclass(frozen=True)
class MonitorReference:
    """The content of ``reference.json``."""

    label: str  # column with the right answer
    labels: Mapping[str, str]  # value in the data -> label
    test: AnsweredRows | None  # None where too little of the test grid was scored
    dev: AnsweredRows | None

    def to_json(self) -> dict[str, Any]:
        asked = {name: part.to_json() if part else None for name, part in (("test", self.test), ("dev", self.dev))}
        return {"format": FORMAT, "label": self.label, "labels": dict(self.labels), **asked}


def reference_of(store: Store, study: Study, trial: Trial, default: Prompt | None) -> MonitorReference:
    """Of a trial's last scores in the run folder."""
    run = RunFolder(store, beyond=True)  # the adapter is that of the trial's last step
    tested, dev = run.last_grid(trial.id, "test"), run.last_grid(trial.id, "dev")
    texts = {p.id: p.text for p in kept_prompts(store, trial.data.test_prompts) or ()}
    chosen = [i for i in _spread(tested.prompts if tested else ()) if i in texts]
    return MonitorReference(
        study.task.label,
        dict(study.task.labels),
        _asked(tested, {i: texts[i] for i in chosen}, trial) if tested and chosen else None,
        _asked(dev, {default.id: default.text}, trial) if dev and default else None,
    )


def _spread(prompts: Sequence[str]) -> list[str]:
    """Up to ``WORDINGS`` of the prompts, evenly over their order."""
    at = np.unique(np.linspace(0, len(prompts) - 1, min(WORDINGS, len(prompts))).round().astype(int))
    return [prompts[i] for i in at] if prompts else []


def _asked(grid: Grid, wordings: Mapping[str, str], trial: Trial) -> AnsweredRows | None:
    """The figures of the rows that were asked in all of the wordings; None where there are none."""
    places = [grid.prompts.index(i) for i in wordings if i in grid.prompts]
    seen = np.ones(grid.predicted.shape, bool) if grid.seen is None else grid.seen
    whole = np.asarray(seen[places].all(axis=0))
    if not places or not whole.any():
        return None
    logprobs = grid.label_logprobs
    part = replace(
        grid,
        prompts=tuple(grid.prompts[i] for i in places),
        rows=tuple(r for r, kept in zip(grid.rows, whole, strict=True) if kept),
        label=grid.label[whole],
        predicted=grid.predicted[places][:, whole],
        correct=grid.correct[places][:, whole],
        label_logprobs=None if logprobs is None else logprobs[places][:, whole],
        seen=None,
        pool_rows=0,
    )
    confidence = None
    if part.label_logprobs is not None and not part.nan and trial.scoring.decision == "raw":
        p = np.exp(part.label_logprobs - part.label_logprobs.max(axis=2, keepdims=True))
        confidence = (p / p.sum(axis=2, keepdims=True)).max(axis=2)
    return asked(part, dict(wordings), confidence, trial.task.metric)


def asked(grid: Grid, wordings: Mapping[str, str], confidence: Floats | None, metric: str | None) -> AnsweredRows:
    """``grid``: whole. ``confidence`` [P, R]: the probability of each answer. ``metric``: None where the rows' right
    answers are not known."""
    figures = {f"share of {name}": (grid.predicted == k).mean(axis=0) for k, name in enumerate(grid.labels)}
    if (grid.predicted == NO_ANSWER).any():
        figures[UNREAD] = (grid.predicted == NO_ANSWER).mean(axis=0)
    if len(grid.prompts) > 1:
        figures[AGREEMENT] = _agreement(grid)
    samples = {name: RowSample.of(values) for name, values in figures.items()}
    if confidence is not None:
        samples[CONFIDENCE] = RowSample.of(confidence.mean(axis=0), decimals=2)
    pseudo = None
    if metric is not None:
        samples[ACCURACY] = RowSample.of(grid.correct.mean(axis=0))
        if metric != ACCURACY and not (kind_of(metric).ranks and grid.label_logprobs is None):
            each = cells(grid, metric).mean(axis=0)
            pseudo = Pseudo(float(each.mean()), float(each.std(ddof=1)) / math.sqrt(len(each)), len(each))
    return AnsweredRows(wordings, len(grid.rows), samples, pseudo)


def _agreement(grid: Grid) -> Floats:
    """[R] the share of pairs of wordings that give the same answer."""
    p = len(grid.prompts)
    counts = np.stack([(grid.predicted == answer).sum(axis=0) for answer in np.unique(grid.predicted)])
    shares: Floats = (counts * (counts - 1)).sum(axis=0) / (p * (p - 1))
    return shares


def read_reference(store: Store) -> MonitorReference:
    """UserError if it is missing or damaged."""
    where = f"{store.uri}/{REFERENCE}"
    if not store.exists(REFERENCE):
        raise UserError(f"{where}: no such file, as an earlier version exported the trial. Export it again")
    try:
        about = json.loads(store.read(REFERENCE))
        if about["format"] != FORMAT:
            raise UserError(
                f"{where}: format = {about['format']!r:.40} is not known, this version reads {FORMAT}. "
                "Export the trial again with this version, or use the one that wrote it"
            )
        parts = {name: AnsweredRows.from_json(about[name]) if about[name] else None for name in ("test", "dev")}
        return MonitorReference(str(about["label"]), {str(k): str(v) for k, v in about["labels"].items()}, **parts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: is not what export writes ({said}). Export the trial again") from None
