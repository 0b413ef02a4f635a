"""A part of a report, in one form for all: what was found, the figures, the tables in words, and how to read them.

Whoever makes a page places ``page_charts`` of all its figures in it once, and the scripts that draw them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sweeps.display.colours import DARK, LIGHT
from sweeps.display.html import json_data, render
from sweeps.display.vega import Spec, library, theme

LONG = 12  # rows from which a table is folded
MANY = 3  # notes from which they are folded


@dataclass(frozen=True)
class Figure:
    name: str  # of its files, and of its place in the page
    section: str
    title: str
    caption: str
    spec: Spec


@dataclass(frozen=True)
class ShownTable:
    """A table as texts. ``numbers`` and ``long_texts``: places of the columns that are numbers, and that break into
    lines."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    long_texts: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    folded: bool = False

    @property
    def long(self) -> bool:
        return self.folded or len(self.rows) > LONG


@dataclass(frozen=True)
class ReportPart:
    """``answer``: a sentence or two that say what was found; ``warnings``: what a reader must know beside that."""

    title: str
    answer: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[ShownTable, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def many_notes(self) -> bool:
        return len(self.notes) > MANY

    @property
    def drawn(self) -> tuple[Figure, ...]:
        """The figures that have something to show."""
        return tuple(figure for figure in self.figures if figure.spec)


def render_part(part: ReportPart) -> Markup:
    return render("display/part.html.j2", part=part)


def page_charts(drawn: Sequence[Figure]) -> Markup:
    """What a page needs once to draw its figures: the charts, the colours of both papers, and the library; empty where
    nothing is drawn."""
    if not drawn:
        return Markup("")
    themes = {"light": theme(LIGHT), "dark": theme(DARK)}
    return json_data("charts", {f.name: f.spec for f in drawn}) + json_data("themes", themes) + library()
