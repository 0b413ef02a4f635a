"""Cells made the parts of a row that prompts and scores need: texts, label, options, id.

What would later go wrong unseen (a null text, a label that the study does not name, an answer number outside the
options, half a character) is an error here, which names the row and the column.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.data.row_table import Cell, RowTable, flaw, in_quotes, in_short
from trainer.data.sources import RowSource
from trainer.errors import UserError, listed, nearest

MOST_DIGITS = 9  # of an option's number; longer ones are no numbers of options
_WHOLE_FLOAT = re.compile(r"([-+]?(?:0|[1-9][0-9]*))\.0+")
_TRUTH = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
_LEAVE_OUT = "or leave such rows out: `where`, or drop: [empty]"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def plain_form(value: Any) -> str:
    """What a label's or a condition's value is compared by, if its text is nowhere found as it is: 1.0 is 1, and True
    is true, since programs write the same value so; 01, +1 and 1e0 stay themselves."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    whole = _WHOLE_FLOAT.fullmatch(text)
    return whole.group(1) if whole else _TRUTH.get(text, text)


def near_value(value: str, known: Iterable[str]) -> str:
    """``nearest`` for values in data. No guess for numbers and single letters: 5 is no misspelt 0, nor N a Y."""
    misspelt = len(value) > 1 and any(character.isalpha() for character in value)
    short = [in_quotes(k)[1:-1] for k in known]
    return nearest(value[:200], short) if misspelt else listed(short)


@dataclass
class CellReader:
    """The parts of the rows of ``table``, by position. ``UserError`` says which row cannot be used and why."""

    source: RowSource
    split: str
    at: str
    table: RowTable
    names: Mapping[str, str]  # label key -> label name

    def __post_init__(self) -> None:
        forms: dict[str, set[str]] = {}
        for key, name in self.names.items():
            forms.setdefault(plain_form(key), set()).add(name)
        self.forms = {form: next(iter(names)) for form, names in forms.items() if len(names) == 1}

    def answer(self, position: int, n_options: int) -> str:
        """The label's name; without labels, the number of the right one of ``n_options`` options."""
        value = self._cell(self.source.label, position)
        return self._label(value, position) if self.source.labels else self._number(value, n_options, position)

    def id(self, position: int) -> str:
        """The row's own id, or its place where it has none that can be used."""
        own = self._cell(self.source.id, position) if self.source.id is not None else None
        return own if isinstance(own, str) else f"{self.split}-{position}"

    def is_empty(self, position: int) -> bool:
        """Whether a field, the label or an option is null or white space."""
        s = self.source
        cells = [self._cell(column, position) for column in (*s.fields, s.label)]
        if s.options:
            options = self._cell(s.options, position)
            cells += options or [None] if isinstance(options, list) else [options]
        return any(c is None or (isinstance(c, str) and not c.strip()) for c in cells)

    def _cell(self, column: str, position: int) -> Cell:
        return self.table.cells[column][position]

    def _error(self, position: int, what: str) -> UserError:
        """``what`` with the place where a reader of the file finds the row: counted from 1, and by its id."""
        own = self._cell(self.source.id, position) if self.source.id is not None else self.id(position)
        known = f" (id {in_quotes(own)})" if isinstance(own, str) else ""
        return UserError(f"{self.at}: {self.table.place(position)}{known}: {what}")

    def own_id(self, position: int) -> str:
        column = self.source.id or ""
        text = self.text(column, position)
        if not text.strip():
            raise self._error(position, f'id column "{column}" is empty. Give every row an id, or leave `id` out')
        if _CONTROL.search(text):
            raise self._error(
                position, f'id column "{column}" holds a line break or control character. Give ids that fit in a line'
            )
        return text

    def text(self, column: str, position: int) -> str:
        value = self._cell(column, position)
        if isinstance(value, str):
            self._refuse_flaw(value, column, position)
            return value
        if value is None:
            raise self._error(position, f'column "{column}" is null. Fill it in the data, {_LEAVE_OUT}')
        if isinstance(value, list):
            fix = "is a list, fields are text; name it as `options`, which prompts can read as {{ options }}"
            raise self._error(position, f'column "{column}" {fix}')
        raise self._error(position, f'column "{column}" is a record, fields are text; flatten it in the data')

    def _refuse_flaw(self, text: str, column: str, position: int) -> None:
        why = flaw(text)
        if why:
            raise self._error(
                position, f'column "{column}" {why}. Mend the file: it may be damaged, or be no text at all'
            )

    def _label(self, value: Cell, position: int) -> str:
        column = self.source.label
        if value is None:
            raise self._error(position, f'label column "{column}" is null. Label the row, {_LEAVE_OUT}')
        name = None
        if isinstance(value, str):
            name = self.names[value] if value in self.names else self.forms.get(plain_form(value))
        if name is None:
            shown = value if isinstance(value, str) else in_short(value)
            raise self._error(
                position,
                f"{column} = {in_quotes(shown)} is not in `labels`.{near_value(shown, self.names)}. "
                "Add it there, or leave such rows out with `where`",
            )
        return name

    def options(self, position: int) -> tuple[str, ...]:
        column = self.source.options or ""
        value = self._cell(column, position)
        if not isinstance(value, list):
            kind = "null" if value is None else "a record" if isinstance(value, dict) else f"a text ({in_short(value)})"
            raise self._error(
                position,
                f'options column "{column}" holds {kind}, not a list. Store a list of texts there, or use `labels`',
            )
        texts = [v for v in value if isinstance(v, str) and v.strip()]
        fewest = 1 if self.split == "train" else 2  # one option: a text to learn, with nothing to choose from
        if len(value) < fewest or len(texts) < len(value):
            raise self._error(
                position,
                f'options column "{column}" has {len(value)} entries ({in_short(value)}); it needs at '
                f"least {'one' if fewest == 1 else 'two'}, all of them texts and none of them empty",
            )
        for text in texts:
            self._refuse_flaw(text, column, position)
        return tuple(texts)

    def _number(self, value: Cell, n: int, position: int) -> str:
        column = self.source.label
        key = plain_form(value) if isinstance(value, str) else ""
        if not re.fullmatch(r"-?[0-9]+", key):
            raise self._error(
                position,
                f"{column} = {in_short(value)} is no number. With `options`, the label column holds the number of the "
                "right option, counted from 0",
            )
        if len(key) > MOST_DIGITS or not 0 <= int(key) < n:
            raise self._error(
                position,
                f"{column} = {key[:20]}, but the row has {n} options (0 to {n - 1}). Leave unlabelled rows out with "
                "`where`; numbers count from 0",
            )
        return str(int(key))
