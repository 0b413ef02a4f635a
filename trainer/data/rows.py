"""Rows: the records of a data set, reduced to the answer and the fields that a prompt may use.

Any file that ``datasets`` reads (parquet, csv, tsv, json, jsonl; a folder of them; a hub name) becomes a list of
``Row``. What would later go wrong unseen (a label that the study does not name, a null text, an answer number outside
the options) is an error here, which names the row.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainer.data.sources import RowSource, open_table
from trainer.errors import UserError, listed, nearest
from trainer.trial import digest

SHUFFLE_SEED = 0  # of ``limit``: the same rows for every trial and every study


@dataclass(frozen=True)
class Row:
    id: str
    fields: dict[str, str]
    label: str  # the label's name, or the right option's number (from 0) as text
    options: tuple[str, ...] = ()


def load_rows(source: RowSource, split: str, at: str = "") -> list[Row]:
    """The rows of one split of a study.

    ``split`` names it in ids (``<split>-<position in the file>``) and messages; ``at`` is the place in the study
    that asked for it (``study.yaml: task.rows.dev``). Raises ``UserError``.
    """
    at = at or f"rows {split}"
    table = open_table(source, split, at)
    columns = list(table.column_names)
    _check_columns(source, columns, at)
    keep = _selected(source, table, at)
    if source.limit is not None and source.limit < len(keep):
        if source.limit < 1:
            raise UserError(
                f"{at}: limit = {source.limit} leaves no rows. Give a whole number above 0, or leave it out"
            )
        keep = sorted(random.Random(SHUFFLE_SEED).sample(keep, source.limit))
    wanted = [
        *source.fields,
        source.label,
        *([source.options] if source.options else []),
        *([source.id] if source.id else []),
    ]
    part = table.select_columns(list(dict.fromkeys(wanted))).select(keep)
    names = _label_names(source, table)
    reader = _Reader(source, split, at, names)
    rows = [reader.row(position, values) for position, values in zip(keep, part, strict=True)]
    _check_ids(source, rows, at)
    return rows


def load_questions(path: str, fields: Sequence[str], options: str | None = None, id: str | None = None) -> list[Row]:
    """The rows of one file whose answers are asked for: ``label`` is "", and no label column is needed.

    A file without the column ``id`` is numbered, ``row-<position>``. Raises ``UserError``."""
    table = open_table(RowSource(path, tuple(fields), ""), "train", "rows")
    columns = list(table.column_names)
    for key, column in [*(("fields", f) for f in fields), *([("options", options)] if options else [])]:
        if column not in columns:
            raise UserError(f"rows: {_no_column(key, column, path, columns)}")
    if not len(table):
        raise UserError(f"rows: {path} has no rows")
    own_id = id if id in columns else None
    source = RowSource(path, tuple(fields), "", options=options, id=own_id)
    reader = _Reader(source, "row", "rows", {})
    wanted = [*fields, *(c for c in (options, own_id) if c)]
    part = table.select_columns(list(dict.fromkeys(wanted)))
    rows = [reader.question(position, values) for position, values in enumerate(part)]
    _check_ids(source, rows, f"rows: {path}")
    return rows


def fingerprint_rows(rows: Sequence[Row]) -> str:
    """Stands for the content and order of ``rows`` in a trial's id."""
    return digest([[r.id, sorted(r.fields.items()), r.label, list(r.options)] for r in rows])


