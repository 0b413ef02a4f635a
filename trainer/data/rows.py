"""Rows: the records of a data set, reduced to the answer and the fields that a prompt may use.

Any file of ``trainer.data.sources`` (parquet, csv, tsv, json, jsonl; a folder of them; a hub name) becomes a list of
``Row``. All that a row holds is the text of its cells.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from trainer.data.cells import CellReader, near_value, plain_form
from trainer.data.row_table import SEPARATORS, RowTable, in_quotes, on_a_line
from trainer.data.sources import IN_MEMORY, RowSource, open_table, table_in_memory
from trainer.errors import UserError, listed, nearest
from trainer.trial import digest

if TYPE_CHECKING:
    import pyarrow as pa

    Asked: TypeAlias = str | pa.Table | Sequence[Mapping[str, Any]]  # a file, or rows that a program holds

SHUFFLE_SEED = 0  # of ``limit``: the same rows for every trial and every study


@dataclass(frozen=True)
class Row:
    id: str
    fields: dict[str, str]
    label: str  # the label's name, or the right option's number (from 0) as text
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class DroppedRows:
    """Rows of one split that the study's ``drop`` has left out for one reason."""

    split: str
    reason: str  # empty, duplicate, too_long
    ids: tuple[str, ...]
    of: int  # rows that there were before

    def __str__(self) -> str:
        where, few = f"task.rows.{self.split}", first_few(self.ids)
        return f"{where}: {len(self.ids)} of {self.of} rows dropped as {self.reason} ({few})"


@dataclass(frozen=True)
class LoadedRows:
    rows: tuple[Row, ...]
    dropped: tuple[DroppedRows, ...] = ()


def load_rows(source: RowSource, split: str, at: str = "") -> list[Row]:
    """The rows of one split of a study, without those that ``source.drop`` leaves out.

    ``split`` names it in ids (``<split>-<position in the file>``) and messages; ``at`` is the place in the study
    that asked for it (``study.yaml: task.rows.dev``). Raises ``UserError``.
    """
    return list(read_rows(source, split, at).rows)


def read_rows(source: RowSource, split: str, at: str = "") -> LoadedRows:
    """As ``load_rows``, with the ids of the rows that were dropped."""
    at = at or f"rows {split}"
    table = open_table(source, split, at)
    _check_columns(source, table.names, at)
    keep = _selected(source, table, at)
    if source.limit is not None and source.limit < len(keep):
        if source.limit < 1:
            raise UserError(
                f"{at}: limit = {source.limit} leaves no rows. Give a whole number above 0, or leave it out"
            )
        keep = sorted(random.Random(SHUFFLE_SEED).sample(keep, source.limit))
    reader = CellReader(source, split, at, table, _label_names(source, table))
    empty = [i for i in keep if "empty" in source.drop and reader.is_empty(i)]
    left_out = set(empty)
    rows = [_row(reader, i, answered=True) for i in keep if i not in left_out]
    rows, repeated = _without_repeats(rows) if "duplicate" in source.drop else (rows, [])
    found = {"empty": [reader.id(i) for i in empty], "duplicate": [r.id for r in repeated]}
    dropped = tuple(DroppedRows(split, why, tuple(ids), len(keep)) for why, ids in found.items() if ids)
    if not rows:
        raise UserError(f"{at}: {none_left(dropped)}")
    _check_ids(source, rows, at)
    return LoadedRows(tuple(rows), dropped)


def none_left(dropped: Iterable[DroppedRows]) -> str:
    """The message for a split of which ``drop`` has left nothing."""
    counts = ", ".join(f"{len(d.ids)} {d.reason}" for d in dropped)
    return f"drop leaves no rows ({counts}). Take the reason out of `drop`, or give other rows"


def first_few(ids: Sequence[str], most: int = 5) -> str:
    """``a, b, c, d, e and 7 more``."""
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return f"{', '.join(ids[:most])}{more}"


def name_of(asked: Asked) -> str:
    """What messages call the rows."""
    return asked if isinstance(asked, str) else IN_MEMORY


