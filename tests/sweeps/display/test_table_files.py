"""What data may not do to whoever opens a table: run a formula, show HTML, break a row; and how axis values look."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeps.display.table_files import (
    MOST_ON_A_PAGE,
    latex_table,
    markdown_rows,
    markdown_text,
    read_markdown_rows,
    write_table,
)
from sweeps.display.text import shown, spreadsheet_text
from trainer.store import Store

FORMULAS = ("=HYPERLINK(1)", "+1+1", "-1+2", "@SUM(A1)", "\tx", "\rx")


def test_a_text_that_is_a_formula_is_neutralised_in_csv_and_a_number_is_not(tmp_path: Path) -> None:
    """CASES B5."""
    store = Store.open(tmp_path)
    plain = ["plain", "a=b", "-0.5", "-1", "+3e-4", "", None]
    table = pa.table({"name": [*FORMULAS, *plain], "number": [-0.5] * (len(FORMULAS) + len(plain))})
    write_table(store, "t", table, "")
    rows = list(csv.reader(io.StringIO(store.read("tables/t.csv").decode(), newline="")))[1:]
    assert [r[0] for r in rows] == [*(f"'{x}" for x in FORMULAS), *("" if x is None else x for x in plain)]
    assert {r[1] for r in rows} == {"-0.5"}
    assert pq.read_table(tmp_path / "tables" / "t.parquet")["name"].to_pylist() == [*FORMULAS, *plain]


def test_every_writer_of_csv_neutralises(tmp_path: Path) -> None:
    """CASES B5, of the searches' and the prompts' own files. ``predict`` has its test beside it."""
    from sweeps.prompt_search.search_folder import _csv as of_search
    from sweeps.prompts.accuracy import ListedPrompt, as_csv
    from trainer.data.wording import Prompt

    assert of_search([["=1+1", "-0.5"]]) == b"'=1+1,-0.5\r\n"
    listed = as_csv([ListedPrompt(Prompt("=p", "@x"), (), "", None)])
    assert listed.splitlines()[1].startswith("'=p,")
    assert listed.splitlines()[1].endswith(",'@x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("a | b", "a \\| b"),
        ("![](http://x/y.png)", "!\\[](http://x/y.png)"),
        ("&lt;b>", "&amp;lt;b>"),
        ("one\ntwo\u2028three", "one two three"),
    ],
)
def test_markdown_shows_what_data_hold_and_nothing_else(text: str, expected: str) -> None:
    """CASES B5."""
    assert markdown_text(text) == expected
    assert markdown_rows(["x"], [[text]])[2] == f"| {expected} |"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.001, "0.001"), (3e-4, "0.0003"), (0.00123456, "0.00123456"), (0.00034781234567891234, "0.0003478"),
     (16, "16"), (0.1 + 0.2, "0.3"), (("q_proj", 0.5), "q_proj,0.5")],
)  # fmt: skip
def test_a_drawn_number_has_four_digits_and_a_chosen_one_stays(value: object, text: str) -> None:
    """CASES F8: the final table showed a learning rate with seventeen digits."""
    assert shown(value) == text


def test_an_apostrophe_is_added_once() -> None:
    assert spreadsheet_text(spreadsheet_text("=1")) == "'=1"


def test_a_table_of_a_page_is_read_as_it_was_written() -> None:
    head, body = ["a|b", "c"], [["x & y <z>", "[1] \\|"], ["", "2"]]
    page = "\n".join(["# Title", "", "- a note", *markdown_rows(head, body), "", "- | no row |"]) + "\n"
    assert read_markdown_rows(page) == [head, *body]
    assert read_markdown_rows("# Title\n\nnothing\n") == []


def test_marks_of_bold_text_are_not_read() -> None:
    assert read_markdown_rows("| **t1** | s |\n| --- | --- |\n| a ** b | finished, **winner** |")[0] == ["t1", "s"]
    assert read_markdown_rows("| h | s |\n| --- | --- |\n| a ** b | finished, **winner** |")[1] == [
        "a ** b",
        "finished, winner",
    ]


def test_latex_has_numbers_to_the_right_and_breaks_a_long_table_over_pages() -> None:
    text = latex_table("Title", ["name", "n_1"], [["50 %", "< 0.1"], ["a", "-2"]])
    assert text.splitlines() == [
        "% Title", r"\begin{tabular}{lr}", r"\toprule", r"name & n\_1 \\", r"\midrule", r"50 \% & $<$ 0.1 \\",
        r"a & -2 \\", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    assert r"\begin{longtable}{r}" in latex_table("Title", ["n"], [[str(i)] for i in range(MOST_ON_A_PAGE + 1)])
