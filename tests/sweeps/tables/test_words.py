"""Columns in words: units, intervals beside their estimates, and what is left out."""

from __future__ import annotations

import math

import pytest

from sweeps.staged import tables as staged
from sweeps.tables.effects import EFFECTS, VARIANCE
from sweeps.tables.words import WORDS, in_words, words_of


def test_an_interval_stands_in_the_cell_of_its_estimate() -> None:
    rows = [
        {"arm": "paft", "mean": 0.941, "mean_low": 0.9, "mean_high": 0.96, "p_holm": 0.0001},
        {"arm": "user", "mean": 0.9, "mean_low": None, "mean_high": None, "p_holm": 0.2},
    ]
    table = in_words("Arms", rows, "accuracy")
    assert table.head == ("arm", "mean accuracy, % (95 % interval)", "p, corrected (Holm)")
    assert table.rows == (("paft", "94.1 (90.0 to 96.0)", "< 0.001"), ("user", "90.0", "0.200"))
    assert table.numbers == {1, 2}


def test_a_difference_has_its_sign_and_names_the_arm_that_it_is_to() -> None:
    rows = [{"arm": "user", "minus_paft": -0.02, "low": -0.05, "high": 0.01}]
    table = in_words("", rows, "accuracy")
    assert table.head[1:] == ("difference to paft, points (95 % interval)",)
    assert table.rows[0][1:] == ("-2.0 (-5.0 to +1.0)",)
    assert in_words("", rows, "matthews_corrcoef").head[1] == "difference to paft, times 100 (95 % interval)"


def test_columns_without_a_value_are_left_out_and_values_have_words() -> None:
    rows = [
        {"analysis": "ols", "p": math.nan, "note": "", "rejected": True},
        {"analysis": "new", "p": None, "note": ""},
    ]
    table = in_words("", rows, "accuracy", values={"analysis": {"ols": "least squares"}})
    assert table.head == ("analysis", "shown (p below 0.05)")
    assert table.rows == (("least squares", "yes"), ("new", "-"))


def test_every_column_of_the_parts_tables_has_words() -> None:
    names = {name for schema in staged.SCHEMAS.values() for name in schema} - {"trials"}
    names |= {*EFFECTS.names, *VARIANCE.names, "few-shot_tokens", "minus_paft"}
    ends = {n for n in names if n.endswith(("_low", "_high"))}
    assert all(words_of(name).head for name in names - ends)
    with pytest.raises(KeyError, match="no words for the column new_column"):
        words_of("new_column")
    assert not [name for name, words in WORDS.items() if "_" in words.head]
