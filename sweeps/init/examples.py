"""What every kind of data becomes: rows with a content, an answer, and for multiple choice the row's options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trainer.errors import UserError

FEWEST, MOST = 2, 20  # labels of a task
LETTERS = "ABCDEFGHIJKLMNOPQRST"  # of options


class DataError(UserError):
    """Data of which no study can be made as it is."""


@dataclass(frozen=True)
class DataRow:
    """One row. ``answer`` is a label as the data write it or, with ``options``, the number of the right one, from 0."""

    id: str
    fields: dict[str, str]
    answer: str
    options: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """The same for examples that ask the same: case and white space do not count."""
        texts = (*self.fields.values(), *self.options)
        return tuple(" ".join(text.split()).casefold() for text in texts)


@dataclass(frozen=True)
class Wording:
    """How chat data ask: what the turns of all rows have in common, around what is the row's own."""

    system: str
    user: str  # a prompt with placeholders


@dataclass
class Examples:
    """``splits``: by the data's own division; ``""`` where they have none. ``notes``: what was left out, and why."""

    splits: dict[str, list[DataRow]]
    kind: Literal["labels", "options"]
    fields: tuple[str, ...]
    names: dict[str, str] = field(default_factory=dict)  # label as the data write it -> its name; empty with options
    wording: Wording | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[DataRow]:
        return [example for some in self.splits.values() for example in some]
