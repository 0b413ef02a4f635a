"""The report's map of configurations and prompts: its values, its wordings, and the rows whose answers flip."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from reported_run import (
    EVIL,
    SCRIPTS,
    add_list,
    add_trial,
    finished_run,
    keep_wordings,
    make_run,
    make_trial,
    page_of,
    scripts_of,
)

from sweeps.display.html import json_data
from sweeps.report import heat_map
from trainer.store import Store


def map_of(folder: Path) -> dict[str, Any]:
    source, _ = page_of(folder)
    found = re.search(r'<script type="application/json" id="map-data">(.*?)</script>', source, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def answers_of(store: Store, trial_id: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Row -> prompt -> right and given answer."""
    rows, _ = store.read_scores(trial_id, 40, "test") or pytest.fail("no scores")
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for r in rows.to_pylist():
        found.setdefault(r["row_id"], {})[r["prompt_id"]] = (r["label"], r["predicted"])
    return found


def test_values_and_flips_are_those_of_the_score_files(tmp_path: Path) -> None:
    store, trials = finished_run(tmp_path)
    data = map_of(tmp_path)
    names = [prompt["id"] for prompt in data["prompts"]]
    assert names == [f"p{i:02d}" for i in range(12)]
    assert not data["of_first_seed"]
    assert {one["id"] for one in data["configurations"]} == {trial.id for trial in trials[:3]}
    for one in data["configurations"]:
        answers = answers_of(store, one["id"])
        for name, value in zip(names, one["values"], strict=True):
            right = sum(label == given for label, given in (row[name] for row in answers.values()))
            assert value == round(1000 * right / 60)
        kept = {flip["row"]: flip for flip in one["flips"]}
        differing = {i for i, row in answers.items() if 0 < sum(a == b for a, b in row.values()) < 12}
        assert one["n_flips"] == len(differing)
        assert one["n_rows"] == 60
        assert len(kept) == min(len(differing), heat_map.MOST_FLIPS)
        assert kept.keys() <= differing
        for i, flip in kept.items():
            assert data["answers"][flip["right"]] == answers[i]["p00"][0]
            assert [data["answers"][code] for code in flip["given"]] == [answers[i][name][1] for name in names]
        nearness = [min(n, 12 - n) for n in (sum(a == b for a, b in answers[i].values()) for i in kept)]
        assert nearness == sorted(nearness, reverse=True)


def test_values_are_averaged_over_seeds_and_flips_are_those_of_the_first(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    trials = [make_trial(1e-3, seed) for seed in (0, 1)]
    for trial, quality in zip(trials, (0.9, 0.6), strict=True):
        add_trial(store, trial, quality)
    add_list(store, [(trial, "finished", 40, "") for trial in trials], roles={})
    data = map_of(tmp_path)
    (one,) = data["configurations"]
    first, second = (answers_of(store, trial.id) for trial in trials)
    right = sum(a == b for seed in (first, second) for a, b in (row["p00"] for row in seed.values()))
    assert one["values"][0] == pytest.approx(1000 * right / 120, abs=1)
    assert data["of_first_seed"]
    differing = {i for i, row in first.items() if 0 < sum(a == b for a, b in row.values()) < 12}
    assert one["n_flips"] == len(differing)
    assert {flip["row"] for flip in one["flips"]} <= differing


def test_the_best_are_first_and_answers_are_kept_of_them_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run(tmp_path)
    monkeypatch.setattr(heat_map, "FIRST", 1)
    best, *others = map_of(tmp_path)["configurations"]
    _, page = page_of(tmp_path)
    assert f"{best['label']} is the winner" in page.words
    assert best["flips"]
    assert len(others) == 2
    assert all("flips" not in one for one in others)


def test_a_large_map_keeps_the_best_and_says_how_many_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run(tmp_path)
    monkeypatch.setattr(heat_map, "FIRST", 1)
    monkeypatch.setattr(heat_map, "MOST_CELLS", 24)
    data = map_of(tmp_path)
    assert len(data["configurations"]) == 2
    assert "The map leaves out 1, which the table below has." in page_of(tmp_path)[1].words


def test_prompts_are_shown_in_full_and_none_can_end_the_data(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    texts = {f"p{i:02d}": f'Wording "{i}":\n{{{{ text }}}}</script>{EVIL}<!-- \u2028' for i in range(12)}
    trial = make_trial(1e-3, test_prompts=keep_wordings(store, texts))
    add_trial(store, trial, 0.8)
    add_list(store, [(trial, "finished", 40, "")])
    data = map_of(tmp_path)
    assert {prompt["id"]: prompt["text"] for prompt in data["prompts"]} == texts
    source, page = page_of(tmp_path)
    assert "<script>alert" not in source
    assert scripts_of(page) == SCRIPTS


def test_json_data_holds_no_character_that_markup_or_scripts_read() -> None:
    value = {"a": "</script><!--&\u2028\u2029 ünd"}
    text = str(json_data("x", value))
    inside = text.removeprefix('<script type="application/json" id="x">').removesuffix("</script>")
    assert json.loads(inside) == value
    assert not set("<>&\u2028\u2029") & set(inside)


def test_without_scores_there_is_no_map(tmp_path: Path) -> None:
    make_run(tmp_path)
    source, _ = page_of(tmp_path)
    assert 'id="map"' not in source
    assert 'map-data">' not in source
