"""``steadytune monitor``: whether the rows of today are answered as the rows of the study's test were.

From rows: each is asked in the test wordings that ``reference.json`` holds, and compared with the test rows. From the
answers that ``predict`` wrote: they are of one wording, the export's default prompt, and are compared with the dev rows
under that prompt; of no other rows is it known how they were answered under it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeps.display.text import counted, interval, percent
from sweeps.export.exported import REFERENCE, TEMPLATE, ExportedTrial, check_sums, read_exported
from sweeps.export.reference import (
    ACCURACY,
    AGREEMENT,
    CONFIDENCE,
    UNREAD,
    AnsweredRows,
    MonitorReference,
    asked,
    read_reference,
)
from sweeps.statistics.drift import (
    DIFFERS,
    LIKE,
    UNDECIDED,
    Compared,
    RowSample,
    compare,
    compare_metric,
    judge,
)
from trainer.data.rows import load_rows
from trainer.data.sources import RowSource, open_table
from trainer.errors import UserError, nearest
from trainer.measure.grid import NO_ANSWER, Floats, Grid
from trainer.measure.metrics import least_rows
from trainer.measure.registry import kind_of
from trainer.store import Store

if TYPE_CHECKING:
    from sweeps.export.predict import BaseDtype

Record = Mapping[str, Any]
FEW_OF_A_LABEL = 10  # rows: with fewer of the label that a metric knows least of, its error is not known either
MARGIN = 0.15


@dataclass(frozen=True)
class Monitored:
    """What was compared. ``notes``: what is to be known of it."""

    against: str
    figures: list[Compared]
    margin: float
    notes: list[str]

    @property
    def differs(self) -> bool:
        return any(f.verdict == DIFFERS for f in self.figures)

    def lines(self) -> list[str]:
        head = ("", "new rows", "reference", "difference", "p (Holm)", "")
        body = [
            (f.name, _with(f.new), _with(f.test), _with(f.difference, True), _p(f.p_holm), _verdict(f))
            for f in self.figures
        ]
        widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
        table = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (head, *body)]
        return [f"{self.against},", "in percent, with 95 % intervals", "", *table, "", *self.notes, self.verdict]

    @property
    def verdict(self) -> str:
        named = {v: ", ".join(f.name for f in self.figures if f.verdict == v) for v in (DIFFERS, UNDECIDED)}
        if named[DIFFERS]:
            return f"not like the study's rows: {named[DIFFERS]}"
        if named[UNDECIDED]:
            return (
                f"no difference found; undecided for want of rows: {named[UNDECIDED]} (a difference of "
                f"{percent(self.margin, digits=0)} points could be missed)"
            )
        return "like the study's rows"


def monitor(
    folder: str,
    rows: str | None,
    answers: str | None = None,
    labels: bool = False,
    margin: float = MARGIN,
    base: str | None = None,
    dtype: BaseDtype | None = None,
    trust_remote_code: bool = False,
) -> Monitored:
    """Compare the rows in the file ``rows``, or the ``answers`` that ``predict`` wrote. ``labels``: ``rows`` hold the
    right answers, in the study's column. The others are those of ``ExportedAdapter``. Raises UserError."""
    if rows is None and (answers is None or labels):
        raise UserError("give --rows FILE, or --answers FILE that `steadytune predict` wrote; --labels needs --rows")
    store = Store.open(folder)
    exported, reference = read_exported(store), read_reference(store)
    check_sums(store, (TEMPLATE, REFERENCE))
    before = reference.test if answers is None else reference.dev
    if before is None:
        which = "test rows under some test prompts" if answers is None else "dev rows under the default prompt"
        raise UserError(
            f"{store.uri}/{REFERENCE}: holds no figures of the {which}: their scores, or the prompts' texts, were not "
            "in the run folder when the trial was exported"
        )
    by_wording = (
        [_answers(exported, answers)]
        if answers is not None
        else _predicted(folder, str(rows), before, base, dtype, trust_remote_code)
    )
    right = _right(exported, reference, str(rows)) if labels else None
    now, few = _asked(exported, before, by_wording, right)
    found = judge(_compared(now, before, exported, labels), margin, few)
    source = str(rows) if answers is None else answers
    kind = "test" if answers is None else "dev"
    where = (
        f"under {counted(len(before.wordings), f'{kind} prompt')}" if answers is None else "under the default prompt"
    )
    return Monitored(
        f"{counted(now.n_rows, 'row')} of {source} {where}, against the {before.n_rows} {kind} rows of the study "
        f"{exported.study}",
        found,
        margin,
        _notes(now, before, few),
    )


