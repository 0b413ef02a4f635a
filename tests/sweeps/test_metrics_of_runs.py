"""A study of each metric, from its score rows to table, report and model card; and a run folder from before
``f1_macro`` had that name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sk
from tiny_run import LABELLED, PLAIN, make_run

from sweeps.export.export import export
from sweeps.report.write import write_report
from trainer.store import Store
from trainer.trial import Trial

AXES = {"lora": {"r": [2, 4]}, "lr": 1e-2, "steps": 6}


def made(folder: Path, metric: str) -> tuple[str, list[Trial]]:
    return make_run(folder, {**LABELLED, "metric": metric}, templates=PLAIN, axes=AXES)


def table(uri: str) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(Path(uri) / "tables" / "robustness.parquet").to_pylist()
    return {row["trial_id"]: row for row in rows}


def by_prompt(uri: str, trial: Trial) -> list[tuple[list[bool], list[bool], list[float]]]:
    """Of each test prompt: what is right, what was answered (yes or not), and the score of yes."""
    scores = Store.open(uri).read_scores(trial.id, trial.optimization.steps, "test")
    assert scores is not None
    found = []
    for prompt in sorted(set(scores[0]["prompt_id"].to_pylist())):
        rows = scores[0].filter(pc.equal(scores[0]["prompt_id"], prompt)).to_pylist()
        score = [r["label_logprobs"][1] - r["label_logprobs"][0] for r in rows]
        found.append(([r["label"] == "yes" for r in rows], [r["predicted"] == "yes" for r in rows], score))
    return found


@pytest.mark.parametrize("metric", ["matthews_corrcoef", "roc_auc", "f1[yes]"])
def test_a_metric_goes_from_the_scores_to_every_page(tmp_path: Path, metric: str) -> None:
    uri, trials = made(tmp_path, metric)
    rows = table(uri)
    for x in trials:
        prompts, row = by_prompt(uri, x), rows[x.id]
        expected = {
            "accuracy": np.mean([sk.accuracy_score(y, p) for y, p, _ in prompts]),
            "balanced_accuracy": np.mean([sk.balanced_accuracy_score(y, p) for y, p, _ in prompts]),
            "f1_macro": np.mean([sk.f1_score(y, p, average="macro", zero_division=0) for y, p, _ in prompts]),
            "f1_weighted": np.mean([sk.f1_score(y, p, average="weighted", zero_division=0) for y, p, _ in prompts]),
            "matthews_corrcoef": np.mean([sk.matthews_corrcoef(y, p) for y, p, _ in prompts]),
            "roc_auc": np.mean([sk.roc_auc_score(y, s) for y, _, s in prompts]),
            "f1[yes]": np.mean([sk.f1_score(y, p, zero_division=0) for y, p, _ in prompts]),
        }
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-9)
        assert (row["metric"], row["mean"]) == (metric, pytest.approx(expected[metric], abs=1e-9))
        assert row["mean_low"] <= row["mean"] <= row["mean_high"]
    percents = metric != "matthews_corrcoef"
    unit = "percent" if percents else "times 100"
    report, page = (Path(uri) / "report.html").read_text(), (Path(uri) / "tables" / "robustness.md").read_text()
    assert metric in report
    assert f"{metric} under one prompt, {unit}" in report
    assert ("All numbers are percent here" in page) == percents
    export(uri, trials[0].id, str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{metric} on 2 test prompts x 16 test rows, {unit};" in card


def test_a_run_folder_of_before_is_read_and_its_trials_are_the_same(tmp_path: Path) -> None:
    """It says ``macro_f1``, in the study and in the records of its trials."""
    uri, trials = made(tmp_path, "f1_macro")
    before = table(uri)
    old = trials[0].to_json()
    old["task"]["metric"] = "macro_f1"
    assert Trial.from_json(old) == trials[0]
    assert Trial.from_json(old).id == trials[0].id
    study = Path(uri) / "study.yaml"
    text = study.read_text()
    assert "metric: f1_macro" in text
    study.write_text(text.replace("f1_macro", "macro_f1"))
    write_report(uri)
    assert table(uri) == before
