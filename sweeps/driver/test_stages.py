"""Which cells of the test grid are scored next, and for which trials.

A grid that is scored whole is scored at once. Else it goes in stages (``trainer.measure.precision``), the same cells
for all trials, so that their differences are paired: the pilot; then so many cells that every trial's mean and std
have the half-widths of ``tables.precision``, which is the largest of the sizes that the trials' pilots ask for; then
the whole grid for all seeds of the two best configurations by the dev objective, which the report compares. Where fresh
seeds confirm the search (``confirm``), the best two by the seeds that choose are scored whole with the seeds that
report, and none of the search. A degenerate trial, which gives one answer nearly always, has no part in the size:
nobody reads its numbers. What is next follows from the score files alone, so a resumed run and one that is replayed
without Ray come to the same cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from sweeps.run_folder.columns import CHOOSE, REPORT
from sweeps.schedule.asha import Decision
from sweeps.study.precision import precision_of
from sweeps.study.study import Study
from sweeps.trials.study_work import SCORED_WHOLE
from trainer.data.assets import Assets
from trainer.measure import design, metrics
from trainer.measure.grid import Grid, only, read_grid
from trainer.measure.metrics import Objective, grid_objective
from trainer.measure.precision import Pilot, Precision, cells_for, read_pilot
from trainer.measure.replicates import objective_of_seeds
from trainer.store import Store
from trainer.trial import Trial
from trainer.work import is_scored

Scored = tuple[pa.Table, dict[str, Any]]


@dataclass(frozen=True)
class GridJob:
    trial: Trial
    step: int  # its last rung
    cells: int  # that its score file is to hold; 0: the whole grid at once


def trials_to_test(
    study: Study, trials: Mapping[str, Trial], decisions: Mapping[str, Decision]
) -> list[tuple[Trial, int]]:
    """The trials to score on the test pool, each with its last rung; with ``finalists`` only those that finished."""
    wanted = ("finished",) if study.tables.test == "finalists" else ("finished", "stopped")
    return [
        (trials[i], d.step)
        for i, d in decisions.items()
        if d.status in wanted and d.step is not None and d.objective is not None and math.isfinite(d.objective)
    ]


@dataclass
class GridStages:
    store: Store
    assets: Assets
    wanted: Precision | None  # None: the whole grid at once
    best: int = SCORED_WHOLE  # configurations that are scored whole at the end
    std_weight: float = 1.0  # of the objective by which they are the best
    roles: Mapping[str, str] = field(default_factory=dict)  # of the fresh seeds of ``confirm``, by trial
    found: dict[str, Scored] = field(default_factory=dict)  # by trial, as read last
    cells: int = 0  # of every trial's sample; 0 while its size is not known
    _pilots: dict[str, Pilot | None] = field(default_factory=dict)
    _dev: dict[str, Objective | None] = field(default_factory=dict)  # by trial, at its last rung

    @classmethod
    def of(cls, study: Study, store: Store, assets: Assets, roles: Mapping[str, str]) -> GridStages:
        """``roles``: of the fresh seeds of ``confirm``, by trial; empty for the search."""
        wanted = precision_of(study, "test", len(assets.pools["test"]), len(assets.rows["test"]))
        best = SCORED_WHOLE if study.confirm is None or roles else 0
        return cls(store, assets, wanted, best, study.objective.std_weight, roles)

    @property
    def whole(self) -> int:
        return len(self.assets.pools["test"]) * len(self.assets.rows["test"])

    def next(self, tested: Sequence[tuple[Trial, int]], decisions: Mapping[str, Decision]) -> list[GridJob]:
        """What is to be scored before anything else can be decided; empty when all is there."""
        scores = {t.id: self.store.read_scores(t.id, step, "test") for t, step in tested}
        self.found = {i: scored for i, scored in scores.items() if scored is not None}
        if self.wanted is None:
            return self._lacking(tested, 0)
        pilot = design.pilot_cells(len(self.assets.pools["test"]), len(self.assets.rows["test"]))
        if jobs := self._lacking(tested, pilot):
            return jobs
        pilots = [p for t, _ in tested if (p := self._pilot(t)) is not None]
        self.cells = cells_for(pilots, self.wanted) if pilots else pilot
        return self._lacking(tested, self.cells) or self._lacking([*self._best(tested, decisions)], self.whole)

    def _lacking(self, tested: Sequence[tuple[Trial, int]], cells: int) -> list[GridJob]:
        return [
            GridJob(trial, step, cells)
            for trial, step in tested
            if trial.id not in self.found or not is_scored(self.found[trial.id][1], cells)
        ]

    def ranked(
        self, tested: Sequence[tuple[Trial, int]], decisions: Mapping[str, Decision]
    ) -> list[list[tuple[Trial, int]]]:
        """The configurations of which all seeds have finished, by their objective on the dev prompts, the best first;
        without degenerate ones. As ``sweeps.tables.winner`` orders them, and of fresh seeds by those that choose, as
        ``sweeps.tables.confirmation`` does."""
        members: dict[str, list[tuple[Trial, int]]] = {}
        for trial, step in tested:
            members.setdefault(trial.configuration, []).append((trial, step))
        found: list[tuple[float, str, list[tuple[Trial, int]]]] = []
        for one in members.values():
            if any(decisions[trial.id].status != "finished" for trial, _ in one):
                continue
            scored = [self._on_dev(trial, step) for trial, step in one]
            if all(dev is not None and not dev.degenerate for dev in scored):
                seeds = [dev for (trial, _), dev in zip(one, scored, strict=True) if dev and self._chooses(trial)]
                seeds = seeds or [dev for dev in scored if dev]  # of a single configuration no seed chooses
                value = objective_of_seeds([d.value for d in seeds], [d.std for d in seeds], self.std_weight)
                found.append((-value, one[0][0].id, one))
        return [one for *_, one in sorted(found)]

    def _chooses(self, trial: Trial) -> bool:
        return self.roles.get(trial.id, CHOOSE) == CHOOSE

    def reports(self, trial: Trial) -> bool:
        """Whether its figures are those of its configuration: not so of fresh seeds that choose."""
        return self.roles.get(trial.id, REPORT) == REPORT

    def _on_dev(self, trial: Trial, step: int) -> Objective | None:
        if trial.id not in self._dev:
            found = self.store.read_scores(trial.id, step, "dev")
            self._dev[trial.id] = None
            if found is not None and found[0].num_rows:
                self._dev[trial.id] = grid_objective(_grid(trial, found), trial.task.metric, self.std_weight)
        return self._dev[trial.id]

    def _best(
        self, tested: Sequence[tuple[Trial, int]], decisions: Mapping[str, Decision]
    ) -> Iterator[tuple[Trial, int]]:
        """All seeds of the best configurations; of fresh seeds, those that report."""
        left = self.best
        for members in self.ranked(tested, decisions) if left else ():
            if left and not any(_grid(trial, self.found[trial.id]).degenerate for trial, _ in members):
                left -= 1
                yield from ((trial, step) for trial, step in members if self.reports(trial))

    def _pilot(self, trial: Trial) -> Pilot | None:
        """What the pilot says, also where more is scored by now; None of a degenerate trial, and of one without
        rows."""
        if trial.id not in self._pilots:
            scored = self.found[trial.id]
            grid = self._of_pilot(_grid(trial, scored)) if scored[0].num_rows else None
            self._pilots[trial.id] = None
            if grid is not None and grid.seen is not None and not grid.degenerate:
                values = metrics.cells(grid, trial.task.metric)
                self._pilots[trial.id] = read_pilot(values, grid.seen, grid.label, grid.n_rows)
        return self._pilots[trial.id]

    def _of_pilot(self, grid: Grid) -> Grid:
        """``grid`` without what is not in the pilot."""
        prompts, rows = self.assets.pools["test"], self.assets.rows["test"]
        ids = [p.id for p in prompts], [r.id for r in rows]
        seen = design.staged(*ids, [r.label for r in rows], 0)
        of_prompt, of_row = ({name: i for i, name in enumerate(names)} for names in ids)
        place = np.ix_([of_prompt[p] for p in grid.prompts], [of_row[r] for r in grid.rows])
        return only(grid, seen[place])


def _grid(trial: Trial, scored: Scored) -> Grid:
    rows, record = scored
    return read_grid(rows, trial.task.labels, f"trial {trial.id}", record.get("sample"))
