"""The tables of a run folder: which fine-tune keeps working under prompts that no trial has seen.

Pure functions of the folder: ``trials.parquet`` and the score files are read, ``tables/`` is written, and the same
folder always gives the same bytes. Score files are streamed one at a time; what stays in memory is one grid, the two
reference trials' grids and one running mean per axis value.

Test cells never choose: the winner, and the two trials that all others are compared with, are the best by the DEV
objective. ``rank`` orders the trials by the same objective measured on the test pool and is for reading only.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from sweeps import statistics as st
from trainer import metrics
from trainer.errors import UserError
from trainer.metrics import Floats, Grid
from trainer.store import Store, scores_name
from trainer.trial import digest

AXES = ("template", "r", "alpha", "dropout", "target_modules", "rslora", "lr", "steps", "plw", "pool", "seed")
REFERENCES = ("best", "second")  # columns diff_best … and diff_second …


@dataclass(frozen=True)
class Settings:
    """The part of the resolved study that the tables read."""

    metric: str
    std_weight: float
    thresholds: tuple[float, ...]
    strict: bool
    labels: tuple[str, ...]

    @classmethod
    def of(cls, study: Mapping[str, Any]) -> Settings:
        task, tables = study.get("task") or {}, study.get("tables") or {}
        found = task.get("labels") or ()
        labels = found.values() if isinstance(found, Mapping) else found
        weight = (study.get("objective") or {}).get("std_weight", 1.0)
        thresholds = tuple(float(x) for x in tables.get("thresholds", (0.85,)))
        return cls(
            task.get("metric", "accuracy"),
            float(weight),
            thresholds or (0.85,),
            bool(tables.get("strict", True)),
            tuple(str(x) for x in labels),
        )

    def top_names(self) -> list[str]:
        """``top`` for the first threshold, ``top_0.90`` and so on for further ones."""
        rest = [f"{x:.2f}" if round(x, 2) == x else f"{x:g}" for x in self.thresholds[1:]]
        return ["top", *(f"top_{x}" for x in rest)]


@dataclass
class Group:
    """Finished trials that share one axis value, averaged cell by cell and replicate by replicate."""

    n_trials: int = 0
    n_finished: int = 0
    n_averaged: int = 0
    grid: str = ""  # identity of the prompts and rows; trials of another grid spoil the average
    mixed: bool = False
    sums: dict[str, Any] = field(default_factory=dict)

    def add(self, identity: str, parts: Mapping[str, Any]) -> None:
        self.mixed |= bool(self.grid) and self.grid != identity
        self.grid = self.grid or identity
        self.n_averaged += 1
        if not self.mixed:
            self.sums = {k: v + self.sums[k] if self.sums else v for k, v in parts.items()}


def robustness(store: Store, study: Mapping[str, Any]) -> pa.Table:
    """One row per trial, winner first: how its metric holds up over the test prompts. Fractions of 1; see the
    Markdown's notes for what each column means. Raises ``ScoreError`` naming file, prompt and row of a bad cell."""
    return _summarise(store, study)[0]


def groups(store: Store, study: Mapping[str, Any]) -> pa.Table:
    """One row per axis and value: averages over its finished, non-degenerate trials with 95 % intervals that treat
    prompts and rows as random and the trials as given."""
    return _summarise(store, study)[1]


def write_tables(store: Store, study: Mapping[str, Any]) -> list[str]:
    """Write ``tables/robustness`` and ``tables/groups`` as md, csv and parquet; returns the names written."""
    settings = Settings.of(study)
    table, by_axis = _summarise(store, study)
    texts = {"robustness": _robustness_page(table, settings), "groups": _groups_page(by_axis, settings)}
    written = []
    for name, found in (("robustness", table), ("groups", by_axis)):
        parquet, text = io.BytesIO(), io.BytesIO()
        pq.write_table(found, parquet, compression="zstd")
        pacsv.write_csv(found, text)
        for ending, data in (("md", texts[name].encode()), ("csv", text.getvalue()), ("parquet", parquet.getvalue())):
            store.write(f"tables/{name}.{ending}", data)
            written.append(f"tables/{name}.{ending}")
    return written


