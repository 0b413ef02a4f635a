"""Which column is what, of tables as people have them."""

import pytest

from sweeps.init.columns import flattened, guess_roles, right_option
from trainer.data.row_table import RowTable
from trainer.errors import UserError


def table(**cells):
    n = len(next(iter(cells.values())))
    return RowTable(tuple(cells), {name: list(column) for name, column in cells.items()}, n, (("x.csv", 0),))


LONG = [f"a text of some length, number {i}" for i in range(40)]
EVEN = ["spam", "ham"] * 20


def test_names_decide_before_contents():
    roles = guess_roles(table(flag=["0", "1"] * 20, label=EVEN, text=LONG, note=[t * 3 for t in LONG]))
    assert (roles.texts, roles.label) == (("text",), "label")


def test_contents_decide_where_names_do_not():
    roles = guess_roles(table(a=[str(i) for i in range(40)], b=EVEN, c=LONG))
    assert (roles.texts, roles.label, roles.id) == (("c",), "b", None)


def test_ids_and_splits_are_known_by_name_and_content():
    ids = [f"r{i}" for i in range(40)]
    roles = guess_roles(table(rewire_id=ids, split=["train", "dev"] * 20, text=LONG, label=EVEN))
    assert (roles.id, roles.split) == ("rewire_id", "split")
    roles = guess_roles(table(rewire_id=["r"] * 40, split=["gold", "dev"] * 20, text=LONG, label=EVEN))
    assert (roles.id, roles.split) == (None, None)


@pytest.mark.parametrize(
    ("answers", "cells"),
    [
        (["B", "A"] * 20, [["x", "y"]] * 40),
        (["y", "x"] * 20, [["x", "y"]] * 40),
        (["1", "0"] * 20, [["x", "y"]] * 40),
        (["2", "1"] * 20, [["x", "y"]] * 40),
        (["Q", "P"] * 20, [{"text": ["x", "y"], "label": ["P", "Q"]}] * 40),
        (["2", "1"] * 20, [[{"text": "x", "label": "1"}, {"text": "y", "label": "2"}]] * 40),
    ],
)
def test_answers_are_letters_texts_numbers_or_names_of_options(answers, cells):
    from sweeps.init.columns import first_number

    roles = guess_roles(table(question=LONG, choices=cells, answerKey=answers))
    assert (roles.options, roles.label, roles.texts) == ("choices", "answerKey", ("question",))
    first = first_number(answers, cells)
    assert [right_option(a, c, first) for a, c in zip(answers[:2], cells, strict=False)] == ["1", "0"]


def test_an_answer_that_no_option_is_means_none():
    assert right_option("E", ["x", "y"]) is None
    assert right_option("2", ["x", "y"]) is None
    assert right_option(None, ["x", "y"]) is None


def test_records_become_columns_but_options_stay():
    nested = table(
        question=[{"stem": "why?", "choices": [{"text": "x"}, {"text": "y"}]}] * 20, answerKey=["A", "B"] * 10
    )
    flat = flattened(nested)
    assert flat.names == ("question.stem", "question.choices", "answerKey")
    roles = guess_roles(flat)
    assert (roles.texts, roles.options) == (("question.stem",), "question.choices")


def test_chats_are_known_by_their_turns():
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    assert guess_roles(table(messages=[chat] * 20)).chat == "messages"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"label": "labl"}, 'Did you mean "label"'),
        ({"texts": ["txt"]}, 'Did you mean "text"'),
        ({"options": "choises"}, "is no column"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_the_nearest(given, says):
    with pytest.raises(UserError, match=says):
        guess_roles(table(text=LONG, label=EVEN), **given)


def test_without_an_answer_the_columns_are_listed():
    with pytest.raises(UserError, match=r"--label.*text \(40 different texts\)"):
        guess_roles(table(text=LONG))
