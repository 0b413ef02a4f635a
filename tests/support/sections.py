"""What each section of the report holds, and the name of its picture under ``docs/images``.

python tests/support/sections.py    # takes the pictures again, and the list of what is in them (`make pictures`)
"""

from __future__ import annotations

import io
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
LISTED = IMAGES / "report.json"
WIDTH, HEIGHT = 1000, 1000  # pixels of a picture; a longer section is cut below
EDGE = 8  # pixels of paper above and below
COLOURS = 64  # of a picture: text on paper and the colours of the charts
NAMES = {  # of the sections whose headings depend on the study
    "Each .* under each .* prompt": "map",
    "All .* over .* prompts": "table",
    "The .* under each prompt": "distribution",
}
HOLDS = """
(section) => {
  const texts = (selector) => Array.from(section.querySelectorAll(selector)).map((one) => one.textContent.trim());
  return {
    heading: texts("h2")[0],
    parts: texts("h3"),
    charts: Array.from(section.querySelectorAll("[data-chart]")).map((one) => one.dataset.chart),
    drawings: section.querySelectorAll("figure > svg").length,
    tables: Array.from(section.querySelectorAll("table:not(.heat)")).map(
      (table) => Array.from(table.tHead.rows).at(-1).innerText.trim().split(/\\s*\\t\\s*/)),
    controls: texts("label").map((label) => label.replace(/\\s+/g, " ")).concat(texts("button:not(table button)")),
    notes: section.querySelectorAll("li, dt, .notice, .summary").length,
  };
}
"""


def sections_of(page: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Each section of an opened report (its locator), and what it holds, with the name of its picture."""
    found = []
    for section in page.page.locator("body > section").all():
        holds = section.evaluate(HOLDS)
        name = "verdict" if section.evaluate("(one) => one.matches('.verdict')") else name_of(holds["heading"])
        found.append((section, {"picture": f"report-{name}.png", **holds}))
    return found


def name_of(heading: str) -> str:
    known = next((name for pattern, name in NAMES.items() if re.fullmatch(pattern, heading)), heading)
    return re.sub(r"[^a-z0-9]+", "-", known.partition(":")[0].lower()).strip("-")


def take(folder: Path) -> None:
    """Write a picture of each section, and the list of what is in them, into ``folder``."""
    from browser import chromium, open_page
    from confirmed_run import confirmed_run
    from PIL import Image

    from sweeps.report.write import write_report

    with tempfile.TemporaryDirectory() as made, chromium() as browser:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("report-*.png"):
            old.unlink()
        confirmed_run(Path(made, "complaints"))
        page = open_page(browser, Path(write_report(f"{made}/complaints")), width=WIDTH)
        page.run(
            "document.querySelectorAll('button.copy').forEach((one) => { one.previousElementSibling.textContent = "
            "'steadytune export runs/complaints --to adapter'; })"
        )  # the folder is another one every time
        listed = []
        for section, holds in sections_of(page):
            box = section.bounding_box()
            clip = {"x": 0, "y": box["y"] - EDGE, "width": WIDTH, "height": min(box["height"] + 2 * EDGE, HEIGHT)}
            shot = Image.open(io.BytesIO(page.page.screenshot(full_page=True, clip=clip)))
            shot.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
                folder / holds["picture"], optimize=True
            )
            listed.append(holds)
        page.close()
    (folder / LISTED.name).write_text(json.dumps(listed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    take(IMAGES)
