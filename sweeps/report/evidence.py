"""The data of the report: a run's trials, best first, with their prompts, rungs and curves.

It is read from the score files, ``trials.parquet`` and ``tables/``, so a report can be made at any time, of an
unfinished run as well: without test scores it shows dev scores, and before ``trials.parquet`` exists the trials come
from the score files.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeps.display.text import shown
from sweeps.run_folder.reading import RunFolder
from sweeps.study.study import Study
from trainer.measure.grid import Grid
from trainer.measure.metrics import Objective, grid_objective, per_prompt
from trainer.trial import AXES

DRAWN = 40  # trials that are drawn one by one; more would be neither readable nor small


@dataclass(frozen=True)
class Entry:
    """One trial. ``row`` holds its numbers for the table: from tables/robustness, or from its last dev rung."""

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
        """A column of ``row``; NaN if it has no number there."""
        value = self.row.get(name)
        return float(value) if isinstance(value, int | float) else math.nan


@dataclass(frozen=True)
class Evidence:
    run: RunFolder
    study: Study
    entries: tuple[Entry, ...]  # best first
    differing: tuple[str, ...]  # axes with more than one value
    pool: str  # test, or dev while no test rows exist
    has_trials: bool  # trials.parquet exists
    averages: Mapping[tuple[str, str], Mapping[str, Any]]  # (axis, value) -> row of tables/groups

    @property
    def drawn(self) -> tuple[Entry, ...]:
        return self.entries[:DRAWN]

    @property
    def winner(self) -> Entry | None:
        return next((e for e in self.entries if e.row.get("winner") is True), None)

    def prompts(self, entry: Entry) -> dict[str, float]:
        """Prompt id -> metric of ``entry`` at its last rung under ``pool``; empty without scores."""
        scores = self.run.last_grid(entry.id, self.pool)
        if scores is None:
            return {}
        return dict(zip(scores.prompts, per_prompt(scores, self.study.task.metric).tolist(), strict=True))

    @functools.cached_property
    def rungs(self) -> Mapping[str, Mapping[int, tuple[Objective | None, Mapping[str, Any]]]]:
        """Drawn trial -> rung -> dev objective (None: the rung ended in NaN) and curve."""
        return {
            entry.id: {
                rung.step: (_objective(rung.grid, self.study), rung.record.get("curve") or {})
                for rung in self.run.rungs(entry.id, "dev")
            }
            for entry in self.drawn
        }

    def objectives(self, entry: Entry) -> dict[int, Objective]:
        """Rung -> dev objective of a drawn trial."""
        return {rung: scored for rung, (scored, _) in self.rungs[entry.id].items() if scored is not None}

    def losses(self, entry: Entry) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The training steps of a drawn trial, and the mean loss of the answer's tokens at each."""
        points: dict[int, float] = {}
        for _, curve in self.rungs[entry.id].values():
            for step, loss in zip(curve.get("step", ()), curve.get("completion_loss", ()), strict=False):
                if loss is not None and math.isfinite(loss):
                    points[int(step)] = float(loss)
        steps = sorted(points)
        return tuple(float(s) for s in steps), tuple(points[s] for s in steps)


def gather(run: RunFolder) -> Evidence:
    """Read everything that the report shows, from the run folder and the tables in it."""
    study, has_trials = run.study, run.has_trials
    trials = run.trials if has_trials else run.trials_from_scores()
    rows = {row["trial_id"]: row for row in (run.robustness() if has_trials else [])}
    averages = {(row["axis"], row["value"]): row for row in (run.rows("tables/groups.parquet") if has_trials else [])}
    tested = any(row.get("mean") is not None for row in rows.values())
    if not tested:
        rows = {t["trial_id"]: {**rows.get(t["trial_id"], {}), **_dev_row(run, t["trial_id"])} for t in trials}
    axes = {t["trial_id"]: {n: shown(t[n]) for n in AXES if t.get(n) is not None} for t in trials}
    differing = tuple(n for n in AXES if len({a.get(n) for a in axes.values()}) > 1)
    entries = [_entry(t, axes[t["trial_id"]], differing, rows.get(t["trial_id"], {})) for t in trials]
    entries.sort(key=_merit)
    return Evidence(run, study, tuple(entries), differing, "test" if tested else "dev", has_trials, averages)


def _entry(
    trial: Mapping[str, Any], axes: Mapping[str, str], differing: tuple[str, ...], row: Mapping[str, Any]
) -> Entry:
    return Entry(
        id=trial["trial_id"],
        label=" ".join([trial["trial_id"][:8], *(f"{n}={axes.get(n, '-')}" for n in differing)]),
        axes=axes,
        status=str(trial.get("status") or "running"),
        rung=int(trial.get("rung") or 0),
        reason=str(trial.get("reason") or ""),
        seconds=float(trial.get("seconds") or 0.0),
        tokens=int(trial.get("tokens") or 0),
        row=row,
    )


def _dev_row(run: RunFolder, trial_id: str) -> dict[str, Any]:
    """The table's numbers from the trial's last rung on the dev pool; empty if it has none or ended in NaN."""
    scored = _objective(run.last_grid(trial_id, "dev"), run.study)
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
        "dev_parse_fail_rate": scored.parse_fail_rate,
    }


def _objective(scores: Grid | None, study: Study) -> Objective | None:
    return None if scores is None else grid_objective(scores, study.task.metric, study.objective.std_weight)


def _merit(entry: Entry) -> tuple[bool, float, float, str]:
    """The winner, then by rank on the test prompts, then by the dev objective."""
    rank, objective = entry.number("rank"), entry.number("dev_objective")
    won = entry.row.get("winner") is True
    return not won, math.inf if math.isnan(rank) else rank, math.inf if math.isnan(objective) else -objective, entry.id
