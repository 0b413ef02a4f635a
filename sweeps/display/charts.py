"""Figures of the reports' parts as inline SVG: distributions over prompts, and curves over steps.

Written as SVG here, because the figures must be small, follow the page's light or dark colours, and be readable on a
phone: horizontal positions are percentages of the width, so text and dots keep their size on every screen. Pointing at
an element shows its numbers and id (``<title>``). Every text is escaped; the functions return markup that is safe to
place in a page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np

COLOURS = 6  # series that get a colour of their own, ``.c0`` … ``.c5`` in the page's style; the rest is grey
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 4")  # so that colour is not the only difference
_POINTS = 80  # most points of a drawn curve; more are averaged in groups


@dataclass(frozen=True)
class Strip:
    """One line of a distribution figure: a dot for each value, the box of the middle half, median and mean."""

    label: str
    values: tuple[float, ...]
    names: tuple[str, ...]  # of the values, shown when pointed at
    accent: bool = False


@dataclass(frozen=True)
class Curve:
    """A series over steps. ``error`` (half width) draws bars."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    error: tuple[float, ...] = ()
    marks: tuple[float, ...] = ()  # steps to mark on the curve
    colour: int | None = None


def strips(
    rows: Sequence[Strip],
    axis: str,
    thresholds: Sequence[float] = (),
    ceiling: float = math.inf,
    digits: int = 3,
    floor: float = 0.0,
) -> str:
    """Dot strips with boxes, one below the other, on one axis that ends at ``floor`` and ``ceiling`` at the latest."""
    finite = [v for row in rows for v in row.values if math.isfinite(v)]
    if not finite:
        return ""
    low, high = _padded(min(finite), max(finite), floor, ceiling)
    ticks = nice_ticks(low, high, 7)
    shown = [t for t in thresholds if low <= t <= high]
    parts = [_strip(row, low, high, ticks, shown, digits) for row in rows]
    labels = [_text(f"{_place(t, low, high)}%", 13, _tick(t, ticks), _anchor(t, low, high)) for t in ticks]
    foot = f'<svg class="axis" width="100%" height="18" aria-hidden="true">{"".join(labels)}</svg>'
    return f'<div class="strips">{"".join(parts)}{foot}<div class="axis-name">{escape(axis)}</div></div>'


def _strip(
    row: Strip, low: float, high: float, ticks: Sequence[float], thresholds: Sequence[float], digits: int
) -> str:
    pairs = [(v, n) for v, n in zip(row.values, row.names, strict=True) if math.isfinite(v)]
    head = f'<div class="strip-name{" win" if row.accent else ""}">{escape(row.label)}</div>'
    if not pairs:
        return f'<div class="strip">{head}</div>'
    values = np.array([v for v, _ in pairs])
    q25, median, q75 = (float(np.quantile(values, q)) for q in (0.25, 0.5, 0.75))
    mean = float(values.mean())
    least, most = values.min(), values.max()
    description = (
        f"{row.label}: mean {mean:.{digits}f}, median {median:.{digits}f}, from {least:.{digits}f} to {most:.{digits}f}"
    )
    grid = "".join(_vertical(_place(t, low, high), 0, 34, "grid") for t in ticks)
    marks = "".join(_vertical(_place(t, low, high), 0, 34, "threshold") for t in thresholds)
    left, right = _place(q25, low, high), _place(q75, low, high)
    box = (
        f'<line class="whisker" x1="{_place(least, low, high)}%" x2="{_place(most, low, high)}%" y1="17" y2="17"/>'
        f'<rect class="box" x="{left}%" width="{round(right - left, 2)}%" y="7" height="20" rx="2"/>'
    )
    places = [_place(v, low, high) for v, _ in pairs]
    dots = "".join(
        f'<circle class="dot" cx="{x}%" cy="{17 + off}" r="3"><title>{escape(n)}: {v:.{digits}f}</title></circle>'
        for (v, n), x, off in zip(pairs, places, _spread(places), strict=True)
    )
    lines = _vertical(_place(median, low, high), 7, 27, "median") + _vertical(_place(mean, low, high), 3, 31, "mean")
    kind = "strip win" if row.accent else "strip"
    return (
        f'<div class="{kind}">{head}<svg width="100%" height="34" role="img" aria-label="{escape(description)}">'
        f"{grid}{marks}{box}{dots}{lines}</svg></div>"
    )


def curves(
    series: Sequence[Curve],
    x_axis: str,
    y_axis: str,
    digits: int = 3,
    names: Sequence[tuple[float, str]] = (),
    what: str = "trials",
    from_zero: bool = True,
) -> str:
    """Curves over steps in one plot. Coloured series are in the legend and drawn over the grey ones. ``names``: texts
    to write at values of x instead of numbers; ``what``: what a curve stands for, in the description for screen
    readers; ``from_zero``: whether the axis of x begins there."""
    drawn = [_thinned(s) for s in series]
    xs = [x for s in drawn for x, y in zip(s.x, s.y, strict=True) if math.isfinite(y)]
    ys = [y for s in drawn for y in s.y if math.isfinite(y)]
    if not ys:
        return ""
    low, high = _padded(min(ys), max(ys))
    right = max(xs)
    left = min(0.0, min(xs)) if from_zero else min(xs)
    if right == left:
        right = left + 1.0
    x_ticks, y_ticks = nice_ticks(left, right, 6), nice_ticks(low, high, 5)
    grid = "".join(_horizontal(100 - _place(t, low, high)) for t in y_ticks)
    ordered = sorted(drawn, key=lambda s: (s.colour is not None, -(s.colour or 0)))
    body = "".join(_curve(s, left, right, low, high, digits) for s in ordered)
    y_labels = "".join(
        f'<span style="top:{round(100 - _place(t, low, high), 2)}%">{_tick(t, y_ticks)}</span>' for t in y_ticks
    )
    x_names = names or [(t, _tick(t, x_ticks)) for t in x_ticks]
    x_labels = "".join(_text(f"{_place(t, left, right)}%", 13, name, _anchor(t, left, right)) for t, name in x_names)
    legend = "".join(_legend(s) for s in drawn if s.colour is not None)
    description = f"{y_axis} over {x_axis}, {len(series)} {what}"
    return (
        f'<div class="curves"><div class="axis-name">{escape(y_axis)}</div>'
        f'<div class="plane"><div class="y">{y_labels}</div>'
        f'<svg width="100%" height="240" role="img" aria-label="{escape(description)}">{grid}{body}</svg></div>'
        f'<svg class="axis x" width="100%" height="18" aria-hidden="true">{x_labels}</svg>'
        f'<div class="axis-name x">{escape(x_axis)}</div>'
        + (f'<ul class="legend">{legend}</ul>' if legend else "")
        + "</div>"
    )


