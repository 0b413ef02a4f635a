"""Charts of answers: who wins under the same prompt, which answer is given to which label, and how far chances hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeps.display.colours import SERIES
from sweeps.display.vega import CURVE_HEIGHT, Spec, colour_of, coloured, data, spec
from trainer.measure.grid import Floats, Ints

if TYPE_CHECKING:
    import altair as alt

CELL_HEIGHT = 20
NUMBER_WIDTH = 21  # pixels that the number in a cell takes; narrower cells hold none


@dataclass(frozen=True)
class Confusion:
    """How many cells of each right label got each answer, of one configuration."""

    id: str
    label: str
    rights: tuple[str, ...]
    answers: tuple[str, ...]
    counts: Ints  # [rights, answers]


@dataclass(frozen=True)
class Calibration:
    """Of the cells in each bin of chances: their mean chance, and the share that came true. Empty bins are left out."""

    id: str
    label: str
    chances: tuple[float, ...]
    shares: tuple[float, ...]
    cells: tuple[int, ...]


def matrix_of_wins(ids: Sequence[str], labels: Sequence[str], share: Floats, prompts: Ints, description: str) -> Spec:
    """A line and a column for each configuration: ``share`` [C, C] of the common ``prompts`` [C, C] under which the
    line's is better than the column's; NaN is left out. Empty without a number."""
    import altair as alt

    names = [f"{place} {label}" for place, label in enumerate(labels, 1)]
    values = [
        {
            "id": ids[i], "line": name, "place": j + 1, "other": names[j],
            "value": round(100 * float(share[i, j]), 1), "prompts": int(prompts[i, j]),
        }
        for i, name in enumerate(names)
        for j in range(len(names))
        if math.isfinite(share[i, j])
    ]  # fmt: skip
    if not values:
        return {}
    places = list(range(1, len(names) + 1))
    cells = alt.Chart(data(values)).encode(
        x=alt.X(
            "place:O",
            title="against number",
            scale=alt.Scale(domain=places),
            axis=alt.Axis(orient="top", labelAngle=0, labelOverlap=True, labelPadding=4),
        ),
        y=alt.Y("line:N", title=None, scale=alt.Scale(domain=names), axis=_first_letters()),
        tooltip=[
            alt.Tooltip("line:N", title="of"),
            alt.Tooltip("other:N", title="against"),
            alt.Tooltip("value:Q", title="percent of prompts won", format=".1f"),
            alt.Tooltip("prompts:Q", title="prompts"),
        ],
    )
    lines = alt.Chart(data([{"id": i, "line": name} for i, name in zip(ids, names, strict=True)]))
    layers = [*_shaded(cells, "percent of prompts won", len(names)), _picked(lines)]
    return spec(alt.layer(*layers), description, CELL_HEIGHT * len(names))


def confusion_matrices(found: Sequence[Confusion], description: str) -> Spec:
    """The matrices below each other with the same columns; a cell is the percentage of its line. Lines without a cell
    are left out. Empty without a matrix."""
    import altair as alt

    values, heads, order = list[dict[str, Any]](), list[dict[str, Any]](), list[str]()
    for place, one in enumerate(found):
        order.append(f"{place} ")  # the line of the name; every line's key begins with the matrix's place
        heads.append({"line": order[-1], "id": one.id, "name": one.label})
        totals = one.counts.sum(axis=1)
        for i in (int(i) for i in totals.nonzero()[0]):
            order.append(f"{place} {one.rights[i]}")
            values += [
                {
                    "id": one.id, "of": one.label, "line": order[-1], "right": one.rights[i], "answer": answer,
                    "value": round(100 * int(one.counts[i, j]) / int(totals[i]), 1), "cells": int(one.counts[i, j]),
                }
                for j, answer in enumerate(one.answers)
            ]  # fmt: skip
    if not values:
        return {}
    answers = list(found[0].answers)
    y = alt.Y(
        "line:N",
        title="right label",
        scale=alt.Scale(domain=order),
        axis=_first_letters(labelExpr="slice(datum.value, indexof(datum.value, ' ') + 1)"),
    )
    cells = alt.Chart(data(values)).encode(
        x=alt.X(
            "answer:N",
            title="answer",
            scale=alt.Scale(domain=answers),
            axis=alt.Axis(orient="top", labelAngle=0 if len(answers) < 5 else -45, labelLimit=110),
        ),
        y=y,
        tooltip=[
            alt.Tooltip("of:N", title="of"),
            alt.Tooltip("right:N", title="right label"),
            alt.Tooltip("answer:N", title="answer"),
            alt.Tooltip("value:Q", title="percent of the label's cells", format=".1f"),
            alt.Tooltip("cells:Q", title="cells", format=","),
        ],
    )
    names = alt.Chart(data(heads)).mark_text(align="left", style="name", limit=alt.ExprRef("width"))
    names = names.encode(x=alt.value(0), y=y, text="name:N")
    bold = names.encode(size=alt.condition("datum.id === picked", alt.value(15), alt.value(12)))
    layers = [*_shaded(cells, "percent of the right label's cells", len(answers)), bold]
    return spec(alt.layer(*layers), description, CELL_HEIGHT * len(order))


def calibration_curves(found: Sequence[Calibration], axes: tuple[str, str], description: str) -> Spec:
    """A curve for each configuration over a dotted diagonal, where chances are as high as they say. ``axes``: names of
    x and y. Empty without a point."""
    import altair as alt

    points = [
        {"line": one.label, "id": one.id, "x": round(x, 4), "y": round(y, 4), "cells": n}
        for one in found
        for x, y, n in zip(one.chances, one.shares, one.cells, strict=True)
    ]
    if not points:
        return {}
    labels = [one.label for one in found]
    x, y = (
        channel(f"{name}:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
        for channel, name, title in ((alt.X, "x", axes[0]), (alt.Y, "y", axes[1]))
    )
    ends = alt.Chart(data([{"x": 0, "y": 0}, {"x": 1, "y": 1}]))
    first = alt.Chart(data([row for row in points if row["line"] in labels[: len(SERIES)]]))
    tip = [
        alt.Tooltip("line:N", title="of"),
        *(alt.Tooltip(f"{n}:Q", title=t, format=".1%") for n, t in zip("xy", axes, strict=True)),
    ]
    dots = first.mark_point(filled=False, size=40).encode(
        x=x, y=y, color=colour_of(labels), tooltip=[*tip, alt.Tooltip("cells:Q", format=",")]
    )
    curves = alt.Chart(data(points)).mark_line().encode(x=x, y=y)
    diagonal = ends.mark_line(style="mean", strokeDash=[2, 4]).encode(x=x, y=y)
    return spec(alt.layer(diagonal, *coloured(curves, labels), dots), description, CURVE_HEIGHT)


def _shaded(cells: alt.Chart, title: str, columns: int) -> list[alt.Chart]:
    """The cells in the shades of percentages, with their numbers where there is room."""
    import altair as alt

    shade = alt.Color(
        "value:Q",
        title=title,
        scale=alt.Scale(domain=[0, 100], range="ramp"),
        legend=alt.Legend(orient="bottom", gradientLength=180, titleLimit=300),
    )
    number = alt.condition(f"width > {NUMBER_WIDTH * columns}", alt.Text("value:Q", format=".0f"), alt.value(""))
    return [cells.mark_rect().encode(color=shade), cells.mark_text(style="name", fontSize=11).encode(text=number)]


def _picked(lines: alt.Chart) -> alt.Chart:
    """A frame around the line of the configuration that is picked."""
    import altair as alt

    frame = lines.mark_rect(filled=False, style="mean", strokeWidth=2)
    seen = alt.condition("datum.id === picked", alt.value(1), alt.value(0))
    return frame.encode(x=alt.value(0), x2=alt.value("width"), y="line:N", opacity=seen)


def _first_letters(**more: Any) -> alt.Axis:
    """An axis of names, cut where the page's width leaves them no room (the theme's limit)."""
    import altair as alt

    return alt.Axis(domain=False, ticks=False, labelPadding=4, **more)
