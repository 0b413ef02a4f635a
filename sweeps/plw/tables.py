"""The tables of a prompt-loss-weight study as md, csv, tex and parquet, and its two figures.

``plw_tests`` is the study's table of p-values, ``plw_turning`` says where each curve turns and how much varies at
random, ``plw_benchmarks`` and ``plw_aggregate`` are the data of the figures, ``plw_scores`` has the scores that the
analysis is made of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sweeps.display.charts import COLOURS, Curve, curves
from sweeps.display.table_files import markdown_rows, markdown_text, tex, write_table
from sweeps.plw import analysis as a
from sweeps.plw import sentences
from sweeps.statistics.intervals import LEVEL
from trainer.store import Store

TITLES = {
    "plw_tests": "What the prompt loss weight does: all tests",
    "plw_turning": "Where the curves turn, and what varies at random",
    "plw_benchmarks": "Scores by benchmark and weight",
    "plw_aggregate": "Mean over benchmarks by weight, with the fitted curve",
    "plw_scores": "One row per fine-tune and benchmark",
}
_POINTS = 41  # of a drawn fitted curve


def tables(found: a.PlwAnalysis) -> dict[str, pa.Table]:
    """Name -> table, in the order of ``TITLES``."""
    return {
        "plw_tests": tests(found),
        "plw_turning": turning(found),
        "plw_benchmarks": a.by_benchmark(found),
        "plw_aggregate": a.aggregate(found),
        "plw_scores": found.scores.table,
    }


def tests(found: a.PlwAnalysis) -> pa.Table:
    f, s = pa.float64(), pa.string()
    schema = pa.schema(
        {"analysis": s, "data_set": s, "term": s, "estimate": f, "stderr": f, "p": f, "p_holm": f}
        | {"rejected": pa.bool_(), "n": pa.int64(), "df": f}
    )
    names = [n for n in schema.names if n != "rejected"]
    rows = [{**{n: _known(getattr(t, n)) for n in names}, "rejected": t.reject} for t in found.tests]
    return pa.Table.from_pylist(rows, schema=schema)


def turning(found: a.PlwAnalysis) -> pa.Table:
    """One row per data set and analysis. The weight is null where the curve turns outside the weights studied;
    Fieller's bounds are null where his set is no interval."""
    f, s = pa.float64(), pa.string()
    numbers = ["p_joint", "p_joint_holm", "weight", "delta_low", "delta_high", "fieller_low", "fieller_high"]
    schema = pa.schema(
        {"data_set": s, "analysis": s, "kind": s, **dict.fromkeys(numbers, f), "bounded": pa.bool_()}
        | {"std_model": f, "std_setting": f, "std_seed": f, "std_finetune": f, "std_residual": f, "note": s}
    )
    rows = []
    for data in found.data_sets:
        for name, fit in data.fits().items():
            turn = a.turning_weight(found, name, fit)
            row: dict[str, Any] = {"data_set": data.name, "analysis": name, "kind": turn.turning.kind}
            row |= {"p_joint": fit.joint(), "weight": turn.weight, "bounded": turn.turning.bounded, "note": fit.note}
            row |= {"p_joint_holm": found.joint_holm(name, data)}
            row |= {"delta_low": turn.delta.low, "delta_high": turn.delta.high}
            if turn.turning.bounded:
                row |= {"fieller_low": turn.fieller.low, "fieller_high": turn.fieller.high}
            if name == "mixed":
                row |= {f"std_{k.replace('-', '')}": v for k, v in a.random_parts(data).items()}
            rows.append({n: _known(row.get(n)) for n in schema.names})
    return pa.Table.from_pylist(rows, schema=schema)


def write(store: Store, found: a.PlwAnalysis) -> list[str]:
    """Write every table into ``tables/``; returns the names written."""
    written: list[str] = []
    for name, table in tables(found).items():
        notes = [*page_notes(found)] if name == "plw_tests" else []
        written += write_table(store, name, table, _markdown(name, table, notes), _latex(name, table))
    return written


def page_notes(found: a.PlwAnalysis) -> list[str]:
    """The sentence of each data set, what a reader must know about the data, and how to read the table."""
    several = len(found.data_sets)
    ols = [t for t in found.tests if t.analysis == "ols"]
    return [
        *(sentences.sentence(found, data) for data in found.data_sets),
        *sentences.reader_notes(found),
        f"Holm-Bonferroni over the {len(ols)} coefficients of `ols` of {several} data set{'s' * (several != 1)} "
        f"(intercepts are not tested): {sum(t.reject for t in ols)} are rejected at {a.ALPHA:g}. `beta` and `mixed` "
        "are corrected each by itself. An effect is claimed where `mixed`, corrected for all data sets, agrees.",
        "The turning point and the change that the sentences state are those of the mixed model, where there is one.",
        "`ols` and `mixed`: weights by rank, spread over [-1, 1], estimates in score units. `beta`: weight^0.30103, on "
        "the logit scale, so its estimates are not differences of scores.",
    ]