def load_questions(
    asked: Asked, fields: Sequence[str], options: str | None = None, id: str | None = None, first: int = 0
) -> list[Row]:
    """The rows whose answers are asked for: ``label`` is "", and no label column is needed.

    Rows without the column ``id`` are numbered, ``row-<position>``, from ``first`` on. Raises ``UserError``."""
    path = name_of(asked)
    source = RowSource(path, tuple(fields), "", options=options, id=id)
    if isinstance(asked, str):
        table = open_table(source, "train", "rows")
    else:
        table = table_in_memory(asked, "rows", [*fields, *filter(None, (options, id))])
    if not table.n:
        raise UserError(f"rows: {path} has no rows")
    for key, column in [*(("fields", f) for f in fields), *([("options", options)] if options else [])]:
        if column not in table.names:
            raise UserError(f"rows: {_no_column(key, column, path, table.names)}")
    source = replace(source, id=id if id in table.names else None)
    reader = CellReader(source, "row", "rows", table, {})
    rows = [_row(reader, position, answered=False) for position in range(table.n)]
    if first and source.id is None:
        rows = [replace(row, id=f"row-{first + position}") for position, row in enumerate(rows)]
    _check_ids(source, rows, f"rows: {path}")
    return rows


def fingerprint_rows(rows: Sequence[Row]) -> str:
    """Stands for the content and order of ``rows`` in a trial's id."""
    return digest([[r.id, sorted(r.fields.items()), r.label, list(r.options)] for r in rows])


def _row(reader: CellReader, position: int, answered: bool) -> Row:
    fields = {name: reader.text(name, position) for name in reader.source.fields}
    row_id = reader.own_id(position) if reader.source.id is not None else reader.id(position)
    options = reader.options(position) if reader.source.options else ()
    return Row(row_id, fields, reader.answer(position, len(options)) if answered else "", options)


def _without_repeats(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """(rows, later rows with the same texts, options and label)."""
    first: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        first.setdefault((tuple(row.fields.items()), row.options, row.label), row)
    kept = list(first.values())
    known = {id(row) for row in kept}
    return kept, [row for row in rows if id(row) not in known]


def _check_columns(source: RowSource, columns: Sequence[str], at: str) -> None:
    if not source.fields:
        raise UserError(f"{at}: fields is empty. Name the columns that prompts may use. {listed(columns)[1:]}")
    if not source.options and not source.labels:
        raise UserError(
            f"{at}: neither `labels` nor `options` is given. Name the labels ({source.label} value: name), or "
            "the column with each row's options"
        )
    asked = [("fields", f) for f in source.fields] + [
        ("label", source.label),
        ("options", source.options),
        ("id", source.id),
    ]
    for key, column in [*asked, *(("where", w) for w in source.where)]:
        if column is not None and column not in columns:
            raise UserError(f"{at}: {_no_column(key, column, source.path, columns)}")


def _no_column(key: str, column: str, path: str, columns: Sequence[str]) -> str:
    other = next((mark for mark in SEPARATORS if mark in columns[0]), None) if len(columns) == 1 else None
    if other is not None:
        return (
            f'{key} = "{column}": {path} has a single column, {in_quotes(columns[0])}, and seems to be separated by '
            f"{other!r}. Save it with commas, or with tabs as .tsv"
        )
    return f'{key} = "{column}" is no column of {path}.{nearest(column, [on_a_line(c[:60]) for c in columns])}'


def _selected(source: RowSource, table: RowTable, at: str) -> list[int]:
    """Positions of the rows that ``where`` keeps."""
    if not table.n:
        raise UserError(f"{at}: {source.path} has no rows")
    keep = list(range(table.n))
    for column, wanted in source.where.items():
        cells = table.cells[column]
        forms = [plain_form(c) if isinstance(c, str) else None for c in cells]
        allowed = {
            None if w is None else plain_form(w) for w in (wanted if isinstance(wanted, list | tuple) else [wanted])
        }
        known = sorted({c for c in cells if isinstance(c, str)})
        for value in sorted(a for a in allowed - set(forms) if a is not None):
            raise UserError(f"{at}: where {column} = {in_quotes(value)} matches no row.{near_value(value, known[:20])}")
        keep = [i for i in keep if forms[i] in allowed and (cells[i] is None or forms[i] is not None)]
    if not keep:
        raise UserError(f"{at}: no row of {source.path} meets all of where = {dict(source.where)}. Drop a condition")
    return keep


def _label_names(source: RowSource, table: RowTable) -> dict[str, str]:
    names = {str(k) if not isinstance(k, bool) else plain_form(k): str(v) for k, v in source.labels.items()}
    # Typed data may store numbers and name them: either may be used as key.
    for number, name in enumerate(table.classes.get(source.label, ())):
        if str(number) not in names and name in names:
            names[str(number)] = names[name]
    return names


def _check_ids(source: RowSource, rows: Sequence[Row], at: str) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise UserError(
                f'{at}: id column "{source.id}" has {in_quotes(row.id)} more than once. '
                "Name a column of unique values, or leave `id` out"
            )
        seen.add(row.id)
