"""The part of the report on a staged study: each stage's choice and reason, the shares of variance, and the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from sweeps.display.html import render
from sweeps.run_folder import stages as record
from sweeps.run_folder.reading import RunFolder
from sweeps.staged import tables


def part_of_run(run: RunFolder) -> Markup:
    """Write the tables of a staged run and return its part of the report; empty where it has no stages."""
    found = record.read(run.store)
    if found is None or not found["stages"]:
        return Markup("")
    made = tables.tables(found)
    answer = found.get("answer")
    tables.write(run.store, made, [*([answer["sentence"]] if answer else []), *run.notes])
    return fragment(found, made)


def fragment(found: Mapping[str, Any], made: Mapping[str, pa.Table]) -> Markup:
    """The part of the page."""
    shown = [
        {
            "title": tables.TITLES[name],
            "head": table.column_names,
            "rows": tables.body(table),
            "notes": tables.explained(name),
            "text": [n in ("reason", "setting") for n in table.column_names],
            "long": name == "staged_candidates",
        }
        for name, table in made.items()
    ]
    crossed: Mapping[str, Any] = next((s for s in found["stages"] if s["name"] == "interaction"), {})
    return render(
        "staged/staged.html.j2",
        answer=found.get("answer"),
        tables=shown,
        settings=crossed.get("settings", {}),
        warnings=_warnings(found),
    )


def _warnings(found: Mapping[str, Any]) -> list[str]:
    return [w for stage in found["stages"] for w in stage.get("warnings", ())]
