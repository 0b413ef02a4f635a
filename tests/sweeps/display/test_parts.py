"""A part of a report as HTML: what comes first, what is folded, and that text from data stays text."""

from __future__ import annotations

import re

from reported_run import EVIL, Page

from sweeps.display.parts import LONG, MANY, Figure, ReportPart, ShownTable, page_charts, render_part
from sweeps.display.vega_estimates import NamedInterval, intervals

SPEC = intervals([NamedInterval("a", 1.0, 0.0, 2.0)], "points", "One")


def table(rows: int, title: str = "All arms") -> ShownTable:
    return ShownTable(title, ("arm", "mean, %"), tuple((f"a{i}", "1.0") for i in range(rows)), frozenset({1}))


def test_the_answer_comes_first_then_figure_table_and_how_to_read_them() -> None:
    part = ReportPart(
        "Arms", ("PAFT is best.",), (Figure("arms", "", "By arm", "A point is an arm.", SPEC),), (table(2),), ("std.",)
    )
    source = str(render_part(part))
    order = ["<h2>Arms</h2>", "PAFT is best.", 'data-chart="arms"', "<h3>All arms</h3>", "How to read this", "std."]
    places = [source.index(text) for text in order]
    assert places == sorted(places)
    assert "<details>" not in source
    assert '<th scope="col" class="n">mean, %</th>' in source
    assert '<td class="n">1.0</td>' in source


def test_long_tables_and_many_notes_are_folded() -> None:
    source = str(
        render_part(ReportPart("Arms", tables=(table(LONG), table(LONG + 1, "More")), notes=("n",) * (MANY + 1)))
    )
    assert re.findall(r"<summary>(.*?)</summary>", source) == [f"More ({LONG + 1} rows)", "How to read this"]
    assert source.count('<div class="wide"') == source.count('<table class="in-words">') == 2


def test_a_figure_without_data_has_no_place_and_no_chart() -> None:
    part = ReportPart("Arms", figures=(Figure("none", "", "", "", {}), Figure("arms", "", "", "", SPEC)))
    assert [figure.name for figure in part.drawn] == ["arms"]
    assert "none" not in str(render_part(part))
    charts = str(page_charts(part.drawn))
    assert re.findall(r'id="(charts|themes|vega)"', charts) == ["charts", "themes", "vega"]
    assert page_charts([]) == ""


def test_text_from_data_is_escaped() -> None:
    evil = ShownTable(EVIL, (EVIL,), ((EVIL,),), notes=(EVIL,))
    part = ReportPart(EVIL, (EVIL,), (Figure("f", "", EVIL, EVIL, SPEC),), (evil,), (EVIL,), (EVIL,))
    page = Page(str(render_part(part)))
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert page.words.count(EVIL) == 10
