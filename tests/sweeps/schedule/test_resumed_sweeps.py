"""The asynchronous rule after a kill, with Tune's own controller on simulated places: nobody trains who was not
promoted, and what was lost is made again."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any, ClassVar

import pytest

from trainer.measure.rung import RungReport

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # read at ray's import
from ray import tune
from simulated_places import Places, run

from cluster.hosting.trainable import RUNGS_DONE
from sweeps.schedule.asha import Decision
from sweeps.schedule.asynchronous import AsynchronousRungs
from sweeps.schedule.configurations import give
from sweeps.schedule.tune_scheduler import LEAST_REQUESTED, PromotionScheduler

TRIALS, RUNGS = 60, 3


class Killed(BaseException):
    pass


class Trained(tune.Trainable):  # type: ignore[misc, name-defined]
    """A trial whose scores are kept in ``stored``; ``trained`` lists what was not there and was trained."""

    stored: ClassVar[dict[tuple[str, int], RungReport]] = {}
    trained: ClassVar[list[tuple[str, int]]] = []

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.name, self.rung = new_config["id"], new_config.get(RUNGS_DONE, 0)
        return True

    def step(self) -> dict[str, Any]:
        key = (self.name, self.rung)
        if key not in self.stored:
            self.trained.append(key)
            value = random.Random(f"{self.name} {self.rung}").random()
            self.stored[key] = RungReport(self.name, self.rung, 10 * (self.rung + 1), value, 0.01)
        self.rung += 1
        return self.stored[key].encode()


class Record:
    """Reports in their order; ``kill_after`` so many more the driver dies."""

    def __init__(self, reports: list[RungReport], kill_after: int) -> None:
        self.reports, self.left = reports, kill_after
        self.known = {(r.trial_id, r.rung_index) for r in reports}

    def add(self, report: RungReport) -> None:
        if (report.trial_id, report.rung_index) not in self.known:
            self.known.add((report.trial_id, report.rung_index))
            self.reports.append(report)
            self.left -= 1
            if self.left == 0:
                raise Killed

    def fail(self, trial: str, why: str) -> None:
        raise AssertionError(f"{trial}: {why}")

    def note(self) -> None:
        pass


def start(
    reports: list[RungReport], places: int, folder: Path, monkeypatch: Any, kill_after: int = -1
) -> dict[str, Decision]:
    """A start of the sweep that has had ``reports``, to its end or until it is killed."""
    rungs = AsynchronousRungs(TRIALS, 2, RUNGS)
    for report in reports:
        give(rungs, report)
    rungs.newly_decided()
    record = Record(reports, kill_after)
    scheduler = PromotionScheduler(rungs, identify=lambda config: str(config["id"]), record=record)
    space = {"id": tune.grid_search([f"t{i:02d}" for i in range(TRIALS)])}
    with pytest.MonkeyPatch.context() as patch:
        try:
            run(Trained, space, scheduler, Places(places, 5.0, 1.0), folder, patch)
        except Killed:
            return {}
    return scheduler.decisions()


@pytest.fixture(autouse=True)
def _nothing_stored() -> None:
    Trained.stored.clear()
    Trained.trained.clear()


@pytest.mark.parametrize(("places", "then"), [(4, 1), (1, 1), (8, 3), (2, 8)])
@pytest.mark.parametrize("kill_after", [7, 30, 55, 70])
def test_a_resumed_sweep_trains_nobody_who_was_not_promoted(
    places: int, then: int, kill_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TRIALS > LEAST_REQUESTED
    reports: list[RungReport] = []
    assert start(reports, places, tmp_path / "a", monkeypatch, kill_after) == {}
    assert len(reports) == kill_after
    ends = start(reports, then, tmp_path / "b", monkeypatch)
    assert {d.status for d in ends.values()} == {"finished", "stopped"}
    again = AsynchronousRungs(TRIALS, 2, RUNGS)
    for report in reports:
        due = again.decide(report.trial_id)
        assert due.action == "continue", (report.trial_id, report.rung_index, due)
        give(again, report)
    assert {name: again.decide(name) for name in ends} == ends
    assert len(Trained.trained) == len(set(Trained.trained)) == len(reports)


@pytest.mark.parametrize("rung", range(RUNGS))
def test_scores_that_were_lost_are_made_again(rung: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[RungReport] = []
    first = start(reports, 4, tmp_path / "a", monkeypatch)
    name = next(name for name, decision in first.items() if decision.status == "finished")
    del Trained.stored[name, rung]
    Trained.trained.clear()
    assert start(reports, 4, tmp_path / "b", monkeypatch) == first
    assert Trained.trained == [(name, rung)]
