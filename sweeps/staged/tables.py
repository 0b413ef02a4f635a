"""The tables of a staged study, from ``stages.json``, ``trials.parquet`` and the scores: md, csv, tex and parquet.

``staged_choices`` has the choice of every stage with its reason; ``staged_candidates`` has what each stage compared;
``staged_variance``, ``staged_interaction`` and ``staged_cells`` have the results of stage 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from sweeps.display.table_files import markdown_rows, markdown_text, tex, write_table
from sweeps.display.text import percent
from sweeps.statistics.interaction import ALPHA
from trainer.store import Store

TITLES = {
    "staged_choices": "What each stage chose, and why",
    "staged_candidates": "What each stage compared, on the dev prompts",
    "staged_variance": "What the objective varies with",
    "staged_interaction": "Do the choices depend on each other?",
    "staged_cells": "Mean objective of each combination",
}
_F, _S, _B, _I = pa.float64(), pa.string(), pa.bool_(), pa.int64()
SCHEMAS = {
    "staged_choices": {"stage": _I, "title": _S, "taken": _S, "reason": _S},
    "staged_candidates": {
        "stage": _I, "title": _S, "candidate": _S, "objective": _F, "mean": _F, "std": _F, "min": _F,
        "gap": _F, "gap_low": _F, "gap_high": _F, "p": _F, "p_holm": _F,
        "heavy_tails": _B, "tied": _B, "taken": _B, "degenerate": _B, "trials": _S,
    },
    "staged_variance": {"part": _S, "share": _F, "share_low": _F, "share_high": _F},
    "staged_interaction": {
        "factors": _S, "f": _F, "df": _I, "df_residual": _I, "p": _F, "p_permutation": _F, "p_holm": _F,
    },
    "staged_cells": {"template": _S, "lora": _S, "setting": _S, "objective": _F},
}  # fmt: skip
_PERCENT = {"objective", "mean", "std", "min", "gap", "gap_low", "gap_high", "share", "share_low", "share_high"}
_SIGNED = {"gap", "gap_low", "gap_high"}


def tables(record: Mapping[str, Any]) -> dict[str, pa.Table]:
    """Name -> table, in the order of ``TITLES``; without those that have no row."""
    stages = record["stages"]
    crossed: Mapping[str, Any] = next((s for s in stages if s["name"] == "interaction"), {})
    answer = record.get("answer")
    rows: dict[str, list[dict[str, Any]]] = {
        "staged_choices": [
            {"stage": s["stage"], "title": s["title"], "taken": s.get("taken", ""), "reason": s["reason"]}
            for s in stages
        ],
        "staged_candidates": [
            {**c, "stage": s["stage"], "title": s["title"], "trials": " ".join(c["trials"])}
            for s in stages
            for c in s.get("candidates", ())
        ],
        "staged_variance": [
            {"part": part, "share": share, "share_low": low, "share_high": high}
            for part, (share, low, high) in crossed.get("shares", {}).items()
        ],
        "staged_interaction": [{**t, "factors": " x ".join(t["factors"])} for t in crossed.get("tests", ())],
        "staged_cells": [{**c, "setting": crossed["settings"][c["lora"]]} for c in crossed.get("cells", ())],
    }
    if answer is not None:
        rows["staged_choices"].append(
            {"stage": None, "title": "answer", "taken": answer["kind"], "reason": answer["sentence"]}
        )
    return {n: pa.Table.from_pylist(rows[n], schema=pa.schema(list(SCHEMAS[n].items()))) for n in SCHEMAS if rows[n]}


def write(store: Store, made: Mapping[str, pa.Table], notes: Sequence[str] = ()) -> list[str]:
    """Write every table into ``tables/``; returns the names written. ``notes`` are written above the choices."""
    written: list[str] = []
    for name, table in made.items():
        page = markdown(name, table, notes if name == "staged_choices" else ())
        written += write_table(store, name, table, page, latex(name, table))
    return written


def body(table: pa.Table) -> list[list[str]]:
    """The cells as text: fractions in percent, differences in points with their sign."""
    return [[cell(name, value) for name, value in row.items()] for row in table.to_pylist()]


def cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if name in _PERCENT:
        return percent(value, signed=name in _SIGNED)
    if name in ("p", "p_permutation", "p_holm"):
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    return f"{value:.3f}"


def markdown(name: str, table: pa.Table, notes: Sequence[str]) -> str:
    said = [f"- {markdown_text(n)}" for n in (*notes, *explained(name))]
    head = [f"# {TITLES[name]}", "", *said, *([""] if said else [])]
    return "\n".join([*head, *markdown_rows(table.column_names, body(table))]) + "\n"


def explained(name: str) -> list[str]:
    """Notes on how to read a table."""
    if name == "staged_candidates":
        return [
            "The leader's lead (gap): its objective minus this one's, in points, paired on the same prompts and rows, "
            "with its 95 % interval for new prompts and new rows (and, with several seeds, for new seeds).",
            "The corrected p (p_holm) is for all pairs of the stage, since the leader is chosen by the same scores. "
            f"Tied with the leader (tied): it is not below {ALPHA:g}, or a few prompts decide (heavy_tails), so "
            "that the difference is undecided. Of tied candidates the cheapest is taken.",
        ]
    if name == "staged_variance":
        return [
            "Shares of the variance between the trials of stage 5, in percent, with 95 % intervals. Interaction: "
            "all interactions together. Seed: the variance between trials that differ in the seed alone."
        ]
    return []


def latex(name: str, table: pa.Table) -> str:
    """A booktabs table; long texts get a column that breaks lines."""
    kinds = dict(zip(table.column_names, table.schema.types, strict=True))
    spec = "".join(
        "p{8cm}" if n in ("reason", "setting") else "r" if pa.types.is_floating(t) or pa.types.is_integer(t) else "l"
        for n, t in kinds.items()
    )
    lines = [f"% {TITLES[name]}", rf"\begin{{longtable}}{{{spec}}}", r"\toprule"]
    lines += [" & ".join(map(tex, kinds)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(tex, row)) + r" \\" for row in body(table)]
    return "\n".join([*lines, r"\bottomrule", r"\end{longtable}"]) + "\n"
