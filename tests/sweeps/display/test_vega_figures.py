"""The matrices, calibration curves, waterfalls and parallel axes as the converter draws them, on both papers."""

from __future__ import annotations

import re

import numpy as np
import pytest
import vl_convert

from sweeps.display.colours import DARK, LIGHT, SERIES
from sweeps.display.vega import Spec, theme
from sweeps.display.vega_comparisons import (
    Calibration,
    Confusion,
    calibration_curves,
    confusion_matrices,
    matrix_of_wins,
)
from sweeps.display.vega_overviews import ParallelAxis, ParallelLine, Stage, parallel, waterfall

PHONE = 350  # pixels of a chart on a screen of 390
SHARE = np.array([[np.nan, 0.625, 1.0], [0.375, np.nan, 0.5], [0.0, 0.5, np.nan]])


def svg(spec: Spec, width: int = 600, colours: dict[str, str] = LIGHT, picked: str = "") -> str:
    params = [{**param, "value": picked} for param in spec["params"]]
    drawn: str = vl_convert.vegalite_to_svg({**spec, "width": width, "params": params}, config=theme(colours))
    return drawn


def items(picture: str, mark: str) -> list[str]:
    """The elements of a kind of mark."""
    return re.findall(rf'<(?:path|line|text)[^>]*aria-roledescription="{mark}"[^>]*>', picture)


def texts(picture: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture)


def wins(n: int = 3) -> Spec:
    ids, labels = [f"id{i}" for i in range(n)], [f"trial {i} lr={i}" for i in range(n)]
    share = SHARE if n == 3 else np.where(np.eye(n, dtype=bool), np.nan, 0.5)
    return matrix_of_wins(ids, labels, share, np.full((n, n), 8), "Three trials")


def test_a_matrix_of_wins_has_a_cell_for_each_pair_with_its_number() -> None:
    for colours in (LIGHT, DARK):
        picture = svg(wins(), colours=colours)
        cells = [c for c in items(picture, "rect mark") if "percent of prompts won" in c]
        assert len(cells) == 6
        (first,) = [c for c in cells if "line: 1 trial 0 lr=0" in c and "against number: 2" in c]
        assert "percent of prompts won: 62.5" in first
        fills = {match for cell in cells for match in re.findall(r'fill="([^"]+)"', cell)}
        assert len(fills) == 5  # of 0, 37.5, 50, 62.5 and 100
        assert {"63", "38", "50", "100", "0"} <= set(texts(picture))
        assert f'fill="{colours["ink"]}"' in picture


def test_numbers_are_left_out_of_cells_that_are_too_narrow() -> None:
    many = wins(25)
    assert texts(svg(many, 900)).count("50") >= 600
    assert texts(svg(many, PHONE)).count("50") <= 1  # of the legend


def test_the_line_of_the_picked_configuration_has_a_frame() -> None:
    def frames(picked: str) -> list[str]:
        frames = [c for c in items(svg(wins(), picked=picked), "rect mark") if f'stroke="{LIGHT["ink"]}"' in c]
        assert len(frames) == 3
        return [re.findall(r'aria-label="([^"]*)"', c)[0] for c in frames if 'opacity="0"' not in c]

    assert frames("") == []
    assert frames("id1") == ["line: 2 trial 1 lr=1"]


def confusions() -> Spec:
    counts = np.array([[3, 1, 0], [0, 2, 2]])
    rights, answers = ("no", "yes"), ("no", "yes", "(unread)")
    found = [Confusion(f"id{i}", f"trial {i}", rights, answers, counts * (i + 1)) for i in range(2)]
    return confusion_matrices(found, "Two trials")


def test_confusion_matrices_stand_below_each_other_with_their_names() -> None:
    picture = svg(confusions(), PHONE)
    cells = items(picture, "rect mark")
    assert len(cells) == 2 * 2 * 3
    shown = texts(picture)
    assert [text for text in shown if text in ("trial 0", "trial 1")] == ["trial 0", "trial 1"]
    assert [shown.count(text) for text in ("75", "25")] == [2, 2]
    assert shown.count("no") == 3  # two lines and a column
    assert shown.count("(unread)") == 1
    sizes = [re.findall(rf'font-size="(\d+)px"[^>]*>trial {i}<', svg(confusions(), picked="id1")) for i in (0, 1)]
    assert int(sizes[1][0]) > int(sizes[0][0])