# the answers of today -------------------------------------------------------------------------------------------


def _predicted(
    folder: str, rows: str, before: AnsweredRows, base: str | None, dtype: BaseDtype | None, trust: bool
) -> list[Sequence[Record]]:
    from sweeps.export.predict import ExportedAdapter

    adapter = ExportedAdapter(folder, base, dtype, trust)
    return [adapter.records(rows, text) for text in before.wordings.values()]


def _answers(exported: ExportedTrial, file: str) -> list[Record]:
    """The records that ``predict`` wrote into ``file``, in any of its formats."""
    labels = exported.trial.task.labels
    flat = {f"p_{label}": label for label in labels}
    columns = ("id", "label", "probabilities", *flat)
    table = open_table(RowSource(file, columns, ""), "train", "--answers")
    for needed in ("id", "label"):
        if needed not in table.names:
            raise UserError(
                f"--answers: {file} has no column {needed}, so `steadytune predict` did not write it."
                f"{nearest(needed, table.names)}"
            )
    if "export" in table.names:
        raise UserError(
            f"--answers: {file} holds the answers of several exports (column export). Give those of one, from "
            "`steadytune predict DIR`"
        )
    cells = table.cells
    records: list[Record] = []
    for i in range(table.n):
        p = cells["probabilities"][i] if "probabilities" in cells else None
        if p is None and all(name in cells for name in flat):
            p = {label: cells[name][i] for name, label in flat.items()}
        values = list(p.values()) if isinstance(p, dict) else p if isinstance(p, list) else []
        records.append({"id": cells["id"][i], "label": cells["label"][i], "probabilities": _numbers(values)})
    if not records:
        raise UserError(f"--answers: {file} has no rows")
    return records


def _numbers(values: Sequence[Any]) -> list[float] | None:
    try:
        return [float(v) for v in values] or None
    except (TypeError, ValueError):  # null where text was generated
        return None


def _right(exported: ExportedTrial, reference: MonitorReference, rows: str) -> dict[str, str]:
    """Row id -> right answer."""
    labels = reference.labels if exported.trial.task.labels else {}
    source = RowSource(rows, exported.fields, reference.label, labels=labels, options=exported.options)
    has_id = exported.id in open_table(source, "row", "--labels").names if exported.id else False
    source = RowSource(
        rows, exported.fields, reference.label, labels=labels, options=exported.options,
        id=exported.id if has_id else None,
    )  # fmt: skip
    return {row.id: row.label for row in load_rows(source, "row", "--labels")}


