"""The figures as Vega-Lite: the converter draws them, and what it draws is counted."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vl_convert

from sweeps.display import vega
from sweeps.display.colours import DARK, LIGHT, SERIES
from sweeps.display.vega import Course, DrawnValues, Spec, courses, cumulative, distribution, library, theme
from sweeps.display.vega_comparisons import (
    Calibration,
    Confusion,
    calibration_curves,
    confusion_matrices,
    matrix_of_wins,
)
from sweeps.display.vega_overviews import ParallelAxis, ParallelLine, Stage, parallel, waterfall


def svg(spec: Spec, colours: dict[str, str] = LIGHT) -> str:
    found: str = vl_convert.vegalite_to_svg({**spec, "width": 600}, config=theme(colours))
    return found


def drawn(picture: str, mark: str) -> list[str]:
    """What each item of a kind of mark is described as."""
    return re.findall(rf'aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="{mark}"', picture)


def sample(label: str, values: list[float], accent: bool = False) -> DrawnValues:
    names = tuple(f"{label}{i}" for i in range(len(values)))
    return DrawnValues(label, tuple(values), names, (f"id-{label}",) * len(values), accent)


def test_a_distribution_has_a_tick_for_each_value_a_box_and_a_mean_for_each_line() -> None:
    samples = [sample("a", [70.0, 80.0, 90.0], accent=True), sample("b", [50.0, math.nan])]
    spec = distribution(samples, "accuracy", "Accuracy of two", [85.0])
    assert vl_convert.vegalite_to_vega({**spec, "width": 600})["description"] == "Accuracy of two"
    picture = svg(spec)
    ticks = drawn(picture, "tick")
    assert len([t for t in ticks if "name: " in t]) == 4
    assert any("name: a2" in t and "90" in t for t in ticks)
    means = [t for t in ticks if "name: " not in t]
    assert len(means) == 2
    assert any("80" in t for t in means)
    assert len(drawn(picture, "box")) == 2
    assert f'stroke="{LIGHT["c1"]}"' in picture  # the threshold
    assert f'fill="{LIGHT["win"]}"' in picture  # the accent
    assert f'fill="{LIGHT["win"]}"' not in svg(distribution(samples[1:], "accuracy", "Accuracy of one"))


def test_the_names_of_lines_have_the_colour_of_text_on_both_papers() -> None:
    for colours in (LIGHT, DARK):
        picture = svg(distribution([sample("a name", [70.0, 80.0])], "accuracy", "Accuracy of one"), colours)
        (name,) = re.findall(r"<text[^>]*>a name</text>", picture)
        assert f'fill="{colours["ink"]}"' in name


def test_cumulative_curves_end_at_all_prompts() -> None:
    spec = cumulative([sample("a", [70.0, 80.0, 80.0, 90.0]), sample("b", [50.0])], "accuracy", "Two curves")
    compiled = vl_convert.vegalite_to_vega({**spec, "width": 600})
    steps = [t for data in compiled["data"] for t in data.get("transform", []) if t["type"] == "window"]
    assert steps
    assert all(t["ops"] == ["cume_dist"] and t["groupby"] == ["line"] for t in steps)
    assert len(drawn(svg(spec), "line mark")) == 2


def test_only_the_first_curves_have_a_colour_and_a_place_in_the_legend() -> None:
    found = [
        Course(f"id{i}", f"curve {i}", (0.0, 10.0), (float(i), i + 1.0), marks=(10.0,), cut="late" if i > 6 else None)
        for i in range(len(SERIES) + 2)
    ]
    for colours in (LIGHT, DARK):
        picture = svg(courses(found, "steps", "loss", "Eight curves"), colours)
        lines = re.findall(r'aria-roledescription="line mark"[^>]*stroke="([^"]+)"', picture)
        assert sorted(lines) == sorted([*(colours[name] for name in SERIES), colours["soft"], colours["soft"]])
        points = drawn(picture, "point")
        assert [f"curve {i};" in p or p.endswith(f"curve {i}") for i, p in enumerate(points[:6])] == [True] * 6
        assert len(points) == len(SERIES) + 1
        assert "stopped: late" in points[-1]
        assert "curve 5</text>" in picture
        assert "curve 6</text>" not in picture


def test_curves_mark_rungs_errors_and_cuts_and_skip_what_is_no_number() -> None:
    cut = Course("i", "a & b", (0.0, 5.0, 10.0), (1.0, math.nan, 0.5), (0.1, 0.1, 0.2), (0.0, 10.0), "3rd < 2nd")
    spec = courses([cut, Course("j", "c", (0.0, 20.0), (0.2, 0.4))], "steps", "loss", "Two curves")
    json.dumps(spec, allow_nan=False)
    picture = svg(spec)
    assert len(drawn(picture, "line mark")) == 2
    points = drawn(picture, "point")
    assert len(points) == 3
    assert [p for p in points if "stopped: 3rd &lt; 2nd" in p]
    assert len(drawn(picture, "rule mark")) == 2
    assert "a & b" not in picture
    assert courses([Course("i", "a", (0.0,), (math.nan,))], "steps", "loss", "None") == {}
    assert distribution([sample("a", [math.nan])], "accuracy", "None") == {}
    assert cumulative([], "accuracy", "None") == {}


def test_a_long_curve_is_averaged() -> None:
    long = Course("i", "a", tuple(float(i) for i in range(1000)), tuple(float(i) for i in range(1000)))
    (rows,) = courses([long], "steps", "loss", "One curve")["datasets"].values()
    assert len(rows) == 80
    assert rows[0] == {"line": "a", "id": "i", "x": 6.0, "y": 6.0}


def test_a_chart_asks_no_address_and_leaves_colours_to_the_theme() -> None:
    none = np.zeros((2, 2), int)
    axes = [ParallelAxis("lr", ((0.0, "1"), (1.0, "2"))), ParallelAxis("mean", ())]
    charts: list[Any] = [
        matrix_of_wins(["i", "j"], ["a", "b"], np.array([[np.nan, 0.2], [0.8, np.nan]]), none, "One"),
        confusion_matrices([Confusion("i", "a", ("no", "yes"), ("no", "yes"), none + 1)], "One"),
        calibration_curves([Calibration("i", "a", (0.1,), (0.2,), (3,))], ("x", "y"), "One"),
        waterfall([Stage("a", 1, "1 s"), Stage("b", 2, "2 s")], Stage("all", 3, "3 s"), "seconds", "One"),
        parallel(axes, [ParallelLine("i", "a", (0.0, 1.0), "80 %", True)], "One"),
        distribution([sample("a", [1.0])], "accuracy", "One"),
        cumulative([sample("a", [1.0])], "accuracy", "One"),
        courses([Course("i", "a", (0.0, 1.0), (1.0, 2.0))], "steps", "loss", "One"),
    ]
    for chart in charts:
        text = json.dumps(chart)
        assert "http" not in text
        assert not re.search(r"#[0-9a-f]{3,6}", text)
        assert [param["name"] for param in chart["params"]] == ["picked"]


def test_the_library_cannot_end_its_element() -> None:
    text = str(library())
    assert text.lower().count("</script") == 1
    assert "<!--" not in text
    assert "window.vegaEmbed=" in text


def test_the_library_is_kept_among_the_users_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = vega.bundle()
    (kept,) = (tmp_path / "steadytune").iterdir()
    assert kept.read_text() == made
    kept.write_text("window.vegaEmbed = 1;")
    assert vega.bundle() == "window.vegaEmbed = 1;"


def test_the_library_is_made_where_no_cache_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "steadytune").write_text("a file in the folder's place")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "window.vegaEmbed=" in vega.bundle()
