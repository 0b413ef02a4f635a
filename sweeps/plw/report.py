"""The report on the prompt loss weight: tables, figures and sentences, made from run folders.

``steadytune report`` adds this part to the report of a run whose grid has three or more weights; ``steadytune plw
RUN…`` makes it for several run folders (data sets, models, seeds) together. Only stored files are read.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.plw import sentences, tables
from sweeps.plw.analysis import FEWEST, PlwAnalysis, analyse_plw
from sweeps.plw.scores import scores_of, weights_of
from sweeps.study.schema import Study
from trainer.errors import UserError
from trainer.store import Store, StoreError


@dataclass(frozen=True)
class Part:
    """The report's part: safe markup."""

    html: str


def part_of_run(store: Store, study: Study) -> Part | None:
    """Write the tables of one run and make the part of its report; None where the run has too few weights, or too few
    that are finished."""
    if study.search.method != "grid" or len(weights_of(store)) < FEWEST:
        return None
    try:
        found = analyse_plw(scores_of([(store, study)]))
    except StoreError:
        raise
    except UserError:  # an unfinished run: too few weights have finished trials
        return None
    tables.write(store, found)
    return Part(fragment(found))


def write_study(runs: Sequence[str], out: str | None = None) -> list[str]:
    """Analyse ``runs`` together and write ``tables/plw_*`` and ``plw.html`` into ``out`` (default: the first run
    folder). Returns what to print: a sentence for each data set, notes, and where the files are. UserError where the
    runs allow no analysis."""
    from sweeps.run_folder.reading import read_study

    stores = [Store.open(run) for run in runs]
    found = analyse_plw(scores_of([(store, read_study(store)[0]) for store in stores]))
    target = Store.open(out) if out else stores[0]
    tables.write(target, found)
    target.write("plw.html", _page(found).encode())
    said = [sentences.sentence(found, data) for data in found.data_sets]
    return [
        *said,
        *sentences.reader_notes(found),
        f"{target.address('tables/plw_tests.md')}",
        target.address("plw.html"),
    ]


def fragment(found: PlwAnalysis) -> str:
    """The part as HTML. Texts are escaped by Jinja2, figures by ``sweeps.display.figures``."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = importlib.resources.files("sweeps.plw").joinpath("plw.html.j2").read_text(encoding="utf-8")
    shown = [
        {"title": tables.TITLES[name], "head": table.column_names,
         "rows": [[tables.cell(n, v) for n, v in row.items()] for row in table.to_pylist()]}
        for name, table in (("plw_tests", tables.tests(found)), ("plw_turning", tables.turning(found)))
    ]  # fmt: skip
    return (
        Environment(autoescape=True, undefined=StrictUndefined)
        .from_string(source)
        .render(
            sentences=[sentences.sentence(found, data) for data in found.data_sets],
            notes=tables.page_notes(found)[len(found.data_sets) :],
            tables=shown,
            benchmarks=[(name, Markup(figure)) for name, figure in tables.benchmark_figures(found)],
            aggregate=Markup(tables.aggregate_figure(found)),
        )
    )


def _page(found: PlwAnalysis) -> str:
    """The part as a page of its own, in the report's style."""
    source = importlib.resources.files("sweeps.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    style = re.search(r"<style>(.*?)</style>", source, re.DOTALL)
    css = re.sub(r"\{% for i in range\(6\) %\}.*?\{% endfor %\}", _colours(), style[1] if style else "")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Prompt loss weight: Steadytune report</title>\n<style>{css}</style>\n</head>\n<body>\n"
        f"<h1>Prompt loss weight</h1>\n{fragment(found)}\n</body>\n</html>\n"
    )


def _colours() -> str:
    return " ".join(f".c{i} {{ color: var(--c{i}); }}" for i in range(6))