# figures ----------------------------------------------------------------------------------------------------------


def benchmark_figures(found: a.PlwAnalysis) -> list[tuple[str, str]]:
    """(data set, figure): a curve per benchmark over the weights; bars show half the range of the fine-tunes."""
    table = a.by_benchmark(found)
    figures = []
    for data in found.data_sets:
        rows = table.filter(pc.equal(table["data_set"], data.name)).to_pylist()
        series = []
        for i, benchmark in enumerate(sorted({r["benchmark"] for r in rows})):
            mine = sorted((r for r in rows if r["benchmark"] == benchmark), key=lambda r: r["place"])
            x, y = _column(mine, "place"), _column(mine, "mean", 100.0)
            half = tuple(100.0 * (r["max"] - r["min"]) / 2.0 for r in mine)
            error = half if any(half) else ()
            series.append(Curve(benchmark, x, y, error, x, colour=i if i < COLOURS else None))
        figures.append((data.name, _plane(series, found, "benchmarks")))
    return figures


def aggregate_figure(found: a.PlwAnalysis) -> str:
    """For each data set the mean over benchmarks at each weight (circles) and the fitted curve with its interval."""
    table = a.aggregate(found)
    series = []
    for i, data in enumerate(found.data_sets):
        colour = i if i < COLOURS else None
        rows = sorted(table.filter(pc.equal(table["data_set"], data.name)).to_pylist(), key=lambda r: r["place"])
        places = _column(rows, "place")
        series.append(Curve(f"{data.name}, observed", places, _column(rows, "mean", 100.0), (), places, colour=colour))
        line = a.fitted(data, found)
        grid = tuple(float(x) for x in np.unique([*np.linspace(places[0], places[-1], _POINTS), *places]))
        at = [line(x) for x in grid]
        ends = {places[0], places[-1], places[len(places) // 2]}
        bars = tuple(100.0 * (e.high - e.value) if x in ends else math.nan for x, e in zip(grid, at, strict=True))
        fitted = tuple(100.0 * e.value for e in at)
        title = f"{data.name}, fitted, {100 * LEVEL:g} % interval"
        series.append(Curve(title, grid, fitted, bars, (), colour=None if colour is None else (colour + 3) % COLOURS))
    return _plane(series, found, "curves")


def _plane(series: Sequence[Curve], found: a.PlwAnalysis, what: str) -> str:
    places = found.rank.forward(np.array(found.weights))
    names = [(float(p), f"{w:g}") for p, w in zip(places, found.weights, strict=True)]
    return curves(series, "prompt loss weight, by rank", "score, percent", 1, names, what)


def _column(rows: Sequence[Mapping[str, Any]], name: str, factor: float = 1.0) -> tuple[float, ...]:
    return tuple(factor * float(row[name]) for row in rows)


# forms ------------------------------------------------------------------------------------------------------------


def _markdown(name: str, table: pa.Table, notes: Sequence[str]) -> str:
    body = [[cell(n, v) for n, v in row.items()] for row in table.to_pylist()]
    lines = [f"# {TITLES[name]}", "", *(f"- {markdown_text(n)}" for n in notes), *([""] if notes else [])]
    return "\n".join([*lines, *markdown_rows(table.column_names, body)]) + "\n"


def _latex(name: str, table: pa.Table) -> str:
    """A booktabs table; longtable where it would not fit on a page."""
    numbers = [pa.types.is_floating(t) or pa.types.is_integer(t) for t in table.schema.types]
    spec = "".join("r" if n else "l" for n in numbers)
    rows = [[tex(cell(n, v)) for n, v in row.items()] for row in table.to_pylist()]
    head = " & ".join(tex(n) for n in table.column_names) + r" \\"
    body = [" & ".join(r) + r" \\" for r in rows]
    kind = "longtable" if len(rows) > 40 else "tabular"
    lines = [f"% {TITLES[name]}", rf"\begin{{{kind}}}{{{spec}}}", r"\toprule", head, r"\midrule"]
    return "\n".join([*lines, *body, r"\bottomrule", rf"\end{{{kind}}}"]) + "\n"


def cell(name: str, value: Any) -> str:
    """A value as text: p-values with three decimals, other numbers with four digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if name.startswith("p"):
        return "< 0.001" if name in ("p", "p_holm", "p_joint", "p_joint_holm") and value < 0.001 else f"{value:.3f}"
    return f"{value:.4g}"


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
