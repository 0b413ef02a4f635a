"""The tables of a run folder: which setting keeps working under prompts that no trial has seen.

``trials.parquet`` and the score files are read, ``tables/`` is written; the same folder always gives the same bytes.
Score files are read a few at a time: once for the trials, and again for the configurations with several seeds and those
that all others are compared with, where ``RunFolder`` has not kept them. In memory are what it keeps, a few grids, the
grids of these, and the sums of each axis value whose trials are not all read.

The winner, and the two configurations with which all others are compared, are chosen on the dev prompts. ``rank``
orders configurations by the same objective on the test prompts; it is for reading and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from sweeps.display.table_files import remove_table, write_table
from sweeps.run_folder.columns import FRESH, SEARCH
from sweeps.run_folder.reading import RunFolder
from sweeps.statistics import intervals as st
from sweeps.statistics import prompt_metrics
from sweeps.statistics.tails import heavy_tails
from sweeps.tables.averages import Groups, group_table, summands
from sweeps.tables.columns import REFERENCES, Settings, bounds, or_none, schema, trial_schema
from sweeps.tables.configurations import (
    Configuration,
    Measured,
    SeedVariances,
    combined,
    configurations,
    heavy_difference,
    measured,
)
from sweeps.tables.confirmation import confirmation_page, confirmation_rows, confirmation_table
from sweeps.tables.estimates import TrialEstimates, estimates, mean_test, seed_of
from sweeps.tables.pages import groups_page, robustness_page, trials_page
from sweeps.tables.winner import by_dev
from trainer.measure import metrics
from trainer.measure.grid import Grid, only, shared_cells
from trainer.measure.registry import task_metrics
from trainer.store import scores_name

THREADS = 2  # more would wait for the interpreter's lock, which half of the work holds
CHUNK = 64  # at most so many trials wait in memory to be added to the averages
Averaged = tuple[str, dict[str, Any] | None, Grid | None]  # a grid's identity, its summands, and the grid if sampled
NOT_AVERAGED: Averaged = ("", None, None)


@dataclass(frozen=True)
class Reference:
    """A configuration that all others are compared with."""

    configuration: str
    name: str  # one of ``REFERENCES``
    measured: Measured


def of_one_trial(run: RunFolder, trial_id: str, settings: Settings) -> dict[str, Any]:
    """The columns that follow from one trial's own score files. ``trials.parquet`` need not list the trial: it may
    belong to an earlier study in the folder."""
    row = _dev_row(run, {"trial_id": trial_id}, settings)
    with threadpool_limits(1, "blas"):
        _add_test(run, row, settings)
    return row


@dataclass(frozen=True)
class Tables:
    """What ``write_tables`` writes."""

    robustness: pa.Table  # a row per configuration, winner first: how its metric holds up over the test prompts
    trials: pa.Table  # a row per trial
    groups: pa.Table  # a row per axis and value: averages over its finished, non-degenerate trials
    confirmation: pa.Table  # a row per configuration that was confirmed with fresh seeds


def write_tables(run: RunFolder, settings: Settings) -> list[str]:
    """Write ``tables/robustness``, ``trials`` and ``groups`` as md, csv and parquet; returns the names written."""
    made = make_tables(run, settings)
    written: list[str] = []
    confirmed = made.confirmation.to_pylist()
    for name, found, page in (
        ("robustness", made.robustness, robustness_page(made.robustness, settings, run.notes, confirmed)),
        ("trials", made.trials, trials_page(made.trials, settings, run.notes)),
        ("groups", made.groups, groups_page(made.groups, settings, run.notes)),
    ):
        written += write_table(run.store, name, found, page)
    if confirmed:
        page = confirmation_page(made.confirmation, settings, run.notes)
        written += write_table(run.store, "confirmation", made.confirmation, page)
    else:
        remove_table(run.store, "confirmation")
    return written


def make_tables(run: RunFolder, settings: Settings) -> Tables:
    """Fractions of 1. The intervals, of 95 %, treat prompts and rows as drawn at random, and seeds where a
    configuration of the study has several; those of groups take the trials as given. Raises ``ScoreError`` naming file,
    prompt and row of a bad cell."""
    trials, variances = run.trials, SeedVariances()
    averages = Groups.of_trials(trials, st.limits_of(settings.metric))
    # one thread for each matrix product: they are so small that sharing one costs more than it saves
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(lambda trial: _dev_row(run, trial, settings), trials))
        searched = configurations(rows)
        groups = [*searched, *configurations(rows, FRESH)]
        sample = _sample(run, rows) if settings.sampled else None
        for one in groups:
            if len(one.rows) > 1:
                added = list(pool.map(lambda row: _add_test(run, row, settings, sample), one.rows))
                for row, (_, averaged) in zip(one.rows, added, strict=True):
                    averages.add_trial(row, *averaged)
                if found := _measured(run, one, settings):
                    variances.add(found, one.rows)
        references = _references(run, searched, settings)
        by_setting = list(
            pool.map(
                lambda one: _several(run, one, references, variances, settings),
                [g for g in searched if len(g.rows) > 1],
            )
        )
        alone = [one for one in groups if len(one.rows) == 1]
        for start in range(0, len(alone), CHUNK):
            part = alone[start : start + CHUNK]
            made = pool.map(lambda one: _single(run, one, references, variances, settings, sample), part)
            for one, (averaged, row) in zip(part, made, strict=True):
                averages.add_trial(one.rows[0], *averaged)
                by_setting += [row] if one.rows[0]["role"] == SEARCH else []
        confirmed = confirmation_rows(rows, lambda one: _measured(run, one, settings), variances, settings)
    _rank(by_setting)
    _choose(by_setting, searched, confirmed if settings.confirms or confirmed else None)
    _adjust(by_setting, references)
    by_setting.sort(key=_order)
    rows.sort(key=lambda row: _order({**row, "winner": False, "rank": None}))
    return Tables(
        pa.Table.from_pylist(by_setting, schema=schema(settings, trials)),
        pa.Table.from_pylist(rows, schema=trial_schema(settings, trials)),
        group_table(averages),
        confirmation_table(confirmed),
    )


def best_on_dev(run: RunFolder, settings: Settings) -> list[str]:
    """The first trials of the configurations that may win, the best first, as trials.parquet and dev scores say."""
    rows = [_dev_row(run, trial, settings) for trial in run.trials]
    for row in rows:
        row["degenerate"] = bool(row["degenerate"] or row.get("test_degenerate"))
    found = [combined(one, None, SeedVariances(), settings) for one in configurations(rows)]
    return [row["trial_id"] for row in by_dev(found)]


def _choose(
    rows: Sequence[dict[str, Any]], searched: Sequence[Configuration], confirmed: Sequence[Mapping[str, Any]] | None
) -> None:
    """Mark the winner: that of the confirmation, or, if the study has none, the best of the search. Where its test
    scores are lost, and nothing says whether they all had one label, none is."""
    if confirmed is not None:
        chosen = {row["configuration"] for row in confirmed if row["winner"]}
        for row in rows:
            row["winner"] = row["configuration"] in chosen
        return
    of_id = {one.id: one for one in searched}
    for winner in by_dev(rows)[:1]:
        lost = [row for row in of_id[winner["configuration"]].rows if _test_lost(row)]
        winner["winner"] = all(row.get("test_degenerate") is not None for row in lost)


def _single(
    run: RunFolder,
    one: Configuration,
    references: Sequence[Reference],
    variances: SeedVariances,
    settings: Settings,
    sample: Grid | None,
) -> tuple[Averaged, dict[str, Any]]:
    """Of a configuration with one seed, whose scores are read once: what its trial adds to averages, and its row."""
    grid, averaged = _add_test(run, one.rows[0], settings, sample)
    found = measured(one, lambda _: grid, settings.metric)
    row = combined(one, found, variances, settings)
    return averaged, row | (_differences(one.id, found, references, variances) if found else {})


def _several(
    run: RunFolder,
    one: Configuration,
    references: Sequence[Reference],
    variances: SeedVariances,
    settings: Settings,
) -> dict[str, Any]:
    """The row of a configuration with several seeds, whose trials' rows are whole."""
    found = _measured(run, one, settings)
    row = combined(one, found, variances, settings)
    return row | (_differences(one.id, found, references, variances) if found else {})


