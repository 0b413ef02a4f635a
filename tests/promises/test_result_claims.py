"""The rows of docs/results.md: verdicts by the page's rule, and how they come out of runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import ROOT
from staged_study import run_in_process, write_study
from tiny_run import LABELLED, make_run

from sweeps.paft.changes import Change
from sweeps.run_folder.reading import RunFolder
from sweeps.study.load import load_study
from sweeps.trials.from_points import make_trial, points_of
from sweeps.trials.load_content import content_of
from trainer.store import Store


@pytest.fixture(scope="module")
def benchmarks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import claim_table
        import real_plw_claims
        import real_staged

        yield {"claims": claim_table, "plw": real_plw_claims, "staged": real_staged}


def test_verdicts(benchmarks: Any) -> None:
    c = benchmarks["claims"]
    for low, high, p, heavy, says, verdict in (
        (0.01, 0.05, 0.001, False, c.RISES, "confirmed"),
        (-0.05, -0.01, 0.001, False, c.RISES, "refuted"),
        (-0.05, -0.01, 0.001, False, c.FALLS, "confirmed"),
        (-0.01, 0.05, 0.2, False, c.RISES, "undecided"),
        (0.01, 0.05, 0.001, True, c.RISES, "undecided"),
        (0.01, 0.05, 0.2, False, c.RISES, "undecided"),  # after the correction
        (-0.02, 0.02, 0.01, False, c.HARDLY, "confirmed"),
        (0.04, 0.08, 0.01, False, c.HARDLY, "refuted"),
        (0.01, 0.05, 0.01, False, c.HARDLY, "undecided"),
        (-0.02, 0.30, 0.01, False, c.NO_WORSE, "confirmed"),
        (-0.20, -0.04, 0.01, False, c.NO_WORSE, "refuted"),
        (-0.05, 0.02, 0.9, False, c.NO_WORSE, "undecided"),
    ):
        claim = c.Claim("x", "y", "a - b", "", Change((low + high) / 2, low, high, p, heavy), says, p_holm=p)
        assert claim.verdict == verdict, (low, high, p, heavy, says)


def test_a_family_is_corrected_together_and_unknown_p_values_stay_out(benchmarks: Any) -> None:
    c = benchmarks["claims"]
    family = [c.Claim("x", "y", "", "", Change(0.1, 0.05, 0.15, p, False), c.RISES) for p in (0.04, math.nan, 0.01)]
    assert [one.p_holm for one in c.corrected(family)] == pytest.approx([0.04, math.nan, 0.02], nan_ok=True)
    assert [one.verdict for one in family] == ["confirmed", "undecided", "confirmed"]


def test_weights_are_compared_as_their_averages_differ(
    benchmarks: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    axes = {"lora": {"r": 2}, "lr": 1e-2, "steps": 2, "plw": [0.0, 0.1, 1.0], "seed": [0, 1, 2]}
    uri, _ = make_run(tmp_path_factory.mktemp("plw"), LABELLED, axes=axes)
    run = RunFolder(Store.open(uri))
    none, small, full = (
        np.mean([run.last_grid(row["trial_id"], "test").correct.mean() for row in run.trials if row["plw"] == weight])
        for weight in axes["plw"]
    )
    rows = {line[2]: [float(x) for x in line[4:7]] for line in benchmarks["plw"].short(run) if line[-1] != "reported"}
    assert {pair: value for pair, (value, _, _) in rows.items()} == {
        "quadratic term": pytest.approx(50.0 * (none + full) - 100.0 * small, abs=0.06),
        "0.1 - 0": pytest.approx(100.0 * (small - none), abs=0.06),
        "1 - 0.1": pytest.approx(100.0 * (full - small), abs=0.06),
    }
    assert all(low < value < high for value, low, high in rows.values())
    of_rows = {line[2]: [float(x) for x in line[4:7]] for line in benchmarks["plw"].classification(run)}
    assert {pair: value for pair, (value, _, _) in of_rows.items()} == {
        "0.1 - 0": pytest.approx(100.0 * (small - none), abs=0.06),
        "1 - 0": pytest.approx(100.0 * (full - none), abs=0.06),
    }


def test_the_winner_of_a_staged_search_is_trained_again_with_the_same_settings(benchmarks: Any, tmp_path: Path) -> None:
    study, staged = write_study(tmp_path), benchmarks["staged"]
    run_in_process(study, tmp_path / "results" / "staged")
    won = staged.winner(tmp_path / "results", "staged")
    words = ["stages=null", *staged.settings_of(won), f"axes.seed={won['seed']}"]
    changed = load_study(study, words)
    (point,) = points_of(changed)
    again = make_trial(changed, point, content_of(changed))
    assert again.id == won["trial_id"]
