"""From a file, a folder or a hub data set to examples: columns chosen, unusable rows left out and counted."""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sweeps.display.text import counted
from sweeps.init.chats import chat_of, wording_of
from sweeps.init.columns import Roles, first_number, flattened, guess_roles, options_in, right_option
from sweeps.init.division import split_named
from sweeps.init.examples import FEWEST, LETTERS, MOST, DataError, DataRow, Examples, Wording
from trainer.data.row_table import Cell, RowTable, flaw, in_quotes, in_short
from trainer.data.sources import open_splits
from trainer.data.wording import OPTIONS
from trainer.errors import nearest

UNLABELLED = "-1"  # how data sets of the hub write that a row, mostly of the test split, has no label
MOST_GIVEN = 100  # labels in a column that the user names
Ask = Callable[[str, str], str]  # question, and the answer that is taken where nobody answers


@dataclass(frozen=True)
class Given:
    """What the user says of the data; everything else is guessed."""

    texts: tuple[str, ...] = ()
    label: str | None = None
    options: str | None = None
    names: tuple[tuple[str, str], ...] = ()  # a label as the data write it, and its name
    configuration: str | None = None  # of a hub data set


def collect(data: str, given: Given, ask: Ask) -> Examples:
    """The examples of ``data``. Raises ``UserError``."""
    tables = open_splits(data, given.configuration, "init")
    tables = {name: flattened(table) for name, table in tables.items() if table.n}
    if not tables:
        raise DataError(f"init: {data} has no rows")
    largest = max(tables.values(), key=lambda table: table.n)
    roles = guess_roles(largest, given.texts, given.label, given.options)
    if roles.chat is None:
        roles = _confirmed(roles, largest, given, ask)
    for name, table in tables.items():
        needed = [c for c in (*roles.texts, roles.label, roles.options, roles.chat) if c]
        if missing := [c for c in needed if c not in table.names]:
            raise DataError(f'init: the split "{name}" has no column {in_quotes(missing[0])}, which others have')
    if roles.chat is not None:
        return _from_chats(tables, roles, given, ask)
    return _from_columns(tables, roles, given, ask)


def _confirmed(roles: Roles, table: RowTable, given: Given, ask: Ask) -> Roles:
    """The roles as the user wants them: asked of each that was guessed."""
    guessed = ", ".join(roles.texts)
    answer = guessed if given.texts else ask("Which column is the text? Of several, a comma between them", guessed)
    texts = roles.texts if answer == guessed else tuple(part.strip() for part in answer.split(",") if part.strip())
    label = given.label or ask("Which column is the answer?", roles.label)
    return guess_roles(table, texts, label, given.options or roles.options)


# tables ------------------------------------------------------------------------------------------------------------


def _from_columns(tables: dict[str, RowTable], roles: Roles, given: Given, ask: Ask) -> Examples:
    named = dict(zip(roles.texts, _identifiers(roles.texts), strict=True))
    found = Examples({}, "labels" if roles.options is None else "options", tuple(named.values()))
    for split, table in tables.items():
        cells, left_out = table.cells, Counter[str]()
        first = first_number(cells[roles.label], cells[roles.options]) if roles.options else 0
        for i in range(table.n):
            texts = {name: cells[column][i] for column, name in named.items()}
            answer = cells[roles.label][i]
            why = _unusable([*texts.values(), answer]) or ("unlabelled (-1)" if answer == UNLABELLED else "")
            options: tuple[str, ...] = ()
            if not why and roles.options is not None:
                options = tuple(options_in(cells[roles.options][i]) or ())
                answer = right_option(answer, cells[roles.options][i], first)
                why = _unusable(options) or ("" if answer is not None else "without a right option")
            if why:
                left_out[why] += 1
                continue
            own = _split_at(table, roles, i) or split
            fields = {name: str(text) for name, text in texts.items()}
            found.splits.setdefault(own, []).append(
                DataRow(
                    _id(table, roles, i, split), fields, str(answer).strip() if not options else str(answer), options
                )
            )
        found.notes += [
            f"{counted(n, 'row')} left out{f' of {split}' if split else ''}: {why}" for why, n in left_out.items()
        ]
    if not found.all:
        raise DataError(f"init: no row can be used. {'; '.join(found.notes)}")
    if roles.options is not None:
        _of_one_count(found)
        return found
    limit = MOST_GIVEN if given.label else MOST
    classes = next((t.classes[roles.label] for t in tables.values() if roles.label in t.classes), ())
    found.names = _names_of(found, {str(i): name for i, name in enumerate(classes)}, given, ask, roles.label, limit)
    return found


def _unusable(cells: Sequence[Cell]) -> str:
    """Why a row with these cells cannot be used, if it cannot."""
    for cell in cells:
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            return "empty"
        if not isinstance(cell, str):
            return f"no text but {in_short(cell)[:40]}"
        if why := flaw(cell):
            return why
    return ""


def _split_at(table: RowTable, roles: Roles, i: int) -> str:
    cell = table.cells[roles.split][i] if roles.split is not None else None
    return split_named(cell) or "" if isinstance(cell, str) else ""


def _id(table: RowTable, roles: Roles, i: int, split: str) -> str:
    own = table.cells[roles.id][i] if roles.id is not None and roles.id in table.cells else None
    return own if isinstance(own, str) and not split else f"{split or 'row'}-{i + 1}"


