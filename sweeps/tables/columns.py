"""The columns of tables/robustness, and the settings of the study on which they depend."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sweeps.display.text import percent
from sweeps.statistics import intervals as st
from sweeps.study.precision import may_sample
from sweeps.study.study import Study
from trainer.measure.grid import DEGENERATE_SHARE
from trainer.measure.registry import OF_WHOLE_TASK, task_metrics
from trainer.trial import AXES

REFERENCES = ("best", "second")  # columns diff_best … and diff_second …


@dataclass(frozen=True)
class Settings:
    """The part of the resolved study that the tables read."""

    metric: str
    std_weight: float
    thresholds: tuple[float, ...]
    strict: bool
    labels: tuple[str, ...] = ()  # of the task; none where rows have their own options
    confirms: bool = False  # the winner is chosen by fresh seeds
    sampled: bool = False  # whether a large test grid is sampled

    @classmethod
    def of(cls, study: Study) -> Settings:
        return cls(
            study.task.metric,
            study.objective.std_weight,
            tuple(study.tables.thresholds),
            study.tables.strict,
            labels=study.task.names,
            confirms=study.confirm is not None,
            sampled=may_sample(study),
        )

    @functools.cached_property
    def columns(self) -> list[str]:
        """Names of the robustness table's columns."""
        names: list[str] = schema(self, []).names
        return names

    def top_names(self) -> list[str]:
        """``top`` for the first threshold, ``top_0.90`` and so on for further ones."""
        rest = [f"{x:.2f}" if round(x, 2) == x else f"{x:g}" for x in self.thresholds[1:]]
        return ["top", *(f"top_{x}" for x in rest)]


def schema(settings: Settings, trials: Sequence[Mapping[str, Any]]) -> pa.Schema:
    """Columns of the robustness table; axis columns are typed by the values that occur."""
    tops = settings.top_names()
    quantiles = [f"q{round(100 * q):02d}" for q in st.QUANTILES]
    numbers = ["mean", "std", "min", *tops]
    numbers_after = ["test_objective", "std_corrected", "std_average", "seed_std"]
    numbers_after += [f"{s}_{side}" for s in ("mean", "std", "min", *tops) for side in ("low", "high")]
    numbers_after += quantiles + [f"{q}_{side}" for q in quantiles for side in ("low", "high")]
    by_label = [m for m in task_metrics(settings.labels) if m not in OF_WHOLE_TASK]
    numbers_after += [*OF_WHOLE_TASK, *by_label, "parse_fail_rate", "top_label_share"]
    numbers_after += ["max", "saturation", "cps", "consistency", "sensitivity", "dev_objective", "dev_stderr"]
    numbers_after += ["dev_parse_fail_rate", "mean_sampling", "std_sampling"]
    compared = [
        c for n in REFERENCES for c in (f"diff_{n}", f"diff_{n}_low", f"diff_{n}_high", f"p_{n}", f"p_{n}_holm")
    ]
    f = pa.float64()
    columns: list[tuple[str, pa.DataType]] = [("trial_id", pa.string())]
    columns += [("n_prompts", pa.int32()), ("n_rows", pa.int32())]
    columns += [(n, f) for n in numbers] + [("metric", pa.string())]
    columns += [("configuration", pa.string()), ("n_seeds", pa.int32())] + [(n, f) for n in numbers_after]
    columns += [("n_cells", pa.int64())]
    columns += [("degenerate", pa.bool_()), ("winner", pa.bool_()), ("rank", pa.int32())] + [(n, f) for n in compared]
    columns += [(n, pa.bool_()) for n in ("heavy_tails", *(f"heavy_{n}" for n in REFERENCES))]
    columns += [("status", pa.string()), ("rung", pa.int32()), ("reason", pa.string())]
    columns += [("seconds", f), ("tokens", pa.int64()), ("speaks_of", pa.string()), ("seeds", pa.string())]
    columns += [("odd_seeds", pa.string())]
    return pa.schema(columns + [(a, _type([t.get(a) for t in trials])) for a in AXES])


OF_CONFIGURATIONS = ("n_seeds", "std_average", "seed_std", "winner", "rank", "speaks_of", "seeds", "odd_seeds")


def trial_schema(settings: Settings, trials: Sequence[Mapping[str, Any]]) -> pa.Schema:
    """Columns of tables/trials: those of the robustness table that belong to one trial, and the trial's role."""
    whole = schema(settings, trials)
    kept = [
        f
        for f in whole
        if f.name not in OF_CONFIGURATIONS and not f.name.startswith(("diff_", "p_", "heavy_best", "heavy_second"))
    ]
    return pa.schema([*kept, pa.field("role", pa.string())])


def _type(values: Sequence[Any]) -> pa.DataType:
    kinds = {type(v) for v in values if v is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {int, float} else pa.string()


def unread_share(row: Mapping[str, Any]) -> float:
    """Share of a trial's generated answers that could not be read, on the test or the dev prompts; 0 where none were
    generated. ``row``: of tables/robustness."""
    return max(row.get("parse_fail_rate") or 0.0, row.get("dev_parse_fail_rate") or 0.0)


def is_sampled(row: Mapping[str, Any]) -> bool:
    """Whether a trial's test numbers are estimates from a sample of its grid. ``row``: of tables/robustness."""
    cells = row.get("n_cells")
    return cells is not None and cells < row["n_prompts"] * row["n_rows"]


def answer_marks(row: Mapping[str, Any], alike: str) -> list[str]:
    """What the tables say of a trial's answers: the share that could not be read, or ``alike`` where one label takes
    nearly all of them; and which of a configuration's seeds failed."""
    share = unread_share(row)
    marks = [f"{percent(share)} % unread"] if share > 0 else []
    marks += [f"seed {row['odd_seeds']} far below the others"] if row.get("odd_seeds") else []
    return marks + ([alike] if row.get("degenerate") and share <= DEGENERATE_SHARE else [])


def bounds(name: str, estimate: st.Estimate) -> dict[str, float | None]:
    return {f"{name}_low": or_none(estimate.low), f"{name}_high": or_none(estimate.high)}


def or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
