"""Nothing of the report is cut: on a desktop, a tablet, a phone, and on paper."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from browser import NARROW

# What reaches out of the window, and what its own box cuts off: a column's head in the map and a text that is longer
# than its box are told by scrollWidth. Boxes that scroll (.wide, pre) hold what is wider.
CUT = """
(onPaper) => {
  const width = document.documentElement.clientWidth, found = [];
  const scrolls = (e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
  const name = (e) => `${e.tagName}.${e.getAttribute("class") || ""} ${(e.textContent || "").trim().slice(0, 40)}`;
  for (const e of document.querySelectorAll("body *")) {
    if (!e.checkVisibility({ visibilityProperty: true })) { continue; }
    const box = e.getBoundingClientRect();
    if (box.width === 0 || box.height === 0) { continue; }
    let scroller = e.parentElement;
    while (scroller && !scrolls(scroller)) { scroller = scroller.parentElement; }
    const within = scroller && !onPaper;
    if (!within && (box.right > width + 1 || box.left < -1)) { found.push("out of the window: " + name(e)); }
    if (onPaper && scrolls(e) && e.scrollWidth > e.clientWidth + 1) { found.push("in a scroll box: " + name(e)); }
    if (getComputedStyle(e).overflowX === "hidden" && e.scrollWidth > e.clientWidth + 1 && !e.closest("svg")) {
      found.push("cut by its box: " + name(e));
    }
    if (e.matches("svg.marks text")) {
      const chart = e.closest("svg").getBoundingClientRect();
      const across = box.right > chart.right + 1 || box.left < chart.left - 1;
      const along = box.bottom > chart.bottom + 1 || box.top < chart.top - 1;
      if (across || along) { found.push("cut by its chart: " + name(e)); }
    }
  }
  if (!onPaper && document.documentElement.scrollWidth > width) { found.push("the page scrolls sideways"); }
  return found;
}
"""


@pytest.mark.parametrize("width", [1400, 800, NARROW])
def test_nothing_is_cut_and_the_page_does_not_scroll_sideways(width: int, opened: Any) -> None:
    page = opened(width=width, touch=width == NARROW)
    assert page.run(CUT, False) == []
    for box in page.page.locator(".group, .every").all():
        box.check()
    page.run("document.querySelectorAll('section > details').forEach((one) => { one.open = true; })")
    page.page.locator(".heat td[data-prompt]").first.click()
    assert page.run(CUT, False) == []


def test_on_paper_nothing_is_in_a_scroll_box_and_all_columns_are_there(opened: Any, report: Path) -> None:
    """The charts are those of the screen: a page that is printed is not drawn again."""
    page = opened()
    page.page.emulate_media(media="print")
    page.run("document.documentElement.style.width = '718px'")  # of A4 with margins of a centimetre
    page.run("document.querySelectorAll('section > details').forEach((one) => { one.open = true; })")
    assert page.run(CUT.replace("document.documentElement.clientWidth", "718"), True) == []
    table = pq.read_table(report.parent / "tables" / "robustness.parquet")
    hidden = page.run(
        "Array.from(document.querySelectorAll('.results tbody tr:not([hidden]) td'))"
        ".filter((cell) => cell.textContent && !cell.checkVisibility()).length"
    )
    assert hidden == 0
    confirmed = pq.read_table(report.parent / "tables" / "confirmation.parquet")
    lines = table.num_rows + confirmed.num_rows  # of the map, which has one for the fresh seeds of each confirmed one
    assert page.texts(".left-out:visible") == [
        f"Here are 25 of {lines}. To print more, select “Show {lines - 25} more” first.",
        f"Here are 25 of {table.num_rows}. All are in tables/robustness.csv in the run folder. To print them, tick "
        f"“All {table.num_rows}” first.",
    ]


@pytest.mark.parametrize("every", [False, True])
def test_the_pdf_holds_the_rows_that_are_asked_for_and_says_how_many_it_leaves_out(
    every: bool, opened: Any, report: Path, tmp_path: Path
) -> None:
    page = opened()
    if every:
        page.page.locator(".every").check()
        page.page.locator(".more").click()
    page.page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
    said = text_of(tmp_path / "report.pdf")
    ids = [row["configuration"] for row in pq.read_table(report.parent / "tables" / "robustness.parquet").to_pylist()]
    assert [name in said for name in ids] == [True] * (len(ids) if every else 25) + [False] * (0 if every else 5)
    assert ("Here are 25 of 30" in said) is not every
    assert "balanced_accuracy" in said, "a group of columns that the screen hides at first"


def text_of(pdf: Path) -> str:
    """The text of a PDF, by poppler's reader; skips where that is not installed."""
    try:
        run = subprocess.run(["pdftotext", str(pdf), "-"], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("pdftotext is not installed: `apt-get install poppler-utils` brings it")
    return re.sub(r"\s+", " ", run.stdout)
