"""The study that ``init`` writes: its text, and how large it may be within the time that the user gives."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sweeps.plan.cost import plan
from sweeps.plan.sizes import DataSizes, ModelSize
from sweeps.prompts.files import quoted
from sweeps.study.load import load_study

MOST_STEPS, MOST_DEV, MOST_TEST = 240, 300, 500  # optimizer steps of a trial, rows
FEWEST_STEPS, FEWEST_DEV, FEWEST_TEST = 30, 20, 40
SMALL = 0.25  # scale below which wordings and fresh seeds are fewer, and only trials that reach the end are tested
LEAST = 0.08  # scale at which all of these are reached
SHRINK = 0.85


@dataclass(frozen=True)
class Scale:
    """How much a study does."""

    steps: int
    dev_rows: int
    test_rows: int
    dev_prompts: int
    test_prompts: int
    seeds: int  # of ``confirm``
    tested: Literal["all", "finalists"] = "all"

    @property
    def overrides(self) -> list[str]:
        return [
            f"axes.steps={self.steps}",
            f"task.rows.dev.limit={self.dev_rows}",
            f"task.rows.test.limit={self.test_rows}",
            f"pools.dev.limit={self.dev_prompts}",
            f"pools.test.limit={self.test_prompts}",
            f"confirm.seeds={self.seeds}",
            f"tables.test={self.tested}",
        ]


@dataclass(frozen=True)
class Outlined:
    """Everything that a study says but its scale."""

    name: str
    source: str  # the data, for the comment
    model: str
    fields: tuple[str, ...]
    labels: Mapping[str, str]
    options: bool
    templates: Mapping[str, Mapping[str, Any]]
    first_prompt: str  # the wording of pool ``one``
    max_length: int
    uneven: bool  # whether one label has most of the rows
    resources: Mapping[str, int]


def scales(rows: Mapping[str, int], prompts: Mapping[str, int]) -> Iterator[Scale]:
    """From the largest scale to the smallest, each about a sixth smaller than the one before. ``rows`` and ``prompts``:
    how many there are of each split."""
    factor = 1.0
    while True:
        small = factor < SMALL
        yield Scale(
            steps=max(FEWEST_STEPS, round(MOST_STEPS * factor)),
            dev_rows=min(rows["dev"], max(FEWEST_DEV, round(MOST_DEV * factor))),
            test_rows=min(rows["test"], max(FEWEST_TEST, round(MOST_TEST * factor))),
            dev_prompts=min(prompts["dev"], 5 if small else 10),
            test_prompts=min(prompts["test"], 10 if small else 20),
            seeds=2 if small else 4,
            tested="finalists" if small else "all",
        )
        if factor < LEAST:
            return
        factor *= SHRINK


def fitting(
    path: str, all_scales: Sequence[Scale], minutes: float, sizes: DataSizes, model: ModelSize
) -> tuple[Scale, float]:
    """The largest scale at which the study at ``path`` takes at most so many ``minutes`` as ``plan`` expects it, and
    how many these are; the smallest where none does."""
    expected = 0.0
    for scale in all_scales:
        fewer = dataclasses.replace(
            sizes, dev_rows=scale.dev_rows, test_rows=scale.test_rows,
            dev_prompts=scale.dev_prompts, test_prompts=scale.test_prompts,
        )  # fmt: skip
        expected = plan(load_study(path, scale.overrides), fewer, model).seconds / 60
        if expected <= minutes:
            break
    return scale, expected


def study_text(outlined: Outlined, scale: Scale) -> str:
    """The study as YAML, a key a line where a reader may want to change it."""
    o = outlined
    labels = ", ".join(f"{quoted(value)}: {quoted(name)}" for value, name in o.labels.items())
    resources = ", ".join(f"{key}: {value}" for key, value in o.resources.items())
    lines = [
        f"# Made by `steadytune init` from {' '.join(o.source.split())}. Look at the prompts in prompts/, then:",
        f"#   steadytune run {o.name}.yaml",
        f"name: {quoted(o.name)}",
        f"model: {{path: {quoted(o.model)}}}",
        "task:",
        "  rows:  # a limit keeps so many rows, drawn with a fixed seed; all rows are in the files",
        "    train: rows/train.jsonl",
        f"    dev: {{path: rows/dev.jsonl, limit: {scale.dev_rows}}}",
        f"    test: {{path: rows/test.jsonl, limit: {scale.test_rows}}}",
        f"  fields: [{', '.join(o.fields)}]",
        *(["  options: options"] if o.options else []),
        "  label: label",
        f"  labels: {{{labels}}}",
        "  id: id",
        *(["  metric: f1_macro  # one label has most of the rows"] if o.uneven else []),
        f"  max_length: {o.max_length}",
        "templates:",
        *(f"  {name}: {_flow(section)}" for name, section in o.templates.items()),
        "pools:",
        f"  train: {{many: prompts/train.yaml, one: {{file: prompts/train.yaml, only: [{quoted(o.first_prompt)}]}}}}",
        f"  dev: {{file: prompts/dev.yaml, limit: {scale.dev_prompts}}}",
        f"  test: {{file: prompts/test.yaml, limit: {scale.test_prompts}}}",
        "axes:",
        f"  template: [{', '.join(o.templates)}]",
        "  lora: {r: 16, alpha: 32}",
        "  lr: auto  # the usual rate for this model, a third of it and three times it",
        f"  steps: {scale.steps}",
        "  pool: [one, many]",
        *(["training: {balance: labels}"] if o.uneven else []),
        "scheduler: {name: asha, eta: 2, rungs: [0.25, 0.5, 1.0]}",
        f"confirm: {{top: 2, seeds: {scale.seeds}}}  # the best two again with fresh seeds",
        *(
            ["tables: {test: finalists}  # trials that early stopping cuts are not tested"]
            if scale.tested != "all"
            else []
        ),
        *([f"resources: {{{resources}}}"] if resources else []),
    ]
    return "\n".join(lines) + "\n"


def _flow(section: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {_value(value)}" for key, value in section.items()) + "}"


def _value(value: Any) -> str:
    """A value as YAML reads it back, on one line."""
    if isinstance(value, str):
        return quoted(value)
    return _flow(value) if isinstance(value, Mapping) else json.dumps(value)
