"""Confirmation: some fresh seeds choose, the others report, and what is reported is not too good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_scores import SETTINGS, P, R, answers, folder
from scipy.stats import norm

from sweeps.run_folder.reading import RunFolder
from sweeps.tables import robustness as tables
from sweeps.tables.configurations import SeedVariances
from sweeps.tables.confirmation import confirmation_rows, shrinkage
from sweeps.tables.current import winning_row, written_tables
from sweeps.tables.winner import by_dev
from trainer.store import Store

# configuration -> dev and test chance (below 0: one label) of: the search's trial, two seeds that choose, two that
# report
CHANCES = {
    "lucky": [(0.95, 0.9), (0.70, 0.7), (0.72, 0.7), (0.71, 0.7), (0.73, 0.7)],
    "good": [(0.85, 0.8), (0.84, 0.8), (0.86, 0.8), (0.85, 0.8), (0.83, 0.8)],
    "other": [(0.60, 0.6)],
}
ROLES = ("search", "choose", "choose", "report", "report")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return made(tmp_path / "run")


def made(path: Path, chances: dict[str, list[tuple[float, float]]] = CHANCES) -> Store:
    trials: dict[str, Any] = {}
    more = {}
    for k, (name, each) in enumerate(chances.items()):
        for seed, (dev, test) in enumerate(each):
            trial_id, draw = f"{name}{seed}", 20 * k + 2 * seed
            given = (np.zeros((P, R), int),) * 2 if dev < 0 else (answers(dev, draw), answers(test, draw + 1))
            trials[trial_id] = ("finished", 40, *given, name, 0.0)
            more[trial_id] = {"seed": seed, "configuration": name, "role": ROLES[seed]}
    return folder(path, trials, more)


def test_the_seeds_that_choose_take_the_winner_and_the_others_report(store: Store) -> None:
    rows = tables.make_tables(RunFolder(store), SETTINGS).confirmation.to_pylist()
    good, lucky = rows
    assert [(r["configuration"], r["winner"]) for r in rows] == [("good", True), ("lucky", False)]
    trials = {r["trial_id"]: r for r in tables.make_tables(RunFolder(store), SETTINGS).trials.to_pylist()}
    for column, seeds in (("chosen_objective", (1, 2)), ("objective", (3, 4))):
        each = np.array([on_dev(store, f"good{k}") for k in seeds])
        std = np.sqrt((each.std(axis=1, ddof=1) ** 2).mean() + each.mean(axis=1).var(ddof=1))
        assert good[column] == pytest.approx(each.mean() - std)
    assert good["mean"] == pytest.approx(np.mean([trials[f"good{k}"]["mean"] for k in (3, 4)]))
    assert good["search_objective"] == pytest.approx(trials["good0"]["dev_objective"])
    assert (good["trial_id"], good["n_choose"], good["n_report"]) == ("good3", 2, 2)
    assert lucky["diff_best"] == pytest.approx(lucky["mean"] - good["mean"])
    assert lucky["shrinkage"] == pytest.approx(lucky["search_objective"] - lucky["objective"])


def on_dev(store: Store, trial_id: str) -> Any:
    """[P] accuracies on the dev prompts."""
    rows = store.read_scores(trial_id, 40, "dev")
    assert rows is not None
    found = [[r["correct"] for r in rows[0].to_pylist() if r["prompt_id"] == f"dev{i}"] for i in range(P)]
    return np.array(found, float).mean(axis=1)


def test_the_winner_of_the_table_is_the_confirmed_one_and_the_searchs_figures_stay(store: Store) -> None:
    rows = {r["configuration"]: r for r in tables.make_tables(RunFolder(store), SETTINGS).robustness.to_pylist()}
    assert [name for name, row in rows.items() if row["winner"]] == ["good"]
    assert rows["lucky"]["dev_objective"] > rows["good"]["dev_objective"]
    assert rows["lucky"]["n_seeds"] == 1
    assert rows["lucky"]["speaks_of"] == "settings"  # the fresh seeds say how much a seed changes


def test_the_written_tables_are_read_whole_and_their_winner_is_a_seed_that_reports(store: Store) -> None:
    """Without the confirmation, another trial would be exported."""
    assert written_tables(RunFolder(store)) is None
    tables.write_tables(RunFolder(store), SETTINGS)
    made, found = tables.make_tables(RunFolder(store), SETTINGS), written_tables(RunFolder(store))
    assert found is not None
    for name in ("robustness", "trials", "groups", "confirmation"):
        assert getattr(found, name).to_pylist() == getattr(made, name).to_pylist()
    winner = winning_row(found)
    assert winner is not None
    assert (winner["configuration"], winner["trial_id"]) == ("good", "good3")
    store.remove("tables/confirmation.parquet")
    assert written_tables(RunFolder(store)) is None


def test_what_is_left_of_the_lead_is_said(store: Store) -> None:
    rows = tables.make_tables(RunFolder(store), SETTINGS).confirmation.to_pylist()
    good, lucky = rows
    [sentence] = shrinkage(rows)
    before = 100 * (good["search_objective"] - lucky["search_objective"])
    after = 100 * (good["objective"] - lucky["objective"])
    assert before < 0 < after
    good_name, lucky_name = ("good (trial good0 of the search)", "lucky (trial lucky0 of the search)")
    assert f"{good_name} was {-before:.1f} points behind {lucky_name} in the search, and {after:.1f}" in sentence
    tables.write_tables(RunFolder(store), SETTINGS)
    page = store.read("tables/confirmation.md").decode()
    assert sentence in page
    assert "| **good** | good |" in page


def test_a_configuration_whose_fresh_seed_gives_one_label_is_not_chosen(tmp_path: Path) -> None:
    store = made(tmp_path / "run", {**CHANCES, "good": [*CHANCES["good"][:4], (-1.0, -1.0)]})
    rows = {r["configuration"]: r for r in tables.make_tables(RunFolder(store), SETTINGS).confirmation.to_pylist()}
    assert rows["lucky"]["winner"]


def test_where_no_confirmed_configuration_can_win_the_fix_is_another_one(tmp_path: Path) -> None:
    """Run again, a study whose fresh seeds all finished trains nothing."""
    one_label = {name: [*each[:4], (-1.0, -1.0)] if len(each) > 1 else each for name, each in CHANCES.items()}
    store = made(tmp_path / "run", one_label)
    settings = replace(SETTINGS, confirms=True)
    tables.write_tables(RunFolder(store), settings)
    page = store.read("tables/robustness.md").decode()
    assert "No winner: a fresh seed of each of the best configurations (confirm) gives one label nearly always" in page
    assert "Run the study again, which goes on" not in page


def test_the_confirmation_of_an_earlier_study_does_not_stay_in_the_folder(store: Store) -> None:
    tables.write_tables(RunFolder(store), SETTINGS)
    assert store.exists("tables/confirmation.md")
    searched = {"lucky": CHANCES["lucky"][:1], "good": CHANCES["good"][:1]}
    tables.write_tables(RunFolder(made(Path(store.uri), searched)), SETTINGS)
    assert [name for name in store.names("tables") if name.startswith("confirmation")] == []


def test_the_confirmed_objective_is_unbiased_where_the_searchs_is_too_good() -> None:
    """m equal configurations. The best of m is too good by e * PhiInv((m - .375) / (m + .25)); of its fresh seeds,
    those that choose are too good, too, and those that report are not."""
    rng, m, times, e = np.random.default_rng(0), 8, 2000, 0.01
    by_mean = replace(SETTINGS, std_weight=0.0)
    found: dict[str, list[float]] = {"search_objective": [], "chosen_objective": [], "objective": [], "shrinkage": []}
    for _ in range(times):
        searched = [trial(f"c{i}", 0, "search", rng.normal(0.8, e)) for i in range(m)]
        top = by_dev(searched)[:2]
        fresh = [
            trial(row["configuration"], seed, ROLES[seed], rng.normal(0.8, e)) for row in top for seed in range(1, 5)
        ]
        winner = confirmation_rows([*searched, *fresh], lambda one: None, SeedVariances(), by_mean)[0]
        assert winner["winner"]
        for name, values in found.items():
            values.append(winner[name])
    too_good = e * norm.ppf((m - 0.375) / (m + 0.25))  # of the best one; the winner is the best or the second
    second = e * norm.ppf((m - 1 - 0.375) / (m + 0.25))
    means = {name: np.mean(values) for name, values in found.items()}
    assert means["search_objective"] - 0.8 == pytest.approx((too_good + second) / 2, abs=0.05 * e)
    assert means["chosen_objective"] - 0.8 > 0.3 * e  # the better of two means of two
    assert means["objective"] == pytest.approx(0.8, abs=0.05 * e)
    assert means["shrinkage"] == pytest.approx(means["search_objective"] - means["objective"])


def trial(configuration: str, seed: int, role: str, objective: float) -> dict[str, Any]:
    """A row of a finished trial, as tables/confirmation reads it."""
    row = {"trial_id": f"{configuration}-{seed}", "configuration": configuration, "seed": seed, "role": role}
    row |= {"status": "finished", "degenerate": False, "dev_objective": objective, "dev_std": 0.0, "rung": 40}
    return row
