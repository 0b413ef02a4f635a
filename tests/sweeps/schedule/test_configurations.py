"""Configurations are promoted with all of their seeds, in whatever order the seeds report."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runner_trials import trial

from sweeps.schedule.asha import Rungs
from sweeps.schedule.configurations import ConfigurationRungs, promotion
from trainer.measure.replicates import objective_of_seeds

Values = Mapping[str, list[list[float]]]  # configuration -> seed -> objective at each rung


def members(values: Values) -> dict[str, list[str]]:
    return {name: [f"{name}{k}" for k in range(len(seeds))] for name, seeds in values.items()}


def play(
    values: Values, order: random.Random, count: int = 2, fails: str = "", std_weight: float = 1.5
) -> ConfigurationRungs:
    """Every trial runs when it may, in random order; the trial ``fails`` fails instead of its second report."""
    rungs = ConfigurationRungs(members(values), 2, count, std_weight)
    of = {f"{name}{k}": one for name, seeds in values.items() for k, one in enumerate(seeds)}
    running, at, waiting = list(of), dict.fromkeys(of, 0), set[str]()
    while running:
        name = running.pop(order.randrange(len(running)))
        if name == fails and at[name] == 1:
            decision = rungs.fail(name, "out of memory")
        else:
            decision = rungs.report(name, at[name], of[name][at[name]])
            at[name] += 1
        if decision.action == "continue":
            running.append(name)
        elif decision.action == "pause":
            waiting.add(name)
        for other in rungs.newly_decided():
            waiting.remove(other)
            if rungs.decide(other).action == "continue":
                running.append(other)
    assert not waiting, "a trial waits for ever"
    return rungs


def status(rungs: ConfigurationRungs) -> dict[str, str]:
    return {name: decision.status for name, decision in rungs.decisions().items()}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_the_outcome_is_that_of_the_means_in_every_order(draw: int) -> None:
    rng = np.random.default_rng(draw)
    values = {name: rng.random((int(rng.integers(1, 4)), 3)).tolist() for name in "abcde"}
    whole = Rungs(5, 2, 3)
    alive = set(values)
    for rung in range(3):
        for name in sorted(alive):
            each = [seed[rung] for seed in values[name]]
            spread = float(np.std(each, ddof=1)) if len(each) > 1 else 0.0
            whole.report(name, rung, float(np.mean(each)) - 1.5 * spread)
        alive = {name for name in alive if whole.decide(name).action == "continue"}
    expected = {f"{name}{k}": whole.decide(name).status for name, seeds in values.items() for k in range(len(seeds))}
    assert status(play(values, random.Random(draw), 3)) == expected


@pytest.mark.parametrize("order", range(20))
def test_a_seed_that_ends_in_nan_or_fails_ends_its_configuration(order: int) -> None:
    values = {"a": [[0.9] * 3, [0.9, math.nan, 0.9]], "b": [[0.8] * 3, [0.8] * 3], "c": [[0.1] * 3, [0.1] * 3]}
    values["d"] = [[0.1, 0.2, 0.2], [0.2, 0.2, 0.2]]
    ended = play(values, random.Random(order), 3)
    assert status(ended) == {
        "a0": "stopped", "a1": "stopped", "b0": "finished", "b1": "finished",
        "c0": "stopped", "c1": "stopped", "d0": "stopped", "d1": "stopped",
    }  # fmt: skip
    assert "objective is NaN" in ended.decide("a1").reason
    assert "another seed of its configuration" in ended.decide("a0").reason
    values["a"][1] = [0.9] * 3
    failed = play(values, random.Random(order), 3, fails="a1")
    assert status(failed) == status(ended) | {"a1": "failed"}
    assert failed.decide("a1").reason == "out of memory"


def test_at_the_last_rung_a_trial_finishes_whatever_the_other_seeds_do() -> None:
    rungs = ConfigurationRungs({"a": ["a0", "a1"]}, 2, 1)
    assert rungs.report("a0", 0, 0.7, step=5).reason == "finished at rung 1 of 1 (step 5): objective 0.7"
    rungs.report("a1", 0, math.nan)
    assert status(rungs) == {"a0": "finished", "a1": "stopped"}


def test_a_trial_waits_for_the_other_seeds_and_says_so() -> None:
    rungs = ConfigurationRungs({"a": ["a0", "a1"], "b": ["b0", "b1"]}, 2, 2)
    waits = rungs.report("a0", 0, 0.7, step=5)
    assert (waits.action, waits.reason) == ("pause", "waits at rung 1 of 2: 1 of 2 seeds have reported")
    assert (waits.step, waits.objective) == (5, 0.7)
    rungs.report("b0", 0, 0.1)
    rungs.report("a1", 0, 0.5)
    assert rungs.report("b1", 0, 0.2).reason == (
        "stopped at rung 1 of 2: objective 0.0792893 is below the best of 2 (cut-off 0.458579), over 2 seeds"
    )
    assert sorted(rungs.newly_decided()) == ["a0", "a1", "b0"]
    assert rungs.newly_decided() == []
    assert rungs.decide("a0").action == "continue"


def test_the_reason_of_a_decision_gives_the_error_over_the_seeds() -> None:
    rungs = ConfigurationRungs({"a": ["a0", "a1"], "b": ["b0", "b1"]}, 2, 2)
    for name, value in (("a0", 0.7), ("a1", 0.5), ("b0", 0.1)):
        rungs.report(name, 0, value, stderr=0.03)
    stderr = math.sqrt(0.03**2 + (0.2 - 0.1) ** 2 / 2 / 2)  # of the rows and prompts, and between the seeds
    assert f"objective 0.0792893 ± {stderr:.2g} is below" in rungs.report("b1", 0, 0.2, stderr=0.03).reason


def test_one_degenerate_seed_makes_the_configuration_degenerate() -> None:
    rungs = ConfigurationRungs({"a": ["a0", "a1"], "b": ["b0", "b1"]}, 2, 2)
    rungs.report("a0", 0, 0.9, degenerate=True, why_degenerate="give one answer nearly always")
    for name, value in (("a1", 0.9), ("b0", 0.5), ("b1", 0.5)):
        rungs.report(name, 0, value)
    assert rungs.decide("b0").action == "continue"
    assert "1 of 2 seeds give one answer nearly always" in rungs.decide("a1").reason


@pytest.mark.parametrize(("volatility", "by_best_seed"), [(2.0, 0.41), (3.0, 0.57), (5.0, 0.72)])
def test_a_volatile_configuration_wins_hardly_more_often_than_the_others(
    volatility: float, by_best_seed: float
) -> None:
    """Eight equal ones, three seeds each, std .03 over prompts, of which the first varies more with its seed."""
    rng, won, single, times = np.random.default_rng(0), 0, 0, 1500
    for _ in range(times):
        luck = rng.normal(0, np.array([0.012 * volatility] + [0.012] * 7)[:, None], (8, 3)) + rng.normal(
            0, 0.005, (8, 3)
        )
        values = [objective_of_seeds(list(0.7 - 0.03 + one), [0.03] * 3, 1.0) for one in luck]
        won += int(np.argmax(values)) == 0
        single += int(luck.max(axis=1).argmax()) == 0
    assert single / times == pytest.approx(by_best_seed, abs=0.04)
    assert won / times < 0.2


def test_the_objective_over_seeds_is_mean_less_std_over_seeds_and_prompts() -> None:
    rng = np.random.default_rng(1)
    each = rng.normal(0.8, 0.05, (3, 10))  # seeds x prompts
    stds = each.std(axis=1, ddof=1)
    found = objective_of_seeds(list(each.mean(axis=1) - 2 * stds), list(stds), 2.0)
    over_both = math.sqrt(float((stds**2).mean()) + float(each.mean(axis=1).var(ddof=1)))
    assert found == pytest.approx(each.mean() - 2 * over_both)
    assert objective_of_seeds([0.7], [0.1], 2.0) == 0.7


def test_studies_with_one_seed_are_decided_trial_by_trial() -> None:
    one = trial()
    assert isinstance(promotion([one, trial(lr=0.2)], 2, 2, 1.0), Rungs)
    found = promotion([one, replace(one, seed=5)], 2, 2, 1.0)
    assert isinstance(found, ConfigurationRungs)
    assert found.members == {one.configuration: (one.id, replace(one, seed=5).id)}
