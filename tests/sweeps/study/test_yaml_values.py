"""Texts are what the file says, wherever the study wants a text (CASES V13, B4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from study_text import BASE

from sweeps.study.load import load_study, resolved
from sweeps.study.overlay import StudyError, dump_yaml, parse_yaml
from sweeps.study.texts import text_at

WRITTEN = [
    "0x1",
    "00",
    "007",
    "1_000",
    "1e3",
    "1.0",
    "yes",
    "no",
    "on",
    "1:30",
    "2024-03-01",
    "true",
    "False",
    "-0",
    "9" * 30,
]


@pytest.mark.parametrize("word", WRITTEN)
def test_a_plain_word_is_the_text_in_the_file_where_a_text_is_wanted(study: Any, word: str) -> None:
    found = study(
        f"task={{rows: {{train: {word}, dev: {{path: a.csv, where: {{x: {word}, y: [{word}]}}}}, test: t.csv}}, "
        f"fields: [{word}], label: y, id: {word}, labels: {{{word}: {word}, other: b}}}}",
        f"templates={{{word}: {{system: {word}, marker: {word}, words: {{{word}: {word}, b: x}}}}}}",
        f"pools.train={{{word}: {{file: p.yaml, only: [{word}]}}}}",
        f"axes.pool={word}", f"axes.template=[{word}]", f"axes.lora.target_modules={word}", f"model.revision={word}",
        *(["name=" + word] if word.isalnum() else []),
    )  # fmt: skip
    assert found.task.fields == (word,)
    assert found.task.id == found.model.revision == word
    assert found.task.labels == {word: word, "other": "b"}
    assert found.task.rows.dev.where == {"x": word, "y": [word]}
    assert found.templates[word].words == {word: word, "b": "x"}
    assert (found.templates[word].system, found.templates[word].marker) == (word, word)
    assert found.pools.train[word].only == (word,)
    assert (found.axes.pool, found.axes.template, found.axes.lora.target_modules) == ((word,), (word,), ((word,),))


def test_labels_of_numbers_stay_the_text_of_their_cells_when_written_out(study: Any, tmp_path: Path) -> None:
    found = study("task.labels={0: no, 01: yes}", "templates={}")
    assert found.task.labels == {"0": "no", "01": "yes"}
    (tmp_path / "again.yaml").write_text(dump_yaml(resolved(found)))
    assert load_study(tmp_path / "again.yaml", files=False).task.labels == found.task.labels


def test_false_is_no_label_made_of_a_truth_value(study: Any) -> None:
    assert study("task.labels={0: false, 1: true}", "templates={}").task.labels == {"0": "false", "1": "true"}


@pytest.mark.parametrize("second", ["0", "00", "0x0", "0.0", "0b0", "false", "0o0"])
def test_the_same_key_twice_is_told_with_both_lines(tmp_path: Path, second: str) -> None:
    text = BASE.replace("labels: {0: no, 1: yes}", f"labels:\n    0: no\n    1: yes\n    {second}: perhaps")
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(StudyError) as error:
        load_study(tmp_path / "x.yaml", files=False)
    [said] = str(error.value).splitlines()
    assert f"line 10: task.labels.{second} is " in said
    assert "line 8" in said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("!!bool maybe", 'line 1, column 1: "maybe" is not true or false, as its tag !!bool says. Remove the tag'),
        ("!!int x", '"x" is not a whole number, as its tag !!int says'),
        ("!!float x", '"x" is not a number, as its tag !!float says'),
        ("!!null x", '"x" is not null, as its tag !!null says'),
        ("!!binary aGk=", "the tag !!binary has no meaning here. Remove it"),
        ("!!set {a}", "the tag !!set has no meaning here"),
        ("!!timestamp 5", "the tag !!timestamp has no meaning here"),
        ("!!python/object/apply:os.system [x]", "the tag !!python/object/apply:os.system has no meaning here"),
        ("!own x", "the tag !own has no meaning here"),
        ("{? [a] : 1}", "a mapping or list stands where a key must be"),
        ("{{ text }}", "a mapping or list stands where a key must be. Quote texts that begin with { or ["),
        ("{<<: 5}", "is not YAML"),
        ("9" * 5000, "has 5,000 digits: no number of a study is so large"),
        ("0x" + "f" * 5000, "has 5,002 digits"),
    ],
)
def test_values_that_yaml_cannot_make_are_told(study: Any, value: str, said: str) -> None:
    with pytest.raises(StudyError) as error:
        study(f"axes.steps={value}")
    assert said in str(error.value)
    assert len(str(error.value)) < 400


def test_all_faults_of_a_file_are_told_at_once() -> None:
    with pytest.raises(StudyError) as error:
        parse_yaml("a: !!bool maybe\nb: !!set {x}\nc: 1\nc: 2\n", "x.yaml")
    assert [line.split(",")[0] for line in str(error.value).splitlines()] == [
        "x.yaml: line 4: c is given twice (first on line 3). Keep one",
        "x.yaml: line 1",
        "x.yaml: line 2",
    ]


def test_where_a_text_is_wanted() -> None:
    texts = ["name", "task.label", "task.rows.dev", "pools.dev", "axes.pool", "model.path", "arms.a.pool"]
    others = ["axes.lr", "axes.steps", "resources.slots", "tables.strict", "task.max_length", "axes", "unknown"]
    assert all(text_at(tuple(key.split("."))) for key in texts)
    assert not any(text_at(tuple(key.split("."))) for key in others)
    assert text_at(("pools", "train", "only", 0))
    assert not text_at(("pools", "train", "limit"))
