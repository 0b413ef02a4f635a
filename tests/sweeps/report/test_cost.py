"""What the run's stages took, against sums by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reported_run import charts_of, data_of, make_run, make_study, make_trial, page_of, record, score_rows

from sweeps.run_folder import trials_file
from trainer import trial as t
from trainer.store import Store

DEV, TEST = ["d0", "d1"], ["p0", "p1", "p2"]  # 60 rows each


def write(store: Store, trial: t.Trial, pool: str, train: float, score: float, tokens: int) -> None:
    names = DEV if pool == "dev" else TEST
    rows = score_rows(trial.id, 40, pool, [0.8] * len(names), names)
    times = {"train_seconds": train, "score_seconds": score, "seconds": train + score, "tokens": tokens}
    store.write_scores(trial.id, 40, pool, rows, {**record(trial, 40, 0.5), **times})


def listed(store: Store, trials: dict[t.Trial, tuple[str, float]], **state: Any) -> None:
    """``trials``: role and seconds of each."""
    rows = [
        {**t.axis_columns(x), "trial_id": x.id, "configuration": x.configuration, "role": role, "seconds": seconds}
        | {"status": "finished", "rung": 40, "steps": 40, "reason": "", "tokens": 1, "test_mean": 0.8}
        for x, (role, seconds) in trials.items()
    ]
    trials_file.write_trials(store, rows, state)


def bars(folder: Path, name: str) -> list[tuple[str, float, float]]:
    chart = charts_of(page_of(folder)[0]).get(name, {"datasets": {}})
    return [(row["line"], row["from"], row["to"]) for row in data_of(chart)]


def made(folder: Path) -> tuple[Store, t.Trial, t.Trial]:
    store = make_run(folder, make_study(scheduler={"name": "none"}))
    return store, make_trial(1e-3), make_trial(1e-3, seed=7)


def test_each_stage_begins_where_the_one_before_ends_and_the_rest_is_named(tmp_path: Path) -> None:
    store, search, fresh = made(tmp_path)
    write(store, search, "dev", 40, 8, 600)
    write(store, search, "test", 0, 12, 0)
    write(store, fresh, "dev", 20, 4, 300)
    write(store, fresh, "test", 0, 6, 0)
    listed(store, {search: ("search", 60.0), fresh: ("report", 40.0)})
    assert bars(tmp_path, "time") == [
        ("Search, training: 40 seconds (40 %)", 0, 40),
        ("Search, dev scoring: 8 seconds (8 %)", 40, 48),
        ("Search, test scoring: 12 seconds (12 %)", 48, 60),
        ("Confirmation, training: 20 seconds (20 %)", 60, 80),
        ("Confirmation, dev scoring: 4 seconds (4 %)", 80, 84),
        ("Confirmation, test scoring: 6 seconds (6 %)", 84, 90),
        ("In no score file: 10 seconds (10 %)", 90, 100),
        ("All: 100 seconds", 0, 100),
    ]
    assert bars(tmp_path, "cells") == [
        ("Search, dev scoring: 120 (20 %)", 0, 120),
        ("Search, test scoring: 180 (30 %)", 120, 300),
        ("Confirmation, dev scoring: 120 (20 %)", 300, 420),
        ("Confirmation, test scoring: 180 (30 %)", 420, 600),
        ("All: 600", 0, 600),
    ]
    assert bars(tmp_path, "tokens") == [
        ("Search, training: 600 (67 %)", 0, 600),
        ("Confirmation, training: 300 (33 %)", 600, 900),
        ("All: 900", 0, 900),
    ]


def test_without_a_confirmation_stages_have_no_prefix_and_a_single_one_is_not_drawn(tmp_path: Path) -> None:
    store, search, _ = made(tmp_path)
    write(store, search, "dev", 5400, 900, 600)
    write(store, search, "test", 0, 900, 0)
    listed(store, {search: ("search", 7200.0)}, began=1e9, written=1e9 + 10_800, over=True)
    assert bars(tmp_path, "time") == [
        ("Training: 90 minutes (75 %)", 0, 1.5),
        ("Dev scoring: 15 minutes (12 %)", 1.5, 1.75),
        ("Test scoring: 15 minutes (12 %)", 1.75, 2),
        ("All: 2 hours", 0, 2),
    ]
    assert bars(tmp_path, "tokens") == []
    said = page_of(tmp_path)[1].words
    assert "By the wall clock the driver's last start was 3 hours before its end" in said
    assert "Not in it, since no host records it: starting, loading the base model" in said
    assert "In no score file" not in said


def test_rungs_of_an_earlier_study_beyond_the_end_of_a_trial_do_not_count(tmp_path: Path) -> None:
    store, search, _ = made(tmp_path)
    write(store, search, "dev", 30, 10, 600)
    rows = score_rows(search.id, 80, "dev", [0.8, 0.8], DEV)
    store.write_scores(search.id, 80, "dev", rows, {**record(search, 80, 0.5), "train_seconds": 500.0})
    listed(store, {search: ("search", 40.0)})
    assert bars(tmp_path, "time")[-1] == ("All: 40 seconds", 0, 40)


def test_records_without_a_division_of_their_time_are_not_accounted_for(tmp_path: Path) -> None:
    store, search, _ = made(tmp_path)
    rows = score_rows(search.id, 40, "dev", [0.8, 0.8], DEV)
    told = {name: value for name, value in record(search, 40, 0.5).items() if not name.endswith("_seconds")}
    store.write_scores(search.id, 40, "dev", rows, told)
    write(store, search, "test", 0, 3, 0)
    listed(store, {search: ("search", 15.0)})
    assert bars(tmp_path, "time") == [
        ("Test scoring: 3 seconds (20 %)", 0, 3),
        ("In no score file: 12 seconds (80 %)", 3, 15),
        ("All: 15 seconds", 0, 15),
    ]


@pytest.mark.parametrize("name", ["time", "cells", "tokens"])
def test_a_run_that_has_only_begun_has_no_waterfall(name: str, tmp_path: Path) -> None:
    make_run(tmp_path)
    assert bars(tmp_path, name) == []
