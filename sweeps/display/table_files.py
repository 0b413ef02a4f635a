"""A table in the run folder: the same rows as Markdown, csv, LaTeX and parquet."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv as pacsv

from sweeps.display.text import spreadsheet_text
from trainer.store import Store

_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "^": "\\textasciicircum{}",
    "~": "\\textasciitilde{}",
    "<": "$<$",
    ">": "$>$",
}
MOST_ON_A_PAGE = 40  # rows
_BETWEEN_CELLS = re.compile(r" \| ")  # a bar of a text is written \|
_BOLD = re.compile(r"\*\*(\w+)\*\*")
_NUMBER = re.compile(r"[-+<]? ?\d|-?$")  # begins like one, or is empty
_MARKDOWN = {"&": "&amp;", "<": "&lt;", "|": "\\|", "[": "\\["}


def write_table(store: Store, name: str, table: pa.Table, markdown: str, latex: str | None = None) -> list[str]:
    """Write ``tables/<name>`` in every form, LaTeX where it is given; returns the names written."""
    text = io.BytesIO()
    pacsv.write_csv(_for_spreadsheets(table), text)
    forms = {"md": markdown.encode(), "csv": text.getvalue()}
    if latex is not None:
        forms["tex"] = latex.encode()
    for ending, data in forms.items():
        store.write(f"tables/{name}.{ending}", data)
    store.write_table(f"tables/{name}.parquet", table)
    return [f"tables/{name}.{ending}" for ending in (*forms, "parquet")]


def remove_table(store: Store, name: str) -> None:
    """Delete what ``write_table`` wrote, of an earlier study in the folder."""
    for ending in ("md", "csv", "tex", "parquet"):
        store.remove(f"tables/{name}.{ending}")


def _for_spreadsheets(table: pa.Table) -> pa.Table:
    """``table`` with texts, and no numbers, that a spreadsheet cannot take for formulas."""
    for i, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = [None if v is None else spreadsheet_text(v) for v in table[i].to_pylist()]
            table = table.set_column(i, field, pa.array(texts, pa.string()))
    return table


def markdown_rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(markdown_text, cells)) + " |"

    return [line(head), "|" + " --- |" * len(head), *map(line, body)]


def markdown_text(text: str) -> str:
    """``text``, which may come from data, without what Markdown would read as HTML, as a link or picture, or as the end
    of a table's cell."""
    for character, shown in _MARKDOWN.items():
        text = text.replace(character, shown)
    return " ".join(text.splitlines())


def read_markdown_rows(page: str) -> list[list[str]]:
    """Head and body of the first table of a page, which ``markdown_rows`` made, without the marks of bold text; [] if
    it has none."""
    lines = itertools.dropwhile(lambda line: not line.startswith("| "), page.split("\n"))
    rows = list(itertools.takewhile(lambda line: line.startswith("| "), lines))
    return [[_plain(cell) for cell in _BETWEEN_CELLS.split(row[2:-2])] for row in (*rows[:1], *rows[2:])]


def _plain(cell: str) -> str:
    for character, written in reversed(_MARKDOWN.items()):
        cell = cell.replace(written, character)
    return _BOLD.sub(r"\1", cell)


def latex_table(title: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A booktabs table, numbers to the right; a longtable where it would not fit on a page."""
    kinds = "".join("r" if all(_NUMBER.match(row[i]) for row in body) else "l" for i in range(len(head)))
    kind = "longtable" if len(body) > MOST_ON_A_PAGE else "tabular"
    first, *rows = (" & ".join(map(tex, row)) + r" \\" for row in (head, *body))
    lines = [f"% {title}", rf"\begin{{{kind}}}{{{kinds}}}", r"\toprule", first, r"\midrule", *rows]
    return "\n".join([*lines, r"\bottomrule", rf"\end{{{kind}}}"]) + "\n"


def tex(text: str) -> str:
    """``text`` with what LaTeX reads as commands escaped."""
    return "".join(_TEX.get(c, c) for c in text)
