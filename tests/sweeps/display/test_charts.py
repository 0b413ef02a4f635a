"""Figures as inline SVG: where values are placed, and what is left out."""

from __future__ import annotations

import dataclasses
import html
import re

import pytest

from sweeps.display.charts import Curve, Strip, curves, nice_ticks, strips


def test_strips_place_values_on_one_axis() -> None:
    figure = strips(
        [Strip("a", (0.0, 50.0, 100.0), ("x", "y", "z")), Strip("b", (25.0,), ("w",))], "percent", (85.0,), 100.0
    )
    at = {name: float(x) for x, name in re.findall(r'cx="([\d.]+)%"[^>]*><title>(\w):', figure)}
    assert at == {"x": 0, "y": 50, "z": 100, "w": 25}
    assert figure.count('class="threshold" x1="85.0%"') == 2


def test_curves_mark_steps_and_skip_nan() -> None:
    marked = Curve("a & b", (0.0, 5.0, 10.0), (1.0, float("nan"), 0.5), marks=(10.0,), colour=0)
    figure = curves([marked, Curve("c", (0.0, 20.0), (0.2, 0.4))], "steps", "loss")
    points = re.findall(r'points="([^"]*)"', figure)
    assert [len(p.split()) for p in points] == [2, 2]
    assert html.unescape(figure).count("a & b, step 10: 0.500") == 1
    assert "a & b" not in figure
    assert "NaN" not in figure
    assert "nan" not in figure
    assert curves([dataclasses.replace(marked, y=(float("nan"),) * 3)], "steps", "loss") == ""


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.61, 0.93), (99.0, 100.0), (1e-6, 3e-6), (-2.0, 7.0)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    ticks = nice_ticks(low, high, 5)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
