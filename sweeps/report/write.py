"""``report.html`` of a run folder: one file without external parts, which can be made again at any time.

The page says in plain words which configuration is best over unseen prompts and how sure that is. Then follow the map
of configurations and prompts, which axis mattered, the table, the distributions, the curves, what was cut with the
reasons, and how everything was measured. Text from data, prompts and the study is escaped by Jinja2 and by
``sweeps.display.charts``. Neither torch nor ray nor transformers is imported.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from markupsafe import Markup

from sweeps.display.charts import COLOURS, Curve, Strip, curves, strips
from sweeps.display.html import json_data, render
from sweeps.display.text import column_with_interval, counted, metric_unit
from sweeps.paft import report as paft_report
from sweeps.plw import report as plw_report
from sweeps.report import method, table_parts, verdict
from sweeps.report.evidence import Entry, Evidence, gather
from sweeps.report.heat_map import Prompts, heat_map
from sweeps.report.results_table import results_table
from sweeps.run_folder.reading import RunFolder
from sweeps.staged import report as staged_report
from sweeps.tables import robustness as tables
from sweeps.tables.columns import Settings
from trainer.measure.registry import kind_of
from trainer.store import Store

NO_PARTS = Markup("")
_MOST_GROUPS = 8  # an axis of numbers with more values is shown in three parts of equal count


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
    mapped = heat_map(evidence, prompts)
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
        "std_weight": f"{study.objective.std_weight:g}",
        "thresholds": " and ".join(f"{100 * t:g} %" for t in study.tables.thresholds),
        "drawn": method.drawn(evidence),
        "strips": Markup(_strips(evidence, prompts)),
        "losses": Markup(_losses(evidence)),
        "objectives": Markup(_objectives(evidence)),
        "cuts": [e for e in evidence.entries if e.status in ("stopped", "failed")],
        "groups": [{"axis": axis, "figure": Markup(figure)} for axis, figure in _groups(evidence)],
        "mattered": mattered,
        "parts": parts,
        "facts": method.facts(evidence),
        "study": evidence.run.study_text,
    }
    return render("report/report.html.j2", r=content)


# figures --------------------------------------------------------------------------------------------------------


def _strips(evidence: Evidence, prompts: Prompts) -> str:
    rows = [
        Strip(e.label, tuple(100 * v for v in prompts[e.id].values()), tuple(prompts[e.id]), e is evidence.winner)
        for e in evidence.drawn
        if prompts[e.id]
    ]
    thresholds, metric = [100 * t for t in evidence.study.tables.thresholds], evidence.study.task.metric
    floor = 100 * kind_of(metric).lowest
    return strips(rows, f"{metric} under one prompt, {metric_unit(metric)}", thresholds, 100.0, 1, floor)


def _losses(evidence: Evidence) -> str:
    series = []
    for i, e in enumerate(evidence.drawn):
        steps, losses = evidence.losses(e)
        marks = tuple(float(rung) for rung in evidence.rungs[e.id])
        series.append(Curve(e.label, steps, losses, marks=marks, colour=i if i < COLOURS else None))
    return curves([s for s in series if s.x], "optimizer steps", "loss on the answer, nats")


def _objectives(evidence: Evidence) -> str:
    series = []
    for i, e in enumerate(evidence.drawn):
        scored = evidence.objectives(e)
        x, y = tuple(float(rung) for rung in scored), tuple(100 * o.value for o in scored.values())
        coloured = i < COLOURS
        errors = tuple(100 * o.stderr for o in scored.values()) if coloured else ()
        cut = (e.reason or "stopped") if e.status == "stopped" else None
        series.append(Curve(e.label, x, y, errors, x, cut, i if coloured else None))
    return curves([s for s in series if s.x], "optimizer steps", "objective on the dev prompts, percent", 1)


def _groups(evidence: Evidence) -> list[tuple[str, str]]:
    """(axis, figure) of every axis that varies: a strip per value, a dot per configuration that is averaged there."""
    scored = [
        e
        for e in evidence.entries
        if math.isfinite(e.number("mean")) and e.status == "finished" and not e.row.get("degenerate")
    ]
    figures = []
    for axis in evidence.differing:
        rows = []
        for name, members in _by_value(scored, axis):
            label = f"{name} ({counted(len(members), evidence.unit)}{_average(evidence, axis, name)})"
            rows.append(Strip(label, tuple(100 * e.number("mean") for e in members), tuple(e.label for e in members)))
        if len(rows) > 1:
            metric = evidence.study.task.metric
            title = f"mean {metric} of one {evidence.unit}, {metric_unit(metric)}"
            figures.append((axis, strips(rows, title, (), 100.0, 1, 100 * kind_of(metric).lowest)))
    return figures


def _average(evidence: Evidence, axis: str, value: str) -> str:
    """The average of an axis value, from tables/groups."""
    row = evidence.averages.get((axis, value)) or {}
    if row.get("mean") is None:
        return ""
    return f"; average of {row['n_averaged']} finished {column_with_interval(row, 'mean')}"


def _by_value(entries: Sequence[Entry], axis: str) -> list[tuple[str, list[Entry]]]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.axes.get(axis, "-"), []).append(entry)
    if not all(_is_number(value) for value in groups):
        return sorted(groups.items())
    if len(groups) > _MOST_GROUPS:
        return _thirds(entries, axis)
    return sorted(groups.items(), key=lambda item: float(item[0]))


def _thirds(entries: Sequence[Entry], axis: str) -> list[tuple[str, list[Entry]]]:
    ordered = sorted(entries, key=lambda e: float(e.axes[axis]))
    ends = itertools.pairwise(len(ordered) * i // 3 for i in range(4))
    parts = [ordered[a:b] for a, b in ends]
    return [(f"{part[0].axes[axis]} to {part[-1].axes[axis]}", part) for part in parts]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
