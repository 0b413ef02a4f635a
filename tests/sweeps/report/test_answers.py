"""The report's figures of answers, against values by hand: wins, confusions and calibration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reported_run import add_list, charts_of, data_of, finished_run, make_run, make_study, make_trial, page_of

from sweeps.report import answers
from trainer import trial as t
from trainer.measure.confusion import answer_counts
from trainer.measure.grid import Grid
from trainer.store import SCORES, Store

LABELS = ("no", "yes")


def write(
    store: Store,
    trial: t.Trial,
    given: Sequence[Sequence[int]],
    right: Sequence[int],
    labels: Sequence[str] = LABELS,
    logprobs: Any = None,
    cells: Any = None,
) -> None:
    """Dev and test scores of a trial: answer ``given[i][j]`` (-1: unread) under prompt i to row j with label
    ``right[j]``. ``logprobs`` [P, R, K]; ``cells`` [P, R]: the sample that was scored."""
    rows = [
        {
            "trial_id": trial.id, "rung": 40, "prompt_id": f"p{i}", "row_id": f"r{j:02d}", "label": labels[right[j]],
            "predicted": None if answer < 0 else labels[answer], "correct": answer == right[j],
            "label_logprobs": None if logprobs is None else list(logprobs[i][j]), "new_tokens": None,
        }
        for i, answers_of in enumerate(given)
        for j, answer in enumerate(answers_of)
        if cells is None or cells[i][j]
    ]  # fmt: skip
    record = {"trial": {**trial.to_json(), "task": {"labels": list(labels)}}, "rung": 40, "seconds": 1.0, "tokens": 1}
    for pool in ("dev", "test"):
        table = pa.Table.from_pylist([{**row, "pool": pool} for row in rows], schema=SCORES)
        store.write_scores(trial.id, 40, pool, table, record)


def figure(folder: Path, name: str) -> tuple[list[dict[str, Any]], str]:
    """The rows of a figure's data, and what the page says."""
    source, page = page_of(folder)
    return data_of(charts_of(source).get(name, {"datasets": {}})), page.words


def run_of(folder: Path, trials: Sequence[t.Trial], **more: Any) -> Store:
    store = make_run(folder, make_study(scheduler={"name": "none"}, **more))
    add_list(store, [(trial, "finished", 40, "") for trial in trials], roles={})
    return store


def test_a_trial_wins_under_the_prompts_where_its_metric_is_higher_and_ties_count_half(tmp_path: Path) -> None:
    better, worse = make_trial(1e-3), make_trial(3e-3)
    store = run_of(tmp_path, [better, worse])
    right = [0, 1, 0, 1]
    # accuracies under four prompts: 1, 1, .75, .5 against .75, .5, .75, .75: won 2, tied 1, lost 1
    write(store, better, [[0, 1, 0, 1], [0, 1, 0, 1], [0, 1, 0, 0], [0, 1, 1, 0]], right)
    write(store, worse, [[0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 1]], right)
    values, said = figure(tmp_path, "wins")
    shares = {(row["id"], row["place"]): (row["value"], row["prompts"]) for row in values if "value" in row}
    assert shares == {(better.id, 2): (62.5, 4), (worse.id, 1): (37.5, 4)}
    assert [row["line"] for row in values if row.keys() == {"id", "line"}] == [
        f"1 {better.id[:8]} lr=0.001",
        f"2 {worse.id[:8]} lr=0.003",
    ]
    assert "How many percent of the 4 test prompts the trial of a line wins" in said


def test_only_the_best_are_set_against_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, trials = finished_run(tmp_path)
    monkeypatch.setattr(answers, "BEST", 2)
    values, said = figure(tmp_path, "wins")
    assert len({row["id"] for row in values}) == 2
    assert trials[2].id not in {row["id"] for row in values}  # the poor one
    assert "Only the best 2 of 3 scored trials are shown." in said


