"""``report.html`` of a run folder: one file without external parts, which can be made again at any time.

The page says in plain words which configuration is best over unseen prompts and how sure that is, and which axis
mattered. Then follow the table, the distributions, the curves, what was cut with the reasons, and how everything was
measured. Text from data,
prompts and the study is escaped by Jinja2 and by ``sweeps.display.charts``. Neither torch nor ray nor transformers is
imported.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sweeps.display.charts import COLOURS, Curve, Strip, curves, strips
from sweeps.display.html import render
from sweeps.display.text import column_with_interval, counted, interval, metric_unit, percent
from sweeps.paft import report as paft_report
from sweeps.plw import report as plw_report
from sweeps.report import method, table_parts, verdict
from sweeps.report.evidence import Entry, Evidence, gather
from sweeps.run_folder.reading import RunFolder
from sweeps.staged import report as staged_report
from sweeps.tables import robustness as tables
from sweeps.tables.columns import Settings, answer_marks
from trainer.measure.registry import METRICS, OF_WHOLE_TASK, kind_of
from trainer.store import Store

NO_PARTS = Markup("")
_MOST_GROUPS = 8  # an axis of numbers with more values is shown in three parts of equal count

Prompts = Mapping[str, Mapping[str, float]]  # entry -> prompt id -> metric


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
    prompts = {e.id: evidence.prompts(e) for e in evidence.drawn}
    columns = _columns(evidence)
    content = {
        "name": study.name,
        "question": verdict.question(evidence),
        "notices": verdict.notices(evidence),
        "verdict": verdict.verdict(evidence, prompts),
        "pool": evidence.pool,
        "unit": evidence.unit,
        "metric": study.task.metric,
        "scale": "In percent" if metric_unit(study.task.metric) == "percent" else "All values are 100 times their own",
        "columns": columns,
        "rows": [
            {"winner": e is evidence.winner, "cells": [_cell(e, c.key) for c in columns]} for e in evidence.entries
        ],
        "order": "The winner first, then by rank on the test prompts." if evidence.winner else "Best first.",
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


# the table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    key: str  # of the robustness table, or ``axis:<name>``
    title: str
    description: str
    number: bool = True


@dataclass(frozen=True)
class Cell:
    text: str
    key: str  # what the column is sorted by
    number: bool = True
    small: str = ""  # the interval


_BEFORE = (
    Column("mean", "mean", "mean over prompts"),
    Column("std", "std", "standard deviation over prompts, as observed"),
    Column("std_corrected", "std, noise removed", "standard deviation over prompts without the noise of finite rows"),
    Column("min", "worst", "the worst prompt"),
    Column("seed_std", "between seeds", "standard deviation between the seeds' means"),
    Column("n_seeds", "seeds", "how many seeds the figures are of"),
)
_AFTER = (
    *(Column(name, name, f"mean of the {METRICS[name].says}") for name in OF_WHOLE_TASK),
    Column("diff_best", "to best", "paired difference to the mean of the best by the dev objective"),
    Column("p_best_holm", "p", "p-value of that difference, corrected for the number of comparisons"),
    Column("dev_objective", "dev objective", "what early stopping compared, with its standard error"),
)


def _columns(evidence: Evidence) -> list[Column]:
    """Columns in which some trial has a value. The metric itself is the column ``mean``."""
    known = {key for e in evidence.entries for key in e.row if math.isfinite(e.number(key))}
    study, sign = evidence.study, ">" if evidence.study.tables.strict else "≥"
    tops = [
        Column(key, f"{sign} {100 * t:g} %", f"share of prompts {sign} {100 * t:g} %")
        for key, t in zip(Settings.of(study).top_names(), study.tables.thresholds, strict=True)
    ]
    numbers = [c for c in (*_BEFORE, *tops, *_AFTER) if c.key in known and c.key != study.task.metric]
    numbers = [c for c in numbers if c.key != "n_seeds" or evidence.unit == "configuration"]
    rank = [Column("rank", "rank", "by the objective on the test prompts, for reading only")] if "rank" in known else []
    axes = [Column(f"axis:{name}", name, f"axis {name}", False) for name in evidence.differing]
    ends = Column("status", "status", "how the trial ended", False)
    ids = Column("id", evidence.unit, f"{evidence.unit} id", False)
    return [*rank, ids, *axes, *numbers, ends]


def _cell(entry: Entry, key: str) -> Cell:
    if key == "id":
        return Cell(entry.id, entry.id, False)
    if key == "status":
        text = ", ".join([entry.status, *answer_marks(entry.row, "one label")])
        return Cell(text, text, False)
    if key.startswith("axis:"):
        value = entry.axes.get(key[5:], "")
        return Cell(value, value, False)
    number = entry.number(key)
    if math.isnan(number):
        return Cell("", "")
    if key in ("rank", "n_seeds"):
        return Cell(f"{number:.0f}", repr(number))
    if key == "p_best_holm":
        return Cell("< 0.001" if number < 0.001 else f"{number:.3f}", repr(number))
    return Cell(percent(number, signed=key == "diff_best"), repr(number), small=_error(entry, key))


def _error(entry: Entry, key: str) -> str:
    if key == "dev_objective":
        error = entry.number("dev_stderr")
        return "" if math.isnan(error) else f"± {percent(error)}"
    if key == "std":
        return ""  # the interval is that of the corrected one
    name = "std" if key == "std_corrected" else key
    bounds = interval(entry.number(f"{name}_low"), entry.number(f"{name}_high"))
    return f"({bounds})" if bounds else ""


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
