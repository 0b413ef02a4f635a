"""What the driver does for a report does not grow with the number of trials. The whole of it, with its figures, is
benchmarks/scale.py."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.measure.rung import RungReport

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # read at ray's import
from ray import tune
from ray.tune.experiment import Trial
from simulated_places import Places, run

from cluster.hosting.trainable import RUNGS_DONE
from sweeps.schedule.asha import Decision, Rungs
from sweeps.schedule.tune_scheduler import PromotionScheduler

PLACES = 10


class Controller:
    """As much of Tune's as the scheduler asks for; the trials are Tune's own. An actor is idle, and two asked for."""

    def __init__(self, scheduler: PromotionScheduler, running: list[Trial]) -> None:
        self.scheduler, self.search_alg, self.running = scheduler, self, running
        self._trial_to_actor: dict[Trial, Any] = {}
        self._staged_trials = {"one", "two"}
        self._actor_cache = SimpleNamespace(num_cached_objects=1)
        self._actor_manager = SimpleNamespace(num_pending_actors=1, _live_actors_to_ray_actors_resources={})

    def is_finished(self) -> bool:
        return True

    def stop_trial(self, trial: Trial) -> None:
        trial.set_status(Trial.TERMINATED)
        self.scheduler.on_trial_remove(self, trial)

    def pause_trial(self, trial: Trial, should_checkpoint: bool) -> None:
        trial.set_status(Trial.PAUSED)

    def _schedule_trial_train(self, trial: Trial) -> None:
        self.running.append(trial)


def sweep(n: int, monkeypatch: pytest.MonkeyPatch) -> tuple[PromotionScheduler, dict[str, Decision], int, int]:
    """``n`` trials through three rungs. The scheduler, its changes laid over each other, reports and decisions that
    were put into words."""
    scheduler = PromotionScheduler(Rungs(n, 2, 3), identify=lambda config: str(config["id"]))
    running: list[Trial] = []
    controller, asked = Controller(scheduler, running), Counter[str]()
    decide = Rungs.decide

    def counted(self: Rungs, trial: str) -> Decision:
        asked["decide"] += 1
        return decide(self, trial)

    monkeypatch.setattr(Rungs, "decide", counted)
    made = [Trial("trial", trial_id=f"{i:05d}", stub=True, config={"id": f"t{i:05d}"}) for i in range(n)]
    for trial in made:
        scheduler.on_trial_add(controller, trial)
    rng, changed, rung, reports = random.Random(n), {}, Counter[str](), 0
    while True:
        while len(running) < PLACES and (chosen := scheduler.choose_trial_to_run(controller)) is not None:
            chosen.set_status(Trial.RUNNING)
            running.append(chosen)
        if not running:
            break
        trial = running.pop(rng.randrange(len(running)))
        result = RungReport("", rung[trial.trial_id], 10, rng.random(), 0.01).encode()
        rung[trial.trial_id] += 1
        reports += 1
        answer = scheduler.on_trial_result(controller, trial, result)
        if answer == scheduler.STOP:
            trial.set_status(Trial.TERMINATED)
            scheduler.on_trial_complete(controller, trial, {})
        elif answer == scheduler.CONTINUE:
            running.append(trial)
        changed |= scheduler.changes()
    changed |= scheduler.changes()
    assert all(trial.is_finished() for trial in made)
    return scheduler, changed, reports, asked["decide"]


def test_what_is_told_piece_by_piece_is_what_stands_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, changed, reports, _ = sweep(120, monkeypatch)
    assert reports == 120 + 60 + 30
    final = scheduler.decisions()
    assert changed.keys() == final.keys()

    def facts(decision: Decision) -> tuple[Any, ...]:
        return decision.status, decision.rung, decision.step, decision.objective

    assert {name: facts(d) for name, d in changed.items()} == {name: facts(d) for name, d in final.items()}
    assert Counter(d.status for d in changed.values()) == {"finished": 30, "stopped": 90}


def test_the_work_of_a_report_is_the_same_among_a_hundred_trials_and_a_thousand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    each = []
    for n in (100, 1000):
        with monkeypatch.context() as patch:
            _, _, reports, decided = sweep(n, patch)
        each.append(decided / reports)
    assert each[1] < 1.2 * each[0]
    assert each[1] < 8


class Scored(tune.Trainable):  # type: ignore[misc, name-defined]
    """Three rungs whose objectives are drawn from the trial's id."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.name, self.rung = new_config["id"], new_config.get(RUNGS_DONE, 0)
        return True

    def step(self) -> dict[str, Any]:
        objective = random.Random(f"{self.name} {self.rung}").random()
        self.rung += 1
        report = RungReport(self.name, self.rung - 1, self.rung, objective)
        return {**report.encode(), "done": self.rung == 3}


@pytest.mark.parametrize("task", [0.01, 0.2, 1.0])
def test_processes_that_start_are_not_taken_down_by_trials_that_end_sooner(
    task: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune's own controller on simulated places: a process takes a second to start, one after another, and a rung takes
    ``task`` seconds. Where an idle process goes to the trial whose own is about to start, that one is lost, and of
    twelve places three work (135 processes started for 12)."""
    scheduler = PromotionScheduler(Rungs(80, 2, 3), identify=lambda config: str(config["id"]))
    places = Places(12, start=1.0, task=task)
    run(Scored, {"id": tune.grid_search([f"t{i:03d}" for i in range(80)])}, scheduler, places, tmp_path, monkeypatch)
    assert Counter(d.status for d in scheduler.decisions().values()) == {"finished": 20, "stopped": 60}
    assert len(places.busy) == 80 + 40 + 20
    assert places.made <= 12 + 12  # 13 to 17 were seen
    if task >= 1.0:
        assert sum(places.busy) / len(places.busy) > 9
