"""``tables/ensembles`` from score files: numbers by hand, the base model, and what has no label log-probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from asked_run import (
    BASE,
    LABELLED,
    PROMPTS,
    ROWS,
    TRUTH,
    TUNED,
    P,
    R,
    logprobs,
    rows_of,
    run_folder,
    study,
)

from sweeps.report.table_parts import ensembles_part
from sweeps.run_folder.reading import RunFolder
from sweeps.tables import ensembles
from trainer.measure.design import balanced, sample_size


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = study({**LABELLED, "metric": "f1_macro"})
    return run_folder(tmp_path / "run", made, {"aa": (40, TUNED), "bb": (0, BASE)}, ["no", "yes"])


def test_numbers_are_those_of_the_log_probabilities(run: RunFolder) -> None:
    table = ensembles.ensembles(run)
    for trial_id, values in (("aa", TUNED), ("bb", BASE)):
        of = {"trial_id": trial_id, "metric": "accuracy"}
        found = rows_of(table, method="probabilities", **of)
        assert [r["wordings"] for r in found] == [1, 2, 4, 8, P]
        assert [r["draws"] for r in found] == [P, 45, 200, 45, 1]
        shares = np.exp(values) / np.exp(values).sum(axis=2, keepdims=True)
        assert found[-1]["value"] == pytest.approx((shares.mean(axis=0).argmax(axis=1) == TRUTH).mean())
        pairs = [(i, j) for i in range(P) for j in range(i)]
        each = [((shares[i] + shares[j]).argmax(axis=1) == TRUTH).mean() for i, j in pairs]
        assert found[1]["value"] == pytest.approx(np.mean(each))
        shift = values - values.mean(axis=1, keepdims=True) + np.log(np.bincount(TRUTH) / R)  # dev has the same rows
        shares = np.exp(shift) / np.exp(shift).sum(axis=2, keepdims=True)
        calibrated = rows_of(table, method="calibrated", **of)
        assert calibrated[-1]["value"] == pytest.approx((shares.mean(axis=0).argmax(axis=1) == TRUTH).mean())
        assert all(r["value_low"] <= r["value"] <= r["value_high"] for r in found)
        assert found[-1]["value"] > found[0]["value"]


def test_one_wording_is_the_tables_line_and_the_studys_metric_is_there(run: RunFolder) -> None:
    table, rows = ensembles.ensembles(run), {r["trial_id"]: r for r in run.robustness()}
    for trial_id in ("aa", "bb"):
        [one] = rows_of(table, trial_id=trial_id, method="vote", metric="f1_macro", wordings=1)
        for ours, theirs in (("value", "mean"), ("value_low", "mean_low"), ("value_high", "mean_high")):
            assert one[ours] == pytest.approx(rows[trial_id][theirs])


def test_of_many_configurations_the_best_are_asked_and_the_base_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensembles, "MOST", 1)
    trials = {"aa": (40, BASE), "bb": (0, BASE), "cc": (40, TUNED)}
    run = run_folder(tmp_path / "run", study(LABELLED), trials, ["no", "yes"])
    first = next(row["trial_id"] for row in run.robustness() if row["steps"])
    table = ensembles.ensembles(run)
    assert set(table.column("trial_id").to_pylist()) == {first, "bb"}
    assert any(
        note.startswith("At most 1 configurations are here, the first of") for note in ensembles.notes(table, run.study)
    )


def test_a_metric_that_ranks_rows_has_no_vote(tmp_path: Path) -> None:
    made = study({**LABELLED, "metric": "roc_auc"})
    folder = run_folder(tmp_path / "run", made, {"aa": (40, TUNED), "bb": (0, BASE)}, ["no", "yes"])
    table, rows = ensembles.ensembles(folder), {r["trial_id"]: r for r in folder.robustness()}
    assert rows_of(table, method="vote", metric="roc_auc") == []
    assert len(rows_of(table, method="vote", metric="accuracy")) == 2 * 5
    [one] = rows_of(table, trial_id="aa", method="probabilities", metric="roc_auc", wordings=1)
    for ours, theirs in (("value", "mean"), ("value_low", "mean_low"), ("value_high", "mean_high")):
        assert one[ours] == pytest.approx(rows["aa"][theirs])
    assert ensembles.figure(table, made, {}).spec["description"] == "roc_auc over wordings asked, 2 trials"


def test_the_base_model_is_told_and_asked_for(run: RunFolder, tmp_path: Path) -> None:
    assert {r["trial_id"] for r in rows_of(ensembles.ensembles(run), base=True)} == {"bb"}
    page = ensembles.page(ensembles.ensembles(run), run.study)
    assert "| bb, base model | probabilities |" in page
    assert "steps: 0" not in page
    alone = run_folder(tmp_path / "alone", study(LABELLED), {"aa": (40, TUNED)}, ["no", "yes"])
    assert "an arm with `steps: 0` adds it" in ensembles.page(ensembles.ensembles(alone), alone.study)


def test_all_forms_agree_and_the_report_draws_the_curves(run: RunFolder) -> None:
    part = ensembles_part(run)
    assert part is not None
    folder = Path(run.store.uri) / "tables"
    table = pq.read_table(folder / "ensembles.parquet")
    assert table.schema.remove_metadata() == ensembles.SCHEMA
    assert table.num_rows == 2 * 3 * 2 * 5
    assert pacsv.read_csv(folder / "ensembles.csv").column_names == table.column_names
    assert (folder / "ensembles.md").read_text().count("\n| ") == 2 + 2 * 3 * 2
    assert part.title == "Asking in several wordings"
    [figure] = part.drawn
    rows = [row for rows in figure.spec["datasets"].values() for row in rows]
    base = "bb steps=0 arm=base, base model"
    assert {row["line"] for row in rows} == {"aa steps=40 arm=paft", base}
    assert {row["id"] for row in rows} == {"aa", "bb"}
    drawn = {row["at"]: row for row in rows if row["line"] == base}
    for one in rows_of(table, trial_id="bb", method="probabilities", metric="f1_macro"):
        point = drawn[str(one["wordings"])]
        assert (point["y"], point["low"], point["high"]) == pytest.approx(
            tuple(100 * one[n] for n in ("value", "value_low", "value_high")), rel=1e-5
        )
    assert {row[0] for row in part.tables[0].rows} == {"aa steps=40 arm=paft", base}


def test_the_answer_says_what_several_wordings_gain_and_what_the_rivals_need(run: RunFolder) -> None:
    part = ensembles_part(run)
    assert part is not None
    table = ensembles.ensembles(run)
    of = {"method": "probabilities", "metric": "f1_macro"}
    one, *_, most = rows_of(table, trial_id="aa", **of)
    best = max(r["value"] for r in rows_of(table, trial_id="bb", **of))
    gain = f"{100 * (most['value'] - one['value']):+.1f} points"
    assert part.answer[0] == (
        f"Asked in all {P} wordings instead of one, aa steps=40 arm=paft changes its f1_macro by {gain}, from "
        f"{100 * one['value']:.1f} % to {100 * most['value']:.1f} %."
    )
    assert best < one["value"]
    assert part.answer[1] == (
        f"The base model does not reach {100 * one['value']:.1f} % in any number of wordings: "
        f"{100 * best:.1f} % at most."
    )


def test_a_weaker_fine_tune_is_said_to_need_so_many_wordings(tmp_path: Path) -> None:
    trials = {"aa": (40, TUNED), "cc": (40, logprobs(3, 2.2)), "bb": (0, BASE)}
    found = run_folder(tmp_path / "run", study(LABELLED), trials, ["no", "yes"])
    table = ensembles.ensembles(found)
    said = list(ensembles.answer(table, found.study, {}))
    of = {"method": "probabilities", "metric": "accuracy"}
    once = rows_of(table, trial_id="aa", wordings=1, **of)[0]["value"]
    needed = min(r["wordings"] for r in rows_of(table, trial_id="cc", **of) if r["value"] >= once)
    assert said[1] == (
        f"Of 1 fine-tune below it, 1 would reach what it gives with one wording, {100 * once:.1f} %, by being asked in "
        f"several: in {needed} at the least."
    )


def test_generated_answers_have_a_vote_only(tmp_path: Path) -> None:
    made = study(LABELLED, scoring={"scorer": "generate"})
    found = run_folder(tmp_path / "run", made, {"aa": (40, TUNED)}, ["no", "yes"], texts=True)
    table = ensembles.ensembles(found)
    assert {r["method"] for r in table.to_pylist()} == {"vote"}
    assert {r["note"] for r in table.to_pylist()} == {ensembles.GENERATED}
    assert "no label log-probabilities" in ensembles.page(table, made)
    assert ensembles.figure(table, made, {}).spec


def test_of_a_sample_nothing_is_claimed(tmp_path: Path) -> None:
    size = sample_size(0.5, P, R)
    keep = balanced(PROMPTS, ROWS, [("no", "yes")[t] for t in TRUTH], size.cells)
    found = run_folder(tmp_path / "run", study(LABELLED), {"aa": (40, TUNED)}, ["no", "yes"], keep=keep)
    [row] = ensembles.ensembles(found).to_pylist()
    assert (row["value"], row["note"]) == (None, ensembles.SAMPLED)
    assert "not available from a sample" in ensembles.page(ensembles.ensembles(found), found.study)
    assert ensembles.figure(ensembles.ensembles(found), found.study, {}).spec == {}
    part = ensembles_part(found)
    assert part is not None
    assert (part.answer, part.drawn) == ((), ())


def test_options_are_the_numbers_of_the_log_probabilities(tmp_path: Path) -> None:
    """Twelve options of which most are never right and never given: texts of numbers sort otherwise than numbers."""
    values = logprobs(3, 1.0, 12)
    made = study({"label": "right", "options": "choices"})
    names = [str(i) for i in range(12)]
    found = run_folder(tmp_path / "run", made, {"aa": (40, values)}, names)
    rows = rows_of(ensembles.ensembles(found), method="probabilities")
    shares = np.exp(values) / np.exp(values).sum(axis=2, keepdims=True)
    assert rows[0]["value"] == pytest.approx((values.argmax(axis=2) == TRUTH % 12).mean())
    assert rows[-1]["value"] == pytest.approx((shares.mean(axis=0).argmax(axis=1) == TRUTH % 12).mean())
