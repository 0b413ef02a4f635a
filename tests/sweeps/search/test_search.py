"""Which points become trials: distinct, reproducible, and translated without loss."""

from __future__ import annotations

import math
import random

import pytest

from sweeps.search.points import (
    Axes,
    Domain,
    combinations,
    decode,
    encode,
    grid_points,
    nth_point,
    point_key,
    random_points,
)
from sweeps.search.tpe import RungSearch
from trainer.measure.rung import RungReport

MODULES = [("q_proj", "v_proj"), ("all-linear",)]
DISCRETE: Axes = {
    "template": ["plain", "chat"],
    "target_modules": MODULES,
    "steps": Domain("int", 3, 5),
    "rslora": [False],
}
MIXED: Axes = {**DISCRETE, "lr": Domain("loguniform", 1e-4, 1e-1), "plw": Domain("uniform", 0, 1)}


def test_the_grid_is_every_combination_in_order() -> None:
    points = grid_points({"a": [1, 2], "b": ["x"], "target_modules": MODULES})
    assert [(p["a"], p["b"], p["target_modules"]) for p in points] == [
        (1, "x", MODULES[0]), (1, "x", MODULES[1]), (2, "x", MODULES[0]), (2, "x", MODULES[1])
    ]  # fmt: skip


def test_the_grid_of_a_range_of_whole_numbers_holds_each_of_them() -> None:
    """As where a joint search over a range begins with the points of earlier stages."""
    assert [p["steps"] for p in grid_points(DISCRETE)] == [3, 4, 5] * 4


def test_random_points_are_the_same_for_the_same_seed_and_none_comes_twice() -> None:
    for axes in (DISCRETE, MIXED):
        points = random_points(axes, 9, seed=3)
        assert points == random_points(axes, 9, seed=3) != random_points(axes, 9, seed=4)
        assert len({point_key(p) for p in points}) == 9
        assert all(p["steps"] in (3, 4, 5) and p["target_modules"] in MODULES for p in points)


def test_random_can_use_up_the_axes_but_not_more() -> None:
    assert combinations(DISCRETE) == 12
    every = {point_key(nth_point(DISCRETE, i)) for i in range(12)}
    assert {point_key(p) for p in random_points(DISCRETE, 12, 0)} == every
    with pytest.raises(ValueError, match=r"search.trials = 13 is more than the 12 distinct points"):
        random_points(DISCRETE, 13, 0)


def test_loguniform_is_uniform_in_the_logarithm() -> None:
    values = [p["lr"] for p in random_points({"lr": Domain("loguniform", 1e-4, 1e-2)}, 4000, 0)]
    assert all(1e-4 <= v <= 1e-2 for v in values)
    assert sum(v < 1e-3 for v in values) / 4000 == pytest.approx(0.5, abs=0.03)


def test_points_survive_the_way_through_tune() -> None:
    for point in random_points(MIXED, 20, 1):
        config = {**encode(point), "trial": "not an axis"}
        assert all(isinstance(v, bool | int | float | str) for v in config.values())
        assert decode(config, MIXED) == point
    assert encode({"target_modules": MODULES[0]}) == {"target_modules": "q_proj+v_proj"}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    pytest.importorskip("ray.tune")
    pytest.importorskip("optuna")


@pytest.mark.usefixtures("ask")
def test_tpe_never_suggests_a_point_twice_and_ends_with_the_axes() -> None:
    from ray.tune.search import Searcher

    search = RungSearch(DISCRETE, 0)
    points = []
    for number in range(12):
        config = search.suggest(f"t{number}")  # type: ignore[union-attr]
        points.append(point_key(decode(config, DISCRETE)))
        search.on_trial_complete(f"t{number}", RungReport("", 0, 1, float(number)).encode())
    assert len(set(points)) == 12
    assert search.suggest("t12") == Searcher.FINISHED  # type: ignore[union-attr]


@pytest.mark.usefixtures("ask")
def test_tpe_learns_from_rungs_before_a_trial_ends_and_is_seeded() -> None:
    """Every trial only reports a rung, none ends: the suggestions must still move to the best learning rate."""
    axes: Axes = {"lr": Domain("loguniform", 1e-5, 1e-1), "template": ["plain", "chat"], "seed": [0]}

    def rates(seed: int) -> list[float]:
        search = RungSearch(axes, seed, 3)
        out = []
        for number in range(60):
            config = search.suggest(f"t{number}")  # type: ignore[union-attr]
            assert config["seed"] == 0
            out.append(config["lr"])
            objective = -abs(math.log10(config["lr"]) + 3)
            search.on_trial_result(f"t{number}", RungReport("", 0, 1, objective).encode())
        return out

    first = rates(7)
    assert first == rates(7) != rates(8)
    distance = [abs(math.log10(lr) + 3) for lr in first]
    assert sum(distance[40:]) / 20 < 0.6 * sum(distance[:10]) / 10


@pytest.mark.usefixtures("ask")
def test_tpe_ranks_by_rung_then_objective_whichever_way_a_trial_was_cut() -> None:
    from optuna.trial import TrialState

    search = RungSearch({"lr": Domain("uniform", 0, 1)}, 0, 2)
    for trial in ("paused", "running", "top", "nan", "failed", "constant"):
        search.suggest(trial)  # type: ignore[union-attr]
    search.on_trial_result("paused", RungReport("", 0, 1, 0.3).encode())
    search.on_trial_complete("paused")  # cut while paused: Tune gives no result
    search.on_trial_complete("running", RungReport("", 0, 1, 0.4).encode())  # cut on arrival
    search.on_trial_result("top", RungReport("", 0, 1, 0.5).encode())
    search.on_trial_complete("top", RungReport("", 1, 1, 0.6).encode())
    search.on_trial_complete("nan", RungReport("", 0, 1, float("nan")).encode())
    search.on_trial_result("failed", RungReport("", 0, 1, 0.9).encode())
    search.on_trial_complete("failed", error=True)
    search.on_trial_complete("constant", RungReport("", 0, 1, 0.95, degenerate=True).encode())
    observed = {name: (t.state, t.intermediate_values, t.values) for name, t in search.observations.items()}
    assert observed == {
        "paused": (TrialState.PRUNED, {0: 0.3}, None),
        "running": (TrialState.PRUNED, {0: 0.4}, None),
        "top": (TrialState.COMPLETE, {1: 0.6}, [0.6]),
        "constant": (TrialState.PRUNED, {}, None),  # no value: TPE ranks it last
    }


def test_draws_do_not_touch_the_global_generator() -> None:
    state = random.getstate()
    random_points(MIXED, 5, 0)
    assert random.getstate() == state
