"""``report.html`` of a run folder: one file without external parts, which can be made again at any time.

The page says in plain words which configuration is best over unseen prompts and how sure that is. Then follow the map
of configurations and prompts, which axis mattered, the table, the distributions, wins and answers, the curves, what was
cut with the reasons, what the stages took, and how everything was measured. Text from data, prompts and the study is
escaped by Jinja2 and by ``sweeps.display.html``. Neither torch nor ray nor transformers is imported.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from sweeps.display.colours import DARK, LIGHT
from sweeps.display.html import json_data, render
from sweeps.display.vega import library, theme
from sweeps.paft import report as paft_report
from sweeps.plw import report as plw_report
from sweeps.report import method, table_parts, verdict
from sweeps.report.evidence import Evidence, gather
from sweeps.report.figures import Figure, figures
from sweeps.report.heat_map import heat_map
from sweeps.report.results_table import results_table
from sweeps.run_folder.reading import RunFolder
from sweeps.staged import report as staged_report
from sweeps.tables import robustness as tables
from sweeps.tables.columns import Settings
from trainer.store import Store

NO_PARTS = Markup("")


def write_report(run_uri: str) -> str:
    """Write the tables and ``report.html`` of the run folder and return the page's address. Raises UserError if
    ``run_uri`` is no run folder."""
    return report_on(RunFolder(Store.open(run_uri)))


def report_on(run: RunFolder) -> str:
    """Write the tables and ``report.html`` and return the page's address. ``run`` then knows which of its files are
    missing or damaged."""
    mattered, parts, study = NO_PARTS, NO_PARTS, run.study
    if run.has_trials:  # not yet at the start of a run
        run.note_missing_rungs()
        tables.write_tables(run, Settings.of(study))
        mattered = table_parts.mattered_part(run)
        parts += table_parts.binary_part(run)
        parts += table_parts.ensembles_part(run)
        parts += staged_report.part_of_run(run)
        if study.stages is None:  # stages have no grid over the weights
            parts += plw_report.part_of_run(run)
        parts += paft_report.part_of_run(run)
    evidence = gather(run)
    _ = evidence.rungs  # read before the page says which files are damaged
    run.store.write("report.html", page(evidence, mattered, parts).encode())
    return run.store.address("report.html")


def page(evidence: Evidence, mattered: Markup = NO_PARTS, parts: Markup = NO_PARTS) -> str:
    """The HTML of the page. ``mattered``: its part on which axis mattered; ``parts``: those on two labels, asking in
    several wordings, stages, weights and training arms."""
    study = evidence.study
    prompts = {e.id: evidence.prompts(e) for e in evidence.entries}
    mapped, drawn = heat_map(evidence, prompts), figures(evidence, prompts)
    content = {
        "name": study.name,
        "question": verdict.question(evidence),
        "notices": verdict.notices(evidence),
        "verdict": verdict.verdict(evidence, prompts),
        "pool": evidence.pool,
        "unit": evidence.unit,
        "metric": study.task.metric,
        "map": mapped,
        "map_data": json_data("map-data", mapped) if mapped else NO_PARTS,
        "table": results_table(evidence),
        "level": method.level() if evidence.pool == "test" else "",
        "figures": drawn,
        "charts": charts(drawn),
        "cuts": [e for e in evidence.entries if e.status in ("stopped", "failed")],
        "mattered": mattered,
        "parts": parts,
        "facts": method.facts(evidence),
        "study": evidence.run.study_text,
    }
    return render("report/report.html.j2", r=content)


def charts(drawn: Sequence[Figure]) -> Markup:
    """What the page needs once to draw its figures: the charts, the colours of both papers, and the library."""
    if not drawn:
        return NO_PARTS
    themes = {"light": theme(LIGHT), "dark": theme(DARK)}
    return json_data("charts", {f.name: f.spec for f in drawn}) + json_data("themes", themes) + library()
