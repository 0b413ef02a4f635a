"""The part of the report on a staged study: each stage's choice and reason, the shares of variance, and the answer."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from sweeps.run_folder import stages as record
from sweeps.staged import tables
from sweeps.study.schema import Study
from trainer.store import Store


def part_of_run(store: Store, study: Study) -> str:
    """Write the tables of a staged run and return its part of the report, as safe markup; "" where it has no stages."""
    found = record.read(store)
    if found is None or not found["stages"]:
        return ""
    made = tables.tables(store, study, found)
    answer = found.get("answer")
    tables.write(store, made, [answer["sentence"]] if answer else [])
    return fragment(found, made)


def fragment(found: Mapping[str, Any], made: Mapping[str, pa.Table]) -> str:
    """The part as HTML. Texts are escaped by Jinja2."""
    from jinja2 import Environment, StrictUndefined

    source = importlib.resources.files("sweeps.staged").joinpath("staged.html.j2").read_text(encoding="utf-8")
    shown = [
        {
            "title": tables.TITLES[name],
            "head": table.column_names,
            "rows": tables.body(table),
            "notes": tables.explained(name),
            "text": [n in ("reason", "setting") for n in table.column_names],
            "long": name in ("staged_candidates", "staged_binary"),
        }
        for name, table in made.items()
    ]
    crossed: Mapping[str, Any] = next((s for s in found["stages"] if s["name"] == "interaction"), {})
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(source)
    return page.render(
        answer=found.get("answer"), tables=shown, settings=crossed.get("settings", {}), warnings=_warnings(found)
    )


def _warnings(found: Mapping[str, Any]) -> list[str]:
    return [w for stage in found["stages"] for w in stage.get("warnings", ())]
