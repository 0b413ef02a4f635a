"""Predicting gives what scoring gave: the same answers as the run folder holds, in every way a trial may answer."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_run
import torch
from sklearn import metrics as sk

from sweeps.cli import main
from sweeps.export.export import export
from sweeps.export.predict import predict
from trainer.errors import UserError
from trainer.store import Store

Records = list[dict[str, Any]]
X1 = tiny_run.PROMPTS["test"]["x1"]
FINE = 1e-5


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Callable[[str], tuple[str, str]]:
    """Run by name -> (the folder with its data, an export of its last trial that a test may change)."""

    def make(name: str) -> tuple[str, str]:
        uri, trials = tiny_run.made(name, tmp_path_factory)
        return uri, export(uri, trials[-1].id, str(tmp_path / "out"))

    return make


@pytest.fixture
def labels(made: Callable[[str], tuple[str, str]]) -> tuple[str, str]:
    return made("labels")


def answers(folder: str, rows: str, tmp_path: Path, **more: Any) -> Records:
    assert predict(folder, rows, str(tmp_path / "answers.jsonl"), **more) == 0
    return [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]


def stored(uri: str, folder: str) -> Records:
    """The score rows of the exported trial under test prompt x1, in the order of the rows."""
    trial_id = json.loads(Path(folder, "template.json").read_text())["trial_id"]
    store = Store.open(uri)
    found = store.read_scores(trial_id, store.rungs(trial_id, "test")[-1], "test")
    assert found is not None
    return sorted((r for r in found[0].to_pylist() if r["prompt_id"] == "x1"), key=lambda r: int(r["row_id"][1:]))


def test_the_type_that_the_base_computes_in_can_be_chosen(labels: tuple[str, str], tmp_path: Path) -> None:
    """CASES V10: what was trained in bfloat16 can be asked in float32."""
    uri, folder = labels
    rows = tiny_run.data(uri, "test.jsonl")
    plain, wide = (answers(folder, rows, tmp_path, **more) for more in ({}, {"dtype": "float32"}))
    narrow = answers(folder, rows, tmp_path, dtype="bfloat16")
    assert plain == wide
    gaps = [abs(a["probabilities"]["yes"] - b["probabilities"]["yes"]) for a, b in zip(wide, narrow, strict=True)]
    assert 0 < max(gaps) < 0.1


def softmax(values: Any) -> np.ndarray:
    p = np.exp(np.asarray(values, dtype=np.float64) - max(values))
    return p / p.sum()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["labels", "classifier", "options"])
def test_answers_and_probabilities_are_those_of_the_run(
    made: Callable[[str], tuple[str, str]], tmp_path: Path, name: str
) -> None:
    uri, folder = made(name)
    got = answers(folder, tiny_run.data(uri, "test.jsonl"), tmp_path, prompt=X1)
    expected = stored(uri, folder)
    assert [r["id"] for r in got] == [r["row_id"] for r in expected]
    assert [r["label"] for r in got] == [r["predicted"] for r in expected]
    for mine, theirs in zip(got, expected, strict=True):
        p = mine["probabilities"]
        if isinstance(p, dict):
            assert list(p) == ["no", "yes"]
            p = list(p.values())
        assert np.abs(np.array(p) - softmax(theirs["label_logprobs"])).max() < FINE
    if name == "options":
        assert all(r["answer"] == "AB"[int(r["label"])] for r in got)


def f1_at(rows: Records, threshold: float) -> float:
    """scikit-learn's macro-F1 of score rows at a threshold of the second label's probability."""
    said = [softmax(r["label_logprobs"])[1] > threshold for r in rows]
    return float(sk.f1_score([r["label"] == "yes" for r in rows], said, average="macro", zero_division=0))


@pytest.mark.parametrize("name", ["labels", "classifier"])
def test_the_threshold_tuned_on_dev_reaches_predict(
    made: Callable[[str], tuple[str, str]], tmp_path: Path, name: str
) -> None:
    uri, folder = made(name)
    about = json.loads(Path(folder, "template.json").read_text())
    store = Store.open(uri)
    found = store.read_scores(about["trial_id"], store.rungs(about["trial_id"], "dev")[-1], "dev")
    assert found is not None
    by_prompt: dict[str, Records] = {}
    for r in found[0].to_pylist():
        by_prompt.setdefault(r["prompt_id"], []).append(r)
    chances = sorted({softmax(r["label_logprobs"])[1] for rows in by_prompt.values() for r in rows})
    tried = [0.5, *((a + b) / 2 for a, b in itertools.pairwise(chances))]
    best = max(np.mean([f1_at(rows, t) for rows in by_prompt.values()]) for t in tried)
    tuned = about["threshold"]
    assert np.mean([f1_at(rows, tuned) for rows in by_prompt.values()]) == pytest.approx(best, abs=1e-12)
    assert f"is above {tuned:.4g}" in Path(folder, "README.md").read_text()
    got = answers(folder, tiny_run.data(uri, "test.jsonl"), tmp_path, prompt=X1, threshold="tuned")
    expected = stored(uri, folder)
    assert [r["label"] == "yes" for r in got] == [softmax(r["label_logprobs"])[1] > tuned for r in expected]
    truth = [r["label"] for r in expected]
    mine = sk.f1_score(truth, [r["label"] for r in got], average="macro")
    assert mine == pytest.approx(f1_at(expected, tuned), abs=1e-12)


def test_a_threshold_moves_the_answers_and_not_the_probabilities(labels: tuple[str, str], tmp_path: Path) -> None:
    uri, folder = labels
    rows = tiny_run.data(uri, "test.jsonl")
    plain, half = answers(folder, rows, tmp_path), answers(folder, rows, tmp_path, threshold=".5")
    assert plain == half
    assert {r["label"] for r in answers(folder, rows, tmp_path, threshold="0")} == {"yes"}
    assert {r["label"] for r in answers(folder, rows, tmp_path, threshold="1")} == {"no"}
    assert [r["probabilities"] for r in answers(folder, rows, tmp_path, threshold="1")] == [
        r["probabilities"] for r in plain
    ]


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("labels", "tune", 'is neither a number nor tuned. Did you mean "tuned"'),
        ("labels", "1.5", "is no probability. Give tuned, or a number from 0 to 1"),
        ("labels", "nan", "is no probability"),
        ("options", "tuned", "is for tasks with two labels; here every row has options of its own"),
        ("generate", ".4", "compares probabilities, and generated answers have none"),
        ("batch", "tuned", "because the decision rule batch compares more than the probabilities"),
    ],
)
def test_a_threshold_that_cannot_be_used_is_refused(
    made: Callable[[str], tuple[str, str]], tmp_path: Path, name: str, given: str, words: str
) -> None:
    uri, folder = made(name)
    with pytest.raises(UserError, match=re.escape(words)):
        answers(folder, tiny_run.data(uri, "test.jsonl"), tmp_path, threshold=given)


def test_a_threshold_is_refused_for_three_labels(labels: tuple[str, str], tmp_path: Path) -> None:
    uri, folder = labels
    at = Path(folder, "template.json")
    about = json.loads(at.read_text())
    Path(folder, "SHA256SUMS").unlink()
    about["trial"]["task"]["labels"] = ["no", "yes", "maybe"]
    at.write_text(json.dumps(about))
    with pytest.raises(UserError, match="is for tasks with two labels; this one has 3: no, yes, maybe"):
        answers(folder, tiny_run.data(uri, "test.jsonl"), tmp_path, threshold="tuned")


def test_an_export_of_before_has_no_tuned_threshold(labels: tuple[str, str], tmp_path: Path) -> None:
    uri, folder = labels
    at = Path(folder, "template.json")
    about = json.loads(at.read_text())
    Path(folder, "SHA256SUMS").unlink()
    del about["threshold"]
    at.write_text(json.dumps(about))
    rows = tiny_run.data(uri, "test.jsonl")
    assert answers(folder, rows, tmp_path)
    with pytest.raises(UserError, match="an earlier version exported it, or the model gave NaN on a dev row; export"):
        answers(folder, rows, tmp_path, threshold="tuned")


def test_batch_calibration_decides_as_in_the_run(made: Callable[[str], tuple[str, str]], tmp_path: Path) -> None:
    """The same rows give the same mean; the prior is that of the dev rows, from the export."""
    uri, folder = made("batch")
    got = answers(folder, tiny_run.data(uri, "test.jsonl"), tmp_path, prompt=X1)
    expected = stored(uri, folder)
    assert [r["label"] for r in got] == [r["predicted"] for r in expected]
    table = np.array([r["label_logprobs"] for r in expected])
    for mine, values in zip(got, table - table.mean(axis=0), strict=True):
        assert np.abs(np.array(list(mine["probabilities"].values())) - softmax(values)).max() < FINE


def test_the_prior_of_batch_comes_from_the_export(made: Callable[[str], tuple[str, str]], tmp_path: Path) -> None:
    uri, folder = made("batch")
    at = Path(folder, "template.json")
    about = json.loads(at.read_text())
    Path(folder, "SHA256SUMS").unlink()
    about["label_counts"] = {"no": 1, "yes": 10**6}
    at.write_text(json.dumps(about))
    assert {r["label"] for r in answers(folder, tiny_run.data(uri, "test.jsonl"), tmp_path)} == {"yes"}


def test_generated_answers_come_as_text(made: Callable[[str], tuple[str, str]], tmp_path: Path) -> None:
    uri, folder = made("generate")
    got = answers(folder, tiny_run.data(uri, "test.jsonl"), tmp_path, prompt=X1)
    assert [r["label"] for r in got] == [r["predicted"] for r in stored(uri, folder)]
    assert all(set(r) == {"id", "label", "text"} for r in got)


def test_peft_alone_agrees(labels: tuple[str, str], tmp_path: Path) -> None:
    """The probabilities of predict against peft on the whole text, one row and label at a time."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    uri, folder = labels
    path = tiny_run.data(uri, "model")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    got = answers(folder, tiny_run.data(uri, "test.jsonl"), tmp_path, prompt=X1)
    for record, row in list(zip(got, tiny_run.rows(16, 32), strict=True))[:4]:
        context = X1.replace("{{ text }}", row["text"]) + "\nAnswer:"
        found = []
        for word in (" no", " yes"):
            ids = tokenizer(context + word, return_tensors="pt").input_ids
            with torch.no_grad():
                found.append(float(torch.log_softmax(model(input_ids=ids).logits[0, -2], dim=-1)[ids[0, -1]]))
        assert np.abs(np.array(list(record["probabilities"].values())) - softmax(found)).max() < FINE


