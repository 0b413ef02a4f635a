"""Charts of estimates with their intervals, of fitted curves, and of densities, for the report's parts.

They follow ``sweeps.display.vega``: data and no colours, the parameter ``picked``, and the width of the page.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeps.display.colours import SERIES
from sweeps.display.vega import CURVE_HEIGHT, Spec, colour_of, coloured, data, spec

if TYPE_CHECKING:
    import altair as alt

APART = 0.012  # of the axis: how far the points of two series at one x lie apart, so that none hides another
ROW = 0.07  # of a density's height: the distance of the rows of dots beneath it
BAR_HEIGHT, NAME_HEIGHT = 22, 15  # pixels of an interval, and of each line of its name above
NAME_LENGTH = 46  # characters of a name's line: so many fit a phone


@dataclass(frozen=True)
class Estimates:
    """A series over x, each value with the ends of its interval; NaN, or no ends at all, where there is none. ``id``:
    the configuration that it belongs to."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    id: str = ""


@dataclass(frozen=True)
class Density:
    """A density over ``x``, and the values that it is of with their names."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    values: tuple[float, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class NamedInterval:
    """A value with its interval; NaN where it has none."""

    label: str
    value: float
    low: float
    high: float


def estimates(
    series: Sequence[Estimates], x_axis: str, y_axis: str, description: str, names: Mapping[float, str]
) -> Spec:
    """A line with a point and an error bar at each value. Series beyond those that have a colour are grey lines.
    ``names``: place on the horizontal axis -> what is written there. Empty without a finite value."""
    import altair as alt

    rows = [row for i, one in enumerate(series) for row in _rows(one, names, i, len(series))]
    if not rows:
        return {}
    labels = [one.label for one in series]
    x, y = _named(x_axis, names), alt.Y("y:Q", title=y_axis, scale=alt.Scale(zero=False))
    layers = coloured(alt.Chart(data(rows)).mark_line().encode(x=x, y=y), labels)
    layers += _points(rows, labels, x, y_axis)
    return spec(alt.layer(*layers), description, CURVE_HEIGHT)


def fitted(
    observed: Sequence[Estimates],
    curves: Sequence[Estimates],
    x_axis: str,
    y_axis: str,
    description: str,
    names: Mapping[float, str],
) -> Spec:
    """Points, and of the same label a curve in the band of its interval."""
    import altair as alt

    labels = [one.label for one in curves]
    lines = [row for one in curves for row in _rows(one, names)]
    if not lines:
        return {}
    chart, x = alt.Chart(data(lines)), _named(x_axis, names)
    y = alt.Y("y:Q", title=y_axis, scale=alt.Scale(zero=False))
    layers: list[alt.Chart] = []
    if any("low" in row for row in lines):
        among = alt.FieldOneOfPredicate(field="line", oneOf=labels[: len(SERIES)])
        bands = chart.transform_filter(among).mark_area(fillOpacity=0.15)
        layers.append(bands.encode(x=x, y=alt.Y("low:Q", title=y_axis), y2="high:Q", color=colour_of(labels)))
    layers += coloured(chart.mark_line().encode(x=x, y=y), labels)
    points = [row for i, one in enumerate(observed) for row in _rows(one, names, i, len(observed))]
    layers += _points(points, labels, x, y_axis)
    return spec(alt.layer(*layers), description, CURVE_HEIGHT)


def densities(found: Sequence[Density], axis: str, description: str) -> Spec:
    """Curves, and beneath them a row of dots for each, one a value. At most as many as there are colours."""
    import altair as alt

    found = found[: len(SERIES)]
    points = [(d.label, _short(x), _short(y)) for d in found for x, y in zip(d.x, d.y, strict=True)]
    if not points:
        return {}
    lines = [{"line": label, "x": x, "y": y} for label, x, y in points]
    labels, top = [d.label for d in found], max(y for _, _, y in points)
    dots = [
        {"line": d.label, "x": _short(value), "y": -ROW * top * (i + 1), "name": name}
        for i, d in enumerate(found)
        for value, name in zip(d.values, d.names, strict=True)
    ]
    x = alt.X("x:Q", title=axis, scale=alt.Scale(zero=False, nice=False))
    heights = alt.Axis(labels=False, ticks=False, grid=False, domain=False)
    y = alt.Y("y:Q", title="density over prompts", axis=heights)
    tip = [alt.Tooltip("line:N", title="of"), alt.Tooltip("name:N", title="name")]
    tip.append(alt.Tooltip("x:Q", title=axis, format=".1f"))
    layers = coloured(alt.Chart(data(lines)).mark_line().encode(x=x, y=y), labels)
    layers.append(alt.Chart(data([{"y": 0}])).mark_rule(opacity=0.5).encode(y="y:Q"))
    circles = alt.Chart(data(dots)).mark_point(filled=True, size=28, opacity=0.75)
    layers.append(circles.encode(x=x, y=y, color=colour_of(labels), tooltip=tip))
    return spec(alt.layer(*layers), description, CURVE_HEIGHT + 12 * len(found))


def intervals(found: Sequence[NamedInterval], axis: str, description: str, zero: bool = False) -> Spec:
    """A line for each: its name, its interval, and its value as a point. ``zero``: with a line where there is no
    difference. Empty without a finite value."""
    import altair as alt

    rows = [_interval(one) for one in found if math.isfinite(one.value)]
    if not rows:
        return {}
    base = alt.Chart(data(rows)).encode(y=alt.Y("line:N", sort=[one.label for one in found], axis=None))
    step = BAR_HEIGHT + NAME_HEIGHT * max(1 + row["name"].count("\n") for row in rows)
    below = (step - BAR_HEIGHT) / 2  # the names
    x = alt.X("value:Q", title=axis, scale=alt.Scale(zero=zero))
    tip = [alt.Tooltip("line:N", title="of"), alt.Tooltip("value:Q", title=axis, format=".1f")]
    tip += [alt.Tooltip(f"{end}:Q", title=f"{end} end", format=".1f") for end in ("low", "high")]
    names = base.mark_text(
        align="left", baseline="top", dy=3 - step / 2, style="name", lineBreak="\n", lineHeight=NAME_HEIGHT
    )
    layers = [names.encode(x=alt.value(0), text="name:N")]
    if zero:
        layers.insert(0, alt.Chart(data([{"at": 0}])).mark_rule(style="threshold").encode(x="at:Q"))
    if any("low" in row for row in rows):
        bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, yOffset=below)
        layers.append(bars.encode(x=alt.X("low:Q", title=axis), x2="high:Q", tooltip=tip))
    points = base.mark_point(filled=True, size=60, opacity=1, style="mean", yOffset=below)
    layers.append(points.encode(x=x, tooltip=tip))
    return spec(alt.layer(*layers), description, step * len({row["line"] for row in rows}))


def _rows(one: Estimates, names: Mapping[float, str], place: int = 0, of: int = 1) -> list[dict[str, Any]]:
    """The points of a series; those of several are moved a little, each by its place among them."""
    aside = APART * (max(names) - min(names)) * (place - (of - 1) / 2)
    ends = zip(one.low, one.high, strict=True) if one.low else ((math.nan, math.nan),) * len(one.x)
    rows = []
    for x, y, (low, high) in zip(one.x, one.y, ends, strict=True):
        if not math.isfinite(y):
            continue
        row: dict[str, Any] = {"line": one.label, "x": _short(x + aside), "y": _short(y), "at": names.get(x, f"{x:g}")}
        row |= {"id": one.id} if one.id else {}
        if math.isfinite(low) and math.isfinite(high):
            row |= {"low": _short(low), "high": _short(high)}
        rows.append(row)
    return rows


def _points(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], x: alt.X, y_axis: str) -> list[alt.Chart]:
    """The points and error bars of the series that have a colour."""
    import altair as alt

    first = [dict(row) for row in rows if row["line"] in labels[: len(SERIES)]]
    if not first:
        return []
    chart, colour = alt.Chart(data(first)), colour_of(labels)
    tip = [alt.Tooltip("line:N", title="of"), alt.Tooltip("at:N", title="at")]
    tip.append(alt.Tooltip("y:Q", title=y_axis, format=".1f"))
    layers: list[alt.Chart] = []
    if any("low" in row for row in first):
        tip += [alt.Tooltip(f"{end}:Q", title=f"{end} end", format=".1f") for end in ("low", "high")]
        bars = chart.transform_filter("isValid(datum.low)").mark_rule()
        layers.append(bars.encode(x=x, y=alt.Y("low:Q", title=y_axis), y2="high:Q", color=colour))
    points = chart.mark_point(filled=True, size=50, opacity=1)
    return [*layers, points.encode(x=x, y=alt.Y("y:Q", title=y_axis), color=colour, tooltip=tip)]


def _interval(one: NamedInterval) -> dict[str, Any]:
    name = "\n".join(textwrap.wrap(one.label, NAME_LENGTH))
    row: dict[str, Any] = {"line": one.label, "name": name, "value": _short(one.value)}
    known = math.isfinite(one.low) and math.isfinite(one.high)
    return row | ({"low": _short(one.low), "high": _short(one.high)} if known else {})


def _named(title: str, names: Mapping[float, str]) -> alt.X:
    """A horizontal axis with a text at each place of ``names``."""
    import altair as alt

    places = sorted(names)
    texts = f"{json.dumps([names[p] for p in places])}[indexof({json.dumps(places)}, datum.value)]"
    aside = APART * (places[-1] - places[0]) * len(SERIES) / 2
    scale = alt.Scale(zero=False, nice=False, domain=[places[0] - aside, places[-1] + aside])
    return alt.X("x:Q", title=title, scale=scale, axis=alt.Axis(values=places, labelExpr=texts))


def _short(value: float) -> float:
    return float(f"{value:.6g}")
