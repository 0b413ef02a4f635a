"""The pictures of the report's sections under docs/images show the report as it is, by what the sections hold: another
machine's fonts paint other pixels."""

from __future__ import annotations

import json
from typing import Any

from sections import HEIGHT, IMAGES, LISTED, WIDTH, sections_of

MOST = 1_000_000  # bytes of all pictures


def test_the_pictures_are_of_the_sections_that_the_report_has(opened: Any) -> None:
    page = opened(width=WIDTH)
    assert [holds for _, holds in sections_of(page)] == json.loads(LISTED.read_text(encoding="utf-8")), (
        "the report has changed: `make pictures` takes its pictures again"
    )


def test_every_listed_picture_is_there_and_no_other() -> None:
    from PIL import Image

    listed = {holds["picture"] for holds in json.loads(LISTED.read_text(encoding="utf-8"))}
    there = {path.name: path for path in IMAGES.glob("report-*.png")}
    assert there.keys() == listed
    for path in there.values():
        width, height = Image.open(path).size
        assert width <= WIDTH
        assert 100 <= height <= HEIGHT
    assert sum(path.stat().st_size for path in there.values()) < MOST
