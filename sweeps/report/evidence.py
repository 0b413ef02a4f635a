"""The data of the report: a run's configurations, best first, with their trials, prompts, rungs and curves.

It is read from the score files, ``trials.parquet`` and ``tables/``, so a report can be made at any time, of an
unfinished run as well: without test scores it shows dev scores, and before ``trials.parquet`` exists the trials come
from the score files.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeps.display.text import shown
from sweeps.run_folder.columns import REPORT, SEARCH
from sweeps.run_folder.prompts import kept_prompts
from sweeps.run_folder.reading import GROUPS_FILE, RunFolder
from sweeps.study.study import Study
from sweeps.tables.configurations import Configuration, configurations
from sweeps.tables.robustness import Tables
from trainer.measure.grid import Grid
from trainer.measure.metrics import Objective, grid_objective, per_prompt
from trainer.measure.replicates import error_of_seeds, objective_of_seeds
from trainer.trial import AXES

DRAWN = 40  # configurations that are drawn one by one; more would be neither readable nor small


@dataclass(frozen=True)
class Entry:
    """One configuration. ``row`` holds its numbers for the table: from tables/robustness, or from the last dev rungs of
    its trials. With one seed it is that trial."""

    id: str  # of the configuration; of the trial, where the study has one seed
    label: str  # short id and the axis values that differ between configurations
    trials: tuple[str, ...]  # ids, the seed that is exported first
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
    confirmed: tuple[Mapping[str, Any], ...] = ()  # rows of tables/confirmation, the winner first

    @property
    def drawn(self) -> tuple[Entry, ...]:
        return self.entries[:DRAWN]

    @property
    def sound(self) -> tuple[Entry, ...]:
        """Those that finished, have a mean and don't give one label nearly always: the only ones to compare by axis."""
        return tuple(
            e
            for e in self.entries
            if e.status == "finished" and math.isfinite(e.number("mean")) and not e.row.get("degenerate")
        )

    @property
    def unit(self) -> str:
        """What an entry is called: with one seed each, a configuration is a trial."""
        return "configuration" if any(len(e.trials) > 1 for e in self.entries) else "trial"

    @property
    def winner(self) -> Entry | None:
        return next((e for e in self.entries if e.row.get("winner") is True), None)

    def prompts(self, entry: Entry) -> dict[str, float]:
        """Prompt id -> metric of ``entry`` at its last rung under ``pool``, averaged over seeds; empty without
        scores."""
        return self._prompts_of(entry.trials, self.pool)

    def reporting(self, configuration: str) -> tuple[str, ...]:
        """Ids of a confirmed configuration's trials whose fresh seeds report."""
        return tuple(r["trial_id"] for r in self.fresh if (r["configuration"], r["role"]) == (configuration, REPORT))

    def fresh_prompts(self, configuration: str) -> dict[str, float]:
        """Test prompt id -> metric of a confirmed configuration, averaged over the fresh seeds that report."""
        return self._prompts_of(self.reporting(configuration), "test")

    def _prompts_of(self, trials: Sequence[str], pool: str) -> dict[str, float]:
        grids = [grid for trial_id in trials if (grid := self.run.last_grid(trial_id, pool)) is not None]
        same = [grid for grid in grids if grid.prompts == grids[0].prompts]
        if not same:
            return {}
        each = np.mean([per_prompt(grid, self.study.task.metric) for grid in same], axis=0)
        return dict(zip(same[0].prompts, each.tolist(), strict=True))

    @functools.cached_property
    def fresh(self) -> Sequence[Mapping[str, Any]]:
        """The rows of trials.parquet of the trials with fresh seeds."""
        return [row for row in self.run.trials_by_id.values() if row["role"] != SEARCH]

    @property
    def spent(self) -> tuple[float, int]:
        """Seconds of training and scoring, and tokens trained on, of all trials, those with fresh seeds as well."""
        seconds = sum(e.seconds for e in self.entries) + sum(row["seconds"] or 0.0 for row in self.fresh)
        return seconds, sum(e.tokens for e in self.entries) + sum(row["tokens"] or 0 for row in self.fresh)

    @functools.cached_property
    def wordings(self) -> Mapping[str, str]:
        """Prompt id -> the wording under ``pool``; empty where the run folder does not hold the texts."""
        rungs = (self.run.last_rung(trial, self.pool) for entry in self.entries for trial in entry.trials)
        scored = next(filter(None, rungs), None)
        data = ((scored.record.get("trial") or {}).get("data") or {}) if scored else {}
        fingerprint = data.get(f"{self.pool}_prompts")
        found = kept_prompts(self.run.store, fingerprint) if isinstance(fingerprint, str) else None
        return {prompt.id: prompt.text for prompt in found or ()}

    @functools.cached_property
    def rungs(self) -> Mapping[str, Mapping[int, tuple[Objective | None, Mapping[str, Any]]]]:
        """Drawn configuration -> rung -> dev objective (None: the rung ended in NaN) and curve of its first seed."""
        return {
            entry.id: {
                rung.step: (_objective(rung.grid, self.study), rung.record.get("curve") or {})
                for rung in self.run.rungs(entry.trials[0], "dev")
            }
            for entry in self.drawn
        }

    def objectives(self, entry: Entry) -> dict[int, Objective]:
        """Rung -> dev objective of a drawn configuration's first seed."""
        return {rung: scored for rung, (scored, _) in self.rungs[entry.id].items() if scored is not None}

    def losses(self, entry: Entry) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The training steps of a drawn configuration's first seed, and the mean loss of the answer's tokens at
        each."""
        points: dict[int, float] = {}
        for _, curve in self.rungs[entry.id].values():
            for step, loss in zip(curve.get("step", ()), curve.get("completion_loss", ()), strict=False):
                if loss is not None and math.isfinite(loss):
                    points[int(step)] = float(loss)
        steps = sorted(points)
        return tuple(float(s) for s in steps), tuple(points[s] for s in steps)


def gather(run: RunFolder, made: Tables | None = None) -> Evidence:
    """Read everything that the report shows, from the run folder and the tables in it, or those that were ``made`` of
    it."""
    study, has_trials = run.study, run.has_trials
    found = configurations(run.trials if has_trials else run.trials_from_scores())
    several = any(len(one.rows) > 1 for one in found)
    if made is not None:
        tables = [table.to_pylist() for table in (made.robustness, made.groups, made.confirmation)]
    else:
        tables = [run.robustness(), run.rows(GROUPS_FILE), run.confirmation()] if has_trials else [[], [], []]
    rows = {row["configuration"]: row for row in tables[0]}
    averages = {(row["axis"], row["value"]): row for row in tables[1]}
    confirmed = tuple(tables[2])
    tested = any(row.get("mean") is not None for row in rows.values())
    if not tested:
        rows = {one.id: {**rows.get(one.id, {}), **_dev_row(run, one)} for one in found}
    axes = {one.id: {n: shown(one.rows[0][n]) for n in AXES if one.rows[0].get(n) is not None} for one in found}
    names = [n for n in AXES if not (several and n == "seed")]
    differing = tuple(n for n in names if len({a.get(n) for a in axes.values()}) > 1)
    entries = [_entry(one, axes[one.id], differing, rows.get(one.id, {}), several) for one in found]
    entries.sort(key=_merit)
    return Evidence(run, study, tuple(entries), differing, "test" if tested else "dev", has_trials, averages, confirmed)


def _entry(
    one: Configuration, axes: Mapping[str, str], differing: tuple[str, ...], row: Mapping[str, Any], several: bool
) -> Entry:
    name = one.id if several else one.trial_id
    ended = row if row.get("status") else one.rows[0]
    return Entry(
        id=name,
        label=" ".join([name[:8], *(f"{n}={axes.get(n, '-')}" for n in differing)]),
        trials=tuple(str(trial["trial_id"]) for trial in one.rows),
        axes=axes,
        status=str(ended.get("status") or "running"),
        rung=int(ended.get("rung") or 0),
        reason=str(ended.get("reason") or ""),
        seconds=float(sum(trial.get("seconds") or 0.0 for trial in one.rows)),
        tokens=int(sum(trial.get("tokens") or 0 for trial in one.rows)),
        row=row,
    )


def _dev_row(run: RunFolder, one: Configuration) -> dict[str, Any]:
    """The table's numbers from its trials' last rungs on the dev pool, averaged; empty if none has one, or if one ended
    in NaN."""
    scored = [_objective(run.last_grid(str(trial["trial_id"]), "dev"), run.study) for trial in one.rows]
    known = [objective for objective in scored if objective is not None]
    if not known or len(known) < len(scored):
        return {}

    def mean(name: str) -> float:
        return float(np.mean([getattr(objective, name) for objective in known]))

    numbers = {name: mean(name) for name in ("mean", "std", "min")}
    return numbers | {
        "n_prompts": known[0].n_prompts,
        "n_rows": known[0].n_rows,
        "n_seeds": len(known),
        "degenerate": any(objective.degenerate for objective in known),
        "dev_objective": objective_of_seeds(
            [objective.value for objective in known],
            [objective.std for objective in known],
            run.study.objective.std_weight,
        ),
        "dev_stderr": error_of_seeds([o.value for o in known], [o.stderr for o in known]),
        "dev_parse_fail_rate": mean("parse_fail_rate"),
    }


def _objective(scores: Grid | None, study: Study) -> Objective | None:
    return None if scores is None else grid_objective(scores, study.task.metric, study.objective.std_weight)


def _merit(entry: Entry) -> tuple[bool, float, float, str]:
    """The winner, then by rank on the test prompts, then by the dev objective."""
    rank, objective = entry.number("rank"), entry.number("dev_objective")
    won = entry.row.get("winner") is True
    return not won, math.inf if math.isnan(rank) else rank, math.inf if math.isnan(objective) else -objective, entry.id