def test_a_label_that_no_row_has_has_no_line() -> None:
    found = [Confusion("i", "a", ("no", "yes"), ("no", "yes"), np.array([[2, 1], [0, 0]]))]
    assert len(items(svg(confusion_matrices(found, "One")), "rect mark")) == 2
    assert confusion_matrices([], "None") == {}
    assert confusion_matrices([Confusion("i", "a", ("no",), ("no",), np.zeros((1, 1), int))], "None") == {}


def test_calibration_curves_lie_over_the_diagonal_and_the_best_have_circles() -> None:
    found = [
        Calibration(f"id{i}", f"ECE 0.0{i}, trial {i}", (0.05, 0.95), (0.1, 0.9), (10, 20))
        for i in range(len(SERIES) + 2)
    ]
    for colours in (LIGHT, DARK):
        picture = svg(calibration_curves(found, ("probability", "share"), "Eight trials"), colours=colours)
        lines = re.findall(r'aria-roledescription="line mark"[^>]*stroke="([^"]+)"', picture)
        wanted = [colours["ink"], colours["soft"], colours["soft"], *(colours[name] for name in SERIES)]
        assert sorted(lines) == sorted(wanted)
        assert len(items(picture, "point")) == 2 * len(SERIES)
        assert "ECE 0.05, trial 5" in texts(picture)
        assert "ECE 0.06, trial 6" not in texts(picture)
    assert calibration_curves([], ("x", "y"), "None") == {}


def test_a_waterfall_has_a_bar_for_each_stage_and_one_for_all() -> None:
    stages = [Stage("Training", 3, "3 s (75 %)"), Stage("Nothing", 0, "0 s"), Stage("Scoring", 1, "1 s (25 %)")]
    spec = waterfall(stages, Stage("All", 4, "4 s"), "seconds", "Two stages")
    for colours in (LIGHT, DARK):
        picture = svg(spec, PHONE, colours)
        bars = items(picture, "bar")
        assert len(bars) == 3
        assert [colours["win"] in bar for bar in bars] == [False, False, True]
        ends = [[float(n) for n in re.findall(r'd="M([\d.]+),\S+?h([\d.]+)', bar)[0]] for bar in bars]
        (a, first), (b, second), (c, whole) = ends
        assert a == c == 0
        assert b == pytest.approx(first)
        assert first + second == pytest.approx(whole)
        assert first == pytest.approx(3 * second)
        assert {"Training: 3 s (75 %)", "Scoring: 1 s (25 %)", "All: 4 s"} <= set(texts(picture))
    assert waterfall(stages[:2], Stage("All", 3, "3 s"), "seconds", "One stage") == {}


def test_parallel_lines_meet_all_axes_and_the_winner_has_a_colour() -> None:
    axes = [ParallelAxis("lr", ((0.0, "0.001"), (1.0, "0.01"))), ParallelAxis("mean", ((0.0, "70"), (1.0, "90")))]
    lines = [ParallelLine(f"id{i}", f"trial {i}", (i / 2, 1 - i / 2), "80 %", i == 0) for i in range(3)]
    spec = parallel(axes, lines, "Three trials")

    def widths(picked: str, colours: dict[str, str] = LIGHT) -> list[tuple[str, float]]:
        found = items(svg(spec, PHONE, colours, picked), "line mark")
        return [
            (re.findall(r'stroke="([^"]+)"', x)[0], float(re.findall(r'stroke-width="([^"]+)"', x)[0])) for x in found
        ]

    for colours in (LIGHT, DARK):
        assert widths("", colours) == [(colours["soft"], 1.2), (colours["soft"], 1.2), (colours["win"], 3)]
    assert widths("id1") == [(LIGHT["soft"], 4), (LIGHT["soft"], 1.2), (LIGHT["win"], 3)]
    picture = svg(spec, PHONE)
    assert len(items(picture, "rule mark")) == 2
    assert {"lr", "mean", "0.001", "0.01", "70", "90"} <= set(texts(picture))
    assert parallel(axes, [], "None") == {}


def test_without_a_number_there_is_no_matrix_of_wins() -> None:
    assert matrix_of_wins(["i"], ["a"], np.full((1, 1), np.nan), np.zeros((1, 1), int), "None") == {}