def test_the_default_prompt_and_a_train_prompt_by_its_id(labels: tuple[str, str], tmp_path: Path) -> None:
    uri, folder = labels
    rows = tiny_run.data(uri, "test.jsonl")
    default = json.loads(Path(folder, "template.json").read_text())["prompt"]
    assert answers(folder, rows, tmp_path) == answers(folder, rows, tmp_path, prompt=default["text"])
    train = tiny_run.PROMPTS["train"]["t1"]
    assert answers(folder, rows, tmp_path, prompt="t1") == answers(folder, rows, tmp_path, prompt=train)
    assert answers(folder, rows, tmp_path) != answers(folder, rows, tmp_path, prompt="t1")


def test_a_prompt_may_read_any_column(labels: tuple[str, str], tmp_path: Path) -> None:
    _, folder = labels
    other = tiny_run.write_rows(tmp_path / "other.jsonl", [{"said": "good it"}, {"said": "bad it"}])
    text = tiny_run.write_rows(tmp_path / "text.jsonl", [{"text": "good it"}, {"text": "bad it"}])
    got = answers(folder, other, tmp_path, prompt="Is {{ said }} good?")
    assert got == answers(folder, text, tmp_path, prompt=X1)
    assert [r["id"] for r in got] == ["row-0", "row-1"]  # no id column: numbered