def _summarise(store: Store, study: Mapping[str, Any]) -> tuple[pa.Table, pa.Table]:
    settings = Settings.of(study)
    if not store.exists("trials.parquet"):
        raise UserError(f"{store.uri}/trials.parquet: no such file. Is this a run folder? `steadytune run` writes it")
    trials = pq.read_table(pa.BufferReader(store.read("trials.parquet"))).to_pylist()
    found: dict[tuple[str, str], Group] = {}
    rows = [_trial_row(store, trial, settings, found) for trial in trials]
    _rank(rows)
    chosen = _by_dev(rows)
    if chosen:
        chosen[0]["winner"] = True
    _compare(store, rows, [r for r in chosen if r["mean"] is not None][:2], settings)
    rows.sort(key=_order)
    return pa.Table.from_pylist(rows, schema=_schema(settings, trials)), _group_table(found, settings)


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    dev = row["dev_objective"]
    return not row["winner"], row["rank"] is None, row["rank"] or 0, math.inf if dev is None else -dev, row["trial_id"]


# one trial ---------------------------------------------------------------------------------------------------


def _trial_row(
    store: Store, trial: Mapping[str, Any], settings: Settings, found: dict[tuple[str, str], Group]
) -> dict[str, Any]:
    trial_id, status = trial["trial_id"], trial.get("status")
    row: dict[str, Any] = {**dict.fromkeys(_schema(settings, []).names), **trial, "winner": False}
    row["metric"] = settings.metric
    dev, test = (_last_grid(store, trial_id, pool, settings) for pool in ("dev", "test"))
    row["degenerate"] = any(g.degenerate for g in (dev, test) if g is not None) if dev or test else None
    if dev is not None:
        on_dev = metrics.grid_objective(dev, settings.metric, settings.std_weight)
        row |= {"dev_objective": _or_none(on_dev.value), "dev_stderr": _or_none(on_dev.stderr)}
    here = [found.setdefault((axis, _text(trial[axis])), Group()) for axis in AXES if axis in trial]
    for group in here:
        group.n_trials += 1
        group.n_finished += status == "finished"
    if test is not None:
        cells = metrics.cells(test, settings.metric)
        seed = _seed(test)
        drawn = st.replicate(cells, st.resamples(*cells.shape, seed))
        row |= _columns(test, cells, drawn, settings)
        if status == "finished" and not row["degenerate"]:
            parts = _parts(cells, drawn, settings)
            for group in here:
                group.add(f"{seed} {cells.shape}", parts)
    return row


def _columns(test: Grid, cells: Floats, drawn: st.Replicates, settings: Settings) -> dict[str, Any]:
    """The columns of one trial that its test grid decides."""
    each = metrics.per_prompt(test, settings.metric)
    summary = metrics.grid_objective(test, settings.metric, settings.std_weight)
    mean, _ = st.mean_test(cells, drawn)
    std = st.std_interval(cells)
    row: dict[str, Any] = {
        "n_prompts": summary.n_prompts,
        "n_rows": summary.n_rows,
        "mean": summary.mean,
        "std": summary.std,
        "min": summary.min,
        "test_objective": _or_none(summary.value),
        "std_corrected": std.value,
        **_bounds("mean", mean),
        **_bounds("std", std),
        **_bounds("min", st.percentile(summary.min, drawn.stretched.min(axis=1))),
    }
    for name, threshold in zip(settings.top_names(), settings.thresholds, strict=True):
        top = st.share_interval(each, drawn.per_prompt, threshold, settings.strict)
        row |= {name: top.value, **_bounds(name, top)}
    for q, at, redrawn in zip(
        st.QUANTILES, np.quantile(each, st.QUANTILES), np.quantile(drawn.stretched, st.QUANTILES, axis=1), strict=True
    ):
        name = f"q{round(100 * q):02d}"
        row |= {name: float(at), **_bounds(name, st.percentile(float(at), redrawn))}
    return row | {
        "accuracy": float(test.correct.mean()),
        "macro_f1": float(metrics.per_prompt(test, "macro_f1").mean()),
        "roc_auc": _mean_auc(test),
        "parse_fail_rate": summary.parse_fail_rate,
        "top_label_share": summary.top_label_share,
        "max": float(each.max()),
        "saturation": 1.0 - float(each.max() - each.mean()),
        "cps": st.cps(each),
        "consistency": _or_none(st.consistency_rate(test.predicted)),
        "sensitivity": _or_none(st.prompt_sensitivity(test.correct)),
    }