def _curve(s: Curve, left: float, right: float, low: float, high: float, digits: int) -> str:
    points = [
        (_place(x, left, right), round(100 - _place(y, low, high), 2), x, y) for x, y in zip(s.x, s.y, strict=True)
    ]
    known = [p for p in points if math.isfinite(p[3])]
    if not known:
        return ""
    kind = f"c{s.colour}" if s.colour is not None else "rest"
    dash = f' stroke-dasharray="{_DASHES[s.colour % len(_DASHES)]}"' if s.colour else ""
    path = " ".join(f"{px},{py}" for px, py, _, _ in known)
    name = escape(s.label)
    out = [
        f'<g class="{kind}"><title>{name}</title><svg width="100%" height="100%" viewBox="0 0 100 100" '
        f'preserveAspectRatio="none"><polyline points="{path}"{dash} vector-effect="non-scaling-stroke"/></svg>'
    ]
    for (px, _, _, y), error in zip(points, s.error, strict=False):
        if math.isfinite(y) and math.isfinite(error):
            top, bottom = (round(100 - _place(v, low, high), 2) for v in (min(y + error, high), max(y - error, low)))
            out.append(f'<line class="bar" x1="{px}%" x2="{px}%" y1="{top}%" y2="{bottom}%"/>')
    steps, values = [x for _, _, x, _ in known], [y for _, _, _, y in known]
    for mark in s.marks:
        y = float(np.interp(mark, steps, values))
        px, py = _place(mark, left, right), round(100 - _place(y, low, high), 2)
        title = f"<title>{name}, step {mark:g}: {y:.{digits}f}</title>"
        out.append(f'<circle class="mark" cx="{px}%" cy="{py}%" r="3.5">{title}</circle>')
    return "".join(out) + "</g>"


def _legend(s: Curve) -> str:
    dash = f' stroke-dasharray="{_DASHES[(s.colour or 0) % len(_DASHES)]}"' if s.colour else ""
    swatch = f'<line x1="0" x2="26" y1="5" y2="5"{dash}/>'
    return (
        f'<li><svg width="26" height="10" aria-hidden="true" class="c{s.colour}">{swatch}</svg> {escape(s.label)}</li>'
    )


def _thinned(s: Curve) -> Curve:
    """``s`` with at most ``_POINTS`` points, without errors where it had more."""
    x, y = averaged(s.x, s.y)
    return s if len(x) == len(s.x) else replace(s, x=x, y=y, error=())


def averaged(x: tuple[float, ...], y: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most ``_POINTS`` points: means of consecutive ones, at their mean step."""
    if len(x) <= _POINTS:
        return x, y
    groups = np.array_split(np.arange(len(x)), _POINTS)
    return tuple(float(np.mean(x[g[0] : g[-1] + 1])) for g in groups), tuple(
        float(np.mean(y[g[0] : g[-1] + 1])) for g in groups
    )


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """About so many round numbers between ``low`` and ``high``."""
    raw = (high - low) / max(about, 1)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _padded(low: float, high: float, floor: float = -math.inf, ceiling: float = math.inf) -> tuple[float, float]:
    """A margin on both sides, which passes ``floor`` and ``ceiling`` only if the data do."""
    pad = max((high - low) * 0.05, abs(high) * 0.01) or 1.0
    return max(low - pad, min(floor, low)), min(high + pad, max(ceiling, high))


def _place(value: float, low: float, high: float) -> float:
    return round(100 * (value - low) / (high - low), 2)


def _spread(places: Sequence[float]) -> list[int]:
    """Vertical offsets in pixels, so that dots at nearly the same place (percent of the width) do not cover each
    other."""
    seen: dict[int, int] = {}
    offsets = []
    for place in places:
        n = seen[round(place)] = seen.get(round(place), -1) + 1
        offsets.append((n + 1) // 2 % 4 * 4 * (1 if n % 2 else -1))
    return offsets


def _anchor(value: float, low: float, high: float) -> str:
    place = _place(value, low, high)
    return "start" if place < 4 else "end" if place > 96 else "middle"


def _tick(value: float, ticks: Iterable[float]) -> str:
    """The shortest form in which neighbouring ticks differ."""
    digits = max((len(f"{t:.6f}".rstrip("0").split(".")[1]) for t in ticks), default=0)
    return f"{value:.{digits}f}"


def _text(x: str, y: int, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _vertical(x: float, top: int, bottom: int, kind: str) -> str:
    return f'<line class="{kind}" x1="{x}%" x2="{x}%" y1="{top}" y2="{bottom}"/>'


def _horizontal(y: float) -> str:
    return f'<line class="grid" x1="0" x2="100%" y1="{round(y, 2)}%" y2="{round(y, 2)}%"/>'
