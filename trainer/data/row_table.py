"""What a reader of row files gives: columns whose cells are text, as it is written in the file.

No reader guesses a type. A cell of a text file (csv, json) is the text that stands there: ``0123``, ``1.10`` and
``1e5`` stay as they are, and so does a number of 5,000 digits. A cell of a typed column (parquet, a hub data set)
becomes text by the rule of ``trainer.data.typed_columns``, which looks at the column's type alone, never at other rows.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import UserError

Cell = str | list[Any] | dict[str, Any] | None  # a list holds cells; None is null, or no such key in a JSON record

SEPARATORS = ";\t|"  # that a file of commas may have instead
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


@dataclass(frozen=True)
class RowTable:
    """The rows of one file, or of several in order."""

    names: tuple[str, ...]  # all columns, also those that were not asked for
    cells: Mapping[str, list[Cell]]  # of the columns that were asked for and are there
    n: int
    parts: tuple[tuple[str, int], ...]  # file, and the position of its first row
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # column of numbers -> the name of each

    def place(self, position: int) -> str:
        """File and row, counted from 1, for messages."""
        name, first = next(part for part in reversed(self.parts) if part[1] <= position)
        return f"{name}, row {position - first + 1}"


def joined(tables: Sequence[RowTable], at: str) -> RowTable:
    """The rows of several files one after the other. UserError if a column that is asked for is not in all of them."""
    if len(tables) == 1:
        return tables[0]
    cells: dict[str, list[Cell]] = {name: [] for table in tables for name in table.cells}
    parts: list[tuple[str, int]] = []
    n = 0
    for table in tables:
        parts.append((table.parts[0][0], n))
        n += table.n
        if not table.n:
            continue
        for name, column in cells.items():
            if name not in table.cells:
                other = next(t.parts[0][0] for t in tables if name in t.cells)
                raise UserError(
                    f"{at}: {table.parts[0][0]} has no column {in_quotes(name)}, which {other} has. "
                    "Give the files of one split the same columns"
                )
            column.extend(table.cells[name])
    names = dict.fromkeys(name for table in tables for name in table.names)
    classes = {name: found for table in tables for name, found in table.classes.items()}
    return RowTable(tuple(names), cells, n, tuple(parts), classes)


def flaw(text: str) -> str | None:
    """Why ``text`` cannot be used as a text, if it cannot: what no UTF-8 file can hold, or no text should."""
    if "\0" in text:
        return "holds a NUL character"
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds half a character (\\u{ord(text[error.start]):x} without its other half)"
    return None


def in_quotes(text: str, most: int = 60) -> str:
    """``text`` in double quotes for a message: cut, and without characters that a terminal would act on."""
    return f'"{on_a_line(text[:most])}{"…" if len(text) > most else ""}"'


def on_a_line(text: str) -> str:
    """``text`` with characters that a terminal would act on, line breaks among them, written as escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def in_short(value: Any) -> str:
    """A cell of any kind for a message, cut however long or deep it is."""
    return _SHORT.repr(value)
