"""The report's table: sorted, filtered, its groups of columns shown and hidden, by mouse, keyboard and touch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from browser import NARROW

ROWS = """
() => Array.from(document.querySelectorAll(".results tbody tr"))
  .filter((row) => row.checkVisibility()).map((row) => row.dataset.c)
"""


def rows_of(report: Path) -> list[dict[str, Any]]:
    """Of tables/robustness, in its order."""
    found: list[dict[str, Any]] = pq.read_table(report.parent / "tables" / "robustness.parquet").to_pylist()
    return found


def by(rows: list[dict[str, Any]], name: str, down: bool = False) -> list[str]:
    """Ids in the order of a column, of which the page has six digits; without a value last."""
    known = [row for row in rows if row[name] is not None]
    known.sort(key=lambda row: float(f"{row[name]:.6g}"), reverse=down)
    return [row["configuration"] for row in [*known, *(row for row in rows if row[name] is None)]]


def test_at_first_the_best_are_shown_in_their_order(opened: Any, report: Path) -> None:
    page = opened()
    assert page.run(ROWS) == [row["configuration"] for row in rows_of(report)][:25]


@pytest.mark.parametrize("way", ["mouse", "keyboard"])
def test_a_press_on_a_title_sorts_and_another_turns_the_order(way: str, opened: Any, report: Path) -> None:
    page, rows = opened(), rows_of(report)
    title = '.results thead button[title="Sort: the worst prompt"]'
    page.press(title, way)
    assert page.run(ROWS) == by(rows, "min")[:25]
    assert page.run("document.querySelector('.results [aria-sort]').textContent") == "worst"
    assert page.run("document.querySelector('.results [aria-sort]').getAttribute('aria-sort')") == "ascending"
    page.press(title, way)
    assert page.run(ROWS) == by(rows, "min", down=True)[:25]
    page.press(".every", way)
    assert page.run(ROWS) == by(rows, "min", down=True)


@pytest.mark.parametrize("way", ["touch", "keyboard"])
def test_cards_are_sorted_by_a_list_of_the_titles(way: str, opened: Any, report: Path) -> None:
    page, rows = opened(width=NARROW, touch=True), rows_of(report)
    assert not page.page.locator(".results thead").is_visible()
    assert page.texts(".by option")[:2] == ["first order", "configuration"]
    if way == "touch":
        page.page.locator(".by").tap()
        page.page.locator(".by").select_option("worst")
    else:
        page.reach(".by")
        while page.run("document.querySelector('.by').selectedOptions[0].textContent") != "worst":
            page.page.keyboard.press("ArrowDown")
    assert page.run(ROWS) == by(rows, "min")[:25]
    page.press(".way", way)
    assert page.texts(".way") == ["▼ descending"]
    assert page.run(ROWS) == by(rows, "min", down=True)[:25]
    page.page.locator(".by").select_option("first order")
    page.press(".way", way)
    assert page.run(ROWS) == [row["configuration"] for row in rows][:25]


def test_wide_tables_have_titles_and_no_list_of_them(opened: Any) -> None:
    page = opened(width=800)
    assert page.page.locator(".results thead").is_visible()
    assert not page.page.locator(".of-cards").is_visible()


@pytest.mark.parametrize(("way", "width"), [("mouse", 1400), ("keyboard", 1400), ("touch", NARROW)])
def test_the_filter_looks_through_all_rows(way: str, width: int, opened: Any, report: Path) -> None:
    page, rows = opened(width=width, touch=way == "touch"), rows_of(report)
    stopped = [row["configuration"] for row in rows if row["status"] == "stopped"]
    if way == "keyboard":
        page.reach(".filter")
    else:
        page.press(".filter", way)
    page.page.keyboard.type("Stopped")
    assert sorted(page.run(ROWS)) == sorted(stopped)
    assert page.texts(".choices output") == [f"{len(stopped)} of {len(rows)}"]
    page.page.keyboard.type(" no such word")
    assert page.run(ROWS) == []
    page.page.locator(".filter").fill("")
    assert len(page.run(ROWS)) == 25


@pytest.mark.parametrize(("way", "width"), [("mouse", 1400), ("keyboard", 1400), ("touch", NARROW)])
def test_a_group_of_columns_is_shown_and_hidden(way: str, width: int, opened: Any) -> None:
    page = opened(width=width, touch=way == "touch")
    cells = page.page.locator(".results tbody tr").first.locator("td.other")
    assert cells.count() > 5
    assert not cells.first.is_visible()
    page.press(".group[value=other]", way)
    assert cells.first.is_visible()
    page.press(".group[value=other]", way)
    assert not cells.first.is_visible()


@pytest.mark.parametrize(("way", "width"), [("mouse", 1400), ("keyboard", 1400), ("touch", NARROW)])
def test_a_picked_configuration_is_highlighted_everywhere(way: str, width: int, opened: Any) -> None:
    page = opened(width=width, touch=way == "touch")
    second = page.run("document.querySelectorAll('.results tbody tr')[1].dataset.c")
    page.press(f'.results tr[data-c="{second}"] button.pick', way)
    assert highlighted(page) == {second}
    page.press(f'.results tr[data-c="{second}"] button.pick', way)
    assert highlighted(page) == set()


@pytest.mark.parametrize(("touch", "width"), [(False, 1400), (True, NARROW)])
def test_a_mark_of_a_chart_picks_its_configuration(touch: bool, width: int, opened: Any) -> None:
    page = opened(width=width, touch=touch)
    mark = page.page.locator('[data-chart="axis-lr"] .mark-rect.role-mark:has(path[aria-label*=name]) path').last
    (mark.tap if touch else mark.click)()
    assert len(highlighted(page)) == 1


def highlighted(page: Any) -> set[str]:
    """Ids of the configurations that the table, the map and each chart with single configurations highlight: all the
    same, or AssertionError."""
    page.page.wait_for_timeout(100)  # charts are painted in the next frame
    found = page.run(
        """() => {
          const ids = (selector) => Array.from(document.querySelectorAll(selector)).map((one) => one.dataset.c);
          const pressed = Array.from(document.querySelectorAll('button.pick[aria-pressed=true]'));
          return [ids(".results .picked"), ids(".heat .picked"), pressed.map((one) => one.closest("tr").dataset.c)];
        }"""
    )
    of_charts = page.run(
        """() => Array.from(document.querySelectorAll('[data-chart="cumulative"] .mark-line path'))
          .filter((line) => getComputedStyle(line).strokeWidth === "4px").length"""
    )
    assert len(found[0]) == len(set(found[0]))
    assert set(found[0]) == set(found[1]) == set(found[2])  # in the map a confirmed one has a line of fresh seeds, too
    assert of_charts == len(found[0])
    return set(found[0])
