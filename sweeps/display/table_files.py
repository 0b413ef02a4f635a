"""A table in the run folder: the same rows as Markdown, csv, LaTeX and parquet."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from trainer.store import Store

_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "^": "\\textasciicircum{}",
    "~": "\\textasciitilde{}",
    "<": "$<$",
    ">": "$>$",
}


def write_table(store: Store, name: str, table: pa.Table, markdown: str, latex: str | None = None) -> list[str]:
    """Write ``tables/<name>`` in every form, LaTeX where it is given; returns the names written."""
    parquet, text = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, compression="zstd")
    pacsv.write_csv(table, text)
    forms = {"md": markdown.encode(), "csv": text.getvalue()}
    if latex is not None:
        forms["tex"] = latex.encode()
    forms["parquet"] = parquet.getvalue()
    for ending, data in forms.items():
        store.write(f"tables/{name}.{ending}", data)
    return [f"tables/{name}.{ending}" for ending in forms]


def markdown_rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    return [line(head), "|" + " --- |" * len(head), *map(line, body)]


def tex(text: str) -> str:
    """``text`` with what LaTeX reads as commands escaped."""
    return "".join(_TEX.get(c, c) for c in text)
