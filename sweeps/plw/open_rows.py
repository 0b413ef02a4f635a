"""Convert files to the columns that a prompt-loss-weight study reads: instruction, input, options, answer.

A row of a study is answered with a label or with one of the row's own options. A file to fine-tune on (instruction,
input, output) has one right text per row: this text becomes the row's only option, which is allowed for train rows
alone. In a file of questions with choices, the choices become the options, and the rows can be scored as dev and test
rows. So one study can train on the first kind of file and be scored on the second.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweeps.plw.alpaca import Counter, read_records
from trainer.data.row_table import Cell, RowTable, in_short
from trainer.data.sources import read_file
from trainer.errors import UserError, nearest

COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("instruction", pa.string()),
        ("input", pa.string()),
        ("options", pa.list_(pa.string())),
        ("answer", pa.int64()),
    ]
)
SEED = 0  # for the rows that ``limit`` draws


@dataclass(frozen=True)
class KeptRows:
    """The rows, and the numbers of rows left out because their answer is empty or they are too long."""

    table: pa.Table
    empty: int
    long: int


def open_rows(
    name: str,
    where: Mapping[str, str],
    limit: int | None = None,
    longest: int | None = None,
    count: Counter | None = None,
) -> KeptRows:
    """The rows of the file ``name`` that have the values in ``where`` (column -> value), without rows whose texts
    together are longer than ``longest`` in the unit of ``count``. Of these, ``limit`` rows are drawn with a fixed seed
    and kept in the file's order. Ids are positions in the file. UserError where the file is of neither kind."""
    rows = _of_choices(name, where) if _has_choices(name) else _of_completions(name, where)
    full = [r for r in rows if all(o.strip() for o in r["options"])]
    kept = full
    if longest is not None and count is not None:
        prompts = count([r["instruction"] for r in full]) + count([r["input"] for r in full])
        answers = [int(count(r["options"]).max()) for r in full]
        kept = [r for r, p, a in zip(full, prompts, answers, strict=True) if p + a <= longest]
    empty, long = len(rows) - len(full), len(full) - len(kept)
    if limit is not None and limit < len(kept):
        kept = [kept[i] for i in sorted(random.Random(SEED).sample(range(len(kept)), limit))]
    if not kept:
        raise UserError(
            f"{name}: no row is left ({empty} without an answer, {long} longer than {longest}). Raise --longest"
        )
    return KeptRows(pa.Table.from_pylist(kept, schema=COLUMNS), empty, long)


def _has_choices(name: str) -> bool:
    path = Path(name)
    return path.suffix == ".parquet" and path.is_file() and "choices" in _columns(path)


def _columns(path: Path) -> list[str]:
    try:
        names: list[str] = pq.read_schema(path).names
        return names
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: is no parquet file that can be read ({str(error).splitlines()[0]})") from None


def _of_completions(name: str, where: Mapping[str, str]) -> list[dict[str, Any]]:
    if where:
        raise UserError(f"--where {next(iter(where))}: is for files of questions with choices; {name} has outputs")
    records = read_records(name)
    return [
        {"id": str(i), "instruction": p, "input": g, "options": [o], "answer": 0}
        for i, (p, g, o) in enumerate(zip(records.instruction, records.input, records.output, strict=True))
    ]


def _of_choices(name: str, where: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows with columns question, choices and either ``label``, the number of the right choice, or ``labels``, a mark
    for each choice, of which one is 1."""
    table = read_file(name, "FILE", ("question", "choices", "label", "labels", *where))
    for column in ("question", *where):
        if column not in table.names:
            raise UserError(f'{name}: has no column "{column}".{nearest(column, table.names)}')
    keep = list(range(table.n))
    for column, value in where.items():
        cells = table.cells[column]
        known = sorted({c for c in cells if isinstance(c, str)})
        if value not in known:
            raise UserError(f"--where {column}={value}: matches no row of {name}.{nearest(value, known[:20])}")
        keep = [i for i in keep if cells[i] == value]
    if "label" not in table.names and "labels" not in table.names:
        raise UserError(f'{name}: has no column "label".{nearest("label", table.names)}')
    return [_of_question(table, i) for i in keep]


def _of_question(table: RowTable, i: int) -> dict[str, Any]:
    question, choices = table.cells["question"][i], table.cells["choices"][i]
    marks = table.cells["labels"][i] if "labels" in table.cells else None
    right: Cell = table.cells["label"][i] if "label" in table.cells else None
    if isinstance(marks, list) and marks.count("1") == 1:
        right = str(marks.index("1"))
    if not isinstance(question, str) or not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise UserError(f"{table.place(i)}: question is no text, or choices are no list of texts. Mend the row")
    if not isinstance(right, str) or not re.fullmatch("[0-9]{1,9}", right) or int(right) >= len(choices):
        said = in_short(marks or right)
        raise UserError(f"{table.place(i)}: has no one right choice ({said}). Leave such rows out with --where")
    return {"id": str(i), "instruction": question, "input": "", "options": choices, "answer": int(right)}
