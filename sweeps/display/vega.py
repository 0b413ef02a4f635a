"""The report's figures as Vega-Lite charts, built with Altair: interactive in the page, and files for a paper.

A chart holds its data and no colours; ``theme`` gives those of light or dark paper. The parameter ``picked`` is the id
of the configuration to highlight, and the page's script sets it. Altair and the converter are imported only where a
chart is built, since they take a second.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from sweeps.display.colours import LIGHT, SERIES
from trainer.store import Store, StoreError

if TYPE_CHECKING:
    import altair as alt

Spec = dict[str, Any]  # a chart as Vega-Lite's JSON

LINE_HEIGHT = 42  # pixels of a line of dots with its name above
CURVE_HEIGHT = 260
HEAT_HEIGHT = 16
PAPER_WIDTH = 640  # pixels of a figure in a file
BESIDE_LABELS = 150  # pixels of the width that a legend's labels leave for axis and symbols
MOST_POINTS = 80  # of a drawn curve; more are averaged in groups
DASHES = ([1, 0], [7, 3], [2, 3], [9, 3, 2, 3], [12, 4], [4, 4])  # so that colour is not the only difference


@dataclass(frozen=True)
class DrawnValues:
    """A line of a distribution: its values, and of each the name and the configuration that it belongs to."""

    label: str
    values: tuple[float, ...]
    names: tuple[str, ...]
    ids: tuple[str, ...]
    accent: bool = False


@dataclass(frozen=True)
class Course:
    """What a configuration did over the steps of training. ``errors``: half widths; ``marks``: steps of its rungs;
    ``cut``: why it was stopped at its last point."""

    id: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    errors: tuple[float, ...] = ()
    marks: tuple[float, ...] = ()
    cut: str | None = None


def distribution(samples: Sequence[DrawnValues], axis: str, description: str, thresholds: Sequence[float] = ()) -> Spec:
    """A line for each sample: a tick for each value, the box of the middle half with the median, and the mean. Empty
    without a finite value."""
    import altair as alt

    values = [row for sample in samples for row in _values(sample)]
    if not values:
        return {}
    order = list(dict.fromkeys(row["line"] for row in values))
    base = alt.Chart(data(values)).encode(y=alt.Y("line:N", sort=order, axis=None))
    x = alt.X("value:Q", title=axis, scale=alt.Scale(zero=False, nice=True))
    tip = [alt.Tooltip(name, title=title) for name, title in (("line:N", "of"), ("name:N", "name"))]
    tip.append(alt.Tooltip("value:Q", title=axis, format=".1f"))
    size = alt.condition("datum.id === picked", alt.value(30), alt.value(16))
    names = base.transform_aggregate(groupby=["line"]).mark_text(align="left", baseline="bottom", dy=-10, style="name")
    layers = [
        names.encode(x=alt.value(0), text="line:N"),
        base.mark_boxplot(extent="min-max", size=16).encode(x=x),
        *(
            base.transform_filter(alt.FieldEqualPredicate(field="accent", equal=accent))
            .mark_tick(thickness=2, style=style)
            .encode(x=x, size=size, tooltip=tip)
            for accent, style in ((False, "value"), (True, "accent"))
            if any(row["accent"] is accent for row in values)
        ),
        base.mark_tick(size=26, thickness=3, style="mean").encode(x=alt.X("mean(value):Q", title=axis)),
    ]
    if thresholds:
        rules = alt.Chart(data([{"at": t} for t in thresholds]))
        layers.append(rules.mark_rule(style="threshold").encode(x=alt.X("at:Q", title=axis)))
    return spec(alt.layer(*layers), description, LINE_HEIGHT * len(order))


def cumulative(samples: Sequence[DrawnValues], axis: str, description: str) -> Spec:
    """The share of each sample's values that are at most x, as steps. The first samples have a colour."""
    import altair as alt

    values = [row for sample in samples for row in _values(sample)]
    if not values:
        return {}
    chart = (
        alt.Chart(data(values))
        .transform_window(
            share="cume_dist()", sort=[alt.SortField("value")], groupby=["line"], frame=[None, 0], ignorePeers=False
        )
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X("value:Q", title=axis, scale=alt.Scale(zero=False)),
            y=alt.Y("share:Q", title="share of prompts at most so high", axis=alt.Axis(format="%")),
        )
    )
    return spec(alt.layer(*coloured(chart, [s.label for s in samples])), description, CURVE_HEIGHT)


