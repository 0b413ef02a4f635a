"""The tables are a pure function of the run folder: real score files in, numbers re-computed by hand out."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from checkout import ROOT
from made_scores import LABEL, RECORD, SETTINGS, P, R, answers, by_id, folder, scores, write
from sklearn.metrics import f1_score, roc_auc_score
from statsmodels.stats.multitest import multipletests

from sweeps.run_folder import reading
from sweeps.run_folder.reading import RunFolder
from sweeps.statistics.intervals import SHARE
from sweeps.tables import robustness as tables
from sweeps.tables.averages import Groups, group_table
from sweeps.tables.pages import robustness_page
from sweeps.tables.winner import why_no_winner
from trainer.measure.grid import COLUMNS, NO_ANSWER, ScoreError, read_grid
from trainer.store import SCORES, Store

CONSTANT = np.zeros((P, R), dtype=int)
TRIALS = {  # id: (status, rung, dev answers, test answers, template, plw)
    "good": ("finished", 40, answers(0.92, 1), answers(0.85, 2), "plain", 0.0),
    "fair": ("finished", 40, answers(0.70, 3), answers(0.93, 4), "plain", 0.1),
    "flat": ("finished", 40, CONSTANT, CONSTANT, "chat", 0.0),
    "cut": ("stopped", 10, answers(0.55, 5), answers(0.55, 6), "chat", 0.1),
    "broken": ("failed", 0, None, None, "chat", 0.0),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return folder(tmp_path / "run", TRIALS)


def test_columns_begin_as_promised_and_numbers_are_those_of_the_cells(store: Store) -> None:
    table = tables.make_tables(RunFolder(store), SETTINGS).robustness
    assert table.column_names[:7] == ["trial_id", "n_prompts", "n_rows", "mean", "std", "min", "top"]
    row, predicted = by_id(table)["good"], TRIALS["good"][3]
    each = (predicted == LABEL).mean(axis=1)
    assert (row["n_prompts"], row["n_rows"]) == (P, R)
    assert row["mean"] == pytest.approx(each.mean())
    assert row["std"] == pytest.approx(each.std(ddof=1))
    assert row["min"] == each.min()
    assert row["top"] == (each > 0.75).mean()
    assert row["top_0.90"] == (each > 0.9).mean()
    assert row["q25"] == pytest.approx(np.quantile(each, 0.25))
    assert row["f1_macro"] == pytest.approx(np.mean([f1_score(LABEL, p, average="macro") for p in predicted]))
    logits = (predicted - 0.5) * (1 + np.arange(R) % 3)
    assert row["roc_auc"] == pytest.approx(np.mean([roc_auc_score(LABEL, x) for x in logits]))
    assert row["mean_low"] < row["mean"] < row["mean_high"]
    assert row["std_corrected"] <= row["std"]


def test_the_dev_objective_chooses_the_winner_and_the_test_objective_ranks(store: Store) -> None:
    found = by_id(tables.make_tables(RunFolder(store), SETTINGS).robustness)
    assert [t for t, r in found.items() if r["winner"]] == ["good"]  # best on dev although "fair" is better on test
    assert (found["fair"]["rank"], found["good"]["rank"], found["cut"]["rank"]) == (1, 2, 3)
    dev = (TRIALS["good"][2] == LABEL).mean(axis=1)
    assert found["good"]["dev_objective"] == pytest.approx(dev.mean() - dev.std(ddof=1))
    assert found["good"]["dev_stderr"] > 0


def test_a_constant_answer_is_never_ranked_and_never_wins(store: Store) -> None:
    flat = by_id(tables.make_tables(RunFolder(store), replace(SETTINGS, std_weight=100.0)).robustness)["flat"]
    assert (flat["std"], flat["top_label_share"]) == (0.0, 1.0)  # std 0 would be the best objective by far
    assert flat["degenerate"] is True
    assert flat["rank"] is None
    assert flat["winner"] is False


def test_a_trial_without_test_rows_keeps_its_status_and_reason(store: Store) -> None:
    broken = by_id(tables.make_tables(RunFolder(store), SETTINGS).robustness)["broken"]
    assert broken["mean"] is None
    assert broken["rank"] is None
    assert (broken["status"], broken["reason"]) == ("failed", "loss is NaN at step 3")


def test_differences_are_paired_with_the_two_best_by_dev(store: Store) -> None:
    found = by_id(tables.make_tables(RunFolder(store), SETTINGS).robustness)
    cut, good, fair = found["cut"], found["good"], found["fair"]
    assert cut["diff_best"] == pytest.approx(cut["mean"] - good["mean"])
    assert cut["diff_second"] == pytest.approx(cut["mean"] - fair["mean"])
    assert cut["diff_best_low"] <= cut["diff_best"] <= cut["diff_best_high"] < 0
    assert cut["p_best"] <= cut["p_best_holm"] < 0.05
    assert good["diff_best"] is None
    assert good["diff_second"] == pytest.approx(-fair["diff_best"])


def test_holm_runs_over_the_comparisons_with_best_and_second_together(store: Store) -> None:
    """Three comparisons: fair and cut with the best, cut with the second. Best with second is one, not two."""
    found = by_id(tables.make_tables(RunFolder(store), SETTINGS).robustness)
    cut, good, fair = found["cut"], found["good"], found["fair"]
    raw = [fair["p_best"], cut["p_best"], cut["p_second"]]
    theirs = multipletests(raw, method="holm")[1]
    assert [fair["p_best_holm"], cut["p_best_holm"], cut["p_second_holm"]] == pytest.approx(theirs)
    assert good["p_second_holm"] == fair["p_best_holm"]
    assert good["p_second"] == pytest.approx(fair["p_best"])


def test_a_difference_that_lies_in_a_few_prompts_is_undecided(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    even = np.where(rng.random((P, R)) < 0.9, LABEL, 1 - LABEL)
    bad = np.where(rng.random((P, R)) < 0.9, LABEL, 1 - LABEL)
    bad[3] = 1 - LABEL
    axes = ("plain", 0.0)
    trials = {
        "even": ("finished", 40, answers(0.9, 1), even, *axes),
        "bad": ("finished", 40, answers(0.6, 3), bad, *axes),
    }
    table = tables.make_tables(RunFolder(folder(tmp_path / "run", trials)), SETTINGS).robustness
    found = by_id(table)
    assert found["bad"]["heavy_tails"]
    assert found["bad"]["heavy_best"]
    assert not found["even"]["heavy_tails"]
    page = robustness_page(table, SETTINGS)
    assert "undecided (heavy tails)" in page
    assert f"up to {300 / P:.0f} % of such wordings can go unseen" in page
    assert "Trials: bad." in page


def test_f1_macro_studies_are_summarised_by_f1_macro(store: Store) -> None:
    settings = replace(SETTINGS, metric="f1_macro")
    row = by_id(tables.make_tables(RunFolder(store), settings).robustness)["good"]
    assert row["metric"] == "f1_macro"
    assert row["mean"] == pytest.approx(row["f1_macro"])
    assert row["mean_low"] < row["mean"] < row["mean_high"]


def test_strict_and_not_strict_differ_at_the_threshold(store: Store) -> None:
    each = (TRIALS["good"][3] == LABEL).mean(axis=1)
    at = float(np.sort(each)[2])
    for strict, expected in ((True, (each > at).mean()), (False, (each >= at).mean())):
        settings = replace(SETTINGS, thresholds=(at,), strict=strict)
        assert by_id(tables.make_tables(RunFolder(store), settings).robustness)["good"]["top"] == pytest.approx(
            expected
        )


def test_groups_average_the_finished_trials_of_an_axis_value(store: Store) -> None:
    rows = {(r["axis"], r["value"]): r for r in tables.make_tables(RunFolder(store), SETTINGS).groups.to_pylist()}
    plain, chat = rows["template", "plain"], rows["template", "chat"]
    found = by_id(tables.make_tables(RunFolder(store), SETTINGS).robustness)
    for name in ("mean", "std", "min", "top"):
        assert plain[name] == pytest.approx((found["good"][name] + found["fair"][name]) / 2)
        assert plain[f"{name}_low"] <= plain[f"{name}_high"]
    assert (plain["n_trials"], plain["n_finished"], plain["n_averaged"]) == (2, 2, 2)
    assert (chat["n_trials"], chat["n_finished"], chat["n_averaged"]) == (3, 1, 0)  # its finished one is degenerate
    assert chat["mean"] is None


def test_written_files_agree_and_are_the_same_bytes_every_time(store: Store, tmp_path: Path) -> None:
    names = tables.write_tables(RunFolder(store), SETTINGS)
    assert names == [f"tables/{n}.{e}" for n in ("robustness", "trials", "groups") for e in ("md", "csv", "parquet")]
    again = folder(tmp_path / "again", TRIALS)
    tables.write_tables(RunFolder(again), SETTINGS)
    here, there = (s.uri.encode() for s in (store, again))
    assert all(store.read(n).replace(here, b"") == again.read(n).replace(there, b"") for n in names)
    parquet = pq.read_table(pa.BufferReader(store.read("tables/robustness.parquet")))
    assert parquet.equals(tables.make_tables(RunFolder(store), SETTINGS).robustness)
    text = pacsv.read_csv(pa.BufferReader(store.read("tables/robustness.csv")))
    assert text["trial_id"].to_pylist() == parquet["trial_id"].to_pylist()
    assert text["mean"].to_pylist() == pytest.approx(parquet["mean"].to_pylist())


def test_the_page_says_what_a_reader_must_know(store: Store) -> None:
    tables.write_tables(RunFolder(store), SETTINGS)
    page = store.read("tables/robustness.md").decode()
    good = next(line for line in page.splitlines() if "**good**" in line)
    assert "**winner**" in good
    assert f"{100 * (TRIALS['good'][3] == LABEL).mean():.1f} (" in good
    assert "5 trials: 1 cut early by the scheduler, 1 failed, 1 degenerate. Scored on 6 test prompts x 80 rows" in page
    assert "strictly above (`>`) 75 %, 90 %" in page
    assert "constant answer, not robustness" in page
    assert "| template |" in page.splitlines()[2]
    assert "rslora" not in page  # axes with one value only widen the page
    assert "| stopped at rung 1 of 2: 0.5 &lt; 0.6 |" in page
    assert "| failed, loss is NaN at step 3 |" in page
    loose = replace(SETTINGS, thresholds=(0.75,), strict=False)
    tables.write_tables(RunFolder(store), loose)
    assert "at or above (`>=`) 75 %" in store.read("tables/robustness.md").decode()


def test_a_doubled_cell_names_file_prompt_and_row(store: Store) -> None:
    rows = scores("good", 40, "test", TRIALS["good"][3])
    store.write_scores("good", 40, "test", pa.Table.from_pylist([*rows, rows[7]], schema=SCORES), RECORD)
    with pytest.raises(ScoreError, match=r'scores/good/000040-test.parquet: prompt "test0" on row "r007" is scored 2'):
        tables.make_tables(RunFolder(store), SETTINGS)


def test_a_folder_without_trials_is_an_error_a_user_understands(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"trials.parquet: no such file. Is this a run folder\?"):
        tables.make_tables(RunFolder(Store.open(tmp_path)), SETTINGS)


def test_a_single_prompt_and_no_trial_at_all_are_tabled(store: Store) -> None:
    for trial_id in ("good", "fair"):
        rows = scores(trial_id, 40, "test", TRIALS[trial_id][3])[:R]
        store.write_scores(trial_id, 40, "test", pa.Table.from_pylist(rows, schema=SCORES), RECORD)
    found = by_id(tables.make_tables(RunFolder(store), SETTINGS).robustness)
    assert (found["good"]["n_prompts"], found["good"]["std"], found["good"]["std_low"]) == (1, 0.0, None)
    assert found["good"]["consistency"] is None
    assert found["cut"]["diff_best"] is None  # not the same cells: no pairing
    sink = pa.BufferOutputStream()
    pq.write_table(pq.read_table(pa.BufferReader(store.read("trials.parquet")))[:0], sink)
    store.write("trials.parquet", sink.getvalue().to_pybytes())
    assert tables.make_tables(RunFolder(store), SETTINGS).robustness.num_rows == 0
    tables.write_tables(RunFolder(store), SETTINGS)
    assert "No winner" in store.read("tables/robustness.md").decode()


def test_reading_results_imports_neither_torch_nor_ray() -> None:
    heavy = "{'torch', 'ray', 'transformers', 'pandas', 'statsmodels'} & set(sys.modules)"
    code = f"import sys, sweeps.tables.robustness; found = {heavy}; sys.exit(', '.join(found) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", [reading.KEPT, 0])
def test_every_score_file_is_read_once_and_without_room_those_of_the_two_references_twice(
    room: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[str] = Counter()
    read = Store.read

    def counted(self: Store, name: str) -> bytes:
        seen[name] += 1
        return read(self, name)

    monkeypatch.setattr(Store, "read", counted)
    monkeypatch.setattr(reading, "KEPT", room)
    tables.write_tables(RunFolder(store), SETTINGS)
    scored = {n: times for n, times in seen.items() if n.startswith("scores/")}
    twice = {f"scores/{trial_id}/000040-test.parquet" for trial_id in ("good", "fair")}
    assert {n for n, times in scored.items() if times == 2} == (set() if room else twice)
    assert set(scored.values()) <= {1, 2}
    assert len(scored) == 8  # dev and test of four trials, each at its last rung


def test_the_columns_of_a_grid_alone_give_the_same_grid(store: Store) -> None:
    unparsed = np.where(np.arange(R) % 7 == 0, -1, TRIALS["good"][3])
    write(store, "good", 40, "test", unparsed)
    whole, few = store.read_scores("good", 40, "test"), store.read_scores("good", 40, "test", COLUMNS)
    assert whole is not None
    assert few is not None
    assert few[0].column_names == list(COLUMNS)
    assert few[1] == whole[1]
    for labels in (("no", "yes"), ()):
        a, b = read_grid(whole[0], labels), read_grid(few[0], labels)
        assert (a.prompts, a.rows, a.labels) == (b.prompts, b.rows, b.labels)
        for name in ("label", "predicted", "correct", "label_logprobs"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
    assert (read_grid(few[0]).predicted == NO_ANSWER).sum() == (unparsed < 0).sum()


def test_what_a_group_summed_is_given_up_with_its_last_trial() -> None:
    trials = [{"trial_id": f"t{i}", "seed": i, "pool": "many", "status": "finished"} for i in range(3)]
    groups = Groups.of_trials(trials, SHARE)
    own = {"cells": np.ones((2, 3)), "std": np.zeros(5), "min": np.ones(5), "top": np.ones(5), "least_rows": 3.0}
    for i, trial in enumerate(trials):
        assert ("pool", "many") in groups.by_value
        groups.add_trial(trial, "7 (2, 3)", own)
        assert not groups.by_value["seed", str(i)].sums
        assert bool(groups.by_value["pool", "many"].sums) == (i < 2)
    rows = {(r["axis"], r["value"]): r for r in group_table(groups).to_pylist()}
    assert (rows["pool", "many"]["n_averaged"], rows["pool", "many"]["mean"]) == (3, 1.0)
    assert (rows["seed", "1"]["n_averaged"], rows["seed", "1"]["mean"]) == (1, 1.0)


def test_unread_answers_are_counted_and_not_called_one_label(tmp_path: Path) -> None:
    """CASES V14."""
    cut_off, some = np.full((P, R), NO_ANSWER), answers(0.9, 7)
    some[:, :8] = NO_ANSWER
    given = {"unread": cut_off, "some": some, "flat": CONSTANT}
    store = folder(tmp_path / "run", {i: ("finished", 40, x, x, "plain", 0.0) for i, x in given.items()})
    table = tables.make_tables(RunFolder(store), SETTINGS).robustness
    found = by_id(table)
    assert (found["some"]["parse_fail_rate"], found["some"]["dev_parse_fail_rate"]) == (0.1, 0.1)
    assert found["some"]["winner"]
    page = robustness_page(table, SETTINGS)
    status = {i: next(x for x in page.splitlines() if f"| {i} " in x or f"**{i}**" in x).rstrip("| ") for i in found}
    assert status["unread"].endswith("finished, 100.0 % unread")
    assert status["some"].endswith("**winner**, 10.0 % unread")
    assert status["flat"].endswith("finished, degenerate")
    assert "1 degenerate, 1 whose answers could not be read." in page
    why = why_no_winner([found["unread"]])
    assert "nearly no generated answer of the one trial that finished could be read" in why
    assert "scoring.max_new_tokens" in why
    assert "Train longer" in why_no_winner([found["unread"], found["flat"]])
