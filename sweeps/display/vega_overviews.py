"""Charts of a whole run: a waterfall of what its stages took, and its configurations over parallel axes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.display.vega import LINE_HEIGHT, Spec, data, spec

PARALLEL_HEIGHT = 280


@dataclass(frozen=True)
class Stage:
    """What a stage took: ``amount`` in the unit of the axis, ``text`` with its unit."""

    name: str
    amount: float
    text: str


@dataclass(frozen=True)
class ParallelAxis:
    """``ticks``: places from 0 (below) to 1 with the values there."""

    name: str
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class ParallelLine:
    """A configuration's place from 0 to 1 on each axis. ``text``: what pointing at it shows."""

    id: str
    label: str
    places: tuple[float, ...]
    text: str
    accent: bool = False


def waterfall(stages: Sequence[Stage], whole: Stage, axis: str, description: str) -> Spec:
    """A bar for each stage that begins where the one before ends, and one for the whole. Empty where fewer than two
    stages took something."""
    import altair as alt

    taken = [stage for stage in stages if stage.amount > 0]
    if len(taken) < 2:
        return {}
    ends = list(itertools.accumulate(stage.amount for stage in taken))
    bars = [(stage, end - stage.amount, end) for stage, end in zip(taken, ends, strict=True)]
    values = [
        {
            "line": f"{stage.name}: {stage.text}",
            "from": float(f"{a:.6g}"),
            "to": float(f"{b:.6g}"),
            "whole": stage is whole,
        }
        for stage, a, b in [*bars, (whole, 0.0, whole.amount)]
    ]
    order = [str(row["line"]) for row in values]
    base = alt.Chart(data(values)).encode(y=alt.Y("line:N", scale=alt.Scale(domain=order), axis=None))
    x = alt.X("from:Q", title=axis, scale=alt.Scale(zero=True))
    names = base.mark_text(align="left", baseline="bottom", dy=-10, style="name", limit=alt.ExprRef("width"))
    layers = [names.encode(x=alt.value(0), text="line:N")]
    for is_whole, style in ((False, "value"), (True, "accent")):
        part = base.transform_filter(alt.FieldEqualPredicate(field="whole", equal=is_whole))
        layers.append(
            part.mark_bar(size=16, style=style).encode(x=x, x2="to:Q", tooltip=alt.Tooltip("line:N", title="stage"))
        )
    return spec(alt.layer(*layers), description, LINE_HEIGHT * len(order))


def parallel(axes: Sequence[ParallelAxis], lines: Sequence[ParallelLine], description: str) -> Spec:
    """A line for each configuration over vertical axes with scales of their own; ``accent`` has a colour. Empty without
    a line."""
    import altair as alt

    if not lines:
        return {}
    names = [axis.name for axis in axes]
    points = [
        {"id": line.id, "line": line.label, "text": line.text, "axis": name, "at": round(at, 4), "accent": line.accent}
        for line in lines
        for name, at in zip(names, line.places, strict=True)
    ]
    ticks = [{"axis": axis.name, "at": round(at, 4), "tick": text} for axis in axes for at, text in axis.ticks]
    x = alt.X(
        "axis:N",
        title=None,
        scale=alt.Scale(domain=names, type="point", padding=0.25),
        axis=alt.Axis(
            labelAngle=0 if len(names) < 5 else -40, labelLimit=120, labelPadding=10, domain=False, ticks=False
        ),
    )
    y = alt.Y("at:Q", axis=None, scale=alt.Scale(domain=[0, 1]))
    tip = [alt.Tooltip("line:N", title="of"), alt.Tooltip("text:N", title="mean")]
    rules = alt.Chart(data([{"axis": name} for name in names])).mark_rule().encode(x=x)
    layers = [rules]
    for accent, style, thin in ((False, "value", 1.2), (True, "accent", 3)):
        some = [row for row in points if row["accent"] is accent]
        width = alt.condition("datum.id === picked", alt.value(4), alt.value(thin))
        drawn = alt.Chart(data(some)).mark_line(style=style, strokeJoin="round")
        layers += [drawn.encode(x=x, y=y, detail="id:N", strokeWidth=width, tooltip=tip)] if some else []
    room = alt.ExprRef(f"width / {len(names)} - 8")
    texts = alt.Chart(data(ticks))
    layers += [
        texts.mark_text(align="left", dx=5, fontSize=11, style=style, limit=room).encode(x=x, y=y, text="tick:N")
        for style in ("halo", "name")
    ]
    return spec(alt.layer(*layers), description, PARALLEL_HEIGHT)
