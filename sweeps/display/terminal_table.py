"""A table of text that fits a terminal and cuts no number.

Where its columns are too wide together, those go first that may be left out; then texts and headings take several
lines; and at last the axes share one column, as ``lr=0.001 plw=0.1``, whose words take several lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.cells import cell_len, chop_cells

GAP = 2  # spaces between columns
BREAKABLE = 16  # characters of a word that is broken where it does not fit; no axis with a number has as many


@dataclass(frozen=True)
class TerminalColumn:
    name: str
    kind: Literal["number", "value", "axis", "text"] = "number"  # a value begins at the left, a text may be broken
    spare: bool = False  # left out where there is no room


@dataclass(frozen=True)
class FittedTable:
    head: tuple[str, ...]  # its lines
    rows: tuple[tuple[str, ...], ...]  # of each row, its lines

    @property
    def lines(self) -> list[str]:
        return [*self.head, *(line for row in self.rows for line in row)]


def fitted(columns: Sequence[TerminalColumn], rows: Sequence[Sequence[str]], width: int | None = None) -> FittedTable:
    """The table in lines of at most ``width`` characters; None: as wide as it is. A terminal that is too narrow even
    for the numbers gets longer lines."""
    parts = [_Part(column, tuple(row[i] for row in rows)) for i, column in enumerate(columns)]
    if width is not None:
        while _total(part.whole for part in parts) > width and any(part.column.spare for part in parts):
            last = max(i for i, part in enumerate(parts) if part.column.spare)
            parts = parts[:last] + parts[last + 1 :]
        if _total(part.least for part in parts) > width:
            parts = _axes_joined(parts)
    widths = _widths(parts, width)
    head = _lines_of([(part.column.name, part.column, w) for part, w in zip(parts, widths, strict=True)])
    body = [
        _lines_of([(part.cells[i], part.column, w) for part, w in zip(parts, widths, strict=True)])
        for i in range(len(rows))
    ]
    return FittedTable(head, tuple(body))


def wrapped(text: str, width: int, breakable: int | None = None) -> list[str]:
    """``text`` in lines of at most ``width`` characters, broken between words. A word that is longer has a line of its
    own, or is broken as well if it has more than ``breakable`` characters."""
    lines = [""]
    for word in text.split(" "):
        pieces = [word]
        if breakable is not None and cell_len(word) > max(width, breakable):
            pieces = chop_cells(word, width)
        for piece in pieces:
            if not lines[-1]:
                lines[-1] = piece
            elif cell_len(lines[-1]) + 1 + cell_len(piece) <= width:
                lines[-1] += f" {piece}"
            else:
                lines.append(piece)
    return lines


@dataclass(frozen=True)
class _Part:
    column: TerminalColumn
    cells: tuple[str, ...]

    @property
    def whole(self) -> int:
        """Its width in one line."""
        return max(cell_len(text) for text in (self.column.name, *self.cells))

    @property
    def least(self) -> int:
        """Its width where headings take several lines, and texts do."""
        if self.column.kind == "text":
            return max(
                min(cell_len(word), BREAKABLE) for text in (self.column.name, *self.cells) for word in text.split()
            )
        words = [cell_len(word) for word in self.column.name.split()]
        return max([*words, *map(cell_len, self.cells)])


def _axes_joined(parts: Sequence[_Part]) -> list[_Part]:
    axes = [part for part in parts if part.column.kind == "axis"]
    if len(axes) < 2:
        return [replace(p, column=replace(p.column, kind="text")) if p in axes else p for p in parts]
    cells = tuple(
        " ".join(f"{part.column.name}={cell}" for part, cell in zip(axes, values, strict=True))
        for values in zip(*(part.cells for part in axes), strict=True)
    )
    first = parts.index(axes[0])
    rest = [part for part in parts[first:] if part not in axes]
    return [*parts[:first], _Part(TerminalColumn("axes", "text"), cells), *rest]


def _widths(parts: Sequence[_Part], width: int | None) -> list[int]:
    """Of each column. What is left of ``width`` goes to the texts that would else take most lines."""
    whole = [part.whole for part in parts]
    if width is None or _total(whole) <= width:
        return whole
    widths = [part.least for part in parts]
    for _ in range(width - _total(widths)):
        i = max(range(len(parts)), key=lambda i: whole[i] / widths[i])
        widths[i] += 1
    return widths


def _total(widths: Iterable[int]) -> int:
    found = list(widths)
    return sum(found) + GAP * (len(found) - 1)


def _lines_of(cells: Sequence[tuple[str, TerminalColumn, int]]) -> tuple[str, ...]:
    """The lines of one row: (text, column, width) of each cell."""
    breakable = {"text": BREAKABLE}
    blocks = [wrapped(text, width, breakable.get(column.kind)) for text, column, width in cells]
    lines = []
    for i in range(max(map(len, blocks))):
        padded = []
        for block, (_, column, width) in zip(blocks, cells, strict=True):
            text = block[i] if i < len(block) else ""
            space = " " * (width - cell_len(text))
            padded.append(space + text if column.kind == "number" else text + space)
        lines.append((" " * GAP).join(padded).rstrip())
    return tuple(lines)
