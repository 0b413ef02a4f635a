"""``tables/groups``: averages over the trials that share an axis value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from sweeps.display.text import shown
from sweeps.run_folder.columns import SEARCH
from sweeps.statistics import intervals as st
from sweeps.statistics import sampled
from sweeps.tables.columns import Settings, bounds
from trainer.measure.estimate import estimate_grid
from trainer.measure.grid import Floats, Grid
from trainer.trial import AXES


@dataclass
class Group:
    """The finished trials that share one axis value, averaged cell by cell and replicate by replicate."""

    n_trials: int = 0
    n_finished: int = 0
    remaining: int = 0  # trials that are not read yet
    averaged: list[str] = field(default_factory=list)  # ids
    grid: str = ""  # identity of the prompts and rows; trials on different grids cannot be averaged
    sample: Grid | None = None  # a trial's, of which the cells and the rows' labels are those of all; None: whole grids
    mixed: bool = False  # trials on different grids
    sums: dict[str, Any] = field(default_factory=dict)  # emptied when the last trial has been added

    def add(self, trial_id: str, identity: str, summands: Mapping[str, Any], sample: Grid | None) -> None:
        self.mixed |= bool(self.grid) and self.grid != identity
        self.grid, self.sample = self.grid or identity, sample
        self.averaged.append(trial_id)
        if not self.mixed:
            self.sums = {k: v + self.sums[k] if self.sums else v for k, v in summands.items()}


@dataclass
class Groups:
    """The groups of all axis values, and the averages of the groups whose trials have all been read."""

    limits: st.Limits  # of the metric
    by_value: dict[tuple[str, str], Group] = field(default_factory=dict)
    averages: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)  # trials averaged -> columns

    @classmethod
    def of_trials(cls, trials: Sequence[Mapping[str, Any]], limits: st.Limits) -> Groups:
        groups = cls(limits)
        for trial in trials:
            if trial.get("role", SEARCH) != SEARCH:
                continue  # only the best configurations have fresh seeds
            for key in _values(trial):
                group = groups.by_value.setdefault(key, Group())
                group.n_trials += 1
                group.remaining += 1
                group.n_finished += trial.get("status") == "finished"
        return groups

    def add_trial(
        self,
        trial: Mapping[str, Any],
        identity: str,
        summands: Mapping[str, Any] | None,
        sample: Grid | None = None,
    ) -> None:
        """Add a trial; ``summands`` is None if the trial is not averaged."""
        if trial.get("role", SEARCH) != SEARCH:
            return
        for key in _values(trial):
            group = self.by_value[key]
            group.remaining -= 1
            if summands is not None:
                group.add(trial["trial_id"], identity, summands, sample)
            if group.remaining == 0:
                if group.averaged and not group.mixed and tuple(group.averaged) not in self.averages:
                    self.averages[tuple(group.averaged)] = _averages(group, self.limits)
                group.sums, group.sample = {}, None


def summands(cells: Floats, each: Floats, drawn: st.Replicates, settings: Settings, least_rows: int) -> dict[str, Any]:
    """The values of one trial that a group sums over its trials: cells, and statistics per replicate, the observed
    last. ``each``: per prompt. ``least_rows`` as in ``trainer.measure.metrics``; it is the same for all trials of a
    grid."""
    threshold, strict = settings.thresholds[0], settings.strict
    ddof = min(1, each.size - 1)
    return {
        "cells": cells,
        "least_rows": float(least_rows),
        "std": np.append(drawn.stretched.std(axis=1, ddof=ddof), each.std(ddof=ddof)),
        "min": np.append(drawn.stretched.min(axis=1), each.min()),
        "top": np.append(
            st.above(drawn.stretched, threshold, strict).mean(axis=1), st.share_above(each, threshold, strict)
        ),
    }


def _values(trial: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The groups that the trial belongs to: (axis, value)."""
    return [(axis, shown(trial[axis])) for axis in AXES if trial.get(axis) is not None]


def _averages(group: Group, limits: st.Limits) -> dict[str, Any]:
    """The columns of one group from its sums."""
    average = {k: v / len(group.averaged) for k, v in group.sums.items()}
    cells = average["cells"]
    mean = _mean(cells, group, limits, average["least_rows"])
    within = {"std": st.spread_limits(cells.shape[0], limits), "min": limits, "top": st.SHARE}
    row: dict[str, Any] = {"mean": mean.value, **bounds("mean", mean)}
    for name, own in within.items():
        one = st.percentile(float(average[name][-1]), average[name][:-1], own)
        row |= {name: one.value, **bounds(name, one)}
    return row


def _mean(cells: Floats, group: Group, limits: st.Limits, least_rows: float) -> st.Estimate:
    sample = group.sample
    if sample is not None and sample.seen is not None:
        found = estimate_grid(cells, sample.seen, sample.label, sample.n_rows)
        return sampled.mean_test(found, len(sample.rows), limits=limits, least_rows=least_rows)[0]
    drawn = st.resamples(*cells.shape, int(group.grid.split()[0]))
    replicates = st.replicate(cells, drawn, redraw=False)
    return st.mean_test(cells, replicates, limits=limits, least_rows=least_rows)[0]


def group_table(groups: Groups) -> pa.Table:
    floats = [n for s in ("mean", "std", "min", "top") for n in (s, f"{s}_low", f"{s}_high")]
    counts = ["n_trials", "n_finished", "n_averaged"]
    kinds = {"axis": pa.string(), "value": pa.string(), **dict.fromkeys(counts, pa.int32())}
    schema = pa.schema(kinds | dict.fromkeys(floats, pa.float64()))
    rows = []
    for (axis, value), group in groups.by_value.items():
        row: dict[str, Any] = {**dict.fromkeys(schema.names), "axis": axis, "value": value}
        row |= {"n_trials": group.n_trials, "n_finished": group.n_finished, "n_averaged": len(group.averaged)}
        if not group.mixed:
            row |= groups.averages.get(tuple(group.averaged), {})
        rows.append(row)
    order = {axis: i for i, axis in enumerate(AXES)}
    rows.sort(key=lambda r: order[r["axis"]])
    return pa.Table.from_pylist(rows, schema=schema)