def value_key(value: Any) -> str:
    """A data value as text, so that 1, 1.0 and "1", or true and True, name the same label."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return text.lower() if text in ("True", "False") else text


def _near_value(value: str, known: Iterable[str]) -> str:
    """``nearest`` for values in data. No guess for numbers and single letters: 5 is no misspelt 0, nor N a Y."""
    misspelt = len(value) > 1 and any(character.isalpha() for character in value)
    return nearest(value, known) if misspelt else listed(known)


@dataclass
class _Reader:
    """Makes each record a ``Row``, or says which record cannot become one and why."""

    source: RowSource
    split: str
    at: str
    names: dict[str, str]  # label key -> label name

    def row(self, position: int, values: dict[str, Any]) -> Row:
        asked = self.question(position, values)
        place, value = self._place(position, values), values[self.source.label]
        right = self._label(value, place) if self.source.labels else self._number(value, len(asked.options), place)
        return replace(asked, label=right)

    def question(self, position: int, values: dict[str, Any]) -> Row:
        """The row without its answer."""
        s = self.source
        place = self._place(position, values)
        fields = {f: self._text(values[f], f, place) for f in s.fields}
        row_id = f"{self.split}-{position}" if s.id is None else self._text(values[s.id], s.id, place)
        return Row(row_id, fields, "", self._options(values[s.options], place) if s.options else ())

    def _place(self, position: int, values: dict[str, Any]) -> str:
        """Where a reader of the file finds the row: counted from 1, and by its id."""
        own = values[self.source.id] if self.source.id else f"{self.split}-{position}"
        known = "" if own is None else f' (id "{own}")'
        return f"{self.at}: {self.source.path}, row {position + 1}{known}"

    def _text(self, value: Any, column: str, place: str) -> str:
        if value is None:
            raise UserError(
                f'{place}: column "{column}" is null. Fill it in the data, or leave the row out with `where`'
            )
        if isinstance(value, list | tuple | dict):
            kind = "list" if isinstance(value, list | tuple) else "record"
            hint = (
                "name it as `options`, which prompts can read as {{ options }}"
                if kind == "list"
                else "flatten it in the data"
            )
            raise UserError(f'{place}: column "{column}" is a {kind}, fields are text; {hint}')
        return str(value)

    def _label(self, value: Any, place: str) -> str:
        s = self.source
        if value is None:
            raise UserError(f'{place}: label column "{s.label}" is null. Label the row, or leave it out with `where`')
        key = value_key(value)
        if key not in self.names:
            raise UserError(
                f'{place}: {s.label} = "{value}" is not in `labels`.{_near_value(key, self.names)}. Add it there, '
                "or leave such rows out with `where`"
            )
        return self.names[key]

    def _options(self, value: Any, place: str) -> tuple[str, ...]:
        column = self.source.options
        if not isinstance(value, list | tuple):
            raise UserError(
                f'{place}: options column "{column}" holds {type(value).__name__} ({value!r:.40}), not a list. '
                "Store a list of texts there, or use `labels`"
            )
        fewest = 1 if self.split == "train" else 2  # one option: a text to learn, with nothing to choose from
        if len(value) < fewest or any(v is None or not str(v).strip() for v in value):
            raise UserError(
                f'{place}: options column "{column}" has {len(value)} entries ({value!r:.60}); it needs at '
                f"least {'one' if fewest == 1 else 'two'}, none of them empty"
            )
        return tuple(str(v) for v in value)

    def _number(self, value: Any, n: int, place: str) -> str:
        column = self.source.label
        key = "" if value is None else value_key(value)
        if not key.lstrip("-").isdigit():
            raise UserError(
                f"{place}: {column} = {value!r:.40} is no number. With `options`, the label column holds the "
                "number of the right option, counted from 0"
            )
        if not 0 <= int(key) < n:
            raise UserError(
                f"{place}: {column} = {key}, but the row has {n} options (0 to {n - 1}). Leave unlabelled rows "
                "out with `where`; numbers count from 0"
            )
        return str(int(key))


def _check_columns(source: RowSource, columns: Sequence[str], at: str) -> None:
    if not source.fields:
        raise UserError(f"{at}: fields is empty. Name the columns that prompts may use. Known: {', '.join(columns)}")
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
    other = next((mark for mark in ";\t|" if mark in columns[0]), None) if len(columns) == 1 else None
    if other is not None:
        return (
            f'{key} = "{column}": {path} has a single column, "{columns[0]}", and seems to be separated by {other!r}. '
            "Save it with commas, or with tabs as .tsv"
        )
    return f'{key} = "{column}" is no column of {path}.{nearest(column, columns)}'


def _selected(source: RowSource, table: Any, at: str) -> list[int]:
    """Positions of the rows that ``where`` keeps."""
    if not len(table):
        raise UserError(f"{at}: {source.path} has no rows")
    keep = list(range(len(table)))
    for column, wanted in source.where.items():
        values = [value_key(v) for v in table[column]]
        allowed = {value_key(w) for w in (wanted if isinstance(wanted, list | tuple) else [wanted])}
        known = sorted(set(values))
        for value in sorted(allowed - set(known)):
            raise UserError(f'{at}: where {column} = "{value}" matches no row.{_near_value(value, known[:20])}')
        keep = [i for i in keep if values[i] in allowed]
    if not keep:
        raise UserError(f"{at}: no row of {source.path} meets all of where = {dict(source.where)}. Drop a condition")
    return keep


def _label_names(source: RowSource, table: Any) -> dict[str, str]:
    names = {value_key(k): str(v) for k, v in source.labels.items()}
    feature = table.features.get(source.label)
    # A hub data set may store numbers and name them: either may be used as key.
    for number, name in enumerate(getattr(feature, "names", None) or []):
        if str(number) not in names and name in names:
            names[str(number)] = names[name]
    return names


def _check_ids(source: RowSource, rows: Sequence[Row], at: str) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise UserError(
                f'{at}: id column "{source.id}" has "{row.id}" more than once. Name a column of unique values, '
                "or leave `id` out"
            )
        seen.add(row.id)
