"""The part of the report on a staged study: each stage's choice and reason, the shares of variance, and the answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from sweeps.display.parts import Figure, ReportPart, ShownTable
from sweeps.display.vega_estimates import NamedInterval, intervals
from sweeps.run_folder import stages as record
from sweeps.run_folder.reading import RunFolder
from sweeps.staged import tables
from sweeps.tables.words import in_words

TITLE = "Stage by stage"
UNFINISHED = "The stages are not finished. Run the same command again to go on."
CHANCE = (
    "The winner at the top of this page is the single best trial on the dev prompts. Its objective is the highest of "
    "many, so it is partly chance."
)
_ON_PAGE = {  # columns, where they are not all of the table's
    "staged_candidates": (
        "stage", "title", "candidate", "objective", "mean", "std", "min", "gap", "gap_low", "gap_high", "p", "p_holm",
        "tied", "taken", "heavy_tails", "degenerate",
    ),
}  # fmt: skip


def part_of_run(run: RunFolder) -> ReportPart | None:
    """Write the tables of a staged run and return its part of the report; None where it has no stages."""
    found = record.read(run.store)
    if found is None or not found["stages"]:
        return None
    made = tables.tables(found)
    answer = found.get("answer")
    tables.write(run.store, made, [*([answer["sentence"]] if answer else []), *run.notes])
    return part(found, made, run.study.task.metric)


def part(found: Mapping[str, Any], made: Mapping[str, pa.Table], metric: str) -> ReportPart:
    """The part of the page."""
    answer: Mapping[str, Any] = found.get("answer") or {}
    crossed: Mapping[str, Any] = next((s for s in found["stages"] if s["name"] == "interaction"), {})
    settings = [f"{name}: {text}." for name, text in crossed.get("settings", {}).items()]
    said, warnings = [], []
    if answer:
        choice = answer["choice"]
        said = [
            answer["sentence"],
            f"Chosen stage by stage: head {choice['head']}, template {choice['template']}, {choice['lora']}.",
        ]
    else:
        warnings.append(UNFINISHED)
    if lucky := answer.get("lucky"):
        warnings.append(
            "Stage 5 measured how much seeds change the objective. Compared with that, these earlier leads may be "
            f"chance. {' '.join(lucky)}"
        )
    return ReportPart(
        TITLE,
        answer=tuple(said),
        warnings=tuple(warnings),
        figures=tuple(figure for figure in [_variance(crossed)] if figure.spec),
        tables=(*(_shown(name, table, metric) for name, table in made.items()), *_warned(found)),
        notes=(*([CHANCE] if answer else []), *settings),
    )


def _variance(crossed: Mapping[str, Any]) -> Figure:
    rows = [
        NamedInterval(part, *(math.nan if v is None else 100.0 * v for v in values))
        for part, values in crossed.get("shares", {}).items()
    ]
    return Figure(
        "stages-variance",
        "",
        "What the objective varies with",
        "A point is a share of the variance between the trials of stage 5; its line is the 95 % interval. Interaction: "
        "all interactions together. Seed: between trials that differ in the seed alone.",
        intervals(rows, "share of the variance, percent", "Shares of the variance of the objective in stage 5"),
    )


def _shown(name: str, table: pa.Table, metric: str) -> ShownTable:
    return in_words(
        tables.TITLES[name],
        table.to_pylist(),
        metric,
        _ON_PAGE.get(name, ()),
        tables.explained(name),
        folded=name == "staged_candidates",
    )


def _warned(found: Mapping[str, Any]) -> list[ShownTable]:
    rows = tuple((str(w),) for stage in found["stages"] for w in stage.get("warnings", ()))
    made = ShownTable("Warnings of stage 1", ("warning",), rows, long_texts=frozenset({0}), folded=True)
    return [made] if rows else []
