"""Reads csv, tsv, json and JSON Lines files as text: nothing in them is taken for a number, a date or a missing value.

Separators: a csv file has commas, a tsv file tabs; cells may stand in double quotes and then hold line breaks. A JSON
file is a list of records, or has one record a line, which ends at a newline only (U+2028 and U+0085 may stand in a
text). Numbers keep their digits as written, ``true`` and ``false`` are these words. Files are UTF-8; a byte order mark
at the beginning is passed over. Raises ``UserError``, which names the line.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any

from trainer.data.row_table import SEPARATORS, Cell, RowTable, flaw, in_quotes, in_short
from trainer.errors import UserError

_BLANK = " \t\r\n"  # JSON's white space; str.strip() would also take characters that belong to a text
_BOM = b"\xef\xbb\xbf"
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # how a UTF-16 or UTF-32 file begins


def read_separated(file: IO[bytes], name: str, at: str, wanted: Collection[str], separator: str) -> RowTable:
    """The ``wanted`` columns of a csv or tsv file. The first line that is not blank names the columns, and every other
    one must have as many cells; blank lines are left out."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    with _whole_cells():
        reader = csv.reader(text, delimiter=separator, strict=True)
        begun = 1
        try:
            header = next((cells for cells in reader if cells), [])
            picks = _picks(header, wanted, f"{at}: {name}")
            n, begun = 0, reader.line_num + 1  # a row may take several lines: the first is named
            for cells in reader:
                if cells:
                    if len(cells) != len(header):
                        raise _ragged(f"{at}: {name}, line {begun}", header, len(cells), separator)
                    for column, i in picks.values():
                        column.append(cells[i])
                    n += 1
                begun = reader.line_num + 1
        except csv.Error as error:
            raise UserError(
                f"{at}: {name}, line {begun}: cannot be divided into cells ({error}). A cell that begins "
                "with a quotation mark ends with one, and marks inside it are doubled"
            ) from None
        except UnicodeDecodeError:
            raise _not_utf8(file, name, at) from None
        finally:
            text.detach()  # the file is its opener's to close
    return RowTable(tuple(header), {k: column for k, (column, _) in picks.items()}, n, ((name, 0),))


def read_json(file: IO[bytes], name: str, at: str, wanted: Collection[str]) -> RowTable:
    """The ``wanted`` columns of a file with a list of records, or a record a line. A record without a column has null
    there."""
    begin = file.read(4096).removeprefix(_BOM).lstrip(_BLANK.encode())
    file.seek(0)
    try:
        records = _list(file, name, at) if begin[:1] == b"[" else _lines(file, name, at)
        names: dict[str, None] = {}
        cells: dict[str, list[Cell]] = {}
        n = 0
        for place, record in records:
            if not isinstance(record, dict):
                raise UserError(
                    f"{at}: {name}, {place}: holds {in_short(record)}, not a record. "
                    'Write {"column": "text", …} for each row'
                )
            for column in record:
                if column not in names:
                    if flaw(column):
                        raise UserError(f"{at}: {name}, {place}: the name of a column {flaw(column)}. Rename it")
                    names[column] = None
                    if column in wanted:
                        cells[column] = [None] * n
            for column, values in cells.items():
                values.append(_cell(record.get(column)))
            n += 1
    except UnicodeDecodeError:
        raise _not_utf8(file, name, at) from None
    return RowTable(tuple(names), cells, n, ((name, 0),))


# csv ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _whole_cells() -> Iterator[None]:
    """Without the csv module's limit of 131,072 characters for a cell."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _picks(header: Sequence[str], wanted: Collection[str], place: str) -> dict[str, tuple[list[Cell], int]]:
    for name in header:
        if flaw(name):
            raise UserError(f"{place}: the name of a column {flaw(name)}. Rename it, or save the file as UTF-8")
    for name in wanted:
        if header.count(name) > 1:
            raise UserError(f"{place} has {header.count(name)} columns named {in_quotes(name)}. Rename all but one")
    return {name: ([], header.index(name)) for name in wanted if name in header}


def _ragged(place: str, header: Sequence[str], n: int, separator: str) -> UserError:
    other = next((mark for mark in SEPARATORS if len(header) == 1 and mark in header[0] and mark != separator), None)
    if other is not None:
        why = f"The file seems to be separated by {other!r}: save it with commas, or with tabs as .tsv"
    else:
        kind = "tabs" if separator == "\t" else "commas"
        why = f"Write cells that hold {kind} or line breaks in quotation marks, or complete the line"
    return UserError(f"{place}: has {n} cells, but the file has {len(header)} columns. {why}")


# json --------------------------------------------------------------------------------------------------------------


class _Twice(ValueError):
    """A record with the same key twice: which value is meant cannot be known."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(f"the key {in_quotes(next(k for k in keys if keys.count(k) > 1))} is given twice")
    return record


def _no_constant(text: str) -> Any:
    raise _Twice(f"{text} is no JSON value")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=str, parse_float=str, parse_constant=_no_constant)


def _list(file: IO[bytes], name: str, at: str) -> Iterator[tuple[str, Any]]:
    text = file.read().decode("utf-8-sig")
    try:
        records = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{at}: {name}, line {error.lineno}: is not JSON ({_why(error)}). "
            "The file may be half written: make it again"
        ) from None
    except (_Twice, RecursionError) as error:
        raise UserError(f"{at}: {name}: cannot be used ({_why(error)})") from None
    for i, record in enumerate(records, 1):
        yield f"row {i}", record


def _lines(file: IO[bytes], name: str, at: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
        text = (line.removeprefix(_BOM) if number == 1 else line).decode().strip(_BLANK)
        if not text:
            continue
        try:
            yield f"line {number}", _DECODER.decode(text)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{at}: {name}, line {number}: is not JSON ({_why(error)}). "
                "Write one whole record a line, or one list of records"
            ) from None
        except (_Twice, RecursionError) as error:
            raise UserError(f"{at}: {name}, line {number}: cannot be used ({_why(error)})") from None


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _cell(value: Any) -> Cell:
    """A JSON value as a cell; numbers are text already."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return [("true" if v else "false") if isinstance(v, bool) else v for v in value]
    return value


# encodings ---------------------------------------------------------------------------------------------------------


def _not_utf8(file: IO[bytes], name: str, at: str) -> UserError:
    """The line with the first byte that is no UTF-8; readers decode in pieces, and do not know it."""
    file.seek(0)
    detail = "it cannot be decoded"
    for number, line in enumerate(file, 1):
        if number == 1 and line[:2] in _WIDE:
            detail = "it begins like UTF-16"
            break
        try:
            line.decode()
        except UnicodeDecodeError as error:
            detail = f"line {number}: byte 0x{line[error.start]:02x}"
            break
    return UserError(f"{at}: {name} is not UTF-8 text ({detail}). Save it as UTF-8")