def test_a_confusion_matrix_counts_the_answers_of_all_prompts_and_unread_ones(tmp_path: Path) -> None:
    trial = make_trial(1e-3)
    store = run_of(tmp_path, [trial])
    write(store, trial, [[0, 0, 1, 1], [0, 1, 1, -1], [0, 0, 1, -1]], right=[0, 0, 1, 1])
    values, said = figure(tmp_path, "confusion")
    found = {(row["right"], row["answer"]): (row["value"], row["cells"]) for row in values if "right" in row}
    assert found == {
        ("no", "no"): (83.3, 5), ("no", "yes"): (16.7, 1), ("no", "(unread)"): (0.0, 0),
        ("yes", "no"): (0.0, 0), ("yes", "yes"): (66.7, 4), ("yes", "(unread)"): (33.3, 2),
    }  # fmt: skip
    assert "over all test prompts and rows, for the best trial. (unread): the generated text begins with no label" in (
        said
    )
    assert "calibration" not in charts_of(page_of(tmp_path)[0])  # generated text has no probabilities


def test_the_winner_has_the_first_of_three_matrices_and_seeds_are_counted_together(tmp_path: Path) -> None:
    trials = [make_trial(lr, seed) for lr in (1e-3, 2e-3, 3e-3, 4e-3) for seed in (0, 1)]
    store = run_of(tmp_path, trials)
    right = [0, 1] * 5
    for i, trial in enumerate(trials):
        wrong = 3 - i // 2  # the last configuration is right everywhere
        write(store, trial, [[1 - r if j < wrong else r for j, r in enumerate(right)]] * 2, right)
    values, said = figure(tmp_path, "confusion")
    heads = [row["id"] for row in values if "name" in row]
    assert heads == [trials[i].configuration for i in (6, 4, 2)]
    assert "is the winner" in said
    assert sum(row["cells"] for row in values if row["id"] == heads[0] and "cells" in row) == 2 * 2 * 10
    assert "over all test prompts and rows and the seeds, for the best 3 configurations" in said


def test_of_many_labels_those_that_are_confused_most_are_shown(tmp_path: Path) -> None:
    labels = tuple(f"label {i:02d}" for i in range(15))
    trial = make_trial(1e-3)
    rows = {use: {"path": f"{use}.jsonl"} for use in ("train", "dev", "test")}
    task = {"rows": rows, "fields": ["text"], "label": "label", "labels": list(labels)}
    store = run_of(tmp_path, [trial], task=task)
    right = [*range(15), *range(15)]
    # label i is taken for the next one in one of its two rows, but 3, 4, 5 and 6 are always right
    given = [*range(15), *(i if i in (3, 4, 5, 6) else (i + 1) % 15 for i in range(15))]
    write(store, trial, [given] * 2, right, labels)
    values, said = figure(tmp_path, "confusion")
    shown = list(dict.fromkeys(row["right"] for row in values if "right" in row))
    # 3 and 7 have one confusion each; 4, 5 and 6 have none
    assert shown == [label for label in labels if label not in ("label 04", "label 05", "label 06")]
    assert "Of 15 labels it has the 12 that are confused most often; (others) are answers with another label." in said
    totals = {name: sum(row["value"] for row in values if row.get("right") == name) for name in shown}
    assert all(total == pytest.approx(100, abs=0.2) for total in totals.values())


def test_answers_are_counted_by_label_on_the_cells_that_were_scored() -> None:
    label, predicted = np.array([0, 1, 1]), np.array([[0, 1, -1], [1, 0, -1]])
    grid = Grid(("a", "b"), ("r", "s", "t"), LABELS, label, predicted, predicted == label, None, False)
    assert answer_counts(grid).tolist() == [[1, 1, 0], [1, 1, 2]]
    seen = np.array([[True, False, True], [False, True, False]])
    part = Grid(("a", "b"), ("r", "s", "t"), LABELS, label, predicted, predicted == label, None, False, seen, 3)
    assert answer_counts(part).tolist() == [[1, 0, 0], [1, 0, 1]]


def of_chances(p: Any) -> Any:
    """[..., 2] log-probabilities of two labels of which the second has the chance ``p``."""
    return np.log(np.stack([1 - p, p], axis=-1)) - 1.0  # not normalised


