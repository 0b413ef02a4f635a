"""Typed columns (of parquet files and hub data sets) as text. The rule looks at a column's type alone:

- text is the text; so is binary that is UTF-8
- whole numbers are their digits
- floats are the shortest text that reads back as the same float of that width (``0.1``, ``1.0``, ``1e+16``)
- truth values are ``true`` and ``false``, as in JSON
- decimals have the digits of their scale (``1.10``)
- dates, times and timestamps are what Arrow writes (``2024-03-01``, ``2024-03-01 00:00:00``), fractions of a second
  without zeros at their end
- a dictionary's values are those that its numbers stand for
- null and NaN are null; lists are lists of cells; a record is one of cells, and is no text
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainer.data.row_table import Cell, RowTable, in_quotes, on_a_line
from trainer.errors import UserError

_FRACTION = re.compile(r"(\.[0-9]+)")


def read_parquet(file: IO[bytes], name: str, at: str, wanted: Collection[str]) -> RowTable:
    """The ``wanted`` columns of a parquet file. UserError, or what pyarrow raises for a broken file."""
    source = pq.ParquetFile(file)
    schema = source.schema_arrow
    columns = [c for c in dict.fromkeys(wanted) if c in schema.names]
    for column in columns:
        if schema.names.count(column) > 1:
            raise UserError(f"{at}: {name} has several columns named {in_quotes(column)}. Rename all but one")
    table = source.read(columns=columns) if columns else None
    cells = {} if table is None else {c: column_cells(table[c], c, f"{at}: {name}") for c in columns}
    n = source.metadata.num_rows
    return RowTable(tuple(schema.names), cells, n, ((name, 0),), _classes(schema.metadata))


def column_cells(column: pa.ChunkedArray, name: str, place: str) -> list[Cell]:
    """A cell for each row of ``column``. UserError for a type that has no text."""
    try:
        return [cell for chunk in column.chunks for cell in _cells(chunk)]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        why = on_a_line(" ".join(str(error).split())[:200])
        raise UserError(
            f"{place}: column {in_quotes(name)} has the type {column.type}, which cannot be read as text ({why}). "
            "Store it as text"
        ) from None


def _cells(values: pa.Array) -> list[Cell]:
    kind = values.type
    if isinstance(values, pa.ExtensionArray):
        return _cells(values.storage)
    if pa.types.is_dictionary(kind):
        return _cells(values.dictionary_decode())
    if pa.types.is_struct(kind):
        return _record_cells(values)
    if pa.types.is_map(kind) or pa.types.is_union(kind):
        return [None if v is None else {} for v in values.to_pylist()]  # a record, whatever it holds
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _list_cells(values)
    if pa.types.is_boolean(kind):
        return [None if v is None else "true" if v else "false" for v in values.to_pylist()]
    if pa.types.is_integer(kind):
        return [None if v is None else str(v) for v in values.to_pylist()]
    if pa.types.is_floating(kind):
        return _float_cells(values)
    if pa.types.is_decimal(kind):
        return [None if v is None else format(v, "f") for v in values.to_pylist()]
    written = values.cast(pa.large_string()).to_pylist()
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):  # .000 only says in which unit it was stored
        return [None if v is None else _FRACTION.sub(_shorter, v) for v in written]
    return written


def _record_cells(values: pa.StructArray) -> list[Cell]:
    names = [part.name for part in values.type]
    columns = [_cells(part) for part in values.flatten()]
    return [
        {name: column[i] for name, column in zip(names, columns, strict=True)} if there else None
        for i, there in enumerate(values.is_valid().to_pylist())
    ]


def _shorter(fraction: re.Match[str]) -> str:
    return fraction.group(1).rstrip("0").rstrip(".")


def _float_cells(values: pa.Array) -> list[Cell]:
    if values.type.bit_width == 64:  # Python's own float
        return [None if v is None or v != v else repr(v) for v in values.to_pylist()]
    width = {16: np.float16, 32: np.float32}[values.type.bit_width]
    return [None if v is None or v != v else str(width(v)) for v in values.to_pylist()]


def _list_cells(values: pa.Array) -> list[Cell]:
    sizes = pc.list_value_length(values).to_pylist()
    inner = iter(_cells(values.flatten()))
    return [None if size is None else [next(inner) for _ in range(size)] for size in sizes]


def _classes(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Names that ``datasets`` has stored for the numbers of a column, by column."""
    try:
        features: Any = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        named = {c: f["names"] for c, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
        return {column: tuple(map(str, names)) for column, names in named.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
