"""``report.html`` of a run folder: one file without external parts, which can be made again at any time.

The page says in plain words which configuration is best over unseen prompts and how sure that is. Then follow the map
of configurations and prompts, which axis mattered, the table, the distributions, wins and answers, the curves, what was
cut with the reasons, what the stages took, and how everything was measured. Text from data, prompts and the study is
escaped by Jinja2 and by ``sweeps.display.html``. Neither torch nor ray nor transformers is imported.
"""

from __future__ import annotations

from markupsafe import Markup
from threadpoolctl import threadpool_limits

from sweeps.display.html import json_data, render
from sweeps.display.parts import page_charts, render_part
from sweeps.report import against, method, verdict
from sweeps.report.evidence import Evidence, gather
from sweeps.report.figures import figures
from sweeps.report.heat_map import heat_map
from sweeps.report.memory import freed_memory_kept
from sweeps.report.next_step import to_be_surer
from sweeps.report.results_table import results_table
from sweeps.report.table_parts import RunParts, parts_of_run
from sweeps.run_folder.reading import RunFolder
from sweeps.tables import robustness as tables
from sweeps.tables.against import Comparison
from sweeps.tables.columns import Settings
from trainer.store import Store

NOTHING = Markup("")


def write_report(run_uri: str) -> str:
    """Write the tables and ``report.html`` of the run folder and return the page's address. Raises UserError if
    ``run_uri`` is no run folder."""
    return report_on(RunFolder(Store.open(run_uri)))


def report_on(run: RunFolder, compared: Comparison | None = None) -> str:
    """Write the tables and ``report.html``, with a part on the other run with which it was ``compared``, and return the
    page's address. ``run`` then knows which of its files are missing or damaged."""
    # one thread for each matrix product: they are so small that sharing one costs more than it saves
    with threadpool_limits(1, "blas"), freed_memory_kept():
        if run.has_trials:  # not yet at the start of a run
            run.note_missing_rungs()
            tables.write_tables(run, Settings.of(run.study))
        parts = parts_of_run(run)
        evidence = gather(run)
        _ = evidence.rungs  # read before the page says which files are damaged
        run.store.write("report.html", page(evidence, parts, compared).encode())
    return run.store.address("report.html")


def page(evidence: Evidence, parts: RunParts, compared: Comparison | None = None) -> str:
    """The HTML of the page. ``compared``: with another run."""
    study = evidence.study
    prompts = {e.id: evidence.prompts(e) for e in evidence.entries}
    mapped, drawn = heat_map(evidence, prompts), figures(evidence, prompts)
    content = {
        "name": study.name,
        "question": verdict.question(evidence),
        "notices": verdict.notices(evidence),
        "verdict": verdict.verdict(evidence, prompts),
        "against": against.part(compared) if compared else NOTHING,
        "next": to_be_surer(evidence),
        "pool": evidence.pool,
        "unit": evidence.unit,
        "metric": study.task.metric,
        "map": mapped,
        "map_data": json_data("map-data", mapped) if mapped else NOTHING,
        "table": results_table(evidence),
        "level": method.level() if evidence.pool == "test" else "",
        "figures": drawn,
        "charts": page_charts([*drawn, *parts.figures]),
        "cuts": [e for e in evidence.entries if e.status in ("stopped", "failed")],
        "mattered": render_part(parts.mattered) if parts.mattered else NOTHING,
        "parts": NOTHING.join(map(render_part, parts.others)),
        "facts": method.facts(evidence),
        "study": evidence.run.study_text,
    }
    return render("report/report.html.j2", r=content)
