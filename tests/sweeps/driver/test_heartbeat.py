"""What the driver makes of what its hosts tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import sweeps.driver.heartbeat as heartbeat
from sweeps.driver.heartbeat import Heartbeat, together
from sweeps.live.left import Told
from sweeps.live.rows import TrialRow
from trainer.work import TrialGrid, WorkDone

A = TrialGrid("a", 5, "dev")
ONE = WorkDone({2: (10, 20.0)}, {"dev": 10.0}, {"dev": 5.0}, {"dev": 30.0}, {"a": 5}, {"a": 1.0}, {A: 4.0})
TWO = WorkDone(
    {2: (5, 5.0), 1: (1, 1.0)},
    {"dev": 1.0, "test": 2.0},
    {"dev": 1.0, "test": 1.0},
    {"dev": 0.0, "test": 20.0},
    {"a": 5, "b": 3},
    {"a": 2.0, "b": 9.0},
    {A: 3.0},
)


def test_hosts_that_share_a_grid_are_added_up() -> None:
    assert together([ONE, TWO], [ONE, TWO]) == WorkDone(
        ticks={2: (15, 25.0), 1: (1, 1.0)},
        cells={"dev": 11.0, "test": 2.0},
        cell_seconds={"dev": 6.0, "test": 1.0},
        cell_tokens={"dev": 30.0, "test": 20.0},
        step_of={"a": 5, "b": 3},
        seconds_of={"a": 3.0, "b": 9.0},
        scored={A: 7.0},
    )


def test_of_a_host_that_has_ended_only_the_rates_stay() -> None:
    found = together([ONE, TWO], [TWO])
    assert (found.ticks[2], found.cells["dev"]) == ((15, 25.0), 11.0)
    assert (found.step_of, found.scored) == ({"a": 5, "b": 3}, {A: 3.0})


class Live:
    def __init__(self, *states: str):
        self.states, self.told = states, list[Told]()

    def rows(self) -> dict[str, TrialRow]:
        return {str(i): TrialRow(str(i), {}, 1, state=state) for i, state in enumerate(self.states)}

    def pulse(self, told: Told, lacking: str) -> None:
        self.told.append(told)


@pytest.mark.parametrize(("state", "hosts"), [("waiting", 1), ("stopped", 2)])
def test_hosts_that_can_work_at_once(state: str, hosts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hosts worked; one has ended. Where trials queue for a place there is no other to be had; if none do, a host
    starts again as soon as there is work for it."""
    live = Live("running", state)
    progress: Any = SimpleNamespace(live=live, study=SimpleNamespace(name="s"), decisions={})
    beats = Heartbeat(progress, SimpleNamespace(registry=None, resources=SimpleNamespace(lacking=lambda: "")))  # type: ignore[arg-type]
    monkeypatch.setattr(beats, "publish", lambda: None)
    said: list[Any] = [([], {}), (["x", "y"], {}), (["x", "y"], {"x": ONE, "y": TWO}), (["x"], {})]
    for known, answers in said:
        monkeypatch.setattr(heartbeat, "work_by_host", lambda *_, found=(known, answers): found)
        beats.beat()
    assert [told.doing for told in live.told] == ["starting hosts", "2 hosts loading the base model", "", ""]
    assert [told.hosts for told in live.told[2:]] == [2, hosts]
    assert live.told[-1].work.cells == {"dev": 11.0, "test": 2.0}
    assert live.told[-1].work.step_of == {"a": 5}, "what x told last, though it was too busy to answer"
