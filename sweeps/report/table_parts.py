"""The report's parts on which axis mattered, on two labels and on asking in several wordings, made with the tables of
these names."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from sweeps.display.html import render
from sweeps.report.evidence import DRAWN
from sweeps.run_folder.reading import RunFolder
from sweeps.tables import binary, effects, ensembles

NOTHING = Markup("")


def mattered_part(run: RunFolder) -> Markup:
    """Write ``tables/effects`` and ``tables/variance`` and return the report's part; empty where no two configurations
    can be compared."""
    found = effects.write_effects(run)
    if not found.variance.num_rows:
        return NOTHING
    return render(
        "report/mattered.html.j2",
        title=effects.TITLE,
        sentence=effects.sentence(found, run.study.task.metric),
        tables=[effects.effect_rows(found.effects), effects.variance_rows(found.variance)],
        notes=list(effects.notes(found, run.study.task.metric)),
    )


def binary_part(run: RunFolder) -> Markup:
    """Write ``tables/binary`` and return the report's part; empty where the task has not two labels."""
    table = binary.write_binary(run)
    if table.num_rows == 0:
        return NOTHING
    head, rows = binary.cells(_first(table))
    return render(
        "report/table_part.html.j2",
        title=binary.TITLE,
        figure=NOTHING,
        summary=_summary("The figures", "binary"),
        head=head,
        rows=rows,
        notes=list(binary.notes(table, run.study)),
    )


def ensembles_part(run: RunFolder) -> Markup:
    """Write ``tables/ensembles`` and return the report's part; empty where no trial has test scores yet."""
    table = ensembles.write_ensembles(run)
    if table.num_rows == 0:
        return NOTHING
    head, rows = ensembles.pivot(_first(table))
    return render(
        "report/table_part.html.j2",
        title=ensembles.TITLE,
        figure=Markup(ensembles.figure(table, run.study)),
        caption="The metric over the number of wordings in which a row is asked; bars: half of the 95 % interval. "
        "Training for robustness and asking several times are rivals.",
        summary=_summary("By method", "ensembles"),
        head=head,
        rows=rows,
        notes=list(ensembles.notes(table, run.study)),
    )


def _first(table: pa.Table) -> pa.Table:
    """The rows of the best trials, as many as the report draws."""
    ids = list(dict.fromkeys(table["trial_id"].to_pylist()))[:DRAWN]
    return table.filter(pc.is_in(table["trial_id"], pa.array(ids)))


def _summary(what: str, name: str) -> str:
    return f"{what}, for the best {DRAWN} trials at most; all are in tables/{name}"
