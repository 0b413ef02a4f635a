"""Exports of one base model answer together as each answers alone, in one pass over one model in memory."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny_run
import torch
from safetensors.torch import load_file, save_file
from tampered_exports import sign

import trainer.predictor
from sweeps.cli import main
from sweeps.export.export import export
from sweeps.export.predict import predict
from trainer.errors import UserError

Records = list[dict[str, Any]]
FINE = 1e-5
AXES = {"lr": 1e-2, "steps": 30}
LORAS = {"r": [2, 5], "target_modules": [["q_proj", "v_proj"], ["all-linear"]]}
X1 = tiny_run.PROMPTS["test"]["x1"]


def exports_of(folder: Path, **run: Any) -> tuple[str, list[str]]:
    """The rows to answer, and three exports of one study, each with another rank or other layers than the rest."""
    uri, trials = tiny_run.make_run(folder, tiny_run.LABELLED, axes={"lora": LORAS, **AXES}, **run)
    shapes = [(t.lora.r, t.lora.target_modules) for t in trials]
    assert len(set(shapes)) == 4
    kept = sorted(trials, key=lambda t: (t.lora.r, t.lora.target_modules), reverse=True)[:3]
    return tiny_run.data(uri, "test.jsonl"), [export(uri, t.id, str(folder / f"export-{t.id}")) for t in kept]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    return exports_of(tmp_path_factory.mktemp("labels"), templates=tiny_run.PLAIN)


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    return exports_of(tmp_path_factory.mktemp("classifiers"), n_labels=2, model={"head": "classifier"})


@pytest.fixture
def changed(labels: tuple[str, list[str]], tmp_path: Path) -> Callable[..., list[str]]:
    """Copies of the exports, with other values in their templates: a dict each, its keys dotted paths."""

    def change(*values: dict[str, Any]) -> list[str]:
        found = []
        for folder, new in zip(labels[1], values, strict=False):
            copy = Path(shutil.copytree(folder, tmp_path / "changed" / Path(folder).name, dirs_exist_ok=True))
            about = json.loads((copy / "template.json").read_text())
            for path, value in new.items():
                *parents, last = path.split(".")
                place = about
                for parent in parents:
                    place = place[parent]
                place[last] = value
            (copy / "template.json").write_text(json.dumps(about))
            sign(copy)
            found.append(str(copy))
        return found

    return change


def answers(folders: str | Sequence[str], rows: str, tmp_path: Path, **more: Any) -> Records:
    out = tmp_path / "answers.jsonl"
    assert predict(folders, rows, str(out), **more) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def compare(together: Records, folders: Sequence[str], rows: str, tmp_path: Path, **more: Any) -> list[Records]:
    """Hold ``together`` against what each export gives alone, which is returned."""
    alone = [answers(folder, rows, tmp_path, **more) for folder in folders]
    names = [Path(folder).name for folder in folders]
    expected = [{"export": name} | r for line in zip(*alone, strict=True) for name, r in zip(names, line, strict=True)]
    assert len(expected) == len(folders) * 16
    assert [list(r) for r in together] == [list(r) for r in expected]
    for mine, theirs in zip(together, expected, strict=True):
        assert mine.get("probabilities") == pytest.approx(theirs.get("probabilities"), abs=FINE)
        assert {**mine, "probabilities": 0} == {**theirs, "probabilities": 0}
    return alone


def differ(alone: Sequence[Records], column: str) -> bool:
    """Whether no two exports answer alike, so that one in the slot of another would be seen."""
    return all([r[column] for r in a] != [r[column] for r in b] for a, b in itertools.combinations(alone, 2))


def reverse(folder: Path) -> None:
    """Turn an adapter around, so that it writes something else."""
    file = folder / "adapter_model.safetensors"
    save_file({n: -x if ".lora_B." in n else x for n, x in load_file(file).items()}, file)
    sign(folder)


class Calls:
    """Counts what a predictor calls, which runs all the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.of = dict.fromkeys(names, 0)
        for name in names:
            monkeypatch.setattr(trainer.predictor, name, self._counted(name, getattr(trainer.predictor, name)))

    def _counted(self, name: str, function: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            self.of[name] += 1
            return function(*args, **more)

        return call


def test_label_scoring_is_one_pass_and_each_answers_as_alone(
    labels: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, folders = labels
    with monkeypatch.context() as within:
        calls = Calls(within, "load_base_of", "label_logprobs")
        together = answers(folders, rows, tmp_path)
        assert calls.of == {"load_base_of": 1, "label_logprobs": 1}
    assert differ(compare(together, folders, rows, tmp_path), "probabilities")
    for more in ({"prompt": X1}, {"prompt": "t1", "threshold": "tuned"}, {"threshold": ".3", "dtype": "float32"}):
        compare(answers(folders, rows, tmp_path, **more), folders, rows, tmp_path, **more)


def test_classifiers_answer_with_their_own_heads(classifiers: tuple[str, list[str]], tmp_path: Path) -> None:
    rows, folders = classifiers
    assert differ(compare(answers(folders, rows, tmp_path), folders, rows, tmp_path), "probabilities")


def test_each_keeps_its_own_prompt_rule_and_threshold(
    labels: tuple[str, list[str]], changed: Callable[..., list[str]], tmp_path: Path
) -> None:
    first, second, third = [{"id": name, "text": text} for name, text in tiny_run.PROMPTS["dev"].items()]
    rules = [
        {"trial.scoring.decision": "contextual", "prompt": first, "threshold": 0.2},
        {"trial.scoring.decision": "batch", "prompt": second, "threshold": 0.9, "label_counts": {"no": 1, "yes": 9}},
        {"trial.scoring.decision": "pmi", "prompt": third, "threshold": 0.5, "trial.template.marker": " good?"},
    ]
    rows, folders = labels[0], changed(*rules)
    alone = compare(answers(folders, rows, tmp_path), folders, rows, tmp_path)
    assert differ(alone, "probabilities")
    compare(answers(folders, rows, tmp_path, threshold="tuned"), folders, rows, tmp_path, threshold="tuned")


def test_generated_answers_take_one_call_for_equal_limits(
    labels: tuple[str, list[str]], changed: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = {"trial.scoring.scorer": "generate", "trial.scoring.max_new_tokens": 3}
    folders = changed(generate, {**generate, "trial.scoring.max_new_tokens": 5}, generate)
    reverse(Path(folders[2]))  # it always says yes, as the second does; the first tells the labels apart
    with monkeypatch.context() as within:
        calls = Calls(within, "load_base_of", "generate_answers", "label_logprobs")
        together = answers(folders, labels[0], tmp_path, prompt="{{ text }}")
        assert calls.of == {"load_base_of": 1, "generate_answers": 2, "label_logprobs": 0}
    alone = compare(together, folders, labels[0], tmp_path, prompt="{{ text }}")
    assert differ(alone, "text")


def test_a_table_has_the_columns_of_all_and_null_where_one_has_none(
    labels: tuple[str, list[str]], changed: Callable[..., list[str]], tmp_path: Path
) -> None:
    folders = changed(
        {},
        {"trial.scoring.scorer": "generate"},
        {"trial.task.labels": ["no", "good"], "trial.template.words": [], "label_counts": {}},
    )
    records = answers(folders, labels[0], tmp_path)
    compare(records, folders, labels[0], tmp_path)
    predict(folders, labels[0], str(tmp_path / "a.parquet"))
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["export", "id", "label", "p_no", "p_yes", "text", "p_good"]
    assert [str(t) for t in table.schema.types] == [*["string"] * 3, "double", "double", "string", "double"]
    flat = [
        {"export": r["export"], "id": r["id"], "label": r["label"], "text": r.get("text")}
        | {f"p_{x}": r.get("probabilities", {}).get(x) for x in ("no", "yes", "good")}
        for r in records
    ]
    assert table.to_pylist() == flat
    assert {tuple(k for k, v in r.items() if v is None and k != "label") for r in flat} == {
        ("text", "p_good"),
        ("p_no", "p_yes", "p_good"),
        ("text", "p_yes"),
    }
    predict(folders, labels[0], str(tmp_path / "a.csv"))
    with open(tmp_path / "a.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert read == [{k: "" if v is None else str(v) for k, v in r.items()} for r in table.to_pylist()]


def test_the_command_takes_several_folders(
    labels: tuple[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, folders = labels
    expected = answers(folders[:2], rows, tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["predict", *folders[:2], "--rows", rows])
    assert end.value.code == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == expected
    with pytest.raises(SystemExit) as end:
        main(["predict", folders[0], f"{folders[1]}x", "--rows", rows])
    assert end.value.code == 2
    assert f'DIR = "{folders[1]}x" does not exist.' in capsys.readouterr().err


# mistakes -------------------------------------------------------------------------------------------------------


def refusal(folders: Sequence[str], rows: str, **more: Any) -> str:
    with pytest.raises(UserError) as error:
        predict(folders, rows, None, **more)
    return str(error.value)


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test in which no base model may be loaded."""

    def load(*args: Any) -> Any:
        raise AssertionError("the base model was loaded")

    monkeypatch.setattr(trainer.predictor, "load_base_of", load)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"trial.model.fingerprint": "0" * 64},
            r"base model \S+/model \(\w{12}\), but {1} has \S+/model \(000000000000\)",
        ),
        ({"trial.model.quantization": "nf4"}, r"quantization none, but {1} has nf4\. Give each alone"),
        ({"trial.model.dtype": "bfloat16"}, r"dtype float32, but {1} has bfloat16\. Give one --dtype for all, or each"),
        ({"trial.model.head": "classifier"}, r"head lm, but {1} has classifier\. Give each alone"),
    ],
)
def test_exports_of_other_bases_are_refused_with_both_values(
    labels: tuple[str, list[str]], changed: Callable[..., list[str]], unloaded: None, values: Any, words: str
) -> None:
    folders = changed({}, values)
    said = refusal(folders, labels[0])
    assert re.search(rf"on one base model, and {re.escape(folders[0])} has " + words.replace("{1}", folders[1]), said)
    assert "\n" not in said


def test_one_dtype_for_all_makes_them_fit(
    labels: tuple[str, list[str]], changed: Callable[..., list[str]], tmp_path: Path
) -> None:
    folders = changed({}, {"trial.model.dtype": "bfloat16"})
    compare(answers(folders, labels[0], tmp_path, dtype="float32"), folders, labels[0], tmp_path, dtype="float32")


def test_one_base_may_have_been_in_two_places(
    labels: tuple[str, list[str]], changed: Callable[..., list[str]], tmp_path: Path
) -> None:
    folders = changed({}, {"trial.model.path": str(tmp_path / "gone")})
    model = tiny_run.data(str(Path(labels[1][0])), "model")
    compare(answers(folders, labels[0], tmp_path), folders, labels[0], tmp_path, base=model)


def test_classifiers_of_other_numbers_of_labels_are_refused(
    classifiers: tuple[str, list[str]], tmp_path: Path, unloaded: None
) -> None:
    other = Path(shutil.copytree(classifiers[1][1], tmp_path / "other"))
    about = json.loads((other / "template.json").read_text())
    about["trial"]["task"]["labels"].append("maybe")
    (other / "template.json").write_text(json.dumps(about))
    sign(other)
    said = refusal([classifiers[1][0], str(other)], classifiers[0])
    assert f"{classifiers[1][0]} has number of labels 2, but {other} has 3. Give each alone" in said


def test_exports_that_cannot_be_told_apart_are_refused(
    labels: tuple[str, list[str]], tmp_path: Path, unloaded: None
) -> None:
    rows, [one, *_] = labels
    name = Path(one).name
    same = str(shutil.copytree(one, tmp_path / name))
    (tmp_path / "link").symlink_to(one)
    assert refusal([one, one], rows) == f"DIR: {one} is given twice. Give each export once"
    assert f"DIR: {one} and {one}/ are the same folder." in refusal([one, f"{one}/"], rows)
    assert f"DIR: {one} and {tmp_path}/link are the same folder." in refusal([one, f"{tmp_path}/link"], rows)
    assert f"DIR: {one} and file://{one} are the same folder." in refusal([one, f"file://{one}"], rows)
    assert f'DIR: {one} and {same} are both called "{name}", and answers' in refusal([one, same], rows)


def test_merged_weights_answer_alone(
    labels: tuple[str, list[str]], changed: Callable[..., list[str]], unloaded: None
) -> None:
    folders = changed({}, {"merged": "float32"})
    said = refusal(folders, labels[0], base="anything")
    assert said == (
        f"DIR: {folders[1]} holds merged weights, which share no base model with other exports. Give it alone"
    )


def test_a_prompts_id_and_a_tuned_threshold_must_be_of_each(
    labels: tuple[str, list[str]], changed: Callable[..., list[str]], unloaded: None
) -> None:
    folders = changed({}, {"train_prompts": {"other": "{{ text }}"}, "threshold": None})
    name = Path(folders[1]).name
    assert refusal(folders, labels[0], prompt="t1").startswith(f'{name}: --prompt = "t1" is no prompt of {folders[1]}/')
    assert refusal(folders, labels[0], threshold="tuned").startswith(f'{name}: --threshold = "tuned": {folders[1]}/')


def test_an_export_that_cannot_answer_is_named(
    labels: tuple[str, list[str]], changed: Callable[..., list[str]]
) -> None:
    folders = changed({}, {"trial.task.max_length": 3})
    said = refusal(folders, labels[0])
    assert said.startswith(f"{Path(folders[1]).name}: rows: ")
    assert "longer than the 3 tokens that the adapter was trained with" in said
    folders = changed({}, {}, {"trial.scoring.scorer": "generate"})
    for at in (1, 2):
        file = Path(folders[at], "adapter_model.safetensors")
        whole = file.read_bytes()
        huge = {n: torch.full_like(x, 3e38) if ".lora_B." in n else x for n, x in load_file(file).items()}
        save_file(huge, file)
        sign(file.parent)
        said = refusal(folders, labels[0])
        assert said.startswith(f"{Path(folders[at]).name}: rows: ")
        assert "the model gives NaN or infinite log-probabilities" in said
        file.write_bytes(whole)
        sign(file.parent)


def test_a_warning_that_holds_for_all_comes_once(
    labels: tuple[str, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = tiny_run.write_rows(tmp_path / "rows.jsonl", [{"text": "it </s> good", "id": "a"}])
    answers(labels[1], rows, tmp_path, prompt="t1")
    assert [r.message for r in caplog.records if "special token" in r.message] == [
        f'rows: {rows}: 1 texts contain a special token, such as </s> in row "a": the model would read it as one. '
        "Remove it from the data"
    ]
