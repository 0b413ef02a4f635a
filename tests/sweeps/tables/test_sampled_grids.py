"""Tables from test grids that were scored in stages, against those of the same trials scored whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sampled_run import CONSTANT, LABELS, SEEDED, STEP, TRIALS, Simulated, assets, decisions_of, score_in_stages
from tiny_run import write_trials

from sweeps.run_folder.reading import RunFolder
from sweeps.tables import robustness as tables
from sweeps.tables.columns import Settings, is_sampled
from sweeps.tables.pages import robustness_page
from trainer.measure.precision import Precision
from trainer.store import Store

P, R = 12, 900
SETTINGS = Settings("accuracy", 1.0, (0.7, 0.8), True, labels=LABELS, sampled=True)
Z = 1.96


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[RunFolder, Any, Any]]:
    """``whole`` and ``sampled``: the folder, its robustness table by trial, and the groups' table by axis value."""
    found = {}
    for name, wanted in (("whole", None), ("sampled", Precision(0.015))):
        simulated = Simulated(Store.open(tmp_path_factory.mktemp(name)), assets(P, R))
        simulated.on_dev(TRIALS)
        score_in_stages(simulated, wanted, decisions_of(TRIALS))
        write_trials(simulated.store, TRIALS)
        run = RunFolder(simulated.store)
        table = tables.make_tables(run, SETTINGS)
        rows = {r["trial_id"]: r for r in table.robustness.to_pylist()}
        found[name] = (run, rows, {(r["axis"], r["value"]): r for r in table.groups.to_pylist()})
        (Path(simulated.store.root) / "page.md").write_text(robustness_page(table.robustness, SETTINGS))
    return found


def best(made: Any) -> list[Any]:
    """The trials, those first that were scored whole."""
    rows = made["sampled"][1]
    return sorted((t for t in TRIALS if t != CONSTANT), key=lambda t: is_sampled(rows[t.id]))


def test_sampled_trials_say_so_and_whole_ones_are_as_before(made: Any) -> None:
    whole, sampled = made["whole"][1], made["sampled"][1]
    part = [t for t in TRIALS if is_sampled(sampled[t.id])]
    assert len(part) == 3
    assert not any(is_sampled(row) for row in whole.values())
    for each in TRIALS:
        row, other = sampled[each.id], whole[each.id]
        assert (row["n_prompts"], row["n_rows"]) == (P, R)
        if each in part:
            assert 1000 < row["n_cells"] < P * R / 2
            assert (row["mean_sampling"] > 0) == (each != CONSTANT)  # which is right on one label, always
            assert row["std_sampling"] < 0.02
        else:
            assert (row["n_cells"], row["mean_sampling"], row["std_sampling"]) == (P * R, 0.0, 0.0)
            for name in ("mean", "mean_low", "std", "min", "top_low", "q50", "consistency", "roc_auc"):
                assert row[name] == other[name], name
    page = (Path(made["sampled"][0].store.root) / "page.md").read_text()
    assert f"3 trials were scored on {sampled[part[0].id]['n_cells']:,} of the {P * R:,} cells" in page
    assert "cells of the test grid" not in (Path(made["whole"][0].store.root) / "page.md").read_text()


def test_numbers_of_a_sample_are_near_those_of_the_whole_grid_and_their_intervals_wider(made: Any) -> None:
    whole, sampled = made["whole"][1], made["sampled"][1]
    for each in best(made)[2:]:
        row, other = sampled[each.id], whole[each.id]
        assert abs(row["mean"] - other["mean"]) < 3 * row["mean_sampling"] < 0.025
        near = {"std": 0.03, "min": 0.06, "q50": 0.04, "consistency": 0.04, "sensitivity": 0.04, "roc_auc": 0.04}
        near |= {
            "accuracy": 0.02,
            "f1_macro": 0.02,
            "f1[no]": 0.03,
            "matthews_corrcoef": 0.04,
            "test_objective": 0.04,
            "top": 0.35,
            "cps": 0.05,
        }
        for name, error in near.items():
            assert row[name] == pytest.approx(other[name], abs=error), name
        for name in ("mean", "std", "min", "q50"):
            width, of_whole = (r[f"{name}_high"] - r[f"{name}_low"] for r in (row, other))
            assert 0.6 * of_whole < width < 3 * of_whole, name
        assert row["mean_high"] - row["mean_low"] > 2 * Z * row["mean_sampling"]