def _parts(cells: Floats, drawn: st.Replicates, settings: Settings) -> dict[str, Any]:
    """What a group sums over its trials: cells and statistics, observed and per replicate."""
    each = cells.mean(axis=1)
    threshold, strict = settings.thresholds[0], settings.strict
    ddof = min(1, each.size - 1)
    return {
        "cells": cells,
        "std": np.append(drawn.stretched.std(axis=1, ddof=ddof), each.std(ddof=ddof)),
        "min": np.append(drawn.stretched.min(axis=1), each.min()),
        "top": np.append(
            st.above(drawn.stretched, threshold, strict).mean(axis=1), st.share_above(each, threshold, strict)
        ),
    }


def _mean_auc(test: Grid) -> float | None:
    """ROC-AUC of log p(second label) - log p(first label), averaged over prompts; None unless there are two labels."""
    if test.label_logprobs is None or len(test.labels) != 2 or test.label_logprobs.shape[2] != 2:
        return None
    score = test.label_logprobs[:, :, 1] - test.label_logprobs[:, :, 0]
    return _or_none(float(np.mean([st.roc_auc(test.label == 1, one) for one in score])))


def _last_grid(store: Store, trial_id: str, pool: str, settings: Settings) -> Grid | None:
    """The trial's grid at its last rung under ``pool``; None where it was not scored."""
    for rung in reversed(store.rungs(trial_id, pool)):
        found = store.read_scores(trial_id, rung, pool)
        if found is not None:
            table, record = found
            trial = record.get("trial") or {}
            labels = (trial.get("task") or {}).get("labels")  # in the order of label_logprobs
            known = settings.labels if labels is None else tuple(labels)
            return metrics.grid(table, known, f"{store.uri}/{scores_name(trial_id, rung, pool)}")
    return None


def _seed(test: Grid) -> int:
    """From the prompts and rows alone, so that all trials of one grid share their resamples."""
    return int(digest([test.prompts, test.rows])[:8], 16)


# between trials ------------------------------------------------------------------------------------------------


def _rank(rows: list[dict[str, Any]]) -> None:
    able = [r for r in rows if r["test_objective"] is not None and not r["degenerate"] and r.get("status") != "failed"]
    for place, row in enumerate(sorted(able, key=lambda r: (-r["test_objective"], r["trial_id"])), 1):
        row["rank"] = place