def test_each_format_holds_the_same(labels: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    _, folder = labels
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([{"text": r["text"], "id": r["id"]} for r in tiny_run.rows(6)]), rows)
    expected = answers(folder, str(rows), tmp_path)
    capsys.readouterr()
    predict(folder, str(rows), None)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == expected
    flat = [
        {"id": r["id"], "label": r["label"], **{f"p_{k}": v for k, v in r["probabilities"].items()}} for r in expected
    ]
    predict(folder, str(rows), str(tmp_path / "a.parquet"))
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == flat
    predict(folder, str(rows), str(tmp_path / "a.csv"))
    with open(tmp_path / "a.csv", newline="") as f:
        read = list(csv.DictReader(f))
    assert [(r["id"], r["label"], float(r["p_no"]), float(r["p_yes"])) for r in read] == [
        tuple(r.values()) for r in flat
    ]


def test_options_fit_a_table(made: Callable[[str], tuple[str, str]], tmp_path: Path) -> None:
    _, folder = made("options")
    rows = [{"text": "it good", "choices": ["A", "B", "C"]}, {"text": "bad", "choices": ["B", "C"]}]
    at = tiny_run.write_rows(tmp_path / "rows.jsonl", rows)
    expected = answers(folder, at, tmp_path)
    assert [len(r["probabilities"]) for r in expected] == [3, 2]
    assert all(sum(r["probabilities"]) == pytest.approx(1) for r in expected)
    predict(folder, at, str(tmp_path / "a.parquet"))
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == expected
    predict(folder, at, str(tmp_path / "a.csv"))
    with open(tmp_path / "a.csv", newline="") as f:
        assert [json.loads(r["probabilities"]) for r in csv.DictReader(f)] == [r["probabilities"] for r in expected]


