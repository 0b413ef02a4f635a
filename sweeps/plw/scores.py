"""The scores of a prompt-loss-weight study as one table, from one or more run folders.

A row is one fine-tune on one benchmark: ``benchmark, data_set, weight, model, setting, seed, trial_id, score``. The
benchmark is the study's own test rows, where the score is the mean of the study's metric over the test prompts, or any
other pool with scores of its own, where the score is the share of right answers. The data set is named after the train
rows, and after the train pool as well where pools differ, since the weight applies to the wording, too. The setting is
what else differs between trials, such as ``template=chat r=8``.

Only finished trials are in the table. A trial that early stopping cut was trained for fewer steps, and was cut because
of its score.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sweeps.display.text import shown
from sweeps.run_folder.reading import RunFolder
from trainer.measure.metrics import per_prompt
from trainer.trial import AXES

SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("data_set", pa.string()),
        ("weight", pa.float64()),
        ("model", pa.string()),
        ("setting", pa.string()),
        ("seed", pa.int64()),
        ("trial_id", pa.string()),
        ("score", pa.float64()),  # fraction of 1
    ]
)
_OTHER = tuple(axis for axis in AXES if axis not in ("plw", "pool", "seed"))


@dataclass(frozen=True)
class PlwScores:
    """The table, and the numbers of trials that are not in it because they were cut early or failed."""

    table: pa.Table
    cut: int = 0
    failed: int = 0
    notes: tuple[str, ...] = ()  # on score files that are missing, damaged or not checked


def scores_of(runs: Sequence[RunFolder]) -> PlwScores:
    """The scores of all finished trials of ``runs``. A trial that is in several folders counts once."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    cut: set[str] = set()
    failed: set[str] = set()
    for run in runs:
        for trial in run.trials:
            if trial["status"] != "finished":
                {"stopped": cut, "failed": failed}.get(trial["status"], set()).add(trial["trial_id"])
                continue
            for benchmark, score in _benchmarks(run, trial["trial_id"]):
                found.setdefault(
                    (trial["trial_id"], benchmark),
                    {**trial, "benchmark": benchmark, "score": score, "rows": _name(run.study.task.rows.train.path),
                     "model": _name(run.study.model.path)},
                )  # fmt: skip
    rows = list(found.values())
    varied = [a for a in _OTHER if len({shown(r.get(a)) for r in rows}) > 1]
    many_pools = len({r["pool"] for r in rows}) > 1
    for row in rows:
        row["weight"] = row["plw"]
        row["data_set"] = f"{row['rows']}, {row['pool']}" if many_pools else row["rows"]
        row["setting"] = " ".join(f"{a}={shown(row[a])}" for a in varied)
    rows.sort(key=lambda r: tuple(r[n] for n in SCHEMA.names[:-1]))
    notes = tuple(note for run in runs for note in run.notes)
    return PlwScores(pa.Table.from_pylist(rows, schema=SCHEMA), len(cut), len(failed), notes)


def weights_of(run: RunFolder) -> tuple[float, ...]:
    """The different weights among the trials of a run folder."""
    return tuple(sorted({t["plw"] for t in run.trials if t.get("plw") is not None}))


def _benchmarks(run: RunFolder, trial_id: str) -> Iterator[tuple[str, float]]:
    """(benchmark, score) of a trial at its last rung under every pool but dev."""
    for pool in run.pools(trial_id):
        scores = run.last_grid(trial_id, pool) if pool != "dev" else None
        if scores is None:
            continue
        if pool == "test":
            yield _name(run.study.task.rows.test.path), float(per_prompt(scores, run.study.task.metric).mean())
        else:
            yield pool, float(scores.correct.mean())


def _name(path: str) -> str:
    """A short name of a file, folder or hub name."""
    return os.path.splitext(os.path.basename(path.rstrip("/")))[0] or path
