"""The robustness table speaks of configurations: seeds are averaged, and their luck is in every interval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_scores import SETTINGS, P, R, answers, folder

from sweeps.run_folder.reading import RunFolder
from sweeps.run_folder.trials_file import write_trials
from sweeps.statistics import seeds as sd
from sweeps.tables import robustness as tables
from trainer.measure.metrics import grid_objective
from trainer.store import Store, scores_name

RIGHT = {"a": (0.80, 0.84, 0.86), "b": (0.70, 0.72, 0.71), "c": (0.75, 0.60, 0.78)}  # configuration -> by seed
STATUS = {"c1": "failed"}
Answers = Any


def made(path: Path, right: Mapping[str, tuple[float, ...]] = RIGHT, **roles: str) -> tuple[Store, dict[str, Answers]]:
    """A trial per configuration and seed, such as ``b2``, and its test answers."""
    trials, more, tests = {}, {}, {}
    for k, (name, each) in enumerate(right.items()):
        for seed, chance in enumerate(each):
            trial_id = f"{name}{seed}"
            tests[trial_id] = answers(chance, 10 * k + seed)
            trials[trial_id] = (
                STATUS.get(trial_id, "finished"), 40, answers(chance, 50 + 10 * k + seed), tests[trial_id], name, 0.0,
            )  # fmt: skip
            more[trial_id] = {"seed": seed, "configuration": name * 3, "role": roles.get(trial_id, "search")}
    return folder(path, trials, more), tests


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return made(tmp_path / "run")[0]


def rows_of(store: Store) -> dict[str, dict[str, Any]]:
    table = tables.make_tables(RunFolder(store), SETTINGS).robustness
    return {row["configuration"]: row for row in table.to_pylist()}


def correct(answer: Answers) -> Any:
    return (answer == np.arange(R) % 2).astype(float)


def test_a_row_is_the_average_of_its_seeds_with_their_luck_in_the_interval(tmp_path: Path) -> None:
    store, tests = made(tmp_path / "run")
    found, cells = rows_of(store), {n: np.array([correct(tests[f"{n}{k}"]) for k in range(3)]) for n in "ab"}
    assert list(found) == ["aaa", "bbb", "ccc"]
    row, of_study = found["aaa"], sd.pooled([sd.seed_variance(c) for c in cells.values()])
    mean, _ = sd.mean_test([cells["a"]], of_study)
    assert (row["mean"], row["mean_low"], row["mean_high"]) == pytest.approx((mean.value, mean.low, mean.high))
    assert row["seed_std"] == pytest.approx(cells["a"].mean(axis=(1, 2)).std(ddof=1))
    assert row["std"] == pytest.approx(np.sqrt((cells["a"].mean(axis=2).std(axis=1, ddof=1) ** 2).mean()))
    assert row["min"] == pytest.approx(cells["a"].mean(axis=2).min(axis=1).mean())
    assert (row["n_seeds"], row["seeds"], row["speaks_of"]) == (3, "0, 1, 2", "settings")
    assert (row["winner"], row["trial_id"]) == (True, "a0")
    gap, p = sd.mean_test([cells["b"], cells["a"]], of_study)
    other = found["bbb"]
    assert (other["diff_best"], other["diff_best_low"], other["p_best"]) == pytest.approx((gap.value, gap.low, p))


def test_trials_are_one_level_below(store: Store) -> None:
    made_tables = tables.make_tables(RunFolder(store), SETTINGS)
    trials = {row["trial_id"]: row for row in made_tables.trials.to_pylist()}
    assert sorted(trials) == [f"{n}{k}" for n in "abc" for k in range(3)]
    of_a = [trials[f"a{k}"]["mean"] for k in range(3)]
    assert rows_of(store)["aaa"]["mean"] == pytest.approx(np.mean(of_a))
    assert made_tables.trials.column_names[:4] == ["trial_id", "n_prompts", "n_rows", "mean"]


def test_a_failed_seed_is_the_configurations_failure(store: Store) -> None:
    row = rows_of(store)["ccc"]
    assert row["status"] == "failed"
    assert row["rank"] is None


def test_the_winner_is_the_best_average_and_not_the_luckiest_seed(tmp_path: Path) -> None:
    store, _ = made(tmp_path / "run", {"a": (0.80, 0.80, 0.80), "b": (0.97, 0.60, 0.62)})
    assert [name for name, row in rows_of(store).items() if row["winner"]] == ["aaa"]


def test_a_lost_dev_file_changes_no_objective(tmp_path: Path) -> None:
    before = rows_of(made(tmp_path / "run")[0])
    store, _ = made(tmp_path / "lost")
    trials = RunFolder(store).trials
    for row in trials:
        grid = RunFolder(store).last_grid(row["trial_id"], "dev")
        assert grid is not None
        found = grid_objective(grid, "accuracy", 1.0)
        row |= {"objective": found.value, "dev_std": found.std, "stderr": found.stderr, "degenerate": False}
    write_trials(store, trials, {})
    store.fs.delete_file(store.path(scores_name("a1", 40, "dev")))
    after = rows_of(store)
    assert after["aaa"]["dev_objective"] == pytest.approx(before["aaa"]["dev_objective"])
    assert [row["winner"] for row in after.values()] == [row["winner"] for row in before.values()]


def test_a_seed_that_failed_is_named_and_stays_in_the_figures(tmp_path: Path) -> None:
    chances = {"a": (0.80, 0.79, 0.81), "b": (0.82, 0.80, 0.81), "c": (0.80, 0.81, 0.35)}
    store, tests = made(tmp_path / "run", chances)
    found = rows_of(store)
    assert {name: row["odd_seeds"] for name, row in found.items()} == {"aaa": None, "bbb": None, "ccc": "2"}
    assert found["ccc"]["mean"] == pytest.approx(np.mean([correct(tests[f"c{k}"]).mean() for k in range(3)]))
    tables.write_tables(RunFolder(store), SETTINGS)
    assert "seed 2 far below the others" in store.read("tables/robustness.md").decode()


def test_one_seed_takes_the_variance_of_the_others(tmp_path: Path) -> None:
    store, tests = made(tmp_path / "run", {"a": (0.80, 0.84, 0.76), "b": (0.7,)})
    row = rows_of(store)["bbb"]
    own = correct(tests["b0"])
    alone, _ = sd.mean_test([own[None]], sd.NO_SEEDS)
    assert row["speaks_of"] == "settings"
    assert row["mean_high"] - row["mean_low"] > alone.high - alone.low
    assert row["seed_std"] is None


def test_one_seed_everywhere_says_that_it_speaks_of_fine_tunes(tmp_path: Path) -> None:
    store, tests = made(tmp_path / "run", {"a": (0.80,), "b": (0.7,)})
    row = rows_of(store)["bbb"]
    assert (row["speaks_of"], row["n_seeds"]) == ("fine-tunes", 1)
    tables.write_tables(RunFolder(store), SETTINGS)
    page = store.read("tables/robustness.md").decode()
    assert "speak of these fine-tunes, not of their settings" in page
    assert row["mean"] == pytest.approx(correct(tests["b0"]).mean())
    assert (row["n_prompts"], row["n_rows"]) == (P, R)


def test_the_page_names_configurations_seeds_and_the_std_between_them(store: Store) -> None:
    tables.write_tables(RunFolder(store), SETTINGS)
    page = store.read("tables/robustness.md").decode()
    assert "| rank | configuration | seeds | template |" in page
    assert "std between seeds" in page
    assert "Seeds are a random factor" in page
    assert "| a0 | aaa |" in store.read("tables/trials.md").decode()
