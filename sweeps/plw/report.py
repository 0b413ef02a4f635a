"""The report on the prompt loss weight: tables, figures and sentences, made from run folders.

``steadytune report`` adds this part to the report of a run whose grid has three or more weights; ``steadytune plw
RUN…`` makes it for several run folders (data sets, models, seeds) together. Only stored files are read.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from sweeps.display.html import render
from sweeps.plw import sentences, tables
from sweeps.plw.analysis import FEWEST, PlwAnalysis, analyse_plw
from sweeps.plw.scores import scores_of, weights_of
from sweeps.run_folder.reading import RunFolder
from trainer.errors import UserError
from trainer.store import Store, StoreError


def part_of_run(run: RunFolder) -> Markup:
    """Write the tables of one run and make its report's part; empty where the run is no study of weights (yet)."""
    if run.study.search.method != "grid" or len(weights_of(run)) < FEWEST:
        return Markup("")
    try:
        found = analyse_plw(scores_of([run]))
    except StoreError:
        raise
    except UserError:  # an unfinished run: too few weights have come to their end
        return Markup("")
    tables.write(run.store, found)
    return fragment(found)


def write_study(runs: Sequence[str], out: str | None = None) -> list[str]:
    """Analyse ``runs`` together, write ``tables/plw_*`` and ``plw.html`` into ``out`` (default: the first run folder)
    and return what to say: a sentence for each data set, notices, and where it was written. UserError where the runs
    allow no analysis."""
    folders = [RunFolder(Store.open(run)) for run in runs]
    found = analyse_plw(scores_of(folders))
    target = Store.open(out) if out else folders[0].store
    tables.write(target, found)
    content = Markup("<header><h1>Prompt loss weight</h1></header>\n") + fragment(found)
    page = render("display/page.html.j2", title="Prompt loss weight: Steadytune report", content=content)
    target.write("plw.html", page.encode())
    said = [sentences.sentence(found, data) for data in found.data_sets]
    return [
        *said,
        *sentences.reader_notes(found),
        f"{target.address('tables/plw_tests.md')}",
        target.address("plw.html"),
    ]


def fragment(found: PlwAnalysis) -> Markup:
    """The part of a page."""
    shown = [
        {"title": tables.TITLES[name], "head": table.column_names,
         "rows": [[tables.cell(n, v) for n, v in row.items()] for row in table.to_pylist()]}
        for name, table in (("plw_tests", tables.tests(found)), ("plw_turning", tables.turning(found)))
    ]  # fmt: skip
    return render(
        "plw/plw.html.j2",
        sentences=[sentences.sentence(found, data) for data in found.data_sets],
        notes=tables.page_notes(found)[len(found.data_sets) :],
        tables=shown,
        benchmarks=[(name, Markup(figure)) for name, figure in tables.benchmark_figures(found)],
        aggregate=Markup(tables.aggregate_figure(found)),
    )