def _identifiers(columns: Sequence[str]) -> list[str]:
    """Names for placeholders: ``Message text`` is ``message_text``."""
    found: list[str] = []
    for column in columns:
        name = re.sub(r"\W+", "_", column).strip("_").lower() or "text"
        if name[0].isdigit() or keyword.iskeyword(name) or name in (OPTIONS, "label", "id", "true", "false", "none"):
            name = f"text_{name}"
        while name in found:
            name += "_"
        found.append(name)
    return found


def _of_one_count(found: Examples) -> None:
    """Keep the rows with the most frequent number of options: a wording shows so many."""
    counts = Counter(len(example.options) for example in found.all)
    usual = counts.most_common(1)[0][0]
    if usual > len(LETTERS):
        raise DataError(
            f"init: most rows have {usual} options, and there are letters for {len(LETTERS)}. Keep fewer in the data"
        )
    if others := sum(n for many, n in counts.items() if many != usual):
        found.notes.append(f"{counted(others, 'row')} left out: they have more or fewer than {usual} options")
    found.splits = {
        s: kept for s, some in found.splits.items() if (kept := [e for e in some if len(e.options) == usual])
    }


def _names_of(
    found: Examples, classes: dict[str, str], given: Given, ask: Ask, column: str, limit: int
) -> dict[str, str]:
    """The name of each label. Raises ``DataError`` for too many or too few labels, or a name for none of them."""
    values = sorted({example.answer for example in found.all}, key=lambda v: (len(v), v) if v.isdigit() else (0, v))
    if not FEWEST <= len(values) <= limit:
        raise DataError(
            f'init: "{column}" has {len(values):,} different values, such as {in_quotes(values[0])}; labels are '
            f"{FEWEST} to {limit}. Name another column with --label"
        )
    chosen = dict(given.names)
    if unknown := [value for value in chosen if value not in values]:
        raise DataError(f"--names {in_quotes(unknown[0])}=… is no label of the data.{nearest(unknown[0], values)}")
    names = {}
    for value in values:
        name = chosen.get(value) or classes.get(value, value)
        if name == value and re.fullmatch(r"[-+]?[0-9.]+", value):
            name = ask(f'What does the label "{value}" mean, in a word?', value)
        names[value] = name.strip()
    if numbers := [v for v, name in names.items() if name == v and re.fullmatch(r"[-+]?[0-9.]+", v)]:
        found.notes.append(
            f"the labels {', '.join(numbers)} are numbers, and the model will answer with them; words work better: "
            f"--names {','.join(f'{v}=WORD' for v in numbers)}"
        )
    return names


# chats -------------------------------------------------------------------------------------------------------------


def _from_chats(tables: dict[str, RowTable], roles: Roles, given: Given, ask: Ask) -> Examples:
    chats, places, notes = [], [], []
    for split, table in tables.items():
        faults = []
        for i, cell in enumerate(table.cells[roles.chat or ""]):
            try:
                chats.append(chat_of(cell, table.place(i)))
                places.append((_split_at(table, roles, i) or split, _id(table, roles, i, split)))
            except DataError as error:
                faults.append(str(error))
        if faults:
            notes.append(f"{counted(len(faults), 'row')} left out; the first: {faults[0]}")
    if not chats:
        raise DataError(f"init: no row can be used. {'; '.join(notes)}")
    wording, fields = wording_of(chats)
    shown = f"{f'system: {wording.system} | ' if wording.system else ''}user: {wording.user}"
    if ask(f"All rows have this wording:\n{shown}\nIs that right (yes or no)?", "yes").lower().startswith("n"):
        chosen = None
        fields = [{"text": chat.question} for chat in chats]
    else:
        chosen = wording
    found = Examples({}, "labels", tuple(fields[0]), wording=chosen, notes=notes)
    if chosen is not None:
        found.notes.append(f"the wording that all rows have: {in_quotes(chosen.user, 300)}")
    empty = 0
    for (split, name), chat, texts in zip(places, chats, fields, strict=True):
        if not chat.answer or not all(text.strip() for text in texts.values()):
            empty += 1
            continue
        found.splits.setdefault(split, []).append(DataRow(name, texts, chat.answer))
    if empty:
        found.notes.append(f"{counted(empty, 'row')} left out: empty")
    found.names = _names_of(found, {}, given, ask, "the assistant's last turn", MOST)
    return found


def speak_for_themselves(names: Iterable[str]) -> bool:
    """Whether labels say what they mean: yes and no, true and false, and numbers need a question with them."""
    return not all(re.fullmatch(r"yes|no|true|false|[-+]?[0-9.]+|[a-z]", name.lower()) for name in names)


def question_of(wording: Wording | None) -> str:
    """The first line that a chat wording says of its own; "" without any."""
    lines = re.split(r"\n|\{\{.*?\}\}", wording.user) if wording is not None else []
    return next((line.strip() for line in lines if re.search(r"\w", line)), "")


def own_wording(wording: Wording | None) -> list[str]:
    """The prompt that chat data bring, unless it is the text alone."""
    return [wording.user] if wording is not None and not re.fullmatch(r"\{\{ \w+ \}\}", wording.user) else []
