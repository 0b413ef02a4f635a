"""The part of the report on asking in several wordings, made with ``tables/ensembles``."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from sweeps.display.html import render
from sweeps.report.evidence import DRAWN
from sweeps.run_folder.reading import RunFolder
from sweeps.tables import ensembles


def part_of_run(run: RunFolder) -> Markup:
    """Write ``tables/ensembles`` and return the report's part; empty where no trial has test scores yet."""
    table = ensembles.write_ensembles(run)
    if table.num_rows == 0:
        return Markup("")
    ids = list(dict.fromkeys(table["trial_id"].to_pylist()))[:DRAWN]
    head, rows = ensembles.pivot(table.filter(pc.is_in(table["trial_id"], pa.array(ids))))
    return render(
        "report/ensembles.html.j2",
        title=ensembles.TITLE,
        most=DRAWN,
        figure=Markup(ensembles.figure(table, run.study)),
        head=head,
        rows=rows,
        notes=list(ensembles.notes(table, run.study)),
    )
