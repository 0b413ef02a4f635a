"""Messages hold nothing that floods or rewrites a terminal (CASES B4)."""

from __future__ import annotations

import pickle

import pytest

from trainer.errors import LONGEST_LINE, LONGEST_NAME, UserError, nearest, printable, short


def test_a_message_is_printable_line_by_line() -> None:
    said = str(UserError("a\x1b[31m red\nb \ud800 \u202e \u2028 \x00 \r end"))
    assert said == "a\\x1b[31m red\nb \\ud800 \\u202e \\u2028 \\x00 \\r end"
    said.encode()
    assert printable("naïve — “quotes” 日本語\u3000\xa0😀") == "naïve — “quotes” 日本語\u3000\xa0😀"


@pytest.mark.parametrize("character", ["x", "\x1b", "\ud800"])
def test_a_long_line_keeps_its_start_and_its_remedy(character: str) -> None:
    said = str(UserError("study.yaml: model.path = " + character * 100_000 + " does not exist. Give another"))
    assert len(said) <= LONGEST_LINE
    assert said.startswith("study.yaml: model.path = ")
    assert said.endswith(" does not exist. Give another")


def test_names_are_short_in_lists_and_guesses() -> None:
    known = ["x" * 50_000, "y" * 50_000]
    assert len(short(known[0])) <= LONGEST_NAME
    assert len(nearest("x" * 50_000 + "x", known)) < 400


def test_an_error_survives_being_sent() -> None:
    error = pickle.loads(pickle.dumps(UserError("a\x00", 3)))
    assert error.args == ("a\\x00", 3)
