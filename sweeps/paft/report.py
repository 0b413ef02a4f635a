"""The part of a report about training arms: the PAFT paper's tables and figures, made from a run folder.

``steadytune report`` writes it at any time for every study that sweeps arms. It needs no GPU, torch or ray.
"""

from __future__ import annotations

from markupsafe import Markup

from sweeps.display.html import render
from sweeps.paft import tables
from sweeps.paft.arm_results import results
from sweeps.run_folder.reading import RunFolder
from sweeps.run_folder.timing import read_timing


def part_of_run(run: RunFolder) -> Markup:
    """Write ``tables/paft_*`` and return the report's part; empty where no arm has been scored on the test pool, or the
    study has none. ``tables/robustness`` must be there."""
    found = results(run) if run.study.axes.arm else []
    if not found:
        return Markup("")
    timing = read_timing(run.store)
    made = tables.tables(found, run.study, run.store, timing)
    said = [*run.notes, *tables.notes(found, run.study, timing)]
    tables.write(run.store, made, said)
    shown = [
        {
            "title": tables.TITLES[name],
            "head": list(rows[0]),
            "rows": [[tables.cell(n, v) for n, v in row.items()] for row in rows],
        }
        for name, rows in made.items()
    ]
    return render(
        "paft/paft.html.j2",
        tables=shown,
        notes=said,
        distribution=Markup(tables.distribution(found, run.study)),
        densities=[(title, Markup(figure)) for title, figure in tables.densities(found, run.study)],
        scaling=Markup(tables.scaling(made.get("paft_prompts", []))),
    )
