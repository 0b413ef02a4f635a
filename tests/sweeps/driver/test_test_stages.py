"""The test grid in stages: which trials are asked which cells, and that a start over asks no more."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sampled_run import CONSTANT, SEEDED, STEP, TRIALS, Simulated, assets, decisions_of, score_in_stages

from sweeps.driver.test_stages import GridStages
from sweeps.run_folder.columns import CHOOSE, REPORT
from trainer.measure import metrics
from trainer.measure.grid import Grid, read_grid
from trainer.measure.precision import Precision, cells_for, read_pilot
from trainer.store import Store
from trainer.trial import Trial

WANTED = Precision(0.02)
P, R = 10, 800


@pytest.fixture
def simulated(tmp_path: Path) -> Simulated:
    made = Simulated(Store.open(tmp_path), assets(P, R))
    made.on_dev(TRIALS)
    return made


def grid(simulated: Simulated, of: Trial) -> Grid:
    found = simulated.store.read_scores(of.id, STEP, "test")
    assert found is not None
    return read_grid(found[0], ("no", "yes"), "file", found[1].get("sample"))


def objective_on_dev(simulated: Simulated, of: Trial) -> float:
    prompts = simulated.answers(of, "dev").mean(axis=1)
    return float(prompts.mean() - prompts.std(ddof=1))


def test_pilot_then_the_common_size_then_the_best_two_whole(simulated: Simulated) -> None:
    stages = score_in_stages(simulated, WANTED, decisions_of(TRIALS))
    pilot, size, best = stages
    assert [(j.trial, j.cells) for j in pilot] == [(t, 1000) for t in TRIALS]
    [cells] = {j.cells for j in size}
    assert [j.trial for j in size] == list(TRIALS)
    assert 1000 < cells < P * R
    assert [(j.trial, j.cells) for j in best] == [(t, P * R) for t in TRIALS[:2]]
    assert simulated.scored == 3 * cells + 2 * P * R  # none twice
    grids = [grid(simulated, t) for t in TRIALS]
    assert [g.n_cells for g in grids] == [P * R, P * R, cells, cells, cells]
    assert grids[2].rows == grids[3].rows
    assert grids[2].seen is not None
    assert np.array_equal(grids[2].seen, grids[3].seen)  # type: ignore[arg-type]
    found = [metrics.grid_estimate(g, "accuracy").mean for g in grids[2:4]]
    assert found == pytest.approx([simulated.answers(t, "test").mean() for t in TRIALS[2:4]], abs=0.02)


def test_the_size_is_the_largest_that_a_pilot_asks_for(simulated: Simulated) -> None:
    tested, decisions = [(t, STEP) for t in TRIALS], decisions_of(TRIALS)
    stages = GridStages(simulated.store, simulated.assets, WANTED)
    for job in stages.next(tested, decisions):
        simulated.work(job)
    pilots = []
    for each in TRIALS[:4]:
        of_pilot = grid(simulated, each)
        assert of_pilot.seen is not None
        values = metrics.cells(of_pilot, "accuracy")
        pilots.append(read_pilot(values, of_pilot.seen, of_pilot.label, of_pilot.n_rows))
    stages.next(tested, decisions)
    assert stages.cells == max(cells_for([p], WANTED) for p in pilots)


def test_a_degenerate_trial_is_not_scored_whole(simulated: Simulated) -> None:
    """Also where it would be one of the best two."""
    stages = score_in_stages(simulated, WANTED, decisions_of(TRIALS), TRIALS[3:])
    assert [j.trial for j in stages[0]] == [TRIALS[3], CONSTANT]
    assert [j.trial for j in stages[-1]] == [TRIALS[3]]
    only_it = score_in_stages(simulated, WANTED, decisions_of(TRIALS), [CONSTANT])
    assert only_it == []  # its pilot is there, and nothing more is needed of it


def test_all_seeds_of_the_best_two_configurations_are_scored_whole(tmp_path: Path) -> None:
    simulated = Simulated(Store.open(tmp_path), assets(P, R))
    simulated.on_dev(SEEDED)
    stages = score_in_stages(simulated, WANTED, decisions_of(SEEDED), SEEDED)
    assert [j.trial for j in stages[-1]] == list(SEEDED[:4])
    decisions = decisions_of(SEEDED)
    decisions[SEEDED[1].id] = dataclasses.replace(decisions[SEEDED[1].id], action="stop")  # a seed of the best one
    tested = [(t, STEP) for t in SEEDED]
    ranked = GridStages(simulated.store, simulated.assets, WANTED).ranked(tested, decisions)
    assert [[t for t, _ in found] for found in ranked] == [list(SEEDED[k : k + 2]) for k in (2, 4, 6)]


def test_where_fresh_seeds_confirm_the_search_is_not_scored_whole(simulated: Simulated) -> None:
    tested, decisions = [(t, STEP) for t in TRIALS], decisions_of(TRIALS)
    while jobs := GridStages(simulated.store, simulated.assets, WANTED, best=0).next(tested, decisions):
        for job in jobs:
            simulated.work(job)
    assert len({grid(simulated, t).n_cells for t in TRIALS}) == 1
    assert grid(simulated, TRIALS[0]).n_cells < P * R


def test_of_the_best_confirmed_ones_the_seeds_that_report_are_scored_whole(tmp_path: Path) -> None:
    """The best two by the seeds that choose, whatever those that report say."""
    simulated = Simulated(Store.open(tmp_path), assets(P, R))
    simulated.on_dev(SEEDED)
    tested, decisions = [(t, STEP) for t in SEEDED], decisions_of(SEEDED)
    for seed in (0, 2):
        roles = {t.id: CHOOSE if t.seed == seed else REPORT for t in SEEDED}
        by_choice = sorted((t for t in SEEDED if t.seed == seed), key=lambda t: -objective_on_dev(simulated, t))
        best = {t.configuration for t in by_choice[:2]}
        stages = GridStages(simulated.store, simulated.assets, WANTED, roles=roles)
        while jobs := stages.next(tested, decisions):
            last = {job.trial for job in jobs}
            for job in jobs:
                simulated.work(job)
        assert last == {t for t in SEEDED if t.configuration in best and t.seed != seed}


def test_where_it_was_stopped_it_goes_on_with_the_same_cells(tmp_path: Path) -> None:
    made = [Simulated(Store.open(tmp_path / name), assets(P, R)) for name in ("at once", "stopped")]
    for one in made:
        one.on_dev(TRIALS)
    whole, stopped = made
    decisions = decisions_of(TRIALS)
    score_in_stages(whole, WANTED, decisions)
    tested = [(t, STEP) for t in TRIALS]
    while jobs := GridStages(stopped.store, stopped.assets, WANTED).next(tested, decisions):
        stopped.work(jobs[-1])  # one job between two starts, the last first
    assert stopped.scored == whole.scored
    for each in TRIALS:
        a, b = grid(whole, each), grid(stopped, each)
        assert (a.prompts, a.rows) == (b.prompts, b.rows)
        assert np.array_equal(a.predicted, b.predicted)


def test_another_precision_and_more_trials_go_on_from_what_is_there(simulated: Simulated) -> None:
    decisions = decisions_of(TRIALS)
    score_in_stages(simulated, WANTED, decisions, TRIALS[1:])
    before = simulated.scored
    stages = score_in_stages(simulated, WANTED, decisions)
    assert {j.trial for jobs in stages for j in jobs} == {TRIALS[0]}
    assert simulated.scored - before == P * R
    score_in_stages(simulated, None, decisions)
    assert {grid(simulated, t).n_cells for t in TRIALS} == {P * R}
    assert simulated.scored == 5 * P * R  # every cell once, in whatever order it was asked for
    assert score_in_stages(simulated, Precision(0.001), decisions) == []


def test_a_grid_that_is_scored_whole_is_asked_for_at_once(simulated: Simulated) -> None:
    [jobs] = score_in_stages(simulated, None, decisions_of(TRIALS))
    assert [(j.trial, j.cells) for j in jobs] == [(t, 0) for t in TRIALS]
    assert grid(simulated, TRIALS[0]).seen is None
