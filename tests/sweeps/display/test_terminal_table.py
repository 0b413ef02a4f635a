"""Fitting a table into a width, on tables of a few words."""

from __future__ import annotations

import pytest

from sweeps.display.terminal_table import TerminalColumn, fitted, wrapped

COLUMNS = [
    TerminalColumn("mean"),
    TerminalColumn("lr", "axis"),
    TerminalColumn("pool", "axis"),
    TerminalColumn("status", "text"),
    TerminalColumn("time", spare=True),
]
ROWS = [["94.0", "0.001", "many", "winner", "1:05"], ["-", "3e-05", "one", "stopped, one label", "12:30"]]


def test_with_room_for_all_it_is_one_line_a_row() -> None:
    wide = [
        "mean  lr     pool  status               time",
        "94.0  0.001  many  winner               1:05",
        "   -  3e-05  one   stopped, one label  12:30",
    ]
    assert fitted(COLUMNS, ROWS).lines == wide
    assert fitted(COLUMNS, ROWS, 44).lines == wide


def test_first_go_the_columns_that_may_be_left_out() -> None:
    assert fitted(COLUMNS, ROWS, 43).lines == [
        "mean  lr     pool  status",
        "94.0  0.001  many  winner",
        "   -  3e-05  one   stopped, one label",
    ]


def test_then_texts_take_several_lines() -> None:
    assert fitted(COLUMNS, ROWS, 31).rows == (
        ("94.0  0.001  many  winner",),
        ("   -  3e-05  one   stopped, one", "                   label"),
    )


def test_then_the_axes_share_a_column() -> None:
    assert fitted(COLUMNS, ROWS, 26).lines == [
        "mean  axes       status",
        "94.0  lr=0.001   winner",
        "      pool=many",
        "   -  lr=3e-05   stopped,",
        "      pool=one   one label",
    ]


@pytest.mark.parametrize("width", [1, 10, 20])
def test_a_number_is_whole_even_where_nothing_fits(width: int) -> None:
    text = "\n".join(fitted(COLUMNS, ROWS, width).lines)
    for number in ("94.0", "lr=0.001", "lr=3e-05"):
        assert number in text


def test_a_table_without_rows_has_its_heading() -> None:
    assert fitted(COLUMNS, [], 80).lines == ["mean  lr  pool  status  time"]


def test_wide_letters_count_as_two_and_long_texts_are_broken() -> None:
    assert fitted([TerminalColumn("名", "text"), TerminalColumn("n")], [["例例", "1"]]).lines == ["名    n", "例例  1"]
    long = fitted([TerminalColumn("n"), TerminalColumn("name", "text")], [["1.5", "x" * 60]], 30)
    assert long.lines == ["  n  name", f"1.5  {'x' * 25}", f"     {'x' * 25}", f"     {'x' * 10}"]


def test_sentences_are_broken_between_words_and_a_path_is_not() -> None:
    assert wrapped("one two three", 7) == ["one two", "three"]
    assert wrapped("see /a/long/path now", 8) == ["see", "/a/long/path", "now"]