def courses(found: Sequence[Course], x_axis: str, y_axis: str, description: str) -> Spec:
    """Curves over steps, with a cross where a configuration was stopped. The first have a colour, circles at their
    rungs, and error bars. Empty without a finite point."""
    import altair as alt

    points = [row for one in found for row in _points(one)]
    if not points:
        return {}
    labels = [one.label for one in found]
    chart = alt.Chart(data(points))
    x = alt.X("x:Q", title=x_axis)
    y = alt.Y("y:Q", title=y_axis, scale=alt.Scale(zero=False))
    layers = coloured(chart.mark_line().encode(x=x, y=y), labels)
    tip = [alt.Tooltip("line:N", title="of"), alt.Tooltip("x:Q", title=x_axis)]
    tip.append(alt.Tooltip("y:Q", title=y_axis, format=".4~g"))
    marks = [row for i, one in enumerate(found) for row in _marks(one) if i < len(SERIES) or "cut" in row]
    if marks:
        at = alt.Chart(data(marks))
        colour = colour_of(labels)
        if any("low" in row for row in marks):
            bars = at.transform_filter("isValid(datum.low)").mark_rule()
            layers.append(bars.encode(x=x, y=alt.Y("low:Q", title=y_axis), y2="high:Q", color=colour))
        rungs = at.transform_filter("!isValid(datum.cut)").mark_point(filled=False, size=40)
        layers.append(rungs.encode(x=x, y=y, color=colour, tooltip=tip))
        if any("cut" in row for row in marks):
            cuts = at.transform_filter("isValid(datum.cut)").mark_point(shape="cross", angle=45, size=90, style="cut")
            layers.append(cuts.encode(x=x, y=y, tooltip=[*tip, alt.Tooltip("cut:N", title="stopped")]))
    return spec(alt.layer(*layers), description, CURVE_HEIGHT)


def heat(samples: Sequence[DrawnValues], axis: str, description: str) -> Spec:
    """A rectangle for each value: a line for each sample, a column for each name."""
    import altair as alt

    values = [row for sample in samples for row in _values(sample)]
    if not values:
        return {}
    chart = alt.Chart(data(values)).mark_rect()
    chart = chart.encode(
        x=alt.X("name:N", title=None, axis=alt.Axis(labelAngle=-90, labelLimit=120)),
        y=alt.Y("line:N", title=None, sort=[s.label for s in samples], axis=alt.Axis(labelLimit=260)),
        color=alt.Color("value:Q", title=axis, legend=alt.Legend(orient="bottom")),
    )
    return spec(alt.layer(chart), description, HEAT_HEIGHT * len(samples))


def _values(sample: DrawnValues) -> list[dict[str, Any]]:
    return [
        {"line": sample.label, "id": of, "name": name, "value": round(value, 4), "accent": sample.accent}
        for value, name, of in zip(sample.values, sample.names, sample.ids, strict=True)
        if math.isfinite(value)
    ]


