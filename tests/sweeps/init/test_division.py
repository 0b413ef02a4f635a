"""Splits without leakage, with every label in its share."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.init.division import divided
from sweeps.init.examples import DataRow
from trainer.errors import UserError


def example(i, text, answer="no"):
    return DataRow(f"row-{i}", {"text": text}, answer)


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), min_size=60, max_size=200))
def test_examples_that_ask_the_same_are_in_one_split(rows):
    some = [example(i, f"Text  {n}" if i % 2 else f"text {n}", label) for i, (n, label) in enumerate(rows)]
    try:
        parts = divided({"": some}, [])
    except UserError:
        return  # so few different texts that a split stays empty
    assert sorted(e.id for part in parts.values() for e in part) == sorted(e.id for e in some)
    keys = [{e.key for e in part} for part in parts.values()]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]


def test_labels_have_their_share_in_every_split_and_the_seed_is_fixed():
    some = [example(i, f"text {i}", "spam" if i % 10 == 0 else "ham") for i in range(1000)]
    parts = divided({"": some}, [])
    assert {split: len(part) for split, part in parts.items()} == {"train": 700, "dev": 150, "test": 150}
    assert {split: Counter(e.answer for e in part)["spam"] for split, part in parts.items()} == {
        "train": 70, "dev": 15, "test": 15,
    }  # fmt: skip
    assert divided({"": some}, []) == parts


def test_splits_of_the_data_stay_and_lose_what_a_later_one_has():
    notes = []
    train = [example(i, f"text {i}") for i in range(100)]
    test = [example(1000 + i, f"TEXT {i}") for i in range(10)]
    parts = divided({"train": train, "validation": [example(2000, "text 99")], "test": test}, notes)
    assert [e.id for e in parts["test"]] == [e.id for e in test]
    assert [e.id for e in parts["dev"]] == ["row-2000"]
    assert len(parts["train"]) == 89
    assert notes == ["11 train rows left out: they are in a later split as well"]


def test_a_split_that_is_missing_is_taken_from_train():
    parts = divided({"train": [example(i, f"text {i}") for i in range(100)], "test": [example(200, "other")]}, [])
    assert [len(parts[s]) for s in ("train", "dev", "test")] == [82, 18, 1]


def test_splits_of_other_names_are_told():
    notes = []
    divided({"train": [example(i, f"t {i}") for i in range(50)], "unsupervised": [example(99, "u")]}, notes)
    assert notes == ['1 row of the split "unsupervised" left out: it is neither train, dev nor test']


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ({"": [example(i, f"t {i}") for i in range(5)]}, "5 rows are left"),
        ({"dev": [example(1, "a")], "test": [example(2, "b")]}, "none to train on"),
    ],
)
def test_too_little_is_refused(splits, says):
    with pytest.raises(UserError, match=says):
        divided(splits, [])
