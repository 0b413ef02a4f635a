"""The part of a report about training arms: the PAFT paper's tables and figures, made from a run folder.

``steadytune report`` writes it at any time for every study that sweeps arms. It needs no GPU, torch or ray.
"""

from __future__ import annotations

import importlib.resources

from sweeps.paft import tables
from sweeps.paft.arm_results import results
from sweeps.study.schema import Study
from trainer.store import Store


def part_of_run(store: Store, study: Study) -> str:
    """Write ``tables/paft_*`` and return the report's part as safe markup; "" where no arm has been scored on the test
    pool, or the study has none. ``tables/robustness`` must be there."""
    if not study.axes.arm:
        return ""
    found = results(store, study)
    if not found:
        return ""
    made, said = tables.tables(found, study, store), tables.notes(found, study)
    tables.write(store, made, said)
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = importlib.resources.files("sweeps.paft").joinpath("paft.html.j2").read_text(encoding="utf-8")
    shown = [
        {
            "title": tables.TITLES[name],
            "head": list(rows[0]),
            "rows": [[tables.cell(n, v) for n, v in row.items()] for row in rows],
        }
        for name, rows in made.items()
    ]
    return (
        Environment(autoescape=True, undefined=StrictUndefined)
        .from_string(source)
        .render(
            tables=shown,
            notes=said,
            distribution=Markup(tables.distribution(found, study)),
            scaling=Markup(tables.scaling(made.get("paft_prompts", []))),
        )
    )