def _measured(run: RunFolder, one: Configuration, settings: Settings) -> Measured | None:
    return measured(one, lambda trial_id: run.last_grid(trial_id, "test"), settings.metric)


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    dev = row["dev_objective"]
    return not row["winner"], row["rank"] is None, row["rank"] or 0, math.inf if dev is None else -dev, row["trial_id"]


# one trial ---------------------------------------------------------------------------------------------------


def _dev_row(run: RunFolder, trial: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """A trial's row with the columns that follow from its dev grid."""
    row: dict[str, Any] = {**dict.fromkeys(settings.columns), **trial, "winner": False, "metric": settings.metric}
    last, recorded = run.last_rung(trial["trial_id"], "dev"), trial.get("objective")
    if last is not None and last.grid is not None:
        on_dev = metrics.grid_objective(last.grid, settings.metric, settings.std_weight)
        row |= {"dev_objective": or_none(on_dev.value), "dev_stderr": or_none(on_dev.stderr), "dev_std": on_dev.std}
        row["dev_parse_fail_rate"] = on_dev.parse_fail_rate
        row["degenerate"] = last.grid.degenerate
        if recorded is None or last.step != trial.get("rung") or _agree(on_dev.value, recorded):
            return row
        said = f"{on_dev.value:.6g}, and trials.parquet says {recorded:.6g}"
        run.note(scores_name(trial["trial_id"], last.step, "dev"), f"gives an objective of {said}")
    if recorded is not None and math.isfinite(recorded):  # its last score file is lost: take what trials.parquet says
        row |= {"dev_objective": recorded, "dev_stderr": or_none(trial.get("stderr") or math.nan)}
        row["dev_std"] = trial.get("dev_std")
        row["degenerate"] = bool(trial.get("degenerate"))
    return row


def _agree(found: float, recorded: float) -> bool:
    """Whether two objectives are the same but for rounding. A NaN is recorded as null or NaN."""
    return abs(found - recorded) < 1e-6 or not (math.isfinite(found) or math.isfinite(recorded))


def _test_lost(row: Mapping[str, Any]) -> bool:
    """Whether a trial was scored on the test prompts, and the scores are lost."""
    return row["mean"] is None and row.get("test_mean") is not None


def _add_test(
    run: RunFolder, row: dict[str, Any], settings: Settings, sample: Grid | None = None
) -> tuple[Grid | None, Averaged]:
    """Add the columns that follow from the test grid to ``row``. The grid, and what it adds to averages. Where some
    trials have a ``sample`` of the grid alone, averages are over its cells."""
    test = run.last_grid(row["trial_id"], "test")
    if test is None:
        row["degenerate"] = bool(row["degenerate"] or row.get("test_degenerate"))
        return None, NOT_AVERAGED
    row["degenerate"] = bool(row["degenerate"]) or test.degenerate
    read = estimates(test, settings.metric)
    row |= _columns(test, read, settings)
    if row.get("status") != "finished" or row["degenerate"]:
        return test, NOT_AVERAGED
    return test, _averaged(test, read, sample, settings)


def _averaged(test: Grid, read: TrialEstimates, sample: Grid | None, settings: Settings) -> Averaged:
    """What a trial adds to averages."""
    both = None if sample is None else shared_cells(test, sample)
    if both is not None and both.seen is not None and test.seen is None:
        seen = np.zeros(test.correct.shape, bool)
        seen[:, both.rows] = both.seen
        test = only(test, seen)
        read = estimates(test, settings.metric)
    cells = read.cells if test.seen is None else np.where(test.seen, read.cells, 0.0)
    identity = f"{seed_of(test)} {cells.shape} {test.n_cells}"
    least_rows = metrics.least_rows(test, settings.metric)
    own = summands(cells, read.each, read.drawn, settings, least_rows)
    return identity, own, None if test.seen is None else test


def _sample(run: RunFolder, rows: Sequence[Mapping[str, Any]]) -> Grid | None:
    """The sample of the test grid on which trials are averaged: one that a finished trial has, if there is one. The
    best have their whole grid, so it is looked for from the other end."""
    finished = [r for r in rows if r.get("status") == "finished" and r["dev_objective"] is not None]
    for row in sorted(finished, key=lambda r: float(r["dev_objective"])):
        test = run.last_grid(row["trial_id"], "test") if (row.get("role") or SEARCH) == SEARCH else None
        if test is not None and not test.degenerate:
            return test if test.seen is not None else None
    return None


def _columns(test: Grid, read: TrialEstimates, settings: Settings) -> dict[str, Any]:
    """The columns of one trial that follow from its test grid."""
    each, drawn, mean, std = read.each, read.drawn, read.mean, read.std
    limits = st.limits_of(settings.metric)
    summary = metrics.grid_objective(test, settings.metric, settings.std_weight)
    ordered = np.sort(drawn.stretched, axis=1)
    row: dict[str, Any] = {
        "n_prompts": summary.n_prompts,
        "n_rows": summary.n_rows,
        "n_cells": summary.n_cells,
        "mean_sampling": read.errors[0],
        "std_sampling": read.errors[1],
        "mean": summary.mean,
        "std": summary.std,
        "min": summary.min,
        "test_objective": or_none(summary.value),
        "std_corrected": std.value,
        **bounds("mean", mean),
        **bounds("std", std),
        **bounds("min", st.percentile(summary.min, ordered[:, 0], limits)),
    }
    for name, threshold in zip(settings.top_names(), settings.thresholds, strict=True):
        top = st.share_interval(each, drawn.per_prompt, threshold, settings.strict)
        row |= {name: top.value, **bounds(name, top)}
    for q in st.QUANTILES:
        name, at = f"q{round(100 * q):02d}", float(st.quantile(np.sort(each), q))
        row |= {name: at, **bounds(name, st.percentile(at, st.quantile(ordered, q), limits))}
    shares = limits.low >= 0  # which these two numbers are made for
    return row | {
        **metrics.means(test, task_metrics(settings.labels)),
        "parse_fail_rate": summary.parse_fail_rate,
        "top_label_share": summary.top_label_share,
        "heavy_tails": heavy_tails(each),
        "max": float(each.max()),
        "saturation": 1.0 - float(each.max() - each.mean()) if shares else None,
        "cps": prompt_metrics.cps(each) if shares else None,
        "consistency": or_none(prompt_metrics.consistency_rate(test.predicted, test.seen)),
        "sensitivity": or_none(prompt_metrics.prompt_sensitivity(test.correct, test.seen)),
    }


# between configurations --------------------------------------------------------------------------------


def _rank(rows: list[dict[str, Any]]) -> None:
    able = [r for r in rows if r["test_objective"] is not None and not r["degenerate"] and r.get("status") != "failed"]
    for place, row in enumerate(sorted(able, key=lambda r: (-r["test_objective"], r["trial_id"])), 1):
        row["rank"] = place


def _references(run: RunFolder, searched: Sequence[Configuration], settings: Settings) -> list[Reference]:
    """The best two by dev objective that have test scores and are not degenerate on them."""
    of_id, found = {one.id: one for one in searched}, list[Reference]()
    for row in by_dev([combined(one, None, SeedVariances(), settings) for one in searched]):
        if len(found) == len(REFERENCES):
            break
        one = of_id[row["configuration"]]
        test = _measured(run, one, settings)
        if (test is None or len(test.trial_ids) < len(one.rows)) and any(
            r.get("test_mean") is not None for r in one.rows
        ):
            return found  # nobody takes the place of the best one, whose scores are lost
        if test is not None and not test.degenerate:
            found.append(Reference(one.id, REFERENCES[len(found)], test))
    return found


def _differences(
    configuration: str, test: Measured, references: Sequence[Reference], variances: SeedVariances
) -> dict[str, Any]:
    """Paired differences of the mean to the references, on the same prompts and rows; where one of the two was
    sampled, on the cells that both have."""
    row: dict[str, Any] = {}
    for other in references:
        found = mean_test([test.scores, other.measured.scores], variances.on(test.pool))
        if configuration == other.configuration or found is None:
            continue
        gap, p = found
        row |= {f"diff_{other.name}": gap.value, **bounds(f"diff_{other.name}", gap), f"p_{other.name}": or_none(p)}
        row[f"heavy_{other.name}"] = heavy_difference(test, other.measured)
    return row


def _adjust(rows: list[dict[str, Any]], references: Sequence[Reference]) -> None:
    """Add p-values with Holm's correction over all comparisons of the table, to the best and to the second best
    together. The comparison of these two is in both columns and counts once."""
    ids = [r.configuration for r in references]
    family = [(row, name) for name in REFERENCES for row in rows if row[f"p_{name}"] is not None]
    twice = [(row, name) for row, name in family if name == "second" and row["configuration"] == ids[0]]
    family = [one for one in family if one not in twice]
    for (row, name), p in zip(family, st.holm([row[f"p_{name}"] for row, name in family]), strict=True):
        row[f"p_{name}_holm"] = p
    for row, _ in twice:
        row["p_second_holm"] = next((r["p_best_holm"] for r in rows if r["configuration"] == ids[1]), None)
