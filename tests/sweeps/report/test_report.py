"""The report of a run folder: what it says, that no data becomes markup, and that any state of a run works."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from checkout import ROOT
from reported_run import (
    EVIL,
    SCRIPTS,
    add_list,
    add_trial,
    charts_of,
    data_of,
    finished_run,
    keep_wordings,
    make_run,
    make_study,
    make_trial,
    page_of,
    scripts_of,
)

from sweeps.report.write import write_report
from trainer.errors import UserError


def test_a_finished_run_is_told_in_plain_words_and_numbers(tmp_path: Path) -> None:
    store, trials = finished_run(tmp_path)
    _, page = page_of(tmp_path)
    table = pq.read_table(tmp_path / "tables" / "robustness.parquet").to_pylist()
    best = next(row for row in table if row["winner"])
    second = max((r for r in table if r["status"] == "finished" and r is not best), key=lambda r: r["dev_objective"])
    said = page.words
    assert (
        f"{best['trial_id'][:8]} lr={best['lr']:g} seed={best['seed']} is the winner, chosen on the dev prompts."
        in said
    )
    assert (
        f"Over 12 test prompts its mean accuracy is {100 * best['mean']:.1f} % "
        f"(95 % interval {100 * best['mean_low']:.1f} to {100 * best['mean_high']:.1f})"
    ) in said
    assert re.search(rf"Its worst prompt is p\d\d, at {100 * best['min']:.1f} %\.", said)
    assert f"Second on the dev prompts is {second['trial_id'][:8]}" in said
    assert f"{'' if second['p_best_holm'] < 0.05 else 'not '}a clear difference." in said
    assert "rung 1: 0.450 is 4th of 4, the best 2 go on" in said
    assert "loss became NaN between steps 3 and 4" in said
    assert "1 trial failed" in said
    assert "strictly above 85 %" in said
    assert "not finished" not in said
    assert all(trial.id in said for trial in trials)
    assert store.exists("tables/robustness.md")


def test_the_page_is_self_contained_and_says_each_prompt_when_pointed_at(tmp_path: Path) -> None:
    _, trials = finished_run(tmp_path)
    source, page = page_of(tmp_path)
    library = re.findall(r'<script id="vega">.*?</script>', source, re.DOTALL)
    assert len(library) == 1
    assert not re.search(r"(?:src|href)=|url\(|@import|https?://", source.replace(library[0], ""))
    specs = charts_of(source)
    assert {attrs["data-chart"] for _, attrs in page.tags if "data-chart" in attrs} == specs.keys()
    assert all(spec["description"] for spec in specs.values())
    values = [row for row in data_of(specs["distribution"]) if "name" in row]
    assert len(values) == 3 * 12  # three trials have test scores
    assert {row["id"] for row in values} == {trial.id for trial in trials[:3]}
    cuts = [row["cut"] for row in data_of(specs["objective"]) if "cut" in row]
    assert cuts == ["rung 1: 0.450 is 4th of 4, the best 2 go on"]


def test_nothing_from_data_becomes_markup(tmp_path: Path) -> None:
    store = make_run(tmp_path, make_study(templates={EVIL: {}, "b": {}}))
    trials = [make_trial(1e-3, 0, pool=EVIL), make_trial(1e-3, 1, template=EVIL), make_trial(1e-3, 2)]
    for trial, quality in zip(trials, (0.8, 0.7, 0.6), strict=True):
        add_trial(store, trial, quality, prompts=[f"{EVIL}{i}" for i in range(5)])
    ends = [(x, "finished", 40, "") for x in trials[:2]]
    add_list(store, [*ends, (trials[2], "stopped", 40, f'"{EVIL}" & more')])
    source, page = page_of(tmp_path)
    assert "<script>alert" not in source
    assert scripts_of(page) == SCRIPTS
    for where in (f"Its worst prompt is {EVIL}", f'"{EVIL}" & more', f"pool={EVIL}", f"template={EVIL}"):
        assert where in page.words
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_the_verdict_shows_the_worst_wording_in_full_and_how_to_export_the_winner(tmp_path: Path) -> None:
    folder = tmp_path / "a run"
    store = make_run(folder)
    texts = {f"p{i:02d}": f"Wording {i}:\n{{{{ text }}}} </blockquote>{EVIL}" for i in range(12)}
    pool = keep_wordings(store, texts)
    trials = [make_trial(lr, test_prompts=pool) for lr in (1e-3, 3e-3)]
    for trial, quality in zip(trials, (0.86, 0.6), strict=True):
        add_trial(store, trial, quality)
    add_list(store, [(trial, "finished", 40, "") for trial in trials])
    source, page = page_of(folder)
    worst = re.search(r"Its worst prompt is (p\d\d), at", page.words)
    assert worst is not None
    quoted = re.findall(r"<blockquote>(.*?)</blockquote>", source, re.DOTALL)
    assert [html.unescape(text) for text in quoted] == [texts[worst[1]]]
    assert f"steadytune export '{folder}' --to adapter" in page.words
    assert re.search(r"Rank on test 1 of 2 by the objective on the test prompts", page.words)
    assert "Cost 24 seconds of training and scoring, 10,000 tokens trained on; all 2 trials together 48 seconds." in (
        page.words
    )
    best = next(row for row in pq.read_table(folder / "tables" / "robustness.parquet").to_pylist() if row["winner"])
    place = re.search(r'<i class="point" style="left:([\d.]+)%"', source)
    assert place is not None
    assert float(place[1]) == pytest.approx(100 * best["mean"], abs=0.01)


def test_a_confirmed_winner_is_shown_by_the_fresh_seeds_that_did_not_choose(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    pool = keep_wordings(store, {f"p{i:02d}": f"Wording {i}" for i in range(12)})
    search = [make_trial(lr, test_prompts=pool) for lr in (1e-3, 3e-3)]
    fresh = [make_trial(lr, seed, test_prompts=pool) for lr in (1e-3, 3e-3) for seed in (7, 8)]
    for trial, quality in zip([*search, *fresh], (0.7, 0.75, 0.9, 0.9, 0.6, 0.6), strict=True):
        add_trial(store, trial, quality)
    roles = {trial.id: ("choose", "report")[trial.seed - 7] for trial in fresh}
    add_list(store, [(trial, "finished", 40, "") for trial in (*search, *fresh)], roles)
    _, page = page_of(tmp_path)
    winner, other = pq.read_table(tmp_path / "tables" / "confirmation.parquet").to_pylist()
    assert winner["winner"]
    assert winner["trial_id"] == fresh[1].id
    rows, _ = store.read_scores(fresh[1].id, 40, "test") or pytest.fail("no scores")
    right = rows.group_by("prompt_id").aggregate([("correct", "sum")]).to_pylist()
    least = min(r["correct_sum"] for r in right)
    worst = [r["prompt_id"] for r in right if r["correct_sum"] == least]
    said = re.search(
        r"Its worst prompt is (p\d\d), at ([\d.]+) %, averaged over these seeds\. Wording (\d+)", page.words
    )
    assert said is not None
    assert said[1] in worst
    assert (said[2], int(said[3])) == (f"{100 * least / 60:.1f}", int(said[1][1:]))
    assert (
        "is the winner: the 2 best of the search were trained again with fresh seeds, of which 1 chose it."
        in page.words
    )
    assert f"a mean accuracy of {100 * winner['mean']:.1f} (" in page.words
    assert f"than that of {other['search_trial_id'][:8]} " in page.words


def test_wordings_that_were_changed_are_not_shown(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    pool = keep_wordings(store, {f"p{i:02d}": f"Wording {i}" for i in range(12)})
    trial = make_trial(1e-3, test_prompts=pool)
    add_trial(store, trial, 0.8)
    add_list(store, [(trial, "finished", 40, "")])
    changed = store.read(f"prompts/{pool}.json").replace(b"Wording", b"Another")
    store.write(f"prompts/{pool}.json", changed)
    source, page = page_of(tmp_path)
    assert "Its worst prompt is p" in page.words
    assert "<blockquote>" not in source


def test_an_unfinished_run_says_so_and_shows_the_dev_prompts(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    trials = [make_trial(1e-3), make_trial(3e-3)]
    add_trial(store, trials[0], 0.8, rungs=1, test=False)
    add_list(store, [(trials[0], "running", 20, "waits at rung 1"), (trials[1], "running", 0, "")])
    _, page = page_of(tmp_path)
    assert "This run is not finished: 0 of 2 trials known so far are done." in page.words
    assert "There are no test scores yet" in page.words
    assert f"{trials[0].id[:8]} lr=0.001 leads so far." in page.words
    assert "Over 6 dev prompts" in page.words
    assert "steadytune export" not in page.words


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("finished", "all 2 trials that finished give one label nearly always. Train longer (axes.steps or"),
        ("failed", "of 2 trials none finished. The report lists the reason of each"),
    ],
)  # fmt: skip
def test_a_finished_study_without_a_winner_says_so_first(end: str, why: str, tmp_path: Path) -> None:
    store = make_run(tmp_path)
    trials = [make_trial(1e-3), make_trial(3e-3)]
    for trial in trials:
        add_trial(store, trial, 0.5)
        for pool in ("dev", "test"):
            rows, about = store.read_scores(trial.id, 40, pool) or pytest.fail("no scores")
            constant = rows.set_column(rows.schema.get_field_index("predicted"), "predicted", [["no"] * rows.num_rows])
            right = [label == "no" for label in rows["label"].to_pylist()]
            constant = constant.set_column(rows.schema.get_field_index("correct"), "correct", [right])
            store.write_scores(trial.id, 40, pool, constant, about)
    add_list(store, [(trial, end, 40, "") for trial in trials])
    _, page = page_of(tmp_path)
    assert f"No winner: {why}" in page.words
    assert "leads so far" not in page.words


def test_before_trials_are_listed_the_score_files_are_enough(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    trials = [make_trial(1e-3), make_trial(3e-3)]
    for trial, quality in zip(trials, (0.7, 0.8), strict=True):
        add_trial(store, trial, quality, rungs=1, test=False)
    _, page = page_of(tmp_path)
    assert "not finished: 0 of 2" in page.words
    assert f"{trials[1].id[:8]} lr=0.003 leads so far" in page.words


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    make_run(tmp_path)
    _, page = page_of(tmp_path)
    assert "No trial was scored yet." in page.words
    assert "no trial has a score" in page.words


def test_one_trial(tmp_path: Path) -> None:
    store, trial = make_run(tmp_path), make_trial(1e-3)
    add_trial(store, trial, 0.8)
    add_list(store, [(trial, "finished", 40, "")])
    _, page = page_of(tmp_path)
    assert f"{trial.id[:8]} is the winner" in page.words
    assert "there is nothing to compare it with" in page.words
    assert "By axis value" not in page.words


def test_of_200_trials_the_best_40_are_drawn_and_all_are_listed(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    trials = [make_trial(1e-4 * (i + 1)) for i in range(200)]
    for i, trial in enumerate(trials[:60]):
        add_trial(store, trial, 0.9 - i / 200, rungs=1, test=i < 3, prompts=["p0", "p1", "p2", "p3"])
    ends = [(x, "finished", 20, "") for x in trials[:3]] + [(x, "stopped", 20, "cut") for x in trials[3:]]
    add_list(store, ends)
    source, page = page_of(tmp_path)
    assert "Only the best 40 of 200 trials are drawn; the other 160" in page.words
    assert all(trial.id in page.words for trial in trials)
    specs = charts_of(source)
    assert all(len({row["id"] for row in data_of(specs[name])}) == 40 for name in ("loss", "objective"))
    assert "197 trials, with the reason of each" in page.words


def test_a_folder_that_is_no_run_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no run folder: it holds no study\.yaml"):
        write_report(str(tmp_path))
    (tmp_path / "study.yaml").write_text("name: [")
    with pytest.raises(UserError, match=r"study\.yaml: is not a resolved study"):
        write_report(str(tmp_path))


def test_making_it_again_gives_the_same_page(tmp_path: Path) -> None:
    finished_run(tmp_path)
    assert page_of(tmp_path)[0] == page_of(tmp_path)[0]


def test_neither_torch_nor_ray_is_needed(tmp_path: Path) -> None:
    store, trial = make_run(tmp_path), make_trial(1e-3)
    add_trial(store, trial, 0.8)
    add_list(store, [(trial, "finished", 40, "")])
    code = (
        f"import sys\nfrom sweeps.report.write import write_report\nwrite_report({str(tmp_path)!r})\n"
        "assert not {'torch', 'ray', 'transformers', 'matplotlib'} & {m.split('.')[0] for m in sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
