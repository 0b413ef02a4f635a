"""What a plan says of differences and rungs, from assumptions and from runs with known answers."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from simulated_run import SimulatedTrial, write_run

from sweeps.plan.cost import plan
from sweeps.plan.differences import differences, render
from sweeps.plan.rung_ranking import rung_rankings, survival
from sweeps.plan.sizes import DataSizes, ModelSize
from sweeps.plan.variation import ASSUMED, variation_of
from sweeps.run_folder.reading import RunFolder
from trainer.errors import UserError
from trainer.store import Store

SIZES = DataSizes(
    train_rows=400, dev_rows=100, test_rows=200, dev_prompts=10, test_prompts=20,
    prompt_tokens=30.0, answer_tokens=2.0, answers=2.0, longest=40.0,
)  # fmt: skip
MODEL = ModelSize(1000, 800, 2, 8, 25, (("a.q_proj", 16), ("a.v_proj", 16), ("a.up_proj", 24)))


def found_for(study: Any, *overrides: str, recorded: Any = ASSUMED) -> Any:
    loaded = study(*overrides)
    return differences(loaded, plan(loaded, SIZES, MODEL), recorded)


def shown(found: Any) -> str:
    console = Console(file=io.StringIO(), width=250)
    console.print(render(found))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_one_seed_speaks_of_fine_tunes_and_a_second_of_settings(study: Any) -> None:
    found = found_for(study)
    names = [d.name for d in found.designs]
    assert names == ["as planned", "one more seed", "10 more test prompts", "twice the test rows"]
    assert found.comparisons == 15  # of 16 trials to the best
    assert [d.seeds for d in found.designs] == [1, 2, 1, 1]
    assert found.designs[1].compute == pytest.approx(2.0)
    assert 1 < found.designs[2].compute < found.designs[3].compute < 2
    for quantity in ("mean", "std", "objective"):
        assert found.advice(quantity).name != "one more seed"  # it is no way to lower what one seed shows
    text = shown(found)
    assert "one of each: the differences are of these fine-tunes" in text
    assert "one more seed: of settings" in text
    assert "level 0.05 / 15, the comparisons to the best" in text


def test_with_several_seeds_comparisons_are_of_configurations(study: Any) -> None:
    found = found_for(study, "axes.seed=[0,1,2]")
    assert found.comparisons == 15
    assert [d.seeds for d in found.designs] == [3, 4, 3, 3]
    assert found.designs[1].compute == pytest.approx(4 / 3)
    assert "of these fine-tunes" not in shown(found)
    assert found_for(study, "tables.test=finalists").comparisons == 3
    drawn = found_for(study, "search={method: random, trials: 9}", "axes.seed=[0,1,2]")
    assert (drawn.comparisons, drawn.designs[1].seeds) == (2, 4)
    assert drawn.designs[1].compute == pytest.approx(4 / 3)
    chosen = found_for(study, "search={method: tpe, trials: 9}")
    assert [d.name for d in chosen.designs] == ["as planned", "10 more test prompts", "twice the test rows"]
    assert found_for(study, "confirm={top: 2, seeds: 4}").comparisons == 15  # the search's own


def test_advice_is_what_lowers_a_difference_most_for_the_compute(study: Any) -> None:
    """Where only prompts vary, more prompts; where only seeds do, a seed; where only rows do, rows."""
    nothing = dataclasses.replace(ASSUMED.found.difference, **dict.fromkeys(("prompt", "seed_prompt", "seed_row"), 0.0))
    nothing = dataclasses.replace(nothing, seed=0.0, prompt_row=0.0, residual=1e-6)
    for part, name in (
        ("prompt", "10 more test prompts"),
        ("seed", "one more seed"),
        ("row", "twice the test rows"),
    ):
        variation = dataclasses.replace(ASSUMED.found, difference=dataclasses.replace(nothing, **{part: 0.001}))
        recorded = dataclasses.replace(ASSUMED, found=variation)
        assert found_for(study, "axes.seed=[0,1,2]", recorded=recorded).advice("mean").name == name


def test_noise_of_rows_is_nearly_all_of_a_std_of_ten_prompts_and_a_hundred_rows(study: Any) -> None:
    std, share, rows = found_for(study).dev_noise
    assert (std, share) == (pytest.approx(math.sqrt(0.02**2 + 0.05 / 100)), pytest.approx(5 / 9))
    assert rows == 100
    point = dataclasses.replace(ASSUMED.found, prompt=0.01**2, residual=0.16)
    assert point.row_noise(100) == pytest.approx(0.94, abs=0.01)


# from a run -----------------------------------------------------------------------------------------------------


def answers(rng: np.random.Generator, better: float = 0.0, p: int = 12, r: int = 80) -> Any:
    return rng.random((p, r)) < np.clip(0.75 + better + 0.05 * rng.standard_normal((p, 1)), 0, 1)


def recorded_run(folder: Path, study: Any, seeds: int) -> RunFolder:
    """Of two equal configurations; a seed is .1 better than the one before it."""
    rng = np.random.default_rng(0)
    points = [(seed, lr) for lr in (1e-3, 3e-3) for seed in range(seeds)]
    trials = [SimulatedTrial(seed, lr, answers(rng, 0.1 * (seed - 1))) for seed, lr in points]
    return RunFolder(Store.open(write_run(folder, study(), trials)))


def test_a_run_says_how_much_its_scores_vary(study: Any, tmp_path: Path) -> None:
    found = variation_of(recorded_run(tmp_path / "run", study, 3), study())
    assert found.seeds
    assert "2 configurations, 2 of them with several seeds, 12 test prompts x 80 rows" in found.source
    assert found.found.residual == pytest.approx(0.18, abs=0.04)  # of an accuracy of .75
    assert math.sqrt(found.found.prompt) == pytest.approx(0.05, abs=0.02)
    assert found.found.difference.residual + found.found.difference.prompt_row == pytest.approx(0.36, abs=0.08)
    assert math.sqrt(found.found.difference.seed / 2) == pytest.approx(0.1, abs=0.03)


def test_a_run_with_one_seed_each_knows_nothing_of_seeds_and_says_so(study: Any, tmp_path: Path) -> None:
    found = variation_of(recorded_run(tmp_path / "run", study, 1), study())
    assert not found.seeds
    planned = found_for(study, "axes.seed=[0,1,2]", recorded=found)
    assert [d.seeds for d in planned.designs] == [1, 1, 1]
    assert "unknown: no configuration of the run has two seeds" in shown(planned)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.metric=f1_macro", 'task.metric is "f1_macro" there and "accuracy" in this study'),
        ("task.labels={0: bad, 1: good}", 'task.labels is ["bad", "good"] there and ["no", "yes"] in this study'),
        ("task.fields=[text, title]", 'task.fields is ["text", "title"] there and ["text"] in this study'),
    ],
)
def test_a_run_of_another_task_is_refused(study: Any, tmp_path: Path, override: str, said: str) -> None:
    more = ["templates={plain: {}}"] if "labels" in override else []
    run = RunFolder(Store.open(write_run(tmp_path / "run", study(override, *more), [])))
    with pytest.raises(UserError) as error:
        variation_of(run, study())
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_without_two_comparable_configurations_is_refused(study: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    always_no = np.tile(np.arange(80) % 2 == 0, (12, 1))
    trials = [
        SimulatedTrial(0, 1e-3, answers(rng)),
        SimulatedTrial(1, 1e-3, answers(rng)),
        SimulatedTrial(0, 2e-3, answers(rng), status="stopped"),
        SimulatedTrial(0, 3e-3, always_no),
        SimulatedTrial(0, 4e-3, answers(rng, r=40)),  # other rows
        SimulatedTrial(0, 5e-3),
    ]
    run = RunFolder(Store.open(write_run(tmp_path / "run", study(), trials)))
    with pytest.raises(UserError, match="has 1 configuration with whole test scores of a trial that finished"):
        variation_of(run, study())
    with pytest.raises(UserError, match=r"is no run folder: it holds no study\.yaml"):
        variation_of(RunFolder(Store.open(str(tmp_path / "nothing"))), study())


# rungs ----------------------------------------------------------------------------------------------------------


def of_accuracy(share: float) -> Any:
    """[2, 40]: as many right as the share says, of both labels, alike for both prompts."""
    return np.tile(np.arange(40) < round(40 * share), (2, 1))


def ranked_run(folder: Path, study: Any, early: list[float], status: str = "finished") -> RunFolder:
    end = [0.3 + 0.05 * k for k in range(len(early))]
    grids = [(of_accuracy(a), of_accuracy(b)) for a, b in zip(early, end, strict=True)]
    trials = [
        SimulatedTrial(lr=1e-3 * (k + 1), dev={50: a, 100: a, 200: b}, status=status) for k, (a, b) in enumerate(grids)
    ]
    return RunFolder(Store.open(write_run(folder, study(), trials)))


def test_rungs_that_rank_as_the_end_does_lose_nobody(study: Any, tmp_path: Path) -> None:
    run = ranked_run(tmp_path / "run", study, [0.30, 0.35, 0.40, 0.45, 0.5, 0.55, 0.6, 0.65])
    first, second = rung_rankings(run, study())
    assert (first.share, first.correlation, first.survives) == (0.25, pytest.approx(1.0), 1.0)
    assert (second.share, second.correlation, second.survives) == (0.5, pytest.approx(1.0), 1.0)
    assert (first.going_on, second.going_on, first.ranked, first.of) == (4, 2, 8, 8)
    assert "at 0.25 a rank correlation of 1.00 with the end (8 of 8 configurations have both)" in first.text


def test_rungs_that_rank_the_other_way_stop_the_best(study: Any, tmp_path: Path) -> None:
    run = ranked_run(tmp_path / "run", study, [0.65, 0.6, 0.55, 0.5, 0.45, 0.40, 0.35, 0.30])
    for found in rung_rankings(run, study()):
        assert found.correlation == pytest.approx(-1.0)
        assert found.survives < 0.1  # but for sets of nearly one configuration


def test_where_rungs_say_nothing_the_best_goes_on_as_chance_has_it() -> None:
    rng = np.random.default_rng(1)
    shares = [survival(*rng.standard_normal((2, 16)), going_on=8) for _ in range(40)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.12)  # drawn twice, a best one has two chances


def test_seeds_are_ranked_together(study: Any, tmp_path: Path) -> None:
    """Two of each. A setting of which a seed was stopped is left out, one with a seed that gives one label is last, and
    one that has no scores at a rung is not ranked there."""
    ends = [(0.8, 0.8), (0.7, 0.7), (0.6, 0.6), (0.5, 0.5), (0.95, 0.6)]
    every = [(lr, seed, end) for lr, seeds in enumerate(ends, 1) for seed, end in enumerate(seeds)]
    trials = [
        SimulatedTrial(seed, lr / 1000, dev={50: of_accuracy(end), 100: of_accuracy(end), 200: of_accuracy(end)})
        for lr, seed, end in every
    ]
    found = rung_rankings(RunFolder(Store.open(write_run(tmp_path / "run", study(), trials))), study())
    assert [(f.ranked, f.of, f.correlation) for f in found] == [(5, 5, pytest.approx(1.0))] * 2
    always_no = np.tile(np.arange(40) % 2 == 0, (2, 1))
    alike = dataclasses.replace(trials[0], dev={**trials[0].dev, 50: always_no})
    stopped = dataclasses.replace(trials[8], status="stopped")
    run = RunFolder(Store.open(write_run(tmp_path / "mixed", study(), [alike, *trials[1:8], stopped, trials[9]])))
    first, second = rung_rankings(run, study())
    assert (first.ranked, first.of, first.correlation) == (4, 5, pytest.approx(-0.2))  # the best at the end is last
    assert second.correlation == pytest.approx(1.0)
    early = dataclasses.replace(trials[9], dev={50: trials[9].dev[50], 200: trials[9].dev[200]})
    found = rung_rankings(RunFolder(Store.open(write_run(tmp_path / "gap", study(), [*trials[:9], early]))), study())
    assert [f.ranked for f in found] == [5, 4]


def test_too_few_configurations_or_other_rungs_say_nothing(study: Any, tmp_path: Path) -> None:
    run = ranked_run(tmp_path / "run", study, [0.3, 0.35, 0.4, 0.45])
    assert len(rung_rankings(run, study())) == 2
    assert rung_rankings(run, study("scheduler.rungs=[0.3, 1]")) == []  # no scores there
    assert rung_rankings(run, study("scheduler.name=none")) == []
    assert rung_rankings(ranked_run(tmp_path / "few", study, [0.3, 0.35, 0.4]), study()) == []
    assert rung_rankings(ranked_run(tmp_path / "cut", study, [0.3, 0.35, 0.4, 0.5], "stopped"), study()) == []
    assert rung_rankings(RunFolder(Store.open(write_run(tmp_path / "none", study(), []))), study()) == []
