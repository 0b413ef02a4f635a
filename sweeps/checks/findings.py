"""The result of a check: mistakes and doubts, each with its place and how to mend it, and the longest sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sweeps.display.text import counted
from trainer.data.grammar import OPTIONS
from trainer.data.rows import Row
from trainer.errors import UserError, printable


@dataclass(frozen=True)
class Finding:
    level: Literal["error", "warning"]
    where: str  # the study's key, and the prompt or row
    what: str
    fix: str

    def __str__(self) -> str:
        return printable(f"{self.where}: {self.what}. {self.fix}")


@dataclass(frozen=True)
class Length:
    """The longest sequence of one template and pool, in tokens: context, longest answer and stop token."""

    template: str
    pool: str
    longest: int
    prompt_id: str
    row_id: str
    long: tuple[str, ...] = ()  # ids of the rows that exceed the limit with some prompt
    n_rows: int = 0
    all_counted: bool = True  # False: there were too many pairs near the limit to render them all


@dataclass(frozen=True)
class Findings:
    """All that a check of a study found."""

    items: list[Finding] = field(default_factory=list)
    lengths: list[Length] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        return [f for f in self.items if f.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [f for f in self.items if f.level == "warning"]

    @property
    def counts(self) -> str:
        """``0 errors, 2 warnings``."""
        return f"{counted(len(self.errors), 'error')}, {counted(len(self.warnings), 'warning')}"

    def __str__(self) -> str:
        return "\n".join([*(f"{f.level} {f}" for f in [*self.errors, *self.warnings]), self.counts])

    def warnings_or_raise(self) -> list[str]:
        """The warnings as text. Raises ``UserError`` with a line for each error."""
        if self.errors:
            raise UserError("\n".join(map(str, self.errors)))
        return [str(f) for f in self.warnings]


def split_of(pool: str) -> str:
    return pool if pool in ("dev", "test") else "train"


def placeholder_names(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """The names that a placeholder may have: the rows' fields, and ``options`` if rows have options of their own."""
    first = next((r for split in rows.values() for r in split), None)
    return (
        [] if first is None else [*first.fields, *([OPTIONS] if first.options and OPTIONS not in first.fields else [])]
    )
