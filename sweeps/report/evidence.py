"""What a run folder holds, as the report needs it: its trials in order of merit, their prompts, rungs and curves.

Reads the score files, ``trials.parquet`` and ``tables/`` and nothing that only a running sweep knows, so a report can
be made at any time, of an unfinished run too: then the dev pool stands in for the test pool, and at a sweep's very
start the trials come from the score files.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sweeps.display.text import shown
from sweeps.study.schema import Study
from trainer.measure.grid import COLUMNS, read_grid
from trainer.measure.metrics import Objective, grid_objective, per_prompt
from trainer.store import Store, StoreError
from trainer.trial import AXES, Trial, axis_columns

DRAWN = 40  # trials that are drawn one by one; more would be neither readable nor small


@dataclass(frozen=True)
class Entry:
    """One trial. ``row`` are its numbers for the table: of tables/robustness, or of its last dev rung."""

    id: str
    label: str  # short id and the axis values that differ between trials
    axes: Mapping[str, str]
    status: str  # finished | stopped | failed | running
    rung: int
    reason: str
    seconds: float
    tokens: int
    row: Mapping[str, Any]

    def number(self, name: str) -> float:
        """A column of ``row``; NaN where it has none."""
        value = self.row.get(name)
        return float(value) if isinstance(value, int | float) else math.nan


@dataclass(frozen=True)
class Evidence:
    store: Store
    study: Study
    entries: tuple[Entry, ...]  # best first
    differing: tuple[str, ...]  # axes with more than one value
    pool: str  # test, or dev while no test rows exist
    listed: bool  # trials.parquet exists
    averages: Mapping[tuple[str, str], Mapping[str, Any]]  # (axis, value) -> row of tables/groups

    @property
    def drawn(self) -> tuple[Entry, ...]:
        return self.entries[:DRAWN]

    @property
    def winner(self) -> Entry | None:
        return next((e for e in self.entries if e.row.get("winner") is True), None)

    def prompts(self, entry: Entry) -> dict[str, float]:
        """Prompt id -> metric of ``entry`` at its last rung under ``pool``; empty without scores."""
        found = _last(self.store, entry.id, self.pool)
        if found is None:
            return {}
        table, record = found
        scores = read_grid(table, _labels(record, self.study), f"trial {entry.id}, {self.pool}", record.get("sample"))
        return dict(zip(scores.prompts, per_prompt(scores, self.study.task.metric).tolist(), strict=True))

    @functools.cached_property
    def rungs(self) -> Mapping[str, Mapping[int, tuple[Objective | None, Mapping[str, Any]]]]:
        """Drawn trial -> rung -> dev objective (None: the rung ended in NaN) and curve."""
        return {
            entry.id: {
                rung: (_objective(table, record, self.study, entry.id), record.get("curve") or {})
                for _, rung, table, record in self.store.score_tables("dev", [entry.id])
            }
            for entry in self.drawn
        }

    def objectives(self, entry: Entry) -> dict[int, Objective]:
        """Rung -> dev objective of a drawn trial."""
        return {rung: scored for rung, (scored, _) in self.rungs[entry.id].items() if scored is not None}

    def losses(self, entry: Entry) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Steps and the mean loss of the answer's tokens of a drawn trial, over all rungs, each step once."""
        points: dict[int, float] = {}
        for _, curve in self.rungs[entry.id].values():
            for step, loss in zip(curve.get("step", ()), curve.get("completion_loss", ()), strict=False):
                if loss is not None and math.isfinite(loss):
                    points[int(step)] = float(loss)
        steps = sorted(points)
        return tuple(float(s) for s in steps), tuple(points[s] for s in steps)