def _asked(
    exported: ExportedTrial,
    before: AnsweredRows,
    by_wording: Sequence[Sequence[Record]],
    right: Mapping[str, str] | None,
) -> tuple[AnsweredRows, dict[str, str]]:
    """The figures of today, and the names of those that the rows say too little of, with the reason."""
    trial = exported.trial
    given = [[_answer(r, trial.task.labels) for r in records] for records in by_wording]
    known = [name.removeprefix("share of ") for name in before.figures if name.startswith("share of ")]
    names = tuple(trial.task.labels or sorted({*known, *(a for answers in given for a in answers if a is not None)}))
    code = {name: k for k, name in enumerate(names)}
    predicted = np.array([[NO_ANSWER if a is None else code.get(a, NO_ANSWER) for a in answers] for answers in given])
    ids = [str(r["id"]) for r in by_wording[0]]
    label = np.zeros(len(ids), dtype=np.int64)
    if right is not None:
        missing = [i for i in ids if i not in right]
        if missing:
            raise UserError(f'--labels: no row has the id "{missing[0]}", one of {len(missing)} of the answers')
        names, code = _with_right(names, code, right.values())
        label = np.array([code[right[i]] for i in ids])
    p = [[_probabilities(r) for r in records] for records in by_wording]
    sure = all(x is not None and len(x) == len(p[0][0] or ()) for one in p for x in one)
    logprobs: Floats | None = np.log(np.clip(np.array(p, dtype=float), 1e-300, None)) if sure else None
    confidence = None
    if all(x is not None for one in p for x in one) and trial.scoring.decision == "raw":
        confidence = np.array([[max(x or [0.0]) for x in one] for one in p])
    grid = Grid(tuple(before.wordings), tuple(ids), names, label, predicted, predicted == label, logprobs, False)
    metric, few = trial.task.metric if right is not None else None, {}
    if metric is not None and metric != ACCURACY:
        if kind_of(metric).two_labels and len(set(label.tolist())) < 2:
            raise UserError(f"--labels: all {len(ids)} rows have the label {names[label[0]]}, and {metric} needs both")
        least = least_rows(grid, metric)
        if least < FEW_OF_A_LABEL:
            few[metric] = f"{metric}: only {counted(least, 'row')} of a label, so its error is not known"
    return asked(grid, before.wordings, confidence, metric), few


def _with_right(names: tuple[str, ...], code: dict[str, int], right: Any) -> tuple[tuple[str, ...], dict[str, int]]:
    """With right answers that no row was given: options of a higher number."""
    more = sorted({*right} - code.keys())
    names = (*names, *more)
    return names, {name: k for k, name in enumerate(names)}


def _answer(record: Record, labels: Sequence[str]) -> str | None:
    """The most probable answer: a threshold of ``predict`` changes what it says, and not what the model does."""
    p = _probabilities(record)
    if p is not None and labels:
        return labels[int(np.argmax(p))]
    return str(record["label"]) if record["label"] not in (None, "") else None


def _probabilities(record: Record) -> list[float] | None:
    p = record.get("probabilities")
    return _numbers(list(p.values()) if isinstance(p, Mapping) else p or [])


# compared ---------------------------------------------------------------------------------------------------------


def _compared(now: AnsweredRows, before: AnsweredRows, exported: ExportedTrial, labelled: bool) -> list[Compared]:
    none = {id(part): RowSample(np.zeros(1), np.array([float(part.n_rows)])) for part in (now, before)}
    shares = [n for n in dict.fromkeys([*before.figures, *now.figures]) if n.startswith("share of ")]
    unread = [UNREAD] if UNREAD in now.figures or UNREAD in before.figures else []
    if len(shares) == 2 and not unread:
        shares = shares[1:]  # the other is what is left to 100 %
    figures = [
        compare(n, now.figures.get(n, none[id(now)]), before.figures.get(n, none[id(before)]))
        for n in (*shares, *unread)
    ]
    metric = exported.trial.task.metric
    more = [CONFIDENCE, AGREEMENT, *([ACCURACY] if labelled and metric == ACCURACY else [])]
    figures += [compare(n, now.figures[n], before.figures[n]) for n in more if n in now.figures and n in before.figures]
    if now.metric is not None and before.metric is not None:
        figures.append(compare_metric(metric, now.metric, before.metric, kind_of(metric).lowest))
    return figures


def _notes(now: AnsweredRows, before: AnsweredRows, few: Mapping[str, str]) -> list[str]:
    notes = list(few.values())
    if CONFIDENCE not in now.figures or CONFIDENCE not in before.figures:
        notes.append("confidence: not known, as answers were generated or a decision rule compares something else")
    if AGREEMENT not in now.figures:
        notes.append("agreement between wordings: needs --rows, which are asked in several")
    return notes


def _with(estimate: Any, signed: bool = False) -> str:
    return f"{percent(estimate.value, signed)} ({interval(estimate.low, estimate.high, signed)})"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _verdict(figure: Compared) -> str:
    if figure.verdict != UNDECIDED:
        return figure.verdict if figure.verdict == DIFFERS else LIKE
    return f"{UNDECIDED}: found from {percent(figure.smallest)} points on"
