"""``steadytune.load(...).predict`` answers as the run's scores and as ``steadytune predict`` do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_run

import steadytune as st
from sweeps.export.predict import predict

X1 = tiny_run.PROMPTS["test"]["x1"]


def exported(name: str, factory: pytest.TempPathFactory, to: Path) -> tuple[str, str, str]:
    """Run folder, the id of its last trial, and an export of it."""
    run, trials = tiny_run.made(name, factory)
    return run, trials[-1].id, st.open(run).export(to, trials[-1].id)


@pytest.fixture
def labels(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> tuple[str, str, str]:
    return exported("labels", tmp_path_factory, tmp_path / "adapter")


def test_answers_are_the_scores_of_the_run(labels: tuple[str, str, str]) -> None:
    run, trial, folder = labels
    scores = st.open(run).scores(trial).to_pandas().query("prompt_id == 'x1'").set_index("row_id")
    answers = st.load(folder).predict(tiny_run.data(run, "test.jsonl"), prompt=X1)
    assert list(answers.columns) == ["id", "label", "p_no", "p_yes"]
    assert len(answers) == len(scores) == 16
    expected = scores.loc[answers["id"]]
    assert list(answers["label"]) == list(expected["predicted"])
    values = np.exp(np.array(expected["label_logprobs"].tolist(), dtype=np.float64))
    p = values / values.sum(axis=1, keepdims=True)
    assert np.abs(answers[["p_no", "p_yes"]].to_numpy() - p).max() < 1e-5


def test_rows_may_be_a_file_dicts_or_a_table(labels: tuple[str, str, str]) -> None:
    run, _, folder = labels
    path = tiny_run.data(run, "test.jsonl")
    records = [json.loads(line) for line in Path(path).read_text().splitlines()]
    adapter = st.load(folder)
    whole = adapter.predict(path)
    for rows in (Path(path), records, pd.DataFrame(records), pa.Table.from_pylist(records)):
        pd.testing.assert_frame_equal(adapter.predict(rows), whole)
    assert list(adapter.predict([{"text": r["text"]} for r in records])["id"]) == [f"row-{i}" for i in range(16)]


def test_a_threshold_is_a_number_or_tuned(labels: tuple[str, str, str]) -> None:
    run, _, folder = labels
    rows, adapter = tiny_run.data(run, "test.jsonl"), st.load(folder)
    assert set(adapter.predict(rows, threshold=0)["label"]) == {"yes"}
    assert set(adapter.predict(rows, threshold=1.0)["label"]) == {"no"}
    tuned = json.loads(Path(folder, "template.json").read_text())["threshold"]
    found = adapter.predict(rows, threshold="tuned")
    assert list(found["label"] == "yes") == list(found["p_yes"] > tuned)


@pytest.mark.parametrize("name", ["options", "generate", "batch"])
def test_answers_of_every_kind_are_those_of_the_command(
    name: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    run, _, folder = exported(name, tmp_path_factory, tmp_path / "adapter")
    rows, out = tiny_run.data(run, "test.jsonl"), tmp_path / "answers.parquet"
    assert predict(folder, rows, str(out)) == 0
    expected = pq.read_table(out)
    found = st.load(folder).predict(rows)
    assert list(found.columns) == expected.column_names
    assert pa.Table.from_pandas(found, schema=expected.schema).to_pylist() == expected.to_pylist()


@pytest.mark.parametrize(
    ("rows", "more", "words"),
    [
        ([], {}, "rows: the table has no rows"),
        ([{"txt": "it"}], {}, 'fields = "text" is no column of the table. Did you mean "txt"? Known: txt'),
        ([{"text": "it"}, {"text": None}], {}, "rows: the table, row 2"),
        ([{"text": "it"}, "it"], {}, "the table, line 2: holds 'it', not a record"),
        ([{"text": "it"}, {"text": {1, 2}}], {}, "rows: the table, row 2: cannot be used (Object of type set"),
        (pd.DataFrame({"text": [" "]}), {}, "rows: the table"),
        (
            [{"text": "it"}],
            {"threshold": 2},
            '--threshold = "2" is no probability. Give tuned, or a number from 0 to 1',
        ),
        ([{"text": "it"}], {"prompt": "t9"}, '--prompt = "t9" is no prompt of '),
        ("./rows.xlsx", {}, 'rows: path = "./rows.xlsx" does not exist.'),
    ],
    ids=range(9),
)
def test_what_cannot_be_answered_is_said(
    labels: tuple[str, str, str], rows: Any, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(st.UserError) as caught:
        st.load(labels[2]).predict(rows, **more)
    assert words in str(caught.value)


def test_what_is_no_export_is_refused(labels: tuple[str, str, str], tmp_path: Path) -> None:
    with pytest.raises(st.UserError, match=r'does not exist\. Did you mean "adapter"\?'):
        st.load(tmp_path / "adaptr")
    with pytest.raises(st.UserError, match=r"template\.json: no such file\. Give a folder that `steadytune export"):
        st.load(labels[0])
    with pytest.raises(st.UserError, match="The base model may have moved"):
        st.load(labels[2], base=tmp_path / "nowhere").predict([{"text": "it"}])
