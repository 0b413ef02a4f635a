"""The report on the prompt loss weight: tables, figures and sentences, made from run folders.

``steadytune report`` adds this part to the report of a run whose grid has three or more weights; ``steadytune plw
RUN…`` makes it for several run folders (data sets, models, seeds) together. Only stored files are read.
"""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.display.html import render
from sweeps.display.parts import ReportPart, ShownTable, page_charts, render_part
from sweeps.plw import sentences, tables
from sweeps.plw.analysis import FEWEST, PlwAnalysis, analyse_plw
from sweeps.plw.figures import figures
from sweeps.plw.models import LINEAR, SQUARE
from sweeps.plw.scores import scores_of, weights_of
from sweeps.run_folder.reading import RunFolder
from sweeps.tables.words import in_words
from trainer.errors import UserError
from trainer.store import Store, StoreError

TITLE = "What the prompt loss weight does"
_ANALYSES = {"ols": "least squares", "beta": "beta regression", "mixed": "mixed model"}
_TERMS = {LINEAR: "weight", SQUARE: "weight²"}
_TURNING = (  # the delta method's interval is in the file alone: Fieller's is the one to read
    "data_set", "analysis", "kind", "p_joint", "p_joint_holm", "weight", "fieller_low", "fieller_high",
    "std_model", "std_setting", "std_seed", "std_finetune", "std_residual", "note",
)  # fmt: skip


def part_of_run(run: RunFolder) -> ReportPart | None:
    """Write the tables of one run and make its report's part; None where the run is no study of weights (yet)."""
    if run.study.search.method != "grid" or len(weights_of(run)) < FEWEST:
        return None
    try:
        found = analyse_plw(scores_of([run]))
    except StoreError:
        raise
    except UserError:  # an unfinished run: too few weights have come to their end
        return None
    tables.write(run.store, found)
    return part(found)


def write_study(runs: Sequence[str], out: str | None = None) -> list[str]:
    """Analyse ``runs`` together, write ``tables/plw_*`` and ``plw.html`` into ``out`` (default: the first run folder)
    and return what to say: a sentence for each data set, notices, and where it was written. UserError where the runs
    allow no analysis."""
    folders = [RunFolder(Store.open(run)) for run in runs]
    found = analyse_plw(scores_of(folders))
    target = Store.open(out) if out else folders[0].store
    tables.write(target, found)
    made = part(found)
    page = render("plw/plw.html.j2", part=render_part(made), charts=page_charts(made.drawn))
    target.write("plw.html", page.encode())
    said = [sentences.sentence(found, data) for data in found.data_sets]
    return [
        *said,
        *sentences.reader_notes(found),
        f"{target.address('tables/plw_tests.md')}",
        target.address("plw.html"),
    ]


def part(found: PlwAnalysis) -> ReportPart:
    """The part of a page: a sentence for each data set, the figures, and the tables of tests and turning points."""
    return ReportPart(
        TITLE,
        answer=tuple(sentences.sentence(found, data) for data in found.data_sets),
        figures=tuple(figures(found)),
        tables=tuple(_shown(found)),
        notes=tuple(tables.page_notes(found)[len(found.data_sets) :]),
    )


def _shown(found: PlwAnalysis) -> list[ShownTable]:
    values = {"analysis": _ANALYSES, "term": _TERMS}
    shown = (("plw_turning", tables.turning(found), _TURNING), ("plw_tests", tables.tests(found), ()))
    return [
        in_words(tables.TITLES[name], table.to_pylist(), "accuracy", columns, values=values)
        for name, table, columns in shown
    ]
