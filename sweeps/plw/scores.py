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
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sweeps.display.text import shown
from sweeps.study.schema import Study
from trainer.errors import UserError
from trainer.measure import metrics
from trainer.store import Store, scores_name
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


def scores_of(runs: Sequence[tuple[Store, Study]]) -> PlwScores:
    """The scores of all finished trials of ``runs``. A trial that is in several folders is taken once."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    cut: set[str] = set()
    failed: set[str] = set()
    for store, study in runs:
        for trial in _trials(store):
            if trial["status"] != "finished":
                {"stopped": cut, "failed": failed}.get(trial["status"], set()).add(trial["trial_id"])
                continue
            for benchmark, score in _benchmarks(store, study, trial["trial_id"]):
                found.setdefault(
                    (trial["trial_id"], benchmark),
                    {**trial, "benchmark": benchmark, "score": score, "rows": _name(study.task.rows.train.path),
                     "model": _name(study.model.path)},
                )  # fmt: skip
    rows = list(found.values())
    varied = [a for a in _OTHER if len({shown(r.get(a)) for r in rows}) > 1]
    many_pools = len({r["pool"] for r in rows}) > 1
    for row in rows:
        row["weight"] = row["plw"]
        row["data_set"] = f"{row['rows']}, {row['pool']}" if many_pools else row["rows"]
        row["setting"] = " ".join(f"{a}={shown(row[a])}" for a in varied)
    rows.sort(key=lambda r: tuple(r[n] for n in SCHEMA.names[:-1]))
    return PlwScores(pa.Table.from_pylist(rows, schema=SCHEMA), len(cut), len(failed))


def weights_of(store: Store) -> tuple[float, ...]:
    """The different weights of the trials in a run folder."""
    return tuple(sorted({t["plw"] for t in _trials(store) if t.get("plw") is not None}))


def _trials(store: Store) -> list[dict[str, Any]]:
    if not store.exists("trials.parquet"):
        raise UserError(f"{store.uri}/trials.parquet: no such file. Is this a run folder? `steadytune run` writes it")
    rows: list[dict[str, Any]] = store.read_table("trials.parquet").to_pylist()
    return rows


def _benchmarks(store: Store, study: Study, trial_id: str) -> Iterator[tuple[str, float]]:
    """(benchmark, score) of a trial at its last rung under every pool but dev."""
    last: dict[str, int] = {}
    for name in store.names(f"scores/{trial_id}"):
        match = re.fullmatch(r"(\d+)-(.+)\.parquet", name)
        if match and match[2] != "dev":
            last[match[2]] = max(int(match[1]), last.get(match[2], 0))
    for pool, rung in sorted(last.items()):
        found = store.read_scores(trial_id, rung, pool)
        if found is None or found[0].num_rows == 0:
            continue
        table, record = found
        where = f"{store.uri}/{scores_name(trial_id, rung, pool)}"
        if pool == "test":
            yield _name(study.task.rows.test.path), _metric(table, record, study, where)
        else:
            yield pool, float(metrics.grid(table, (), where, record.get("sample")).correct.mean())


def _metric(table: pa.Table, record: Mapping[str, Any], study: Study, where: str) -> float:
    labels = ((record.get("trial") or {}).get("task") or {}).get("labels")
    known = tuple(labels) if labels is not None else tuple(study.task.names)
    scores = metrics.grid(table, known, where, record.get("sample"))
    return float(metrics.per_prompt(scores, study.task.metric).mean())


def _name(path: str) -> str:
    """A short name of a file, folder or hub name."""
    return os.path.splitext(os.path.basename(path.rstrip("/")))[0] or path