def test_differences_are_paired_on_the_cells_that_both_have(made: Any) -> None:
    whole, sampled = made["whole"][1], made["sampled"][1]
    for each in best(made)[2:]:
        row, other = sampled[each.id], whole[each.id]
        assert row["diff_best_low"] < other["diff_best"] < row["diff_best_high"]
        assert row["p_best"] < 0.05
        unpaired = np.hypot(row["mean_high"] - row["mean_low"], other["mean_high"] - other["mean_low"])
        assert row["diff_best_high"] - row["diff_best_low"] < unpaired
    ahead = best(made)[:2]
    assert sampled[ahead[1].id]["diff_best"] == whole[ahead[1].id]["diff_best"]


def test_groups_are_averaged_on_the_cells_of_the_sample(made: Any) -> None:
    """Also over trials of which some were scored whole; the constant trial is in none."""
    whole, sampled = made["whole"][2], made["sampled"][2]
    for key in (("pool", "many"), ("lr", "0.01"), ("lr", "0.003333")):
        row, other = sampled[key], whole[key]
        assert row["n_averaged"] == other["n_averaged"] > 0
        assert row["mean"] == pytest.approx(other["mean"], abs=0.025)
        assert row["mean_low"] < other["mean"] < row["mean_high"]
        assert row["std"] == pytest.approx(other["std"], abs=0.03)
        assert row["min"] == pytest.approx(other["min"], abs=0.06)
    assert sampled["pool", "many"]["n_averaged"] == 4


@pytest.mark.parametrize("metric", ["f1_macro", "matthews_corrcoef"])
def test_other_metrics_are_estimated_from_the_same_cells(made: Any, metric: str) -> None:
    """Trials, differences and groups; the limits of a correlation are wider."""
    settings = replace(SETTINGS, metric=metric)
    found = {name: tables.make_tables(made[name][0], settings) for name in ("whole", "sampled")}
    whole, sampled = ({r["trial_id"]: r for r in found[name].robustness.to_pylist()} for name in ("whole", "sampled"))
    for each in best(made)[2:]:
        row, other = sampled[each.id], whole[each.id]
        assert is_sampled(row)
        assert row["mean"] == row[metric] == pytest.approx(other["mean"], abs=0.04)
        assert row["mean_low"] < other["mean"] < row["mean_high"]
        assert row["min_low"] <= other["min"] <= row["min_high"]
        assert row["diff_best_low"] < other["diff_best"] < row["diff_best_high"]
        assert row["n_cells"] == made["sampled"][1][each.id]["n_cells"]
    averaged = {(r["axis"], r["value"]): r for r in found["sampled"].groups.to_pylist()}["pool", "many"]
    assert averaged["mean_low"] < averaged["mean"] < averaged["mean_high"] <= 1.0


def test_the_same_folder_gives_the_same_table(made: Any) -> None:
    run = RunFolder(made["sampled"][0].store)
    again = tables.make_tables(run, SETTINGS).robustness
    assert {r["trial_id"]: r for r in again.to_pylist()} == made["sampled"][1]
    one = tables.of_one_trial(run, TRIALS[3].id, SETTINGS)
    assert one["mean_low"] == made["sampled"][1][TRIALS[3].id]["mean_low"]
    assert run.last_rung(TRIALS[3].id, "test").step == STEP  # type: ignore[union-attr]


def test_configurations_with_several_seeds_are_estimated_on_the_cells_of_all(tmp_path: Path) -> None:
    """Means, differences and the spread between seeds are near those of whole grids; intervals are for new seeds."""
    found: dict[str, dict[str, Any]] = {}
    for name, wanted in (("whole", None), ("sampled", Precision(0.015))):
        simulated = Simulated(Store.open(tmp_path / name), assets(P, R))
        simulated.on_dev(SEEDED)
        score_in_stages(simulated, wanted, decisions_of(SEEDED), SEEDED)
        write_trials(simulated.store, SEEDED)
        table = tables.make_tables(RunFolder(simulated.store), SETTINGS)
        found[name] = {row["configuration"]: row for row in table.robustness.to_pylist()}
    sampled = [name for name, row in found["sampled"].items() if is_sampled(row)]
    assert len(sampled) == 2
    for name, row in found["sampled"].items():
        other = found["whole"][name]
        assert (row["n_seeds"], row["speaks_of"]) == (2, "settings")
        assert row["mean"] == pytest.approx(other["mean"], abs=0.02)
        assert row["seed_std"] == pytest.approx(other["seed_std"], abs=0.015)
        for column in ("mean", "std", "min"):
            width, of_whole = (r[f"{column}_high"] - r[f"{column}_low"] for r in (row, other))
            assert 0.5 * of_whole < width < 3 * of_whole, column
        if name in sampled:
            assert row["std_average"] is None
            assert row["mean_sampling"] > 0
            assert row["diff_best"] == pytest.approx(other["diff_best"], abs=0.02)
            assert row["diff_best_low"] < other["diff_best"] < row["diff_best_high"]
