"""The report's map of configurations and prompts: sorted both ways, and its cells, by mouse, keyboard and touch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import NARROW

TIMES = " \u00d7 "
WAYS = [("mouse", 1400), ("keyboard", 1400), ("touch", NARROW)]
LINES = """Array.from(document.querySelectorAll(".heat tbody tr")).map((row) => row.dataset.c)"""
CHOSEN = """
() => Array.from(document.querySelectorAll(".chosen tbody tr"))
  .map((row) => Array.from(row.cells).map((cell) => cell.textContent))
"""
COLUMNS = """Array.from(document.querySelectorAll(".heat thead th span")).map((one) => one.textContent)"""


def data_of(report: Path) -> dict[str, Any]:
    text = re.search(r'id="map-data">(.*?)</script>', report.read_text(encoding="utf-8"), re.DOTALL)
    assert text is not None
    found: dict[str, Any] = json.loads(text[1])
    return found


def choose(page: Any, selector: str, text: str, way: str) -> None:
    """Choose from a list."""
    if way == "keyboard":
        page.reach(selector)
        for _ in range(6):
            if page.run("(s) => document.querySelector(s).selectedOptions[0].textContent", selector) == text:
                return
            page.page.keyboard.press("ArrowDown")
        raise AssertionError(f"{selector} has no {text}")
    page.page.locator(selector).select_option(text)


def cell(page: Any, line: int, column: int, way: str) -> None:
    """Select a cell of the table as it is shown; 0 is a head."""
    if way == "keyboard":
        page.reach(".heat [tabindex='0']")
        at = page.run("[document.activeElement.parentNode.rowIndex, document.activeElement.cellIndex]")
        for name, steps in (("ArrowRight", column - at[1]), ("ArrowDown", line - at[0])):
            for _ in range(abs(steps)):
                back = {"ArrowRight": "ArrowLeft", "ArrowDown": "ArrowUp"}[name]
                page.page.keyboard.press(name if steps > 0 else back)
        page.page.keyboard.press("Enter")
        return
    one = page.page.locator(f".heat tr:nth-child({max(line, 1)}) > :nth-child({column + 1})")
    one = one.locator("visible=true").nth(0 if line == 0 else -1)
    (one.tap if way == "touch" else one.click)()


@pytest.mark.parametrize(("way", "width"), WAYS)
def test_lines_and_columns_are_sorted(way: str, width: int, opened: Any, report: Path) -> None:
    page, data = opened(width=width, touch=way == "touch"), data_of(report)
    values = np.array([one["values"] for one in data["configurations"]], float)
    ids, prompts = [one["id"] for one in data["configurations"]], [one["id"] for one in data["prompts"]]
    assert page.run(LINES) == ids[:25]
    assert page.run(COLUMNS) == prompts
    choose(page, ".lines", "by mean", way)
    assert page.run(LINES) == [ids[i] for i in np.argsort(-values.mean(axis=1), kind="stable")][:25]
    choose(page, ".lines", "by worst prompt", way)
    assert page.run(LINES) == [ids[i] for i in np.argsort(-values.min(axis=1), kind="stable")][:25]
    choose(page, ".columns", "hardest first", way)
    assert page.run(COLUMNS) == [prompts[i] for i in np.argsort(values.mean(axis=0), kind="stable")]
    choose(page, ".columns", "by id", "mouse")
    choose(page, ".lines", "in the table's order", "mouse")
    cell(page, 3, 5, way)
    choose(page, ".lines", "by the selected prompt", way)
    assert page.run(LINES) == [ids[i] for i in np.argsort(-values[:, 4], kind="stable")][:25]
    choose(page, ".columns", "by the selected configuration, worst first", way)
    assert page.run(COLUMNS) == [prompts[i] for i in np.argsort(values[2], kind="stable")]


@pytest.mark.parametrize(("way", "width"), WAYS)
def test_a_cell_tells_the_wording_in_full_and_the_answers_that_flip(
    way: str, width: int, opened: Any, report: Path
) -> None:
    page, data = opened(width=width, touch=way == "touch"), data_of(report)
    cell(page, 2, 3, way)
    one, asked = data["configurations"][1], data["prompts"][2]
    assert page.texts(".chosen h3") == [
        f"Prompt {asked['id']}",
        f"{one['label']}: {one['values'][2] / 10:.1f} under this prompt",
    ]
    assert page.run("document.querySelector('.chosen blockquote').textContent") == asked["text"]
    assert "\n" in asked["text"]
    rows = page.run(CHOSEN)
    assert len(rows) == len(one["flips"]) > 5
    for row, flip in zip(rows, one["flips"], strict=True):
        given = flip["given"][2]
        wrong = "" if given == flip["right"] else " (wrong)"
        assert row[:3] == [flip["row"], data["answers"][flip["right"]], data["answers"][given] + wrong]
        counts = {data["answers"][g]: flip["given"].count(g) for g in set(flip["given"])}
        assert dict(part.split(TIMES) for part in row[3].split(", ")) == {k: str(n) for k, n in counts.items()}
    assert page.run("document.querySelector('.results .picked').dataset.c") == one["id"]
    assert page.run("document.querySelectorAll('.heat td.here').length") == 1
    cell(page, 0, 4, way)
    assert page.texts(".chosen h3") == [f"Prompt {data['prompts'][3]['id']}"]
    assert not page.page.locator(".chosen table").count()


@pytest.mark.parametrize(("way", "width"), WAYS)
def test_more_lines_are_asked_for(way: str, width: int, opened: Any, report: Path) -> None:
    page, data = opened(width=width, touch=way == "touch"), data_of(report)
    n = len(data["configurations"])
    assert page.texts("button.more") == [f"Show {n - 25} more"]
    page.press("button.more", way)
    assert page.run(LINES) == [one["id"] for one in data["configurations"]]
    assert not page.page.locator("button.more").is_visible()
