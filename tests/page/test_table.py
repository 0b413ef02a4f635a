"""The report's table: sorted, filtered, its groups of columns shown and hidden, by mouse, keyboard and touch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

ROWS = """
() => Array.from(document.querySelectorAll(".results tbody tr"))
  .filter((row) => row.checkVisibility()).map((row) => row.dataset.c)
"""
NARROW = 390  # where rows are cards


def rows_of(report: Path) -> list[dict[str, Any]]:
    """Of tables/robustness, in its order."""
    found: list[dict[str, Any]] = pq.read_table(report.parent / "tables" / "robustness.parquet").to_pylist()
    return found


def by(rows: list[dict[str, Any]], name: str, down: bool = False) -> list[str]:
    """Ids in the order of a column, of which the page has six digits; without a value last."""
    known = [row for row in rows if row[name] is not None]
    known.sort(key=lambda row: float(f"{row[name]:.6g}"), reverse=down)
    return [row["configuration"] for row in [*known, *(row for row in rows if row[name] is None)]]


def press(page: Any, selector: str, way: str) -> None:
    """Use a control by ``way``: mouse, keyboard alone, or touch."""
    one = page.page.locator(selector)
    if way == "mouse":
        one.click()
    elif way == "touch":
        one.tap()
    else:
        reach(page, selector)
        page.page.keyboard.press("Space" if one.get_attribute("type") == "checkbox" else "Enter")


def reach(page: Any, selector: str) -> None:
    """Move the focus with the Tab key alone; AssertionError if it never gets there."""
    wanted = "(selector) => document.activeElement === document.querySelector(selector)"
    for _ in range(400):
        if page.run(wanted, selector):
            outline = page.run("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"{selector}: nothing shows that it has the focus"
            return
        page.page.keyboard.press("Tab")
    raise AssertionError(f"the Tab key does not get to {selector}")


def test_at_first_the_best_are_shown_in_their_order(opened: Any, report: Path) -> None:
    page = opened()
    assert page.run(ROWS) == [row["configuration"] for row in rows_of(report)][:25]


@pytest.mark.parametrize("way", ["mouse", "keyboard"])
def test_a_press_on_a_title_sorts_and_another_turns_the_order(way: str, opened: Any, report: Path) -> None:
    page, rows = opened(), rows_of(report)
    title = '.results thead button[title="Sort: the worst prompt"]'
    press(page, title, way)
    assert page.run(ROWS) == by(rows, "min")[:25]
    assert page.run("document.querySelector('.results [aria-sort]').textContent") == "worst"
    assert page.run("document.querySelector('.results [aria-sort]').getAttribute('aria-sort')") == "ascending"
    press(page, title, way)
    assert page.run(ROWS) == by(rows, "min", down=True)[:25]
    press(page, ".every", way)
    assert page.run(ROWS) == by(rows, "min", down=True)


@pytest.mark.parametrize("way", ["touch", "keyboard"])
def test_cards_are_sorted_by_a_list_of_the_titles(way: str, opened: Any, report: Path) -> None:
    page, rows = opened(width=NARROW, touch=True), rows_of(report)
    assert not page.page.locator(".results thead").is_visible()
    assert page.texts(".by option")[:2] == ["rank", "configuration"]
    if way == "touch":
        page.page.locator(".by").tap()
        page.page.locator(".by").select_option("worst")
    else:
        reach(page, ".by")
        while page.run("document.querySelector('.by').selectedOptions[0].textContent") != "worst":
            page.page.keyboard.press("ArrowDown")
    assert page.run(ROWS) == by(rows, "min")[:25]
    press(page, ".way", way)
    assert page.texts(".way") == ["▼ descending"]
    assert page.run(ROWS) == by(rows, "min", down=True)[:25]
    page.page.locator(".by").select_option("rank")
    press(page, ".way", way)
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
        reach(page, ".filter")
    else:
        press(page, ".filter", way)
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
    press(page, ".group[value=other]", way)
    assert cells.first.is_visible()
    press(page, ".group[value=other]", way)
    assert not cells.first.is_visible()


@pytest.mark.parametrize(("way", "width"), [("mouse", 1400), ("keyboard", 1400), ("touch", NARROW)])
def test_a_picked_configuration_is_highlighted_everywhere(way: str, width: int, opened: Any) -> None:
    page = opened(width=width, touch=way == "touch")
    second = page.run("document.querySelectorAll('.results tbody tr')[1].dataset.c")
    press(page, f'.results tr[data-c="{second}"] button.pick', way)
    assert highlighted(page) == {second}
    press(page, f'.results tr[data-c="{second}"] button.pick', way)
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
    assert found[0] == found[1] == found[2]
    assert of_charts == len(found[0])
    return set(found[0])
