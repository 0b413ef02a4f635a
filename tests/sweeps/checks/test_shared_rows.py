"""Rows that splits share, and rows twice in one split (CASES V15)."""

from __future__ import annotations

from sweeps.checks.shared_rows import shared_row_findings
from trainer.data.rows import Row


def rows(split: str, *texts: str, label: str = "no") -> list[Row]:
    return [Row(f"{split}-{i}", {"text": text}, label) for i, text in enumerate(texts)]


def found(**splits: list[Row]) -> list[str]:
    return [f"{f.level} {f}" for f in shared_row_findings(splits)]


def test_rows_that_are_all_different_are_sound() -> None:
    assert found(train=rows("train", "a", "b"), dev=rows("dev", "c"), test=rows("test", "d")) == []


def test_a_text_in_two_splits_is_counted_and_named() -> None:
    test = rows("test", "A  man", "other", "new", "a man", "third", "more")
    text = found(train=rows("train", "x", "a man", "other", "THIRD\n"), test=test)[0]
    assert text == (
        "warning task.rows.test: 4 of 6 rows (66.7 %) have the text of a train row, 2 of them but for case and spaces "
        '("test-0" is "train-1", "test-1" is "train-2", "test-3" is "train-1", …). Keep each text in one split, or '
        "scores on test rows say less about new rows"
    )


def test_the_same_text_with_another_label_is_told() -> None:
    train, dev = rows("train", "a", "b"), [*rows("dev", "a"), *rows("dev2", "b", label="yes")]
    [text] = found(train=train, dev=dev)
    assert "2 of 2 rows (100.0 %) have the text of a train row, 1 with another label (" in text


def test_texts_are_all_fields_and_options_of_a_row() -> None:
    a = Row("a", {"q": "one", "c": "two"}, "0", ("x", "y"))
    others = [
        Row("b", {"q": "one", "c": "three"}, "0", ("x", "y")),
        Row("c", {"q": "one", "c": "two"}, "0", ("x", "z")),
        Row("d", {"q": "one", "c": "two x"}, "0", ("y",)),
    ]
    assert found(train=[a], dev=others) == []


def test_an_id_in_two_splits_is_an_error() -> None:
    train, dev = [Row("7", {"text": "a"}, "no"), Row("8", {"text": "b"}, "no")], [Row("8", {"text": "c"}, "no")]
    assert found(train=train, dev=dev) == [
        "error task.rows.dev: 1 id of 1 are also ids of train rows (8). Keep each row in one split. If every file "
        "counts its rows from the start, leave `task.id` out"
    ]


def test_a_row_that_repeats_one_of_its_split_is_told() -> None:
    train = [*rows("train", "a", "b", "a", " B "), *rows("more", "b", label="yes")]
    assert found(train=train) == [
        "warning task.rows.train: 3 of 5 rows repeat the text of an earlier one, 1 of them but for case and spaces, "
        '1 with another label ("train-2" is "train-0", "train-3" is "train-1", "more-0" is "train-1"). They count more '
        "than others. Those with the same label, too, are left out by task.rows.train.drop=[duplicate]"
    ]