def _by_dev(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Finished, non-degenerate trials, the best dev objective first."""
    able = [r for r in rows if r.get("status") == "finished" and not r["degenerate"] and r["dev_objective"] is not None]
    return sorted(able, key=lambda r: (-r["dev_objective"], r["trial_id"]))


def _compare(
    store: Store, rows: list[dict[str, Any]], references: Sequence[dict[str, Any]], settings: Settings
) -> None:
    """Paired differences of the mean to the references, on the same prompts and rows; Holm over the trials compared."""
    grids = [_last_grid(store, r["trial_id"], "test", settings) for r in references]
    known = [(g, metrics.cells(g, settings.metric)) for g in grids if g is not None]
    for row in rows:
        if row["mean"] is None:
            continue
        test = _last_grid(store, row["trial_id"], "test", settings)
        for reference, name, (grid, cells) in zip(references, REFERENCES, known, strict=False):
            if test is None or row is reference or (test.prompts, test.rows) != (grid.prompts, grid.rows):
                continue
            gap, p = st.difference(metrics.cells(test, settings.metric), cells, _seed(test))
            row |= {f"diff_{name}": gap.value, **_bounds(f"diff_{name}", gap), f"p_{name}": _or_none(p)}
    for name in REFERENCES:
        compared = [r for r in rows if r[f"p_{name}"] is not None]
        for row, p in zip(compared, st.holm([r[f"p_{name}"] for r in compared]), strict=True):
            row[f"p_{name}_holm"] = p


def _group_table(found: Mapping[tuple[str, str], Group], settings: Settings) -> pa.Table:
    floats = [n for s in ("mean", "std", "min", "top") for n in (s, f"{s}_low", f"{s}_high")]
    counts = ["n_trials", "n_finished", "n_averaged"]
    kinds = {"axis": pa.string(), "value": pa.string(), **dict.fromkeys(counts, pa.int32())}
    schema = pa.schema(kinds | dict.fromkeys(floats, pa.float64()))
    rows = []
    for (axis, value), group in found.items():
        row: dict[str, Any] = {**dict.fromkeys(schema.names), "axis": axis, "value": value}
        row |= {n: getattr(group, n) for n in counts}
        if group.n_averaged and not group.mixed:
            average = {k: v / group.n_averaged for k, v in group.sums.items()}
            cells = average["cells"]
            mean, _ = st.mean_test(cells, st.replicate(cells, st.resamples(*cells.shape, int(group.grid.split()[0]))))
            row |= {"mean": mean.value, **_bounds("mean", mean)}
            for name in ("std", "min", "top"):
                one = st.percentile(float(average[name][-1]), average[name][:-1])
                row |= {name: one.value, **_bounds(name, one)}
        rows.append(row)
    order = {axis: i for i, axis in enumerate(AXES)}
    rows.sort(key=lambda r: order[r["axis"]])
    return pa.Table.from_pylist(rows, schema=schema)


def _schema(settings: Settings, trials: Sequence[Mapping[str, Any]]) -> pa.Schema:
    """Columns of the robustness table; axis columns are typed by the values that occur."""
    tops = settings.top_names()
    quantiles = [f"q{round(100 * q):02d}" for q in st.QUANTILES]
    numbers = ["mean", "std", "min", *tops]
    numbers_after = ["test_objective", "std_corrected"]
    numbers_after += [f"{s}_{side}" for s in ("mean", "std", "min", *tops) for side in ("low", "high")]
    numbers_after += quantiles + [f"{q}_{side}" for q in quantiles for side in ("low", "high")]
    numbers_after += ["accuracy", "macro_f1", "roc_auc", "parse_fail_rate", "top_label_share"]
    numbers_after += ["max", "saturation", "cps", "consistency", "sensitivity", "dev_objective", "dev_stderr"]
    compared = [
        c for n in REFERENCES for c in (f"diff_{n}", f"diff_{n}_low", f"diff_{n}_high", f"p_{n}", f"p_{n}_holm")
    ]
    f = pa.float64()
    columns: list[tuple[str, pa.DataType]] = [("trial_id", pa.string())]
    columns += [("n_prompts", pa.int32()), ("n_rows", pa.int32())]
    columns += [(n, f) for n in numbers] + [("metric", pa.string())] + [(n, f) for n in numbers_after]
    columns += [("degenerate", pa.bool_()), ("winner", pa.bool_()), ("rank", pa.int32())] + [(n, f) for n in compared]
    columns += [("status", pa.string()), ("rung", pa.int32()), ("reason", pa.string())]
    columns += [("seconds", f), ("tokens", pa.int64())]
    return pa.schema(columns + [(a, _type([t.get(a) for t in trials])) for a in AXES])


def _type(values: Sequence[Any]) -> pa.DataType:
    kinds = {type(v) for v in values if v is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {int, float} else pa.string()


# for people -----------------------------------------------------------------------------------------------------


def _robustness_page(table: pa.Table, settings: Settings) -> str:
    rows = table.to_pylist()
    axes = [a for a in AXES if len({r[a] for r in rows}) > 1]
    tops = settings.top_names()
    sign = ">" if settings.strict else "≥"
    head = ["rank", "trial", *axes, f"{_title(settings)}, mean", "std", "std, noise removed", "worst prompt"]
    head += [f"prompts {sign} {100 * x:g} %" for x in settings.thresholds]
    head += ["dev objective", "difference to best", "status"]
    lines = ["# Robustness over unseen prompts", "", *_table(head, [_cells_of(r, axes, tops) for r in rows]), ""]
    return "\n".join([*lines, *_notes(rows, settings)]) + "\n"


def _cells_of(row: Mapping[str, Any], axes: Sequence[str], tops: Sequence[str]) -> list[str]:
    marks = [row["status"] or "", "**winner**" if row["winner"] else "", "degenerate" if row["degenerate"] else ""]
    if row["status"] in ("failed", "stopped") and row["reason"]:
        marks.append(row["reason"])
    p = row["p_best_holm"]
    gap = ""
    if row["diff_best"] is not None:
        gap = f"{_signed(row['diff_best'])} ({_signed(row['diff_best_low'])} to {_signed(row['diff_best_high'])})"
    gap += "" if p is None else f", p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    dev = "" if row["dev_objective"] is None else f"{_percent(row['dev_objective'])} ± {_percent(row['dev_stderr'])}"
    return [
        str(row["rank"] or "-"),
        f"**{row['trial_id']}**" if row["winner"] else row["trial_id"],
        *(_text(row[a]) for a in axes),
        _with_interval(row, "mean"),
        _percent(row["std"]),
        f"{_percent(row['std_corrected'])}{_interval(row, 'std')}",
        _with_interval(row, "min"),
        *(_with_interval(row, t) for t in tops),
        dev,
        gap,
        ", ".join(m for m in marks if m),
    ]


def _notes(rows: Sequence[Mapping[str, Any]], settings: Settings) -> Iterator[str]:
    scored = [r for r in rows if r["mean"] is not None]
    sizes = sorted({(r["n_prompts"], r["n_rows"]) for r in scored})
    grid = " or ".join(f"{p} test prompts x {r} rows" for p, r in sizes) or "no test rows"
    stopped = sum(r["status"] == "stopped" for r in rows)
    failed = sum(r["status"] == "failed" for r in rows)
    degenerate = sum(bool(r["degenerate"]) for r in rows)
    sign = "strictly above (`>`)" if settings.strict else "at or above (`>=`)"
    limits = ", ".join(f"{100 * x:g} %" for x in settings.thresholds)
    weight = f"{settings.std_weight:g}"
    yield (
        f"- {len(rows)} trials: {stopped} cut early by the scheduler, {failed} failed, {degenerate} degenerate. "
        f"Scored on {grid}."
    )
    yield "- All numbers are percent here, fractions of 1 in the csv and parquet files."
    if any(r["winner"] for r in rows):
        yield (
            f"- **winner**: the best dev objective (mean - {weight} x std over the dev prompts) of the finished, "
            "non-degenerate trials. The test prompts did not choose it. Beside it: its standard error."
        )
    else:
        yield "- No winner: no finished, non-degenerate trial has a dev objective."
    yield (
        f"- rank: by mean - {weight} x std over the test prompts, for reading only. Failed and degenerate trials have "
        "none; a trial cut early was trained for less."
    )
    yield (
        "- Parentheses: 95 % intervals for new prompts and new rows (crossed, both random). Means and differences: "
        "two-way bootstrap-t. Noise-free std: chi-square, adjusted for kurtosis. Shares: Wilson with the bootstrap's "
        "design effect. Worst prompt: two-way bootstrap, for as many new prompts and rows; the intervals of std and "
        "worst prompt are too short where most prompts sit at the ceiling and a few fall far below."
    )
    yield "- std: over prompts, ddof 1, as observed. Its finite rows add noise; the next column takes that off."
    yield f"- Share of prompts: counts prompts {sign} {limits}."
    yield (
        "- difference to best: mean less the mean of the best trial by dev objective, paired on the same prompts and "
        "rows; p adjusted by Holm over all trials compared."
    )
    if degenerate:
        yield (
            f"- degenerate: one answer takes more than {100 * metrics.DEGENERATE_SHARE:g} % of the cells, so a std "
            "near 0 is a constant answer, not robustness. Never ranked, never the winner."
        )


def _groups_page(table: pa.Table, settings: Settings) -> str:
    rows = table.to_pylist()
    varied = {a for a in AXES if sum(r["axis"] == a for r in rows) > 1}
    sign = ">" if settings.strict else "≥"
    head = ["axis", "value", "trials", "finished", "averaged", f"{_title(settings)}, mean", "std", "worst prompt"]
    head.append(f"prompts {sign} {100 * settings.thresholds[0]:g} %")
    body = [
        [r["axis"], r["value"], *(str(r[n]) for n in ("n_trials", "n_finished", "n_averaged"))]
        + [_with_interval(r, s) for s in ("mean", "std", "min", "top")]
        for r in rows
        if r["axis"] in varied
    ]
    notes = [
        "- Averages over the finished, non-degenerate trials with that value; axes with one value are left out here.",
        "- Parentheses: 95 % intervals over new prompts and rows, the trials taken as given; std is the observed one.",
        "- Early stopping selects: a value that lost early is averaged over the few trials that survived.",
    ]
    return "\n".join(["# Averages by axis", "", *_table(head, body), "", *notes]) + "\n"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    return [line(head), "|" + " --- |" * len(head), *(line(r) for r in body)]


def _title(settings: Settings) -> str:
    return {"accuracy": "accuracy", "macro_f1": "macro-F1"}.get(settings.metric, settings.metric)


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    return f"{_percent(row[name])}{_interval(row, name)}"


def _interval(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if low is None or high is None else f" ({_percent(low)} to {_percent(high)})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _bounds(name: str, found: st.Estimate) -> dict[str, float | None]:
    return {f"{name}_low": _or_none(found.low), f"{name}_high": _or_none(found.high)}


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