def gather(store: Store, study: Study) -> Evidence:
    """Everything the report says, from the run folder and the tables that ``sweeps.tables.robustness`` wrote into
    it."""
    listed = store.exists("trials.parquet")
    facts = _rows(store, "trials.parquet") if listed else _from_scores(store)
    rows = {row["trial_id"]: row for row in (_rows(store, "tables/robustness.parquet") if listed else [])}
    averages = {(row["axis"], row["value"]): row for row in (_rows(store, "tables/groups.parquet") if listed else [])}
    tested = any(row.get("mean") is not None for row in rows.values())
    if not tested:
        rows = {fact["trial_id"]: {**rows.get(fact["trial_id"], {}), **_dev_row(store, study, fact)} for fact in facts}
    axes = {fact["trial_id"]: {n: shown(fact[n]) for n in AXES if fact.get(n) is not None} for fact in facts}
    differing = tuple(n for n in AXES if len({a.get(n) for a in axes.values()}) > 1)
    entries = [_entry(fact, axes[fact["trial_id"]], differing, rows.get(fact["trial_id"], {})) for fact in facts]
    entries.sort(key=_merit)
    return Evidence(store, study, tuple(entries), differing, "test" if tested else "dev", listed, averages)


def _entry(
    fact: Mapping[str, Any], axes: Mapping[str, str], differing: tuple[str, ...], row: Mapping[str, Any]
) -> Entry:
    return Entry(
        id=fact["trial_id"],
        label=" ".join([fact["trial_id"][:8], *(f"{n}={axes.get(n, '-')}" for n in differing)]),
        axes=axes,
        status=str(fact.get("status") or "running"),
        rung=int(fact.get("rung") or 0),
        reason=str(fact.get("reason") or ""),
        seconds=float(fact.get("seconds") or 0.0),
        tokens=int(fact.get("tokens") or 0),
        row=row,
    )


def _rows(store: Store, name: str) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = store.read_table(name).to_pylist()
        return rows
    except pa.ArrowException as error:
        raise StoreError(
            f"{store.uri}/{name}: cannot be read ({error}). Run the study again to write it anew"
        ) from error


def _from_scores(store: Store) -> list[dict[str, Any]]:
    """Rows as in ``trials.parquet``, from the rung records alone."""
    facts = []
    for trial_id in store.folders("scores"):
        records = [record for _, _, _, record in store.score_tables("dev", [trial_id])]
        if records:
            facts.append(
                {
                    "trial_id": trial_id,
                    **axis_columns(Trial.from_json(records[-1]["trial"])),
                    "rung": records[-1]["rung"],
                    "seconds": sum(r.get("seconds") or 0.0 for r in records),
                    "tokens": sum(r.get("tokens") or 0 for r in records),
                }
            )
    return facts


def _last(store: Store, trial_id: str, pool: str) -> tuple[pa.Table, dict[str, Any]] | None:
    """The rows and record of the trial's last rung that has rows under ``pool``."""
    for rung in reversed(store.rungs(trial_id, pool)):
        found = store.read_scores(trial_id, rung, pool, COLUMNS)
        if found is not None and found[0].num_rows:
            return found
    return None


def _dev_row(store: Store, study: Study, fact: Mapping[str, Any]) -> dict[str, Any]:
    """The table's numbers at the trial's last rung on the dev pool; empty before its first rung."""
    found = _last(store, fact["trial_id"], "dev")
    scored = _objective(*found, study, fact["trial_id"]) if found else None
    if scored is None:
        return {}
    return {
        "mean": scored.mean,
        "std": scored.std,
        "min": scored.min,
        "n_prompts": scored.n_prompts,
        "n_rows": scored.n_rows,
        "degenerate": scored.degenerate,
        "dev_objective": scored.value,
        "dev_stderr": scored.stderr,
    }


def _labels(record: Mapping[str, Any], study: Study) -> tuple[str, ...]:
    """The labels in the order of ``label_logprobs``; none where rows bring their own options."""
    return tuple(((record.get("trial") or {}).get("task") or {}).get("labels") or study.task.names)


def _objective(table: pa.Table, record: Mapping[str, Any], study: Study, trial_id: str) -> Objective | None:
    if table.num_rows == 0:
        return None
    scores = read_grid(table, _labels(record, study), f"trial {trial_id}, dev", record.get("sample"))
    return grid_objective(scores, study.task.metric, study.objective.std_weight)


def _merit(entry: Entry) -> tuple[bool, float, float, str]:
    """The winner, then by rank on the test prompts, then by the dev objective."""
    rank, objective = entry.number("rank"), entry.number("dev_objective")
    won = entry.row.get("winner") is True
    return not won, math.inf if math.isnan(rank) else rank, math.inf if math.isnan(objective) else -objective, entry.id