def averaged(x: tuple[float, ...], y: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most ``MOST_POINTS`` points: means of consecutive ones, at their mean step."""
    import numpy as np

    if len(x) <= MOST_POINTS:
        return x, y
    groups = np.array_split(np.arange(len(x)), MOST_POINTS)
    return tuple(float(np.mean(x[g[0] : g[-1] + 1])) for g in groups), tuple(
        float(np.mean(y[g[0] : g[-1] + 1])) for g in groups
    )


def _points(one: Course) -> list[dict[str, Any]]:
    x, y = averaged(one.x, one.y)
    return [
        {"line": one.label, "id": one.id, "x": a, "y": float(f"{b:.6g}")}
        for a, b in zip(x, y, strict=True)
        if math.isfinite(b)
    ]


def _marks(one: Course) -> list[dict[str, Any]]:
    """The points at rungs with their errors; the last one says why the configuration was stopped."""
    import numpy as np

    known = [(x, y) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y)]
    if not known:
        return []
    steps, values = zip(*known, strict=True)
    errors = dict(zip(one.x, one.errors, strict=False))
    found: list[dict[str, Any]] = []
    for mark in one.marks:
        y = float(np.interp(mark, steps, values))
        row = {"line": one.label, "id": one.id, "x": mark, "y": float(f"{y:.6g}")}
        if math.isfinite(error := errors.get(mark, math.nan)):
            row |= {"low": y - error, "high": y + error}
        found.append(row)
    if one.cut is not None:
        found.append({"line": one.label, "id": one.id, "x": steps[-1], "y": values[-1], "cut": one.cut})
    return found


def data(values: list[dict[str, Any]]) -> alt.InlineData:
    """Rows as a tuple: Altair copies the lists in a chart at every step. To look through them takes it seconds."""
    import altair as alt
    from altair.utils.schemapi import debug_mode

    with debug_mode(False):
        return alt.InlineData(tuple(values))


def _legend() -> alt.Legend:
    import altair as alt

    return alt.Legend(orient="bottom", columns=1, title=None, symbolType="stroke")


def colour_of(labels: Sequence[str]) -> alt.Color:
    import altair as alt

    first = list(labels[: len(SERIES)])
    return alt.Color("line:N", sort=first, scale=alt.Scale(domain=first), legend=_legend())


def coloured(lines: alt.Chart, labels: Sequence[str]) -> list[alt.Chart]:
    """The lines of the first labels in colours of their own, over the grey ones of the rest."""
    import altair as alt

    first, colour = list(labels[: len(SERIES)]), colour_of(labels)
    dash = alt.StrokeDash(
        "line:N", sort=first, scale=alt.Scale(domain=first, range=list(DASHES[: len(first)])), legend=_legend()
    )
    width = alt.condition("datum.id === picked", alt.value(4), alt.value(2))
    among = alt.FieldOneOfPredicate(field="line", oneOf=first)
    rest = lines.transform_filter(alt.LogicalNotPredicate(**{"not": among}))
    grey = rest.encode(detail="line:N", strokeWidth=alt.condition("datum.id === picked", alt.value(4), alt.value(1.2)))
    named = [alt.Tooltip("line:N", title="of")]
    named_lines = lines.transform_filter(among).encode(color=colour, strokeDash=dash, strokeWidth=width, tooltip=named)
    parts = [named_lines] if len(labels) <= len(SERIES) else [grey.encode(tooltip=named), named_lines]
    return [part.encode(detail=["line:N", "id:N"]) for part in parts]


def spec(chart: alt.LayerChart | alt.FacetChart, description: str, height: Any) -> Spec:
    import altair as alt

    whole = chart.add_params(alt.param(name="picked", value="")).properties(
        width="container",
        height=height,
        description=description,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )
    found: Spec = whole.to_dict(validate=False)  # its parts were looked through when they were made
    del found["config"], found["$schema"]  # the theme gives the first; the page asks no address
    found["datasets"] = {name: list(rows) for name, rows in found.get("datasets", {}).items()}  # tuples are no JSON
    return found


def theme(colours: Mapping[str, str]) -> dict[str, Any]:
    """Vega-Lite's ``config`` in ``colours``."""
    ink, soft, line = colours["ink"], colours["soft"], colours["line"]
    text = {
        "labelColor": soft,
        "titleColor": soft,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    return {
        "background": colours["paper"],
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": {**text, "gridColor": line, "domainColor": soft, "tickColor": soft},
        "legend": {**text, "symbolStrokeWidth": 2, "symbolSize": 300, "labelLimit": PAPER_WIDTH - BESIDE_LABELS},
        "axisY": {"labelLimit": PAPER_WIDTH // 3},
        "range": {
            "category": [colours[name] for name in SERIES],
            "heatmap": [colours["tint"], colours["win"]],
            "ramp": [colours["tint"], colours["shade"]],
        },
        "line": {"color": soft, "strokeOpacity": 0.8},
        "point": {"color": soft, "opacity": 1},
        "rule": {"color": soft},
        "boxplot": {
            "box": {"fill": colours["tint"], "stroke": soft},
            "median": {"fill": soft},
            "rule": {"stroke": soft},
        },
        "style": {
            "name": {"color": ink, "fontSize": 12},
            "value": {"color": soft, "opacity": 0.8},
            "accent": {"color": colours["win"]},
            "mean": {"color": ink},
            "threshold": {"color": colours["c1"], "strokeDash": [4, 3]},
            "cut": {"color": colours["bad"]},
            "halo": {"color": colours["paper"], "stroke": colours["paper"], "strokeWidth": 4},
        },
    }


def chart(spec: Spec) -> alt.TopLevelMixin:
    """The chart as Altair's object, on light paper and as wide as in a file, which a notebook shows."""
    import altair as alt

    return alt.Chart.from_dict({**spec, "width": PAPER_WIDTH, "config": theme(LIGHT)})


def files(spec: Spec) -> dict[str, bytes]:
    """Ending -> the chart as a file, on light paper: SVG with the description as its alternative text, PDF, and PNG of
    twice the size."""
    import vl_convert

    sized, config = {**spec, "width": PAPER_WIDTH}, theme(LIGHT)
    svg = vl_convert.vegalite_to_svg(sized, config=config)
    named = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(spec["description"])}" ', 1)
    return {
        "svg": named.encode(),
        "pdf": vl_convert.vegalite_to_pdf(sized, config=config),
        "png": vl_convert.vegalite_to_png(sized, config=config, scale=2.0),
    }


@functools.cache
def library() -> Markup:
    """Vega, Vega-Lite and their embedding as one script, for the page to hold once: it asks no network for them."""
    return Markup('<script id="vega">(function(){') + Markup(bundle()) + Markup("})();</script>")


def bundle() -> str:
    """The converter's own bundle. Making it takes two seconds, so it is kept in the user's folder of caches."""
    import vl_convert

    name = f"vega-{version('vl-convert-python')}.js"
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steadytune"
        return (caches / name).read_text(encoding="utf-8")
    except RuntimeError:  # this user has no home
        caches = None
    except (OSError, UnicodeDecodeError):
        pass
    made: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if caches is not None:
        with contextlib.suppress(StoreError):  # it cannot be written: it is made again next time
            Store.open(caches).write(name, made.encode())
    return made
