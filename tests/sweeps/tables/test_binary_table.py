"""``tables/binary`` of every study with two labels: scikit-learn's numbers, and what has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from asked_run import BASE, LABELLED, PROMPTS, ROWS, TRUTH, TUNED, P, R, logprobs, rows_of, run_folder, study
from sklearn import metrics as sk

from sweeps.report.table_parts import binary_part
from sweeps.run_folder.reading import RunFolder
from sweeps.tables import binary
from trainer.measure.design import balanced, sample_size


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return run_folder(tmp_path / "run", study(LABELLED), {"aa": (40, TUNED), "bb": (0, BASE)}, ["no", "yes"])


def chances(values: Any) -> Any:
    return 1 / (1 + np.exp(values[:, :, 0] - values[:, :, 1]))


@pytest.mark.parametrize(("trial", "values"), [("aa", TUNED), ("bb", BASE)])
def test_figures_are_scikit_learns_at_the_threshold_of_the_dev_prompts(run: RunFolder, trial: str, values: Any) -> None:
    [row] = rows_of(binary.binary_table(run), trial_id=trial)
    p, positive = chances(values), TRUTH == 1

    def f1(each: Any, t: float) -> float:
        return float(sk.f1_score(positive, each > t, average="macro"))

    dev = p[:2]  # the run's dev scores are those of its first two prompts
    tried = np.unique(dev)
    tried = np.append((tried[1:] + tried[:-1]) / 2, 0.5)
    best = max(np.mean([f1(x, t) for x in dev]) for t in tried)
    assert np.mean([f1(x, row["threshold"]) for x in dev]) == pytest.approx(best, abs=1e-12)
    assert row["f1_half"] == pytest.approx(np.mean([f1(x, 0.5) for x in p]), abs=1e-12)
    assert row["f1_tuned"] == pytest.approx(np.mean([f1(x, row["threshold"]) for x in p]), abs=1e-12)
    assert row["roc_auc"] == pytest.approx(np.mean([sk.roc_auc_score(positive, x) for x in p]), abs=1e-12)
    assert row["pr_auc"] == pytest.approx(np.mean([sk.average_precision_score(positive, x) for x in p]), abs=1e-12)
    assert row["drift"] == pytest.approx(row["f1_own"] - row["f1_tuned"], abs=1e-12)
    assert (row["positive"], row["n_seeds"], row["note"]) == ("yes", 1, "")


def test_the_report_writes_it_and_shows_it(run: RunFolder) -> None:
    part = binary_part(run)
    folder = Path(run.store.root) / "tables"
    table = pq.read_table(folder / "binary.parquet")
    assert table.schema.remove_metadata() == binary.SCHEMA
    assert table["trial_id"].to_pylist() == [r["trial_id"] for r in run.robustness()]
    assert pacsv.read_csv(folder / "binary.csv").column_names == table.column_names
    page = (folder / "binary.md").read_text()
    assert "The positive label is yes, the second of task.labels" in page
    assert part is not None
    assert part.title == binary.TITLE
    assert "macro-F1 tuned" in part.tables[0].head
    rows = {r["trial_id"]: r for r in table.to_pylist()}
    first, gains = table.to_pylist()[0], [r["f1_tuned"] - r["f1_half"] for r in rows.values()]
    assert part.answer == (
        f"At the threshold that is best on the dev prompts, {first['threshold']:.3f}, the macro-F1 of "
        f"{part.tables[0].rows[0][0]} on the test prompts is {first['f1_tuned']:.3f}, and "
        f"{first['f1_half']:.3f} at 0.5.",
        f"The tuned threshold is better than 0.5 for {sum(g > 0 for g in gains)} of 2; on average it changes the "
        f"macro-F1 by {np.mean(gains):+.3f}.",
    )


def test_what_has_no_probabilities_is_said(tmp_path: Path) -> None:
    made = study(LABELLED, scoring={"scorer": "generate"})
    found = run_folder(tmp_path / "texts", made, {"aa": (40, TUNED)}, ["no", "yes"], texts=True)
    [row] = binary.binary_table(found).to_pylist()
    assert (row["f1_half"], row["note"]) == (None, binary.GENERATED)
    keep = balanced(PROMPTS, ROWS, [("no", "yes")[t] for t in TRUTH], sample_size(0.5, P, R).cells)
    found = run_folder(tmp_path / "sampled", study(LABELLED), {"aa": (40, TUNED)}, ["no", "yes"], keep=keep)
    [row] = binary.binary_table(found).to_pylist()
    assert (row["f1_half"], row["note"]) == (None, binary.SAMPLED)


def test_a_task_with_other_labels_has_no_such_table(tmp_path: Path) -> None:
    made = study({"label": "label", "labels": ["no", "yes", "maybe"]})
    found = run_folder(tmp_path / "three", made, {"aa": (40, logprobs(3, 2.0, k=3))}, ["no", "yes", "maybe"])
    found.store.write("tables/binary.md", b"of an earlier study")
    assert binary_part(found) is None
    assert not found.store.exists("tables/binary.md")


def test_figures_of_another_decision_are_said_to_be_of_plain_probabilities(tmp_path: Path) -> None:
    made = study(LABELLED, scoring={"decision": "batch"})
    found = run_folder(tmp_path / "batch", made, {"aa": (40, TUNED)}, ["no", "yes"])
    page = binary.page(binary.binary_table(found), made)
    assert "The study decides by batch; these are figures of the plain probabilities" in page
