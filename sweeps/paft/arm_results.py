"""The results of a study's training arms, from its run folder: accuracy under the test prompts, and cost.

Trials of an arm that differ in their seed alone are one result. Where other axes vary, an arm has several results.
Reads ``trials.parquet``, ``tables/trials.parquet``, score files and ``prompts/``: no torch, no ray.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from sweeps.display.text import shown
from sweeps.run_folder.columns import SEARCH
from sweeps.run_folder.prompts import kept_prompts
from sweeps.run_folder.reading import RunFolder
from sweeps.statistics import intervals as st
from sweeps.study.study import Study
from trainer.measure import metrics
from trainer.measure.grid import Floats, Grid
from trainer.trial import AXES, SAME, Trial

_NOT_SPLIT = ("arm", "pool", "steps", "seed")  # an arm sets its pool and steps; seeds are repeats


@dataclass(frozen=True)
class Result:
    """One arm at one setting of the other axes, with ``trials`` seeds. Shares are fractions of 1."""

    name: str  # the arm, with the values of other axes that vary
    arm: str
    trial: Trial  # of the first seed
    trials: int
    train_prompts: int
    prompts: tuple[str, ...]  # of the test pool
    by_seed: Floats  # [S, P, R] metric per seed, test prompt and row
    stats: Mapping[str, float]  # mean, std, std_corrected, min, top, top_low, … averaged over seeds
    epochs: float
    tokens: float  # of one trial in training
    train_seconds: float
    test_seconds: float  # for scoring the whole test grid
    new_tokens: float | None  # mean per answer; None where labels were compared
    parse_failures: float

    @functools.cached_property
    def cells(self) -> Floats:
        """[P, R] averaged over seeds."""
        found: Floats = self.by_seed.mean(axis=0)
        return found

    @property
    def per_prompt(self) -> Floats:
        found: Floats = self.cells.mean(axis=1)
        return found

    @property
    def limits(self) -> st.Limits:
        """Of the metric."""
        return st.limits_of(self.trial.task.metric)

    @property
    def plain(self) -> bool:
        """Whether the arm is trained as PAFT is published, except for K, T and the pool."""
        a = self.trial.arm
        beyond = (a.choice, a.typos, a.formats, a.views, a.consistency)
        return beyond == ("uniform", 0.0, (), 1, 0.0) and self.trial.draw.mode == "dynamic"

    @property
    def paft(self) -> bool:
        return self.plain and self.train_prompts > 1 and self.trial.optimization.steps > 0


def results(run: RunFolder) -> list[Result]:
    """The arms that have finished trials with test scores, in the study's order."""
    study, rows = run.study, run.trial_scores()
    done = [
        {**r, "arm": arm}
        for r in rows
        if r.get("arm") and r["role"] == SEARCH and r["status"] == "finished" and r["mean"] is not None
        for arm in ([r["arm"]] if r["arm"] in study.arms else r["arm"].split(SAME))
    ]
    varied = [a for a in AXES if a not in _NOT_SPLIT and len({shown(r.get(a)) for r in done}) > 1]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in done:
        groups.setdefault((row["arm"], *(shown(row[a]) for a in varied)), []).append(row)
    order = {name: i for i, name in enumerate(study.axes.arm)}
    keys = sorted(groups, key=lambda k: (order.get(k[0], len(order)), k[1:]))
    found = []
    for key in keys:
        name = " ".join([key[0], *(f"{a}={v}" for a, v in zip(varied, key[1:], strict=True))])
        found.append(_result(run, name, key[0], sorted(groups[key], key=lambda r: r["seed"])))
    return found


def _result(run: RunFolder, name: str, arm: str, rows: Sequence[Mapping[str, Any]]) -> Result:
    study, scored = run.study, [_scored(run, r["trial_id"]) for r in rows]
    grid, record = scored[0][0], scored[0][1]
    trial = Trial.from_json(record["trial"])
    same = [s for s in scored if (s[0].prompts, s[0].rows) == (grid.prompts, grid.rows)]
    numbers = [n for n, v in rows[0].items() if isinstance(v, float)]
    stats = {n: float(np.mean([r[n] for r in rows])) for n in numbers if all(r[n] is not None for r in rows)}
    kept = kept_prompts(run.store, trial.data.train_prompts)
    return Result(
        name=name,
        arm=arm,
        trial=trial,
        trials=len(rows),
        train_prompts=len(kept) if kept else 0,
        prompts=tuple(grid.prompts),
        by_seed=np.array([metrics.cells(s[0], study.task.metric) for s in same]),
        stats=stats,
        epochs=_epochs(study, arm, trial.optimization.steps),
        tokens=float(np.mean([r["tokens"] or 0 for r in rows])),
        train_seconds=float(np.mean([s[2] for s in scored])),
        test_seconds=float(np.mean([s[1].get("score_seconds") or 0.0 for s in scored])),
        new_tokens=_mean([s[3] for s in scored]),
        parse_failures=stats.get("parse_fail_rate", 0.0),
    )


def _epochs(study: Study, arm: str, steps: int) -> float:
    """T as the study states it; NaN where it states a number of steps instead."""
    given = study.arms.get(arm)
    if given is not None and given.epochs is not None:
        return float(given.epochs)
    if steps == 0:
        return 0.0
    axis = study.axes.epochs
    if given is not None and given.steps is None and isinstance(axis, tuple) and len(axis) == 1:
        return float(axis[0])
    return float("nan")


def _scored(run: RunFolder, trial_id: str) -> tuple[Grid, Mapping[str, Any], float, float | None]:
    """The trial's test grid and record, the seconds it trained over all rungs, and its mean new tokens."""
    last = run.last_rung(trial_id, "test")
    assert last is not None  # tables/trials has just been made of it
    assert last.grid is not None
    trained = sum(rung.record.get("train_seconds") or 0.0 for rung in run.rungs(trial_id, "dev"))
    mean = pc.mean(last.rows["new_tokens"]).as_py()
    return last.grid, last.record, float(trained), None if mean is None else float(mean)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


# which of them ----------------------------------------------------------------------------------------------------


def is_base(result: Result) -> bool:
    return result.trial.optimization.steps == 0


def largest_pool(found: Sequence[Result]) -> list[Result]:
    """The arms that are PAFT on the largest pool that any of them has."""
    able = [r for r in found if r.paft]
    most = max((r.train_prompts for r in able), default=0)
    return [r for r in able if r.train_prompts == most]


def distinct(found: Sequence[Result]) -> list[Result]:
    """Each trial once: arms that come to the same training are one, as PAFT on the first 32 prompts of 24 is PAFT."""
    first: dict[str, Result] = {}
    for r in sorted(found, key=lambda r: r.arm != "paft"):
        first.setdefault(r.trial.id, r)
    return [r for r in found if first[r.trial.id] is r]


def reference_arm(able: Sequence[Result]) -> Result | None:
    """The arm called paft, or else the first."""
    return next((r for r in able if r.arm == "paft"), able[0] if able else None)
