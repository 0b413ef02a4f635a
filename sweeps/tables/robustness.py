"""The tables of a run folder: which fine-tune keeps working under prompts that no trial has seen.

``trials.parquet`` and the score files are read, ``tables/`` is written; the same folder always gives the same bytes.
Every score file is read once (those of the two reference trials twice), a few at a time. In memory are a few grids, the
grids of the reference trials, and the sums of each axis value whose trials are not all read.

The winner, and the two trials with which all others are compared, are chosen on the dev prompts. ``rank`` orders the
trials by the same objective on the test prompts; it is for reading and decides nothing.
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

from sweeps.display.table_files import write_table
from sweeps.run_folder.reading import RunFolder
from sweeps.statistics import intervals as st
from sweeps.statistics import prompt_metrics
from sweeps.tables.averages import Groups, group_table, summands
from sweeps.tables.columns import REFERENCES, Settings, bounds, or_none, schema
from sweeps.tables.pages import groups_page, robustness_page
from sweeps.tables.winner import by_dev
from trainer.measure import metrics
from trainer.measure.grid import Floats, Grid
from trainer.measure.registry import measured
from trainer.store import scores_name
from trainer.trial import digest

THREADS = 2  # more would wait for the interpreter's lock, which half of the work holds
CHUNK = 64  # at most so many trials wait in memory to be added to the averages


@dataclass(frozen=True)
class Reference:
    """A trial that all others are compared with."""

    trial_id: str
    name: str  # one of ``REFERENCES``
    test: Grid
    cells: Floats


def of_one_trial(run: RunFolder, trial_id: str, settings: Settings) -> dict[str, Any]:
    """The columns that follow from one trial's own score files. ``trials.parquet`` need not list the trial: it may
    belong to an earlier study in the folder."""
    row = _dev_row(run, {"trial_id": trial_id}, settings)
    with threadpool_limits(1, "blas"):
        _add_test(run, row, (), settings)
    return row


def write_tables(run: RunFolder, settings: Settings) -> list[str]:
    """Write ``tables/robustness`` and ``tables/groups`` as md, csv and parquet; returns the names written."""
    table, by_axis = make_tables(run, settings)
    texts = {
        "robustness": robustness_page(table, settings, run.notes),
        "groups": groups_page(by_axis, settings, run.notes),
    }
    written: list[str] = []
    for name, found in (("robustness", table), ("groups", by_axis)):
        written += write_table(run.store, name, found, texts[name])
    return written


def make_tables(run: RunFolder, settings: Settings) -> tuple[pa.Table, pa.Table]:
    """``tables/robustness``: one row per trial, winner first, how its metric holds up over the test prompts; and
    ``tables/groups``: one row per axis and value, averages over its finished, non-degenerate trials. Fractions of 1.
    The intervals, of 95 %, treat prompts and rows as drawn at random; those of groups take the trials as given. Raises
    ``ScoreError`` naming file, prompt and row of a bad cell."""
    trials = run.trials
    averages = Groups.of_trials(trials, st.limits_of(settings.metric))
    # one thread for each matrix product: they are so small that sharing one costs more than it saves
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(lambda trial: _dev_row(run, trial, settings), trials))
        references = _references(run, rows, settings)
        for start in range(0, len(rows), CHUNK):
            found = pool.map(lambda row: _add_test(run, row, references, settings), rows[start : start + CHUNK])
            for trial, (identity, own) in zip(trials[start : start + CHUNK], found, strict=True):
                averages.add_trial(trial, identity, own)
    _rank(rows)
    for winner in by_dev(rows)[:1]:
        # where its test scores are lost, and nothing says whether they all had one label, no trial is named
        winner["winner"] = not _test_lost(winner) or winner.get("test_degenerate") is not None
    _adjust(rows)
    rows.sort(key=_order)
    return pa.Table.from_pylist(rows, schema=schema(settings, trials)), group_table(averages)


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
        row |= {"dev_objective": or_none(on_dev.value), "dev_stderr": or_none(on_dev.stderr)}
        row["dev_parse_fail_rate"] = on_dev.parse_fail_rate
        row["degenerate"] = last.grid.degenerate
        if recorded is None or last.step != trial.get("rung") or _agree(on_dev.value, recorded):
            return row
        said = f"{on_dev.value:.6g}, and trials.parquet says {recorded:.6g}"
        run.note(scores_name(trial["trial_id"], last.step, "dev"), f"gives an objective of {said}")
    if recorded is not None and math.isfinite(recorded):  # its last score file is lost: take what trials.parquet says
        row |= {"dev_objective": recorded, "dev_stderr": or_none(trial.get("stderr") or math.nan)}
        row["degenerate"] = bool(trial.get("degenerate"))
    return row


def _agree(found: float, recorded: float) -> bool:
    """Whether two objectives are the same but for rounding. A NaN is recorded as null or NaN."""
    return abs(found - recorded) < 1e-6 or not (math.isfinite(found) or math.isfinite(recorded))


def _test_lost(row: Mapping[str, Any]) -> bool:
    """Whether a trial was scored on the test prompts, and the scores are lost."""
    return row["mean"] is None and row.get("test_mean") is not None


def _add_test(
    run: RunFolder, row: dict[str, Any], references: Sequence[Reference], settings: Settings
) -> tuple[str, dict[str, Any] | None]:
    """Add the columns that follow from the test grid to ``row``. Identity of the grid, and the summands for
    averages."""
    test = run.last_grid(row["trial_id"], "test")
    if test is None:
        row["degenerate"] = bool(row["degenerate"] or row.get("test_degenerate"))
        return "", None
    row["degenerate"] = bool(row["degenerate"]) or test.degenerate
    cells = metrics.cells(test, settings.metric)
    seed = _seed(test)
    drawn = st.replicate(cells, st.resamples(*cells.shape, seed))
    row |= _columns(test, cells, drawn, settings)
    row |= _differences(row["trial_id"], test, cells, references, st.limits_of(settings.metric))
    averaged = row.get("status") == "finished" and not row["degenerate"]
    least_rows = metrics.least_rows(test, settings.metric)
    return f"{seed} {cells.shape}", summands(cells, drawn, settings, least_rows) if averaged else None


def _columns(test: Grid, cells: Floats, drawn: st.Replicates, settings: Settings) -> dict[str, Any]:
    """The columns of one trial that follow from its test grid."""
    each = metrics.per_prompt(test, settings.metric)
    summary = metrics.grid_objective(test, settings.metric, settings.std_weight)
    limits = st.limits_of(settings.metric)
    mean, _ = st.mean_test(cells, drawn, limits=limits, least_rows=metrics.least_rows(test, settings.metric))
    std = st.std_interval(cells, limits)
    ordered = np.sort(drawn.stretched, axis=1)
    row: dict[str, Any] = {
        "n_prompts": summary.n_prompts,
        "n_rows": summary.n_rows,
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
        **metrics.means(test, measured(settings.labels)),
        "parse_fail_rate": summary.parse_fail_rate,
        "top_label_share": summary.top_label_share,
        "max": float(each.max()),
        "saturation": 1.0 - float(each.max() - each.mean()) if shares else None,
        "cps": prompt_metrics.cps(each) if shares else None,
        "consistency": or_none(prompt_metrics.consistency_rate(test.predicted)),
        "sensitivity": or_none(prompt_metrics.prompt_sensitivity(test.correct)),
    }


def _seed(test: Grid) -> int:
    """Depends on the prompts and rows alone, so that all trials of one grid have the same resamples."""
    return int(digest([test.prompts, test.rows])[:8], 16)


# between trials ------------------------------------------------------------------------------------------------


def _rank(rows: list[dict[str, Any]]) -> None:
    able = [r for r in rows if r["test_objective"] is not None and not r["degenerate"] and r.get("status") != "failed"]
    for place, row in enumerate(sorted(able, key=lambda r: (-r["test_objective"], r["trial_id"])), 1):
        row["rank"] = place


def _references(run: RunFolder, rows: Sequence[dict[str, Any]], settings: Settings) -> list[Reference]:
    """The best two by dev objective that have test scores and are not degenerate on them."""
    found: list[Reference] = []
    for row in by_dev(rows):
        if len(found) == len(REFERENCES):
            break
        if row.get("test_mean") is not None and run.last_grid(row["trial_id"], "test") is None:
            return found  # nobody takes the place of the best trial, whose scores are lost
        test = run.last_grid(row["trial_id"], "test")
        if test is not None and not test.degenerate:
            cells = metrics.cells(test, settings.metric)
            found.append(Reference(row["trial_id"], REFERENCES[len(found)], test, cells))
    return found


def _differences(
    trial_id: str, test: Grid, cells: Floats, references: Sequence[Reference], limits: st.Limits
) -> dict[str, Any]:
    """Paired differences of the mean to the reference trials, on the same prompts and rows."""
    row: dict[str, Any] = {}
    for other in references:
        if trial_id == other.trial_id or (test.prompts, test.rows) != (other.test.prompts, other.test.rows):
            continue
        gap, p = st.difference(cells, other.cells, _seed(test), limits)
        row |= {f"diff_{other.name}": gap.value, **bounds(f"diff_{other.name}", gap), f"p_{other.name}": or_none(p)}
    return row


def _adjust(rows: list[dict[str, Any]]) -> None:
    """Add p-values with Holm's correction over the trials compared."""
    for name in REFERENCES:
        compared = [r for r in rows if r[f"p_{name}"] is not None]
        for row, p in zip(compared, st.holm([r[f"p_{name}"] for r in compared]), strict=True):
            row[f"p_{name}_holm"] = p
