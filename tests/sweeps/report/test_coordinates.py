"""Parallel coordinates: which configurations are drawn, and where their lines meet the axes."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
from reported_run import add_list, add_trial, charts_of, data_of, make_run, make_study, make_trial, page_of

from sweeps.report import coordinates
from sweeps.report.coordinates import scale_of
from trainer import trial as t


def trial_of(lr: float, r: int, template: str) -> t.Trial:
    return dataclasses.replace(make_trial(lr, template=template), lora=t.Lora(r=r))


def run_of(folder: Path, trials: dict[t.Trial, str]) -> None:
    """``trials``: status of each; one that finished is the better, the earlier it stands."""
    store = make_run(folder, make_study(templates={"plain": {}, "chat": {}}, scheduler={"rungs": [0.5, 1.0]}))
    for place, (trial, status) in enumerate(trials.items()):
        if status != "failed":
            add_trial(store, trial, 0.95 - 0.15 * place, rungs=1 if status == "stopped" else 2)
    add_list(store, [(x, s, {"finished": 40, "stopped": 20}.get(s, 0), "") for x, s in trials.items()])


def lines(folder: Path) -> dict[str, dict[str, Any]]:
    """Trial -> axis -> place."""
    chart = charts_of(page_of(folder)[0]).get("coordinates", {"datasets": {}})
    found: dict[str, dict[str, Any]] = {}
    for row in data_of(chart):
        if "id" in row:
            found.setdefault(row["id"], {})[row["axis"]] = row["at"]
    return found


def test_each_line_meets_each_axis_at_its_value_and_ends_at_its_mean(tmp_path: Path) -> None:
    trials = [trial_of(1e-4, 4, "plain"), trial_of(1e-3, 8, "chat"), trial_of(1e-2, 16, "plain")]
    run_of(tmp_path, dict.fromkeys(trials, "finished"))
    found = lines(tmp_path)
    assert found.keys() == {trial.id for trial in trials}
    assert [found[x.id]["template"] for x in trials] == [1, 0, 1]  # by name
    assert [found[x.id]["r"] for x in trials] == [0, pytest.approx(1 / 3, abs=1e-4), 1]
    assert [found[x.id]["lr"] for x in trials] == [0, 0.5, 1]  # on a logarithmic scale
    means = [found[x.id]["mean accuracy"] for x in trials]
    assert means == [1, pytest.approx(0.5, abs=0.35), 0]
    said = page_of(tmp_path)[1].words
    assert "A line is one of 3 trials that finished and don't give one label nearly always" in said
    assert "The winner has a colour. On a logarithmic scale: lr." in said


def test_only_trials_that_finished_are_drawn(tmp_path: Path) -> None:
    finished = [trial_of(1e-4, 4, "plain"), trial_of(1e-3, 8, "chat")]
    others = {trial_of(3e-3, 4, "chat"): "stopped", trial_of(3e-2, 4, "chat"): "failed"}
    run_of(tmp_path, dict.fromkeys(finished, "finished") | others)
    assert lines(tmp_path).keys() == {trial.id for trial in finished}


def test_of_many_those_that_are_drawn_are_spread_from_the_best_to_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = [trial_of(1e-4, 4, "plain"), trial_of(1e-3, 8, "chat"), trial_of(1e-2, 16, "plain")]
    run_of(tmp_path, dict.fromkeys(trials, "finished"))
    monkeypatch.setattr(coordinates, "DRAWN", 2)
    assert lines(tmp_path).keys() == {trials[0].id, trials[2].id}
    said = page_of(tmp_path)[1].words
    assert "A line is one of 2 of the 3 trials that finished" in said
    assert "They are spread evenly from the best to the last." in said


def test_with_one_axis_that_differs_between_the_finished_there_is_no_figure(tmp_path: Path) -> None:
    finished = [trial_of(1e-4, 4, "plain"), trial_of(1e-3, 4, "plain")]
    run_of(tmp_path, {**dict.fromkeys(finished, "finished"), trial_of(1e-3, 8, "chat"): "stopped"})
    assert lines(tmp_path) == {}


def test_scales() -> None:
    assert scale_of(["b", "a", "c", "a"]).places == {"a": 0, "b": 0.5, "c": 1}
    assert scale_of(["-", "1", "2"]).places == {"-": 0, "1": 0.5, "2": 1}
    assert scale_of(["0", "0.01", "0.1"]).places == {"0": 0, "0.01": pytest.approx(0.1), "0.1": 1}
    assert scale_of(["10", "9", "11"]).places == {"9": 0, "10": 0.5, "11": 1}
    wide = scale_of(["0.0001", "0.01", "0.001"])
    assert wide.logarithmic
    assert wide.places == {"0.0001": 0, "0.001": pytest.approx(0.5), "0.01": 1}
    assert scale_of(["nan", "1"]).places == {"1": 0, "nan": 1}


def test_values_that_lie_close_together_are_not_all_written() -> None:
    crowded = scale_of([str(i) for i in range(101)]).ticks
    assert (crowded[0], crowded[-1]) == ((0, "0"), (1, "100"))
    assert 10 < len(crowded) < 1 / coordinates.APART + 1
    assert all(b[0] - a[0] >= coordinates.APART for a, b in itertools.pairwise(crowded))
    assert scale_of(["a", "b"]).ticks == ((0, "a"), (1, "b"))
