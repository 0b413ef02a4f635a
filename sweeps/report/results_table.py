"""The report's table of all configurations: its columns in groups that can be hidden, and its rows with their marks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sweeps.display.text import interval, metric_unit, percent
from sweeps.report.evidence import Entry, Evidence
from sweeps.tables.columns import Settings, answer_marks
from trainer.measure.registry import METRICS, OF_WHOLE_TASK

FIRST = 25  # configurations that are shown before the reader asks for all: what fits a decision and a printed page
SETTING, RESULT, COMPARISON, OTHER = "setting", "result", "comparison", "other"
GROUPS = {SETTING: "Setting", RESULT: "Over prompts", COMPARISON: "Compared", OTHER: "Other figures"}
HIDDEN = (OTHER,)  # groups that are hidden until the reader asks for them


@dataclass(frozen=True)
class Column:
    key: str  # of the robustness table, or ``axis:<name>``
    title: str
    description: str
    group: str
    number: bool = True


@dataclass(frozen=True)
class Cell:
    text: str
    key: str = ""  # what a number is sorted by
    small: str = ""  # the interval


@dataclass(frozen=True)
class ResultLine:
    """A configuration. ``kind`` colours its row: winner | degenerate | failed | stopped | running | finished."""

    id: str
    kind: str
    marks: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ResultsTable:
    unit: str
    groups: Mapping[str, int]  # group -> how many columns it has
    columns: tuple[Column, ...]
    lines: tuple[ResultLine, ...]
    scale: str
    order: str
    first: int = FIRST
    hidden: tuple[str, ...] = HIDDEN

    @property
    def names(self) -> dict[str, str]:
        return {group: GROUPS[group] for group in self.groups}

    @property
    def labels(self) -> dict[int, str]:
        """Place of a column in a row -> its title as a text in a style sheet, for rows that are shown as cards."""
        return {place: _css_text(column.title) for place, column in enumerate(self.columns, 2)}


def results_table(evidence: Evidence) -> ResultsTable:
    columns = _columns(evidence)
    percents = metric_unit(evidence.study.task.metric) == "percent"
    return ResultsTable(
        unit=evidence.unit,
        groups={g: n for g in GROUPS if (n := sum(column.group == g for column in columns))},
        columns=columns,
        lines=tuple(_line(entry, columns, entry is evidence.winner) for entry in evidence.entries),
        scale="In percent" if percents else "All values are 100 times their own",
        order=_order(evidence),
    )


_RANK = Column("rank", "rank", "by the objective on the test prompts, for reading only", RESULT)
_MEAN = Column("mean", "mean", "mean over prompts", RESULT)
_SPREAD = Column("std_corrected", "std, noise removed", "std over prompts without the noise of finite rows", RESULT)
_STD = Column("std", "std", "standard deviation over prompts, as observed", OTHER)
_WORST = Column("min", "worst", "the worst prompt", RESULT)
_COMPARISON = (
    Column("diff_best", "to best", "paired difference to the mean of the best by the dev objective", COMPARISON),
    Column("p_best_holm", "p (Holm)", "its p-value, corrected for the number of comparisons", COMPARISON),
    Column("dev_objective", "dev objective", "what early stopping compared, with its standard error", COMPARISON),
)
_SEEDS = (
    Column("seed_std", "between seeds", "standard deviation between the seeds' means", OTHER),
    Column("n_seeds", "seeds", "how many seeds the figures are of", OTHER),
)
_METRICS = tuple(Column(name, name, f"mean of the {METRICS[name].says}", OTHER) for name in OF_WHOLE_TASK)


def _order(evidence: Evidence) -> str:
    if not evidence.winner:
        return "Best first."
    found = "The winner first, then by rank on the test prompts."
    if not evidence.confirmed:
        return found
    return (
        f"{found} These are the {evidence.unit}s of the search; what fresh seeds say of the best "
        f"{len(evidence.confirmed)} is in the verdict."
    )


def _columns(evidence: Evidence) -> tuple[Column, ...]:
    """Columns in which some configuration has a value, group by group. The metric itself is the column ``mean``."""
    known = {key for e in evidence.entries for key in e.row if math.isfinite(e.number(key))}
    study, sign = evidence.study, ">" if evidence.study.tables.strict else "≥"
    tops = [
        Column(key, f"{sign} {100 * t:g} %", f"share of prompts {sign} {100 * t:g} %", RESULT)
        for key, t in zip(Settings.of(study).top_names(), study.tables.thresholds, strict=True)
    ]
    observed = _STD if _SPREAD.key in known else replace(_STD, group=RESULT)  # dev scores have no other std
    numbers = (_RANK, _MEAN, _SPREAD, observed, _WORST, *tops, *_COMPARISON, *_SEEDS, *_METRICS)
    axes = [Column(f"axis:{name}", name, f"axis {name}", SETTING, False) for name in evidence.differing]
    shown = [c for c in numbers if c.key in known and c.key != study.task.metric]
    shown = [c for c in shown if c.key != "n_seeds" or evidence.unit == "configuration"]
    return tuple(sorted([*axes, *shown], key=lambda column: list(GROUPS).index(column.group)))


def _line(entry: Entry, columns: tuple[Column, ...], winner: bool) -> ResultLine:
    marks = ["winner"] if winner else [] if entry.status == "finished" else [entry.status]
    degenerate = bool(entry.row.get("degenerate"))
    kind = "winner" if winner else "degenerate" if degenerate and entry.status == "finished" else entry.status
    return ResultLine(
        entry.id,
        kind,
        (*marks, *answer_marks(entry.row, "one label")),
        tuple(_cell(entry, column.key) for column in columns),
    )


def _cell(entry: Entry, key: str) -> Cell:
    if key.startswith("axis:"):
        return Cell(entry.axes.get(key[5:], ""))
    number = entry.number(key)
    if math.isnan(number):
        return Cell("")
    known = f"{number:.6g}"
    if key in ("rank", "n_seeds"):
        return Cell(f"{number:.0f}", known)
    if key == "p_best_holm":
        return Cell("< 0.001" if number < 0.001 else f"{number:.3f}", known)
    return Cell(percent(number, signed=key == "diff_best"), known, _error(entry, key))


def _error(entry: Entry, key: str) -> str:
    if key == "dev_objective":
        error = entry.number("dev_stderr")
        return "" if math.isnan(error) else f"± {percent(error)}"
    if key == "std":
        return ""  # the interval is that of the corrected one
    name = "std" if key == "std_corrected" else key
    bounds = interval(entry.number(f"{name}_low"), entry.number(f"{name}_high"))
    return f"({bounds})" if bounds else ""


def _css_text(text: str) -> str:
    """``text`` between quotes in a style sheet: what is no plain letter or digit as its number."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\{ord(c):x} " for c in text)
