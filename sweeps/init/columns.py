"""Which column is the text, which the answer, which the options: guessed from names and from what the columns hold."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.init.examples import FEWEST, MOST, DataError
from trainer.data.row_table import Cell, RowTable, in_quotes
from trainer.errors import nearest

LABELS = (
    "label",
    "labels",
    "class",
    "category",
    "target",
    "answer",
    "answerkey",
    "answer_key",
    "sentiment",
    "y",
    "gold",
)
QUESTIONS = ("context", "passage", "article", "question", "stem", "sentence", "goal", "prompt", "query")
TEXTS = ("text", "sentence", "content", "message", "tweet", "post", "review", "question", "body", "input", "title")
OPTIONS = ("options", "choices", "candidates", "endings", "answers")
IDS = ("id", "idx", "guid", "uid", "index", "row_id")
SPLITS = ("split", "subset", "partition")
CHATS = ("messages", "conversations", "conversation", "chat")
SHARE_OF_ROWS = 5  # rows for each label, at least, where a column is taken for the label because of what it holds


@dataclass(frozen=True)
class Roles:
    """Names of columns; ``chat`` alone, or ``texts`` and ``label``."""

    texts: tuple[str, ...] = ()
    label: str = ""
    options: str | None = None
    id: str | None = None
    split: str | None = None
    chat: str | None = None


def guess_roles(
    table: RowTable, texts: Sequence[str] = (), label: str | None = None, options: str | None = None
) -> Roles:
    """The roles of the columns of ``table``; those that are given stand. Raises ``DataError``, which names the columns,
    where a role cannot be guessed."""
    for option, name in (*(("--text", t) for t in texts), ("--label", label), ("--options", options)):
        if name is not None and name not in table.names:
            raise DataError(f"{option} {in_quotes(name)} is no column of the data.{nearest(name, table.names)}")
    cells = table.cells
    chat = _named(CHATS, [c for c in cells if _is_chat(cells[c])]) if not (texts or label) else None
    if chat is not None:
        return Roles(chat=chat, id=_id_of(table), split=_split_of(table))
    options = options or _named(OPTIONS, [c for c in cells if c not in (*texts, label) and _are_options(cells[c])])
    split = _split_of(table)
    free = [c for c in cells if c not in (options, split) and c not in texts]
    label = label or _label_of(cells, free, options)
    if label is None:
        raise DataError(
            f"no column looks like an answer: none has between {FEWEST} and {MOST} different values"
            f"{', nor the right option of each row' if options else ''}. Name it with --label. {_described(table)}"
        )
    id_column = _id_of(table)
    found = tuple(texts) or _texts_of(cells, [c for c in free if c not in (label, id_column)], options)
    if not found:
        raise DataError(f"no column looks like a text. Name it with --text. {_described(table)}")
    return Roles(found, label, options, id_column if id_column not in (*found, label) else None, split)


def flattened(table: RowTable) -> RowTable:
    """``table`` with the parts of records as columns of their own, ``question.stem``; records of options stay."""
    cells: dict[str, list[Cell]] = {}
    for column, some in table.cells.items():
        records = [cell for cell in some if isinstance(cell, dict)]
        if len(records) == len(some) - some.count(None) and records and not _are_options(some):
            parts = dict.fromkeys(key for record in records for key in record)
            for part in parts:
                cells[f"{column}.{part}"] = [cell.get(part) if isinstance(cell, dict) else None for cell in some]
        else:
            cells[column] = some
    return dataclasses.replace(table, names=tuple(cells), cells=cells)


def _named(names: Sequence[str], among: Sequence[str]) -> str | None:
    """The one of ``among`` with the earliest of ``names``; without any, the first; None of none."""
    order = {name: i for i, name in enumerate(names)}
    return min(among, key=lambda c: order.get(last_part(c), len(order)), default=None)


def last_part(column: str) -> str:
    """``stem`` of ``Question.stem``."""
    return column.lower().split(".")[-1]


def _texts(column: Sequence[Cell]) -> list[str]:
    return [cell for cell in column if isinstance(cell, str) and cell.strip()]


def _is_chat(column: Sequence[Cell]) -> bool:
    some = [cell for cell in column[:100] if cell]
    return bool(some) and all(
        isinstance(cell, list) and all(isinstance(turn, dict) and ({"role", "from"} & turn.keys()) for turn in cell)
        for cell in some
    )


def options_in(cell: Cell) -> list[str] | None:
    """The options that a cell holds: a list of texts, or a record of their texts and letters as ARC has it."""
    if isinstance(cell, dict):
        cell = next((cell[key] for key in ("text", "texts", "options") if isinstance(cell.get(key), list)), None)
    if isinstance(cell, list) and all(isinstance(o, dict) for o in cell):
        cell = [o.get("text", o.get("content")) for o in cell if isinstance(o, dict)]
    if isinstance(cell, list) and len(cell) > 1 and all(isinstance(o, str) and o.strip() for o in cell):
        return [o for o in cell if isinstance(o, str)]
    return None


def letters_in(cell: Cell) -> list[str]:
    """What a cell with options calls each of them, if it does."""
    if isinstance(cell, dict):
        found = cell.get("label", cell.get("labels"))
        return [str(name) for name in found] if isinstance(found, list) else []
    if isinstance(cell, list) and all(isinstance(o, dict) for o in cell):
        return [str(o["label"]) for o in cell if isinstance(o, dict) and "label" in o]
    return []


def first_number(answers: Sequence[Cell], options: Sequence[Cell]) -> int:
    """From what a column of answers counts options: 1 where none is 0 and some are as large as there are options."""
    numbers = [
        (int(answer), len(options_in(cell) or ()))
        for answer, cell in zip(answers, options, strict=True)
        if isinstance(answer, str) and re.fullmatch(r"[0-9]{1,3}", answer)
    ]
    return int(all(number > 0 for number, _ in numbers) and any(number == many for number, many in numbers))


def right_option(answer: Cell, cell: Cell, first: int = 0) -> str | None:
    """The number, from 0, of the option that ``answer`` means: by its letter, its text, or its number where the first
    option has the number ``first``. None if it means none."""
    options, letters = options_in(cell), letters_in(cell)
    if not isinstance(answer, str) or options is None:
        return None
    if answer in letters:
        return str(letters.index(answer))
    if answer in options:
        return str(options.index(answer))
    if re.fullmatch(r"[0-9]{1,3}", answer) and 0 <= int(answer) - first < len(options):
        return str(int(answer) - first)
    if re.fullmatch(r"[A-Za-z]", answer) and ord(answer.upper()) - ord("A") < len(options):
        return str(ord(answer.upper()) - ord("A"))
    return None


def _are_options(column: Sequence[Cell]) -> bool:
    some = column[:100]
    return bool(some) and sum(options_in(cell) is not None for cell in some) >= 0.9 * len(some)


def _label_of(cells: Mapping[str, Sequence[Cell]], free: Sequence[str], options: str | None) -> str | None:
    if options is not None:
        fits = [c for c in free if _chooses(cells[c][:200], cells[options][:200])]
        return _named(LABELS, fits)
    counts = {c: Counter(_texts(cells[c])) for c in free}
    fits = [c for c in free if FEWEST <= len(counts[c]) <= MOST]
    by_name = [c for c in fits if re.split(r"[^a-z]+", c.lower())[0] in LABELS]
    if by_name:
        return _named(LABELS, by_name)
    full = [c for c in fits if sum(counts[c].values()) >= SHARE_OF_ROWS * len(counts[c])]
    return min(full, key=lambda c: (len(counts[c]), sum(map(len, counts[c]))), default=None)


def _chooses(answers: Sequence[Cell], options: Sequence[Cell]) -> bool:
    first = first_number(answers, options)
    right = [right_option(a, o, first) is not None for a, o in zip(answers, options, strict=True)]
    return bool(right) and sum(right) >= 0.9 * len(right)


def _texts_of(cells: Mapping[str, Sequence[Cell]], free: Sequence[str], options: str | None) -> tuple[str, ...]:
    lengths = {c: sum(map(len, some)) / len(some) for c in free if (some := _texts(cells[c]))}
    asked = [c for c in lengths if last_part(c) in QUESTIONS]
    if options is not None and asked:
        return tuple(sorted(asked, key=lambda c: QUESTIONS.index(last_part(c))))
    named = [c for c in lengths if last_part(c) in TEXTS]
    best = _named(TEXTS, named) if named else max(lengths, key=lengths.__getitem__, default=None)
    return (best,) if best is not None else ()


def _id_of(table: RowTable) -> str | None:
    for column, cells in table.cells.items():
        name = column.lower()
        texts = _texts(cells)
        if (name in IDS or name.endswith("_id")) and len(set(texts)) == table.n and all(t.isprintable() for t in texts):
            return column
    return None


def _split_of(table: RowTable) -> str | None:
    from sweeps.init.division import split_named

    for column, cells in table.cells.items():
        known = {split_named(text) for text in set(_texts(cells))}
        if column.lower() in SPLITS and known and None not in known:
            return column
    return None


def _described(table: RowTable) -> str:
    """The columns, with how many different values each has."""
    parts = []
    for column, cells in list(table.cells.items())[:12]:
        texts = _texts(cells)
        kind = f"{len(set(texts)):,} different texts" if texts else "no texts"
        parts.append(f"{column} ({kind})")
    return f"Columns: {', '.join(parts)}"