def test_a_base_model_that_moved_is_given(labels: tuple[str, str], tmp_path: Path) -> None:
    uri, folder = labels
    rows = tiny_run.data(uri, "test.jsonl")
    expected = answers(folder, rows, tmp_path)
    moved = str(shutil.copytree(tiny_run.data(uri, "model"), tmp_path / "moved"))
    Path(folder, "SHA256SUMS").unlink()
    about = Path(folder, "template.json")
    about.write_text(about.read_text().replace(tiny_run.data(uri, "model"), str(tmp_path / "gone")))
    assert refusal(folder, rows).startswith(f'{folder}/template.json: model.path = "{tmp_path}/gone" is no folder.')
    assert refusal(folder, rows).endswith("The base model may have moved: give it with --base DIR")
    assert answers(folder, rows, tmp_path, base=moved) == expected


def test_an_export_on_another_filesystem(labels: tuple[str, str], tmp_path: Path) -> None:
    uri, folder = labels
    rows = tiny_run.data(uri, "test.jsonl")
    assert answers(f"file://{folder}", rows, tmp_path) == answers(folder, rows, tmp_path)


# mistakes -------------------------------------------------------------------------------------------------------


def refusal(folder: str, rows: str, out: str | None = None, **more: Any) -> str:
    with pytest.raises(UserError) as error:
        predict(folder, rows, out, **more)
    return str(error.value)


def test_a_missing_column_names_the_nearest(labels: tuple[str, str], tmp_path: Path) -> None:
    rows = tiny_run.write_rows(tmp_path / "rows.jsonl", [{"txt": "good"}])
    assert refusal(labels[1], rows) == (f'rows: fields = "text" is no column of {rows}. Did you mean "txt"? Known: txt')


def test_rows_that_are_too_long_are_named(labels: tuple[str, str], tmp_path: Path) -> None:
    texts = ["good", "good " * 30, "bad", "bad " * 40]
    rows = tiny_run.write_rows(tmp_path / "rows.jsonl", [{"text": t} for t in texts])
    output = refusal(labels[1], rows)
    assert output.startswith('rows: "row-1" (')
    assert '"row-3" (' in output
    assert "longer than the 40 tokens that the adapter was trained with" in output
    assert '"row-0"' not in output


