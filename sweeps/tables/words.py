"""What the columns of the tables are called in the report, and how their values are written there.

The files keep the short names of columns. A page says them in words with the unit, writes an estimate's interval in its
cell, and leaves out what is no use to a reader there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.display.parts import ShownTable
from sweeps.display.text import interval, metric_unit, percent

SHARE, METRIC, CHANGE, P, NUMBER, AMOUNT, TEXT, LONG = (
    "share", "metric", "change", "p", "number", "amount", "text", "long text",
)  # fmt: skip
INTERVAL = "95 % interval"


@dataclass(frozen=True)
class Words:
    """``head``: with ``{metric}`` where the study's metric stands. ``kind``: how values are written. ``ends``: the
    columns of the interval, where they are not ``<name>_low`` and ``<name>_high``."""

    head: str
    kind: str = TEXT
    ends: tuple[str, str] | None = None


WORDS = {
    # of an arm, a configuration or a trial
    "arm": Words("arm"),
    "trained_on": Words("trained on", LONG),
    "train_prompts": Words("training prompts", NUMBER),
    "trials": Words("trials", NUMBER),
    "mean": Words("mean {metric}", METRIC),
    "std": Words("std over prompts", METRIC),
    "std_corrected": Words("std, noise removed", METRIC),
    "min": Words("worst prompt", METRIC),
    "top": Words("share of prompts above the threshold", SHARE),
    "steps": Words("optimizer steps", AMOUNT),
    "tokens": Words("tokens trained on", AMOUNT),
    "total_tokens": Words("tokens together", AMOUNT),
    "seconds": Words("training, seconds of the sweep", AMOUNT),
    "hours": Words("training alone, hours", NUMBER),
    "joint_hours": Words("training, hours of the sweep", NUMBER),
    "to_fastest": Words("hours, times those of the fastest", NUMBER),
    "label_ms": Words("one answer by labels, ms", NUMBER),
    "generate_ms": Words("one generated answer, ms", NUMBER),
    "joint_ms": Words("one answer in the sweep, ms", NUMBER),
    "new_tokens": Words("new tokens of a generated answer", NUMBER),
    "mean_new_tokens": Words("new tokens of an answer in the sweep", NUMBER),
    "unread": Words("unread when generated", SHARE),
    "parse_failures": Words("unread in the sweep", SHARE),
    "answers": Words("answers", AMOUNT),
    "K": Words("K, examples for each prompt", NUMBER),
    "T": Words("T, epochs", NUMBER),
    "model": Words("language model"),
    # of a comparison
    "claim": Words("what the paper finds", LONG),
    "difference": Words("difference", CHANGE, ("low", "high")),
    "diff": Words("difference", CHANGE),
    "gap": Words("leader's lead", CHANGE),
    "p": Words("p", P),
    "p_mean": Words("p of the mean", P),
    "p_holm": Words("p, corrected (Holm)", P),
    "p_mean_holm": Words("p of the mean, corrected (Holm)", P),
    "p_std_holm": Words("p of the std, corrected (Holm)", P),
    "p_min_holm": Words("p of the worst prompt, corrected (Holm)", P),
    "p_permutation": Words("p by permutation", P),
    "p_joint": Words("p of the whole curve", P),
    "p_joint_holm": Words("p of the whole curve, corrected (Holm)", P),
    "heavy_tails": Words("a few prompts decide (heavy tails)"),
    "verdict": Words("in these data"),
    # of effects
    "axis": Words("axis"),
    "value": Words("value"),
    "against": Words("against"),
    "n_pairs": Words("pairs", NUMBER),
    "source": Words("source of variance", LONG),
    # of the prompt loss weight
    "analysis": Words("analysis"),
    "data_set": Words("data set"),
    "term": Words("term of the curve"),
    "estimate": Words("coefficient", NUMBER),
    "stderr": Words("standard error", NUMBER),
    "rejected": Words("shown (p below 0.05)"),
    "n": Words("scores", NUMBER),
    "df": Words("degrees of freedom", NUMBER),
    "kind": Words("shape of the curve"),
    "weight": Words("weight at which it turns", NUMBER, ("fieller_low", "fieller_high")),
    "std_model": Words("std between models", METRIC),
    "std_setting": Words("std between settings", METRIC),
    "std_seed": Words("std between seeds", METRIC),
    "std_finetune": Words("std between fine-tunes", METRIC),
    "std_residual": Words("std of the rest", METRIC),
    "note": Words("note", LONG),
    # of stages
    "stage": Words("stage", NUMBER),
    "title": Words("what it compares"),
    "taken": Words("chosen"),
    "reason": Words("why", LONG),
    "candidate": Words("candidate", LONG),
    "objective": Words("objective", METRIC),
    "tied": Words("tied with the leader"),
    "degenerate": Words("one label nearly always"),
    "part": Words("source of variance"),
    "share": Words("share of the variance", SHARE),
    "factors": Words("choices"),
    "f": Words("F", NUMBER),
    "df_residual": Words("degrees of freedom of the rest", NUMBER),
    "template": Words("template"),
    "lora": Words("LoRA setting"),
    "setting": Words("which is", LONG),
}


def words_of(name: str) -> Words:
    """Of the column ``name``. Some columns are named after an arm or a strategy of the study."""
    if name in WORDS:
        return WORDS[name]
    if name.startswith("minus_"):
        return Words(f"difference to {name.removeprefix('minus_')}", CHANGE, ("low", "high"))
    if name.endswith("_tokens"):
        return Words(f"tokens, {name.removesuffix('_tokens')}", AMOUNT)
    raise KeyError(f"sweeps.tables.words has no words for the column {name}")


def in_words(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    metric: str,
    columns: Sequence[str] = (),
    notes: Sequence[str] = (),
    values: Mapping[str, Mapping[Any, str]] | None = None,
    folded: bool = False,
) -> ShownTable:
    """``rows`` as a table of a page, with ``columns`` in this order, or all of the first row. Columns in which no row
    has a value are left out. ``values``: column -> value -> what is written instead."""
    known = [n for n in columns or rows[0] if any(_is_known(row.get(n)) for row in rows)]
    ends = {end for n in known if n in WORDS or n.startswith("minus_") for end in _ends(n)}
    shown = [n for n in known if n not in ends]
    instead = values or {}

    def text(row: Mapping[str, Any], name: str) -> str:
        value = row.get(name)
        return instead[name].get(value, str(value)) if name in instead else _text(row, name)

    return ShownTable(
        title,
        tuple(_head(n, metric, rows) for n in shown),
        tuple(tuple(text(row, n) for n in shown) for row in rows),
        frozenset(i for i, n in enumerate(shown) if words_of(n).kind not in (TEXT, LONG)),
        frozenset(i for i, n in enumerate(shown) if words_of(n).kind == LONG),
        tuple(notes),
        folded,
    )


def _ends(name: str) -> tuple[str, str]:
    return words_of(name).ends or (f"{name}_low", f"{name}_high")


def _head(name: str, metric: str, rows: Sequence[Mapping[str, Any]]) -> str:
    words, share = words_of(name), metric_unit(metric) == "percent"
    unit = {SHARE: "%", METRIC: "%" if share else "times 100", CHANGE: "points" if share else "times 100"}
    parts = [words.head.format(metric=metric), unit.get(words.kind, "")]
    head = ", ".join(part for part in parts if part)
    has_interval = any(_is_known(row.get(_ends(name)[0])) for row in rows)
    return f"{head} ({INTERVAL})" if has_interval else head


def _text(row: Mapping[str, Any], name: str) -> str:
    value, kind = row.get(name), words_of(name).kind
    if not _is_known(value):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    low, high = (row.get(end) for end in _ends(name))
    if kind in (SHARE, METRIC, CHANGE):
        bounds = interval(low, high, signed=kind == CHANGE)
        return percent(value, signed=kind == CHANGE) + (f" ({bounds})" if bounds else "")
    if kind == P:
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    if kind == AMOUNT:
        return f"{value:,.0f}"
    return f"{value:.3g}" + (f" ({low:.3g} to {high:.3g})" if _is_known(low) and _is_known(high) else "")


def _is_known(value: Any) -> bool:
    return value not in (None, "") and not (isinstance(value, float) and not math.isfinite(value))
