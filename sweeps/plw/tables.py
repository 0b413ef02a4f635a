"""The tables of a prompt-loss-weight study as md, csv, tex and parquet.

``plw_tests`` is the study's table of p-values, ``plw_turning`` says where each curve turns and how much varies at
random, ``plw_benchmarks`` and ``plw_aggregate`` are the data of the figures, ``plw_scores`` has the scores that the
analysis is made of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from sweeps.display.table_files import markdown_rows, markdown_text, tex, write_table
from sweeps.plw import analysis as a
from sweeps.plw import sentences
from trainer.store import Store

TITLES = {
    "plw_tests": "What the prompt loss weight does: all tests",
    "plw_turning": "Where the curves turn, and what varies at random",
    "plw_benchmarks": "Scores by benchmark and weight",
    "plw_aggregate": "Mean over benchmarks by weight, with the fitted curve",
    "plw_scores": "One row per fine-tune and benchmark",
}


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
        f"Holm-Bonferroni over the {len(ols)} coefficients of least squares (ols) of {several} data "
        f"set{'s' * (several != 1)} (intercepts are not tested): {sum(t.reject for t in ols)} are rejected at "
        f"{a.ALPHA:g}. Beta regression (beta) and the mixed model (mixed) are corrected each by itself. An effect is "
        "claimed where the mixed model, corrected for all data sets, agrees.",
        "The turning point and the change that the sentences state are those of the mixed model, where there is one.",
        "Least squares and mixed model: weights by rank, spread over [-1, 1], coefficients in score units. Beta "
        "regression: weight^0.30103, on the logit scale, so its coefficients are not differences of scores.",
    ]


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
