"""Two runs compared: what they share, differences with known answers, and the part of the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from reported_run import (
    EVIL,
    SCRIPTS,
    Page,
    add_list,
    add_trial,
    keep_wordings,
    make_run,
    make_study,
    make_trial,
    scripts_of,
)
from reported_run import record as record_of
from sampled_run import SEEDED, Simulated, assets, decisions_of, score_in_stages
from tiny_run import write_trials as write_tiny

from sweeps.cli.results import report_command
from sweeps.report import against as texts
from sweeps.report.write import report_on, write_report
from sweeps.run_folder.reading import RunFolder
from sweeps.run_folder.trials_file import write_trials
from sweeps.statistics import intervals as st
from sweeps.statistics.prompt_tests import std_test
from sweeps.statistics.seeds import NO_SEEDS
from sweeps.study.difference import Difference, study_differences
from sweeps.tables import against
from sweeps.tables.against import SAME_AXES, SAME_ID, WINNERS, Comparison, compare_runs
from sweeps.tables.columns import Settings
from sweeps.tables.estimates import mean_test, seed_cells, seed_of
from sweeps.tables.robustness import make_tables
from trainer.data.rows import Row, fingerprint_rows
from trainer.errors import UserError
from trainer.measure.grid import part_of
from trainer.measure.precision import Precision
from trainer.store import Store
from trainer.trial import Lora, Trial, axis_columns

P, R = 8, 40
LR = (1e-3, 3e-3)


def answers(seed: int, share: float, prompts: int = P, rows: int = R) -> np.ndarray:
    """[P, R] whether each answer is right; prompts differ, and the same rows are hard for all."""
    hard = np.random.default_rng(5).normal(0, 0.15, rows)
    bad = np.random.default_rng(6).normal(0, 0.1, (prompts, 1))
    found: np.ndarray = np.random.default_rng(seed).random((prompts, rows)) < share + hard + bad
    return found


def add_answers(store: Store, trial: Trial, right: np.ndarray, prompts: list[str] | None = None) -> None:
    """Test scores with these answers, and dev scores that are as good."""
    names, labels = prompts or [f"p{i:02d}" for i in range(len(right))], ("no", "yes")
    for pool, mark in (("dev", "d"), ("test", "")):
        lines = [
            {
                "trial_id": trial.id,
                "rung": 40,
                "pool": pool,
                "prompt_id": f"{mark}{prompt}",
                "row_id": f"row-{j:02d}",
                "label": labels[j % 2],
                "predicted": labels[j % 2] if right[i, j] else labels[1 - j % 2],
                "correct": bool(right[i, j]),
                "label_logprobs": [-0.7, -0.7],
                "new_tokens": None,
            }
            for i, prompt in enumerate(names)
            for j in range(right.shape[1])
        ]
        store.write_scores(trial.id, 40, pool, pa.Table.from_pylist(lines), record_of(trial, 40, 0.9))


def run_of(
    folder: Path, trials: dict[Trial, np.ndarray], roles: dict[str, str] | None = None, **study: Any
) -> RunFolder:
    """A finished run with the answers of each trial."""
    store = make_run(folder, make_study(**{"scheduler": {"name": "none"}, **study}))
    for trial, right in trials.items():
        add_answers(store, trial, right)
    add_trials(store, list(trials), roles or {})
    return RunFolder(store)


def add_trials(store: Store, trials: list[Trial], roles: dict[str, str] | None = None) -> None:
    """``trials.parquet``, all finished."""
    ended = {"status": "finished", "rung": 40, "reason": "", "seconds": 24.0, "tokens": 10000}
    write_trials(
        store,
        [
            {
                "trial_id": trial.id,
                **axis_columns(trial),
                **ended,
                "configuration": trial.configuration,
                "role": (roles or {}).get(trial.id, "search"),
            }
            for trial in trials
        ],
        {},
    )


def of_rank(r: int, lr: float = 1e-3) -> Trial:
    return replace(make_trial(lr), lora=Lora(r=r))


def moved(trial: Trial, **data: str) -> Trial:
    return replace(trial, data=replace(trial.data, **data))


def winners(found: Comparison) -> Any:
    assert found.pairs[0].why == WINNERS
    return found.pairs[0]


def test_the_difference_is_the_one_of_the_main_table_where_both_are_in_one_run(tmp_path: Path) -> None:
    trials = {of_rank(r): answers(i, 0.95 - 0.15 * i) for i, r in enumerate((2, 4, 8, 16))}
    first, second, third, fourth = trials
    here = run_of(tmp_path / "here", {t: trials[t] for t in (first, second)})
    there = run_of(tmp_path / "there", {t: trials[t] for t in (third, fourth)})
    found = winners(compare_runs(here, there))
    both = make_tables(run_of(tmp_path / "both", trials), Settings.of(here.study)).robustness.to_pylist()
    row = next(r for r in both if r["trial_id"] == third.id)
    assert next(r for r in both if r["winner"])["trial_id"] == first.id
    assert (found.here.trial_ids, found.there.trial_ids) == ((first.id,), (third.id,))
    assert [found.mean.value, found.mean.low, found.mean.high, found.p] == pytest.approx(
        [-row["diff_best"], -row["diff_best_high"], -row["diff_best_low"], row["p_best"]], rel=1e-9
    )
    assert found.mean.value == pytest.approx(trials[first].mean() - trials[third].mean())
    assert not found.of_settings
    assert found.heavy == row["heavy_best"]


def test_with_several_seeds_the_variance_between_seeds_is_that_of_both_runs(tmp_path: Path) -> None:
    trials = {
        make_trial(lr, seed): answers(10 * i + seed, 0.95 - 0.1 * i - 0.04 * seed)
        for i, lr in enumerate((1e-3, 3e-3, 5e-3, 7e-3))
        for seed in (0, 1)
    }
    of = {lr: {t: a for t, a in trials.items() if t.optimization.lr == lr} for lr in (1e-3, 3e-3, 5e-3, 7e-3)}
    here = run_of(tmp_path / "here", of[1e-3] | of[5e-3])
    there = run_of(tmp_path / "there", of[3e-3] | of[7e-3])
    found = compare_runs(here, there)
    pair = winners(found)
    both = make_tables(run_of(tmp_path / "both", trials), Settings.of(here.study)).robustness.to_pylist()
    row = next(r for r in both if r["lr"] == 3e-3)
    assert [pair.mean.value, pair.mean.low, pair.mean.high, pair.p] == pytest.approx(
        [-row["diff_best"], -row["diff_best_high"], -row["diff_best_low"], row["p_best"]], rel=1e-9
    )
    assert pair.of_settings
    stds = [a.mean(axis=1).std(ddof=1) for a in of[1e-3].values()]
    assert pair.here.std == pytest.approx(np.sqrt(np.mean(np.square(stds))))
    assert np.isnan(pair.p_std)
    assert not any("One seed" in line for line in texts.lines(found))


def test_known_answers(tmp_path: Path) -> None:
    """There every prompt loses the same two rows of 40, so the mean differs by 5 points and no std does."""
    right = answers(3, 0.8)
    right[:, :2] = True
    worse = right.copy()
    worse[:, :2] = False
    one, other = of_rank(4), of_rank(2)
    found = compare_runs(run_of(tmp_path / "a", {one: right}), run_of(tmp_path / "b", {other: worse}))
    pair = winners(found)
    assert pair.mean.value == pytest.approx(0.05)
    seed = seed_of(RunFolder(Store.open(tmp_path / "a")).last_grid(one.id, "test"))  # type: ignore[arg-type]
    expected, p = st.difference(right.astype(float), worse.astype(float), seed)
    assert (pair.mean, pair.p) == (expected, p)
    assert (pair.std.value, pair.p_std) == (pytest.approx(0.0), std_test(right.astype(float), worse.astype(float)))
    assert pair.std.low <= 0 <= pair.std.high
    assert (pair.here.mean, pair.there.mean) == (pytest.approx(right.mean()), pytest.approx(worse.mean()))
    lines = texts.lines(found)
    assert f"Winner here: {one.id[:8]} r=4; there: {other.id[:8]} r=2." in lines
    assert any("the mean accuracy is 5.0 points higher here" in line for line in lines)
    assert any(line.startswith("One seed:") for line in lines)


def test_a_difference_in_one_prompt_is_undecided(tmp_path: Path) -> None:
    right = np.ones((12, R), bool)
    right[:, ::9] = False
    worse = right.copy()
    worse[3] = False
    worse[0, :1] = ~worse[0, :1]
    trials = of_rank(4), of_rank(2)
    found = compare_runs(run_of(tmp_path / "a", {trials[0]: right}), run_of(tmp_path / "b", {trials[1]: worse}))
    assert winners(found).heavy
    assert any("undecided, since a few prompts decide" in line for line in texts.lines(found))


def test_configurations_are_paired_by_id_or_axis_values_and_corrected_together(tmp_path: Path) -> None:
    same = make_trial(1e-3)
    mine = {
        make_trial(3e-3): answers(1, 0.9),
        same: answers(2, 0.6),
        of_rank(4): answers(3, 0.5),
    }
    moved_on = {moved(make_trial(3e-3), train_rows="new"): answers(4, 0.85), same: answers(5, 0.5)}
    moved_on[of_rank(2)] = answers(6, 0.5)
    found = compare_runs(run_of(tmp_path / "here", mine), run_of(tmp_path / "there", moved_on))
    assert [(pair.why, pair.here.trial_ids[0] == same.id) for pair in found.pairs] == [
        (WINNERS, False),
        (SAME_ID, True),
    ]
    assert [pair.p_holm for pair in found.pairs] == st.holm([pair.p for pair in found.pairs])
    assert found.matched == 1
    assert found.shared.other_data == ("the train rows",)
    better = {make_trial(5e-3): answers(7, 0.95), **mine}
    found = compare_runs(run_of(tmp_path / "better", better), run_of(tmp_path / "there", moved_on))
    assert [pair.why for pair in found.pairs] == [WINNERS, SAME_AXES, SAME_ID]
    assert "Beside the winners, 2 configurations are in both runs" in " ".join(texts.lines(found))


def test_at_most_so_many_pairs_are_compared_and_corrected_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "MOST", 2)
    right = {make_trial(lr): answers(i, 0.9 - i / 10) for i, lr in enumerate((1e-3, 3e-3, 5e-3, 7e-3))}
    runs = run_of(tmp_path / "a", right), run_of(tmp_path / "b", {t: a[:, ::-1] for t, a in right.items()})
    found = compare_runs(*runs)
    assert (len(found.pairs), found.matched, found.left) == (2, 3, 2)
    assert [pair.p_holm for pair in found.pairs] == st.holm([pair.p for pair in found.pairs])
    assert "2 more that are in both runs" in Page(str(texts.part(found))).words


def test_the_same_trials_with_the_same_answers_are_no_comparison(tmp_path: Path) -> None:
    best, other = make_trial(1e-3), make_trial(3e-3)
    right = {best: answers(1, 0.9), other: answers(2, 0.6)}
    found = compare_runs(
        run_of(tmp_path / "a", right), run_of(tmp_path / "b", {best: right[best], other: answers(3, 0.5)})
    )
    assert found.equal_winners
    assert [pair.why for pair in found.pairs] == [SAME_ID]
    assert found.pairs[0].p_holm == found.pairs[0].p  # the equal one does not count
    assert any(line.startswith("Both runs have the same winner") for line in texts.lines(found))


def test_a_confirmed_winner_is_compared_by_the_seeds_that_report(tmp_path: Path) -> None:
    search = {make_trial(lr): answers(i, 0.9 - i / 10) for i, lr in enumerate(LR)}
    fresh = {make_trial(lr, seed): answers(seed + i, 0.8 - i / 10) for i, lr in enumerate(LR) for seed in (7, 8, 9)}
    roles = {trial.id: "choose" if trial.seed == 7 else "report" for trial in fresh}
    here = run_of(tmp_path / "here", search | fresh, roles, confirm={"top": 2, "seeds": 3})
    there = run_of(tmp_path / "there", {of_rank(2): answers(50, 0.7)})
    pair = winners(compare_runs(here, there))
    reports = [t for t in fresh if t.optimization.lr == 1e-3 and t.seed in (8, 9)]
    assert pair.here.trial_ids == tuple(t.id for t in reports)
    assert pair.mean.value == pytest.approx(np.mean([fresh[t].mean() for t in reports]) - answers(50, 0.7).mean())


# what is shared ---------------------------------------------------------------------------------------------------


def test_prompts_are_shared_by_id_and_text(tmp_path: Path) -> None:
    texts_here = {f"p{i:02d}": f"Wording {i}" for i in range(P)}
    texts_there = {**texts_here, "p01": "Another wording", "p90": "New"}
    del texts_there["p05"]
    folders = [tmp_path / "here", tmp_path / "there"]
    trials, right = [], [answers(1, 0.9), answers(2, 0.7, len(texts_there))]
    for folder, pool, scored, name in zip(folders, (texts_here, texts_there), right, ("a", "b"), strict=True):
        store = make_run(folder)
        trials.append(make_trial(1e-3, template=name, test_prompts=keep_wordings(store, pool)))
        add_answers(store, trials[-1], scored, list(pool))
        add_trials(store, trials[-1:])
    found = compare_runs(*(RunFolder(Store.open(folder)) for folder in folders))
    assert found.shared.prompts == texts_here.keys() - {"p01", "p05"}
    assert found.shared.said[0] == "Test prompts: 6 of 8 here and 8 there are the same; 1 id with another text: p01."
    rows = [[i for i, p in enumerate(pool) if p in found.shared.prompts] for pool in (texts_here, texts_there)]
    gap = right[0][rows[0]].mean() - right[1][rows[1]].mean()
    assert winners(found).mean.value == pytest.approx(gap)


@pytest.mark.parametrize("kept", [True, False])
def test_without_shared_prompts_it_says_what_differs_and_gives_no_number(tmp_path: Path, kept: bool) -> None:
    runs = []
    for name in ("a", "b"):
        store = make_run(tmp_path / name)
        pool = {f"p{i:02d}": f"Wording {i} of {name}" for i in range(P)}
        trial = make_trial(1e-3, test_prompts=keep_wordings(store, pool) if kept else name)
        add_answers(store, trial, answers(1, 0.8))
        add_trials(store, [trial])
        runs.append(RunFolder(store))
    found = compare_runs(*runs)
    assert found.pairs == ()
    said = texts.lines(found)
    assert "No test prompt and row is shared, so no difference can be given." in said
    assert ("none is the same; 8 ids with another text" if kept else "does not hold them") in " ".join(said)
    report_on(runs[0], found)


def rows_in(path: Path, n: int, other: tuple[int, ...] = ()) -> str:
    """A file of ``n`` rows, and their fingerprint. ``other``: places of rows with another text."""
    words = [f"message {j}{' again' if j in other else ''}" for j in range(n)]
    lines = [{"id": f"row-{j:02d}", "text": words[j], "label": j % 2} for j in range(n)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return fingerprint_rows([Row(r["id"], {"text": r["text"]}, ("no", "yes")[j % 2]) for j, r in enumerate(lines)])


def task_of(path: Path) -> dict[str, Any]:
    rows = {use: {"path": str(path)} for use in ("train", "dev", "test")}
    return {"rows": rows, "fields": ["text"], "label": "label", "labels": {"0": "no", "1": "yes"}, "id": "id"}


def test_rows_are_shared_by_id_and_content(tmp_path: Path) -> None:
    names = [rows_in(tmp_path / "a.jsonl", R), rows_in(tmp_path / "b.jsonl", R - 10, other=(2, 4))]
    right = answers(1, 0.9), answers(2, 0.7)[:, : R - 10]
    trials = [moved(make_trial(1e-3), test_rows=name) for name in names]
    runs = [
        run_of(tmp_path / name, {trial: scored}, task=task_of(tmp_path / f"{name}.jsonl"))
        for name, trial, scored in zip("ab", trials, right, strict=True)
    ]
    found = compare_runs(*runs)
    assert found.shared.said[1] == (
        "Test rows: 28 of 40 here and 30 there are the same; 2 ids with other content: row-02, row-04."
    )
    kept = [j for j in range(R - 10) if j not in (2, 4)]
    assert winners(found).mean.value == pytest.approx(right[0][:, kept].mean() - right[1][:, kept].mean())
    rows_in(tmp_path / "b.jsonl", R - 10)  # edited since
    found = compare_runs(*(RunFolder(run.store) for run in runs))
    assert found.pairs == ()
    assert f"the rows of {tmp_path}/b are not, or no longer, in the file" in found.shared.said[1]


# the page, and refusals -------------------------------------------------------------------------------------------


def two_runs(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    here = run_of(tmp_path / "here", {make_trial(lr): answers(i, 0.9 - i / 10) for i, lr in enumerate(LR)})
    there = run_of(
        tmp_path / "there",
        {make_trial(2 * lr, template=EVIL): answers(9 + i, 0.8 - i / 10) for i, lr in enumerate(LR)},
        templates={EVIL: {}},
    )
    return here, there


def test_the_page_has_the_part_only_when_asked_for_and_the_other_folder_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = (run.store.uri for run in two_runs(tmp_path))
    before = {path: path.read_bytes() for path in Path(there).rglob("*") if path.is_file()}
    report_command(here, against=there)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{here}/report.html"
    assert f"against {there}:" in printed
    source = Path(here, "report.html").read_text()
    page = Page(source)
    assert f"Compared with {there}" in page.words
    assert "<script>alert" not in source
    assert scripts_of(page) == SCRIPTS
    for said in (f"template={EVIL}", "axes.template", "differ clearly" if "differ clearly" in page.words else "winner"):
        assert said in page.words
    assert {path: path.read_bytes() for path in Path(there).rglob("*") if path.is_file()} == before
    tables = sorted(path.name for path in Path(here, "tables").iterdir())
    write_report(here)
    assert "Compared with" not in Path(here, "report.html").read_text()
    assert sorted(path.name for path in Path(here, "tables").iterdir()) == tables


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path: Path) -> None:
    here = run_of(tmp_path / "here", {make_trial(1e-3): answers(0, 0.9)})
    untested = make_run(tmp_path / "untested")
    add_trial(untested, make_trial(1e-3), 0.8, test=False)
    add_list(untested, [(make_trial(1e-3), "running", 40, "")])
    make_run(tmp_path / "begun")
    right = {make_trial(1e-3): answers(0, 0.9)}
    task = make_study().task.model_dump(mode="json")
    run_of(tmp_path / "metric", right, task={**task, "metric": "f1_macro"})
    run_of(tmp_path / "labels", right, task={**task, "labels": ["maybe", "yes"]})
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    expected = {
        "here": "is the run itself. Give the folder of another run",
        "link": "is the run itself",
        "empty": "is no run folder: it holds no study.yaml",
        "hree": 'Did you mean "here"?',
        "untested": "no trial has test scores yet, so it cannot be compared. Continue it with: steadytune run",
        "begun": "no trial has test scores yet",
        "metric": "its task.metric is f1_macro, and that of",
        "labels": "its task.labels is maybe, yes, and that of",
    }
    for name, said in expected.items():
        with pytest.raises(UserError) as refused:
            report_command(here.store.uri, against=str(tmp_path / name))
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="untested: no trial has test scores yet"):
        report_command(str(tmp_path / "untested"), against=here.store.uri)
    assert not (tmp_path / "here" / "report.html").exists()


def test_a_run_without_a_winner_says_why(tmp_path: Path) -> None:
    here, _ = two_runs(tmp_path)
    always_no = np.tile(np.arange(R) % 2 == 0, (P, 1))
    constant = run_of(tmp_path / "constant", {make_trial(lr): always_no for lr in LR})
    found = compare_runs(here, constant)
    assert f"{constant.store.uri} has no winner: all 2 trials that finished give one label nearly always" in (
        " ".join(found.no_winner)
    )
    assert [pair.why for pair in found.pairs] == [SAME_ID, SAME_ID]
    assert {pair.there.state for pair in found.pairs} == {"one label"}


def test_studies_differ_by_key_and_paths_come_last() -> None:
    here = make_study(templates={"a": {}}, resources={"slots": 2}, model={"path": "m", "dtype": "bfloat16"})
    there = make_study(templates={"a": {"marker": "\n>"}, "b": {}}, axes={"lr": [1e-3], "steps": 40})
    found = study_differences(here, there)
    keys = [one.key for one in found]
    assert keys == ["model.dtype", "templates.a.marker", "templates.b", "axes.template", "axes.lr", "model.path"]
    assert found[0] == Difference("model.dtype", "bfloat16", "float32")
    assert found[2].here == "-"
    assert found[4] == Difference("axes.lr", "[0.001, 0.003]", "[0.001]")
    assert study_differences(here, here) == []


# sampled grids ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> list[Simulated]:
    """Two runs with the same four configurations and other seeds, sampled to another precision."""
    made = []
    for name, seed, wanted in (("here", 0, 0.015), ("there", 2, 0.02)):
        trials = [trial for trial in SEEDED if trial.seed == seed]
        study = make_study(scheduler={"name": "none"}, tables={"precision": {"mean": wanted}})
        simulated = Simulated(make_run(tmp_path_factory.mktemp(name), study), assets(12, 900))
        simulated.on_dev(trials)
        score_in_stages(simulated, Precision(wanted), decisions_of(trials), trials)
        write_tiny(simulated.store, trials)
        made.append(simulated)
    return made


def test_sampled_grids_are_paired_on_the_cells_that_both_have(sampled: list[Simulated]) -> None:
    runs = [RunFolder(simulated.store) for simulated in sampled]
    found = compare_runs(*runs)
    assert [pair.why for pair in found.pairs] == [WINNERS, *[SAME_ID] * 3]
    assert [pair.sampled for pair in found.pairs].count(True) >= 2
    trials = {trial.id: trial for trial in SEEDED}
    for pair in found.pairs:
        own = [trials[side.trial_ids[0]] for side in (pair.here, pair.there)]
        whole = [one.answers(trial, "test").mean() for one, trial in zip(sampled, own, strict=True)]
        assert pair.mean.low < whole[0] - whole[1] < pair.mean.high
        assert [pair.here.mean, pair.there.mean] == pytest.approx(whole, abs=0.03)
        grids = [run.last_grid(trial.id, "test") for run, trial in zip(runs, own, strict=True)]
        parts = [seed_cells([grid], "accuracy")[0] for grid in grids if grid is not None]
        assert mean_test(parts, NO_SEEDS) == (pair.mean, pair.p)
        assert np.isnan(pair.std.low) == (pair.sampled or pair.why != WINNERS)
    said = [text for text in (Page(str(texts.part(found))).words,) if "on the cells that both have" in text]
    assert said


def test_a_part_of_a_sample_has_the_cells_of_its_prompts_and_rows_alone(sampled: list[Simulated]) -> None:
    run = RunFolder(sampled[0].store)
    grids = [grid for trial in run.trials_by_id if (grid := run.last_grid(trial, "test")) is not None]
    grid = next(grid for grid in grids if grid.seen is not None)
    rows = set(grid.rows[::2])
    found = part_of(grid, grid.prompts[2:5], rows)
    assert found is not None
    assert found.prompts == grid.prompts[2:5]
    assert set(found.rows) <= rows
    assert found.n_rows == len(rows)
    assert found.seen is not None
    assert grid.seen is not None
    kept = np.ix_([2, 3, 4], [grid.rows.index(row) for row in found.rows])
    assert (found.seen == grid.seen[kept]).all()
    assert (found.correct[found.seen] == grid.correct[kept][found.seen]).all()
    assert found.n_cells == grid.seen[2:5, ::2].sum()
    assert part_of(grid, ["no such prompt"]) is None