def test_a_broken_file_of_rows(labels: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "go')
    assert f"{tmp_path}/rows.jsonl, line 1: is not JSON" in refusal(labels[1], str(tmp_path / "rows.jsonl"))
    (tmp_path / "empty.jsonl").write_text("")
    assert refusal(labels[1], str(tmp_path / "empty.jsonl")).endswith("empty.jsonl has no rows")
    (tmp_path / "null.jsonl").write_text('{"text": null}\n')
    assert 'null.jsonl, row 1 (id "row-0"): column "text" is null' in refusal(labels[1], str(tmp_path / "null.jsonl"))


def test_rows_are_held_to_what_check_asks_of_a_study(
    labels: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """CASES V18: a text of which the prompt shows nothing is an error; a special token in a text is warned of."""
    path = tiny_run.write_rows(tmp_path / "rows.jsonl", [{"text": "good it"}, {"text": " \n"}, {"text": ""}])
    assert refusal(labels[1], path).startswith(f'rows: {path}: text of row "row-1" and 1 more is empty, so prompt "')
    path = tiny_run.write_rows(tmp_path / "rows.jsonl", [{"text": "good it"}, {"text": "it </s> good"}])
    assert len(answers(labels[1], path, tmp_path)) == 2
    assert (
        f'rows: {path}: 1 texts contain a special token, such as </s> in row "row-1": the model would read it as one'
        in caplog.text
    )
    caplog.clear()
    noted = [{"text": "good it", "note": ""}, {"text": "it", "note": "bad"}]
    path = tiny_run.write_rows(tmp_path / "rows.jsonl", noted)
    answers(labels[1], path, tmp_path, prompt="{{ text }} {% if note %}{{ note }}{% endif %}")
    assert not caplog.text, "the prompt says what to do where the field is empty"
    answers(labels[1], path, tmp_path, prompt="{{ text }} {{ note }}")
    assert 'note of row "row-0" is empty, and prompts show it' in caplog.text


def test_ids_and_texts_of_a_csv_file_are_its_cells(labels: tuple[str, str], tmp_path: Path) -> None:
    """CASES V4 for predict: id 007 stays, and a text that looks like a number is that text."""
    (tmp_path / "rows.csv").write_text("id,text\n007,0123\n1.10,1e5\n")
    (tmp_path / "rows.jsonl").write_text('{"id": "007", "text": "0123"}\n{"id": "1.10", "text": "1e5"}\n')
    from_csv = answers(labels[1], str(tmp_path / "rows.csv"), tmp_path)
    assert [r["id"] for r in from_csv] == ["007", "1.10"]
    assert from_csv == answers(labels[1], str(tmp_path / "rows.jsonl"), tmp_path)


def test_another_base_is_refused_with_both_sizes(labels: tuple[str, str], tmp_path: Path) -> None:
    other = tiny_run.make_model(tmp_path / "other", hidden=32)
    output = refusal(labels[1], tiny_run.data(labels[0], "test.jsonl"), base=other)
    assert f'does not fit the base model "{other}"' in output
    assert "in the adapter" in output
    assert "for a base of hidden size 32" in output
    assert "64" in output


def test_another_base_of_the_same_shape_is_warned_of(
    labels: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tiny_run.make_model(tmp_path / "other", seed=1)
    answers(labels[1], tiny_run.data(labels[0], "test.jsonl"), tmp_path, base=other)
    assert f'the files of base model "{other}" are not those that the adapter was trained on' in caplog.text
    caplog.clear()
    answers(labels[1], tiny_run.data(labels[0], "test.jsonl"), tmp_path)
    assert not caplog.text


def test_a_base_without_weights(labels: tuple[str, str], tmp_path: Path) -> None:
    other = Path(tiny_run.make_model(tmp_path / "other"))
    (other / "model.safetensors").unlink()
    output = refusal(labels[1], tiny_run.data(labels[0], "test.jsonl"), base=str(other))
    assert f'--base: model.path = "{other}" has no weights' in output


def test_what_export_did_not_write_is_refused(labels: tuple[str, str], tmp_path: Path) -> None:
    uri, folder = labels
    rows = tiny_run.data(uri, "test.jsonl")
    assert f"{tmp_path}/template.json: no such file" in refusal(str(tmp_path), rows)
    Path(folder, "SHA256SUMS").unlink()
    at = Path(folder, "template.json")
    whole = at.read_text()
    for text, message in (
        ("{", "is not what export writes"),
        ("[]", "is not what export writes"),
        (whole.replace('"format": 1', '"format": 2'), "format = 2 is not known, this version reads 1"),
        (whole.replace('"rslora"', '"rsolra"'), "is not what export writes"),
    ):
        at.write_text(text)
        assert message in refusal(folder, rows)
    at.write_text(whole)
    adapter = Path(folder, "adapter_model.safetensors")
    adapter.write_bytes(adapter.read_bytes()[:100])
    assert "adapter_model.safetensors: is damaged" in refusal(folder, rows)


def test_an_export_cannot_run_code_by_itself(labels: tuple[str, str]) -> None:
    Path(labels[1], "SHA256SUMS").unlink()
    at = Path(labels[1], "template.json")
    at.write_text(at.read_text().replace('"trust_remote_code": false', '"trust_remote_code": true'))
    assert "comes with its own code. If you trust it, say so with --trust-remote-code" in refusal(
        labels[1], tiny_run.data(labels[0], "test.jsonl")
    )


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("t3", 'template.json. Did you mean the prompt "t1"? Known: t1, t2, '),  # CASES F6
        ("t3", '--prompt = "t3" is no prompt of '),
        ("Is it good?", "reads no column of the rows"),
        ("{{ text", "--prompt: "),
        ("{{ txt }}", 'fields = "txt" is no column of '),
    ],
)
def test_a_prompt_that_cannot_be_meant(labels: tuple[str, str], prompt: str, message: str) -> None:
    assert message in refusal(labels[1], tiny_run.data(labels[0], "test.jsonl"), prompt=prompt)


def test_no_default_prompt_asks_for_one(labels: tuple[str, str]) -> None:
    Path(labels[1], "SHA256SUMS").unlink()
    at = Path(labels[1], "template.json")
    at.write_text(json.dumps({**json.loads(at.read_text()), "prompt": None}))
    assert "holds no default prompt. Give one: --prompt '{{ text }} …'" in refusal(
        labels[1], tiny_run.data(labels[0], "test.jsonl")
    )


def test_where_the_answers_cannot_go(labels: tuple[str, str], tmp_path: Path) -> None:
    rows = str(shutil.copy(tiny_run.data(labels[0], "test.jsonl"), tmp_path / "rows.jsonl"))
    for out, message in (
        ("a.jsonn", 'the ending ".jsonn", which is not known. Did you mean ".jsonl"?'),
        ("rows.jsonl", "is the file of the rows, which would be lost"),
        ("no/a.csv", "does not exist. Make it first"),
    ):
        assert message in refusal(labels[1], rows, str(tmp_path / out))
    (tmp_path / "a.csv").mkdir()
    assert "is a folder. Give a file" in refusal(labels[1], rows, str(tmp_path / "a.csv"))


def test_the_command_shows_no_traceback(labels: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    rows = tiny_run.write_rows(tmp_path / "rows.jsonl", [{"txt": "good"}])
    with pytest.raises(SystemExit) as end:
        main(["predict", labels[1], "--rows", rows])
    output = capsys.readouterr().err
    assert end.value.code == 2
    assert output.startswith('error: rows: fields = "text" is no column of ')
    with pytest.raises(SystemExit) as end:
        main(["predict", labels[1], "--rows", rows, "--prompt", "{{ txt }} good?", "--out", str(tmp_path / "a.csv")])
    assert end.value.code == 0
    assert (tmp_path / "a.csv").read_text().startswith("id,label,p_no,p_yes\nrow-0,")
