"""Estimates, fitted curves, densities and intervals as Vega-Lite: the converter draws them, and what it draws is
counted."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import vl_convert

from sweeps.display.colours import LIGHT, SERIES
from sweeps.display.vega import Spec, theme
from sweeps.display.vega_estimates import (
    NAME_LENGTH,
    Density,
    Estimates,
    NamedInterval,
    densities,
    estimates,
    fitted,
    intervals,
)

WEIGHTS = {-1.0: "0", -1 / 3: "0.01", 1 / 3: "0.1", 1.0: "1"}  # place -> weight
EVIL = "<script>alert(1)</script>"


def svg(spec: Spec) -> str:
    found: str = vl_convert.vegalite_to_svg({**spec, "width": 600}, config=theme(LIGHT))
    return found


def drawn(picture: str, mark: str) -> list[str]:
    """What each item of a kind of mark is described as."""
    return re.findall(rf'aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="{mark}"', picture)


def data_of(spec: Spec) -> list[dict[str, Any]]:
    return [row for rows in spec["datasets"].values() for row in rows]


def series(label: str, level: float, half: float = 2.0, of: str = "") -> Estimates:
    y = tuple(level + i for i in range(len(WEIGHTS)))
    return Estimates(label, tuple(WEIGHTS), y, tuple(v - half for v in y), tuple(v + half for v in y), of)


def test_estimates_have_a_point_and_an_error_bar_at_each_value_and_the_names_of_their_places() -> None:
    spec = estimates([series("a", 70.0), series("b", 60.0)], "weight", "score", "Two series", WEIGHTS)
    picture = svg(spec)
    assert len(drawn(picture, "line mark")) == 2
    points = drawn(picture, "point")
    assert len(points) == len(drawn(picture, "rule mark")) == 8
    assert any("score: 72; line: a" in p and "at: 0.1; low end: 70.0; high end: 74.0" in p for p in points)
    ticks = re.findall(r">([^<>]+)</text>", picture)
    assert all(name in ticks for name in WEIGHTS.values())


def test_series_at_one_place_are_drawn_beside_each_other_and_said_to_be_at_it() -> None:
    rows = data_of(estimates([series("a", 70.0), series("b", 60.0)], "weight", "score", "Two series", WEIGHTS))
    first, second = ({row["x"] for row in rows if row["line"] == name} for name in ("a", "b"))
    assert not first & second
    assert {row["at"] for row in rows} == set(WEIGHTS.values())
    alone = data_of(estimates([series("a", 70.0)], "weight", "score", "One", {0.0: "x", **WEIGHTS}))
    assert {round(row["x"], 4) for row in alone} == {round(x, 4) for x in WEIGHTS}


def test_where_there_is_no_interval_there_is_no_bar() -> None:
    bare = Estimates("a", (0.0, 1.0, 2.0), (1.0, math.nan, 3.0))
    some = Estimates("b", (0.0, 1.0), (1.0, 2.0), (0.5, math.nan), (1.5, math.nan))
    names = {0.0: "0", 1.0: "1", 2.0: "2"}
    spec = estimates([bare, some], "x", "y", "Two", names)
    json.dumps(spec, allow_nan=False)
    picture = svg(spec)
    assert len(drawn(picture, "rule mark")) == 1
    assert len(drawn(picture, "point")) == 2 + 2
    assert estimates([Estimates("a", (0.0,), (math.nan,))], "x", "y", "None", names) == {}
    assert estimates([], "x", "y", "None", {}) == {}


def test_series_beyond_the_colours_are_grey_lines_without_points() -> None:
    spec = estimates([series(f"s{i}", 50.0 + i) for i in range(8)], "weight", "score", "Eight", WEIGHTS)
    picture = svg(spec)
    assert len(drawn(picture, "line mark")) == 8
    assert len(drawn(picture, "point")) == len(SERIES) * len(WEIGHTS)
    assert ">s5</text>" in picture
    assert ">s6</text>" not in picture


def test_a_configuration_can_be_picked_and_a_benchmark_cannot() -> None:
    spec = estimates([series("a", 1.0, of="c0ffee")], "x", "y", "One", WEIGHTS)
    assert {row["id"] for row in data_of(spec)} == {"c0ffee"}
    assert [param["name"] for param in spec["params"]] == ["picked"]
    assert not any("id" in row for row in data_of(estimates([series("a", 1.0)], "x", "y", "One", WEIGHTS)))


def test_a_fitted_curve_lies_in_a_band_with_its_points() -> None:
    grid = tuple(-1 + i / 10 for i in range(21))
    curve = Estimates(
        "a", grid, tuple(x**2 for x in grid), tuple(x**2 - 1 for x in grid), tuple(x**2 + 1 for x in grid)
    )
    spec = fitted([Estimates("a", tuple(WEIGHTS), (1.0, 0.2, 0.1, 1.1))], [curve], "weight", "score", "One", WEIGHTS)
    picture = svg(spec)
    assert len(drawn(picture, "area mark")) == len(drawn(picture, "line mark")) == 1
    assert len(drawn(picture, "point")) == len(WEIGHTS)
    assert fitted([], [], "weight", "score", "None", WEIGHTS) == {}


def test_a_density_has_a_row_of_dots_beneath_it() -> None:
    found = [Density(n, (1.0, 2.0, 3.0), (0.0, h, 0.0), (1.5, 2.5), ("p0", "p1")) for n, h in (("a", 0.5), ("b", 1.0))]
    spec = densities(found, "accuracy", "Two densities")
    dots = [row for row in data_of(spec) if "name" in row]
    assert len({row["y"] for row in dots}) == 2
    assert all(row["y"] < 0 for row in dots)
    picture = svg(spec)
    assert len(drawn(picture, "line mark")) == 2
    assert any("accuracy: 2.5" in p and "name: p1" in p for p in drawn(picture, "point"))
    assert len(drawn(picture, "point")) == 4


def test_intervals_have_names_and_a_line_where_there_is_no_difference() -> None:
    found = [NamedInterval("up", 3.0, 1.0, 5.0), NamedInterval("not known", -1.0, math.nan, math.nan)]
    spec = intervals([*found, NamedInterval("none", math.nan, math.nan, math.nan)], "points", "Two differences", True)
    picture = svg(spec)
    assert len(drawn(picture, "rule mark")) == 1 + 1  # of the difference that has one, and of no difference
    assert f'stroke="{LIGHT["c1"]}"' in picture
    assert [p for p in drawn(picture, "point") if "points: 3;" in p and "of: up; low end: 1.0; high end: 5.0" in p]
    assert ">not known</text>" in picture
    assert ">none</text>" not in picture
    assert f'stroke="{LIGHT["c1"]}"' not in svg(intervals(found, "points", "Two values"))
    assert intervals([], "points", "None") == {}


def test_a_long_name_is_broken_into_lines_that_fit_a_phone() -> None:
    long = "K hardly matters (within 2 points): k8 against adversarial template=plain: undecided"
    found = [NamedInterval(long, 1.0, 0.0, 2.0), NamedInterval("short", 1.0, 0.0, 2.0)]
    rows = [row for row in data_of(intervals(found, "points", "Two")) if "name" in row]
    assert [row["line"] for row in rows] == [long, "short"]
    assert " ".join(rows[0]["name"].split("\n")) == long
    assert max(map(len, rows[0]["name"].split("\n"))) <= NAME_LENGTH < len(long)
    lower = intervals(found[1:], "points", "One")["height"]
    assert intervals(found, "points", "Two")["height"] > 2 * lower


def test_charts_ask_no_address_leave_colours_to_the_theme_and_keep_markup_of_data_as_text() -> None:
    charts = [
        estimates([series(EVIL, 1.0)], "x", "y", "One", {**WEIGHTS, 2.0: EVIL}),
        fitted([series(EVIL, 1.0)], [series(EVIL, 1.0)], "x", "y", "One", WEIGHTS),
        densities([Density(EVIL, (1.0, 2.0), (0.0, 1.0), (1.5,), (EVIL,))], "x", "One"),
        intervals([NamedInterval(EVIL, 1.0, 0.0, 2.0)], "x", "One"),
    ]
    for chart in charts:
        text = json.dumps(chart)
        assert "http" not in text
        assert not re.search(r"#[0-9a-f]{3,6}", text)
        assert chart["width"] == "container"
        assert "<script" not in svg(chart)