def test_calibration_of_two_labels_has_the_bins_of_its_chances_and_the_error_of_the_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    trials = [make_trial(lr, seed) for lr in (1e-3, 3e-3) for seed in (0, 1)]
    store = run_of(tmp_path, trials)
    right = [0, 1] * 20
    chances = {}
    for trial in trials:
        p = rng.choice([0.05, 0.32, 0.38, 0.75, 0.97], (3, 40))
        chances[trial.configuration] = [*chances.get(trial.configuration, []), p]
        write(store, trial, (p > 0.5).astype(int).tolist(), right, logprobs=of_chances(p))
    values, said = figure(tmp_path, "calibration")
    table = pq.read_table(tmp_path / "tables" / "binary.parquet").to_pylist()
    assert len(table) == 2
    for row in table:
        points = [v for v in values if v.get("id") == row["configuration"]]
        assert {v["line"].split(",")[0] for v in points} == {f"ECE {row['ece']:.3f}"}
        p = np.stack(chances[row["configuration"]])
        positive = np.broadcast_to(np.array(right) == 1, p.shape)
        bins = [(0.05, p == 0.05), (np.nan, (p == 0.32) | (p == 0.38)), (0.75, p == 0.75), (0.97, p == 0.97)]
        wanted = [
            {"x": pytest.approx(p[at].mean(), abs=1e-4), "y": pytest.approx(positive[at].mean(), abs=1e-4)}
            | {"cells": int(at.sum())}
            for _, at in bins
        ]
        found = [{name: v[name] for name in ("x", "y", "cells")} for v in points]
        assert found[: len(wanted)] == wanted
    assert "the probability of yes, as in the table of two labels, against the share of rows that are yes" in said


def test_calibration_of_more_labels_is_that_of_the_given_answer(tmp_path: Path) -> None:
    labels = ("a", "b", "c")
    trial = make_trial(1e-3)
    rows = {use: {"path": f"{use}.jsonl"} for use in ("train", "dev", "test")}
    task = {"rows": rows, "fields": ["text"], "label": "label", "labels": list(labels)}
    store = run_of(tmp_path, [trial], task=task)
    sure, unsure = np.log([0.9, 0.05, 0.05]), np.log([0.25, 0.5, 0.25])
    logprobs = [[sure, sure, unsure, unsure], [sure, sure, sure, unsure]]
    write(store, trial, [[0, 0, 1, 1], [0, 0, 0, 1]], [0, 1, 2, 1], labels, logprobs)
    values, said = figure(tmp_path, "calibration")
    points = [v for v in values if v.get("id") == trial.id]
    # 0.9 lies in the last bin: 5 cells, 2 right; 0.5 in the sixth: 3 cells, 2 right
    assert [(v["x"], v["y"], v["cells"]) for v in points][:2] == [(0.5, 0.6667, 3), (0.9, 0.4, 5)]
    first = (abs(0.5 * 2 - 1) + abs(0.9 * 2 - 1)) / 4
    second = (abs(0.5 - 1) + abs(0.9 * 3 - 1)) / 4
    assert points[0]["line"].startswith(f"ECE {(first + second) / 2:.3f}, ")
    assert "the probability of the given answer against the share of answers that are right" in said


def test_of_a_sample_the_scored_cells_are_drawn_and_no_error_is_named(tmp_path: Path) -> None:
    trial = make_trial(1e-3)
    store = run_of(tmp_path, [trial])
    right = [0, 1] * 10
    p = np.full((2, 20), 0.75)
    cells = np.arange(20) % 4 < 2
    write(store, trial, np.ones((2, 20), int).tolist(), right, logprobs=of_chances(p))
    table, record = store.read_scores(trial.id, 40, "test") or pytest.fail("no scores")
    kept = table.filter(pa.array([bool(cells[int(r.removeprefix("r"))]) for r in table["row_id"].to_pylist()]))
    sample = {"cells": kept.num_rows, "prompts": 2, "rows": 20, "pilot": kept.num_rows}
    store.write_scores(trial.id, 40, "test", kept, {**record, "sample": sample})
    values, said = figure(tmp_path, "calibration")
    (point, *_) = [v for v in values if v.get("id") == trial.id]
    assert (point["x"], point["y"], point["cells"]) == (0.75, 0.5, 20)
    assert not re.match("ECE", point["line"])
    assert "Those without an ECE were scored on a sample of the grid." in said
