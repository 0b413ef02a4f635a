"""``tables/ensembles``: how good a configuration is when a row is asked in several wordings at once.

Training for robustness and asking several times are rivals: the table has both, for the ``MOST`` best configurations,
and for the base model where an arm of the study has 0 steps. It is made from stored answers and label
log-probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from sweeps.display.colours import SERIES
from sweeps.display.parts import Figure
from sweeps.display.table_files import markdown_rows, markdown_text, write_table
from sweeps.display.text import column_with_interval, counted, metric_text, metric_unit, percent
from sweeps.display.vega_estimates import Estimates, estimates
from sweeps.run_folder.reading import RunFolder
from sweeps.statistics.wordings import DRAWS, METHODS, Asked, Wordings
from sweeps.study.study import Study
from sweeps.tables.columns import bounds
from sweeps.tables.configurations import configurations
from trainer.measure.grid import NO_ANSWER, Floats, Grid

TITLE = "Asking in several wordings"
MOST = 25  # beside the base model: as many as the page shows first, and each takes a moment
BASE = "base model"
SAMPLED = "not available from a sample: a row was asked under a few of the prompts"
GENERATED = "a vote only: generated answers have no label log-probabilities"
RAGGED = "a vote only: rows differ in the number of their options"
SCHEMA = pa.schema(
    {
        "trial_id": pa.string(), "configuration": pa.string(), "n_seeds": pa.int32(),
        "base": pa.bool_(), "method": pa.string(), "metric": pa.string(),
        "wordings": pa.int32(), "draws": pa.int32(), "value": pa.float64(), "value_low": pa.float64(),
        "value_high": pa.float64(), "n_prompts": pa.int32(), "n_rows": pa.int32(), "note": pa.string(),
    }
)  # fmt: skip


def write_ensembles(run: RunFolder) -> pa.Table:
    """Write ``tables/ensembles`` as md, csv and parquet and return it. ``tables/robustness`` must be there: its order
    is the order of the trials."""
    table = ensembles(run)
    write_table(run.store, "ensembles", table, page(table, run.study, run.notes))
    return table


def ensembles(run: RunFolder) -> pa.Table:
    """A row per configuration, method, metric and number of wordings; one with a note where there is no number."""
    searched = {one.id: [str(row["trial_id"]) for row in one.rows] for one in configurations(run.trials)}
    rows = run.robustness()
    best = {row["configuration"] for row in [row for row in rows if row.get("steps") != 0][:MOST]}
    asked = [row for row in rows if row.get("steps") == 0 or row["configuration"] in best]
    found = [_of_configuration(run, row, searched[row["configuration"]]) for row in asked]
    return pa.Table.from_pylist([row for rows in found for row in rows], schema=SCHEMA)


def _of_configuration(run: RunFolder, one: Mapping[str, Any], trials: Sequence[str]) -> list[dict[str, Any]]:
    """``one``: the configuration's row of tables/robustness. ``trials``: ids of its trials."""
    grids = [grid for trial_id in trials if (grid := run.last_grid(trial_id, "test")) is not None]
    grids = [grid for grid in grids if (grid.prompts, grid.rows) == (grids[0].prompts, grids[0].rows)]
    if not grids:
        return []
    grid = grids[0]
    row: dict[str, Any] = {**dict.fromkeys(SCHEMA.names), "trial_id": one["trial_id"]}
    row |= {"configuration": one["configuration"], "n_seeds": len(grids), "base": one.get("steps") == 0}
    row |= {"n_prompts": len(grid.prompts), "n_rows": grid.n_rows, "note": ""}
    if any(grid.seen is not None for grid in grids):
        return [{**row, "note": SAMPLED}]
    if not run.study.task.names:
        grids = [_with_all_options(grid) for grid in grids]
    if any(grid.label_logprobs is None for grid in grids):
        row["note"] = GENERATED if run.study.scoring.scorer == "generate" else RAGGED
    metrics = dict.fromkeys(["accuracy", run.study.task.metric])
    several = Wordings(grids, _prior(run, trials[0], grid))
    return [
        {**row, "method": method, "metric": metric, **_numbers(found)}
        for method in METHODS
        for metric in metrics
        for found in several.asked(method, metric)
    ]


def _numbers(one: Asked) -> dict[str, Any]:
    value = one.estimate
    return {"wordings": one.wordings, "draws": one.draws, "value": value.value, **bounds("value", value)}


def _prior(run: RunFolder, trial_id: str, grid: Grid) -> Floats | None:
    """The dev rows' label shares, which scoring uses for calibration, too: the test rows' must not be used."""
    dev = run.last_grid(trial_id, "dev") if run.study.task.names else None
    if dev is None or dev.labels != grid.labels:
        return None
    return np.bincount(dev.label, minlength=len(dev.labels)).astype(np.float64)


def _with_all_options(grid: Grid) -> Grid:
    """A grid whose labels are the numbers of its rows' options, in their order; as read, they are the texts of those
    that occur."""
    if grid.label_logprobs is None:
        return grid
    names = tuple(map(str, range(grid.label_logprobs.shape[2])))
    code = np.array([*(names.index(label) for label in grid.labels), NO_ANSWER])
    return replace(grid, labels=names, label=code[grid.label], predicted=code[grid.predicted])


# the page and the figure ------------------------------------------------------------------------------------------


def page(table: pa.Table, study: Study, said: Sequence[str] = ()) -> str:
    head, body = pivot(table)
    lines = [f"# {TITLE}", "", *markdown_rows(head, body), ""]
    return "\n".join([*lines, *(f"- {markdown_text(n)}" for n in (*said, *notes(table, study)))]) + "\n"


def pivot(table: pa.Table, names: Mapping[str, str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Head and rows: a row per trial, method and metric, a column per number of wordings. ``names``: configuration ->
    what it is called instead of its id."""
    rows = table.to_pylist()
    sizes = sorted({n for r in rows if (n := r["wordings"]) is not None and n != r["n_prompts"]} | {1})
    lines: dict[tuple[Any, ...], dict[Any, str]] = {}
    for r in rows:
        key = (_name(r, names or {}), r["method"] or "-", r["metric"] or "-", r["note"])
        at = "all" if r["wordings"] == r["n_prompts"] and r["wordings"] != 1 else r["wordings"]
        lines.setdefault(key, {})[at] = "-" if r["value"] is None else column_with_interval(r, "value")
    unit = "configuration" if any(r["n_seeds"] > 1 for r in rows) else "trial"
    head = [unit, "method", "metric", *(f"{n} wording{'s' * (n > 1)}" for n in sizes), "all", "note"]
    return head, [[*k[:3], *(v.get(n, "-") for n in (*sizes, "all")), k[3]] for k, v in lines.items()]


def _name(row: Mapping[str, Any], names: Mapping[str, str]) -> str:
    name = str(names.get(row["configuration"]) or row["configuration" if row["n_seeds"] > 1 else "trial_id"])
    return f"{name}, {BASE}" if row["base"] else name


def notes(table: pa.Table, study: Study) -> Iterator[str]:
    rows = table.to_pylist()
    metric = study.task.metric
    scale = "In percent" if metric_unit(metric) == "percent" else f"Accuracy in percent, {metric} times 100"
    yield f"{scale}. A row is asked in n of the test prompts, and the answers become one."
    yield (
        "probabilities: the labels' probabilities are averaged. calibrated: the same after batch calibration of each "
        "prompt with the dev rows' label shares. vote: the answer that most prompts give; ties go to the label with "
        "the higher mean log-probability."
    )
    yield (
        f"Several wordings: the mean over {DRAWS} draws of prompts, or over all sets where they are fewer; the same "
        "for all trials. Parentheses: 95 % intervals for new prompts and new rows; under `all` only rows are random, "
        "since there is one ensemble of all prompts. Of several seeds it is the average, and the intervals are of "
        "these fine-tunes: the luck of the seed is not in them."
    )
    if study.scoring.scorer == "labels" and study.scoring.decision not in ("raw", "batch"):
        yield (
            f"The study decides by {study.scoring.decision}, which compares with more than the stored "
            "log-probabilities. The vote has its answers; probabilities and calibrated are of plain log-probabilities."
        )
    if len({r["configuration"] for r in rows if not r["base"]}) == MOST:
        yield f"At most {MOST} configurations are here, the first of tables/robustness, and the base model."
    if rows and not any(r["base"] for r in rows):
        yield "The base model is not here: an arm with `steps: 0` adds it (arms in the study file)."


def _by_wordings(table: pa.Table, study: Study) -> dict[str, list[dict[str, Any]]]:
    """Configuration -> its rows of the study's metric, by the number of wordings: by averaged probabilities, or by
    votes where there are none."""
    rows = [r for r in table.to_pylist() if r["metric"] == study.task.metric]
    method = METHODS[0] if any(r["method"] == METHODS[0] for r in rows) else "vote"
    found: dict[str, list[dict[str, Any]]] = {}
    for r in rows:
        if r["method"] == method:
            found.setdefault(r["configuration"], []).append(r)
    return found


def answer(table: pa.Table, study: Study, names: Mapping[str, str]) -> Iterator[str]:
    """What asking the best fine-tune in several wordings gains, and in how many the others would have to be asked to
    equal it. ``names``: configuration -> what it is called."""
    found, metric = list(_by_wordings(table, study).values()), study.task.metric
    tuned = [rows for rows in found if not rows[0]["base"]]
    if not tuned or len(tuned[0]) < 2:
        return
    one, *_, most = tuned[0]
    once = metric_text(one["value"], metric)
    yield (
        f"Asked in all {most['wordings']} wordings instead of one, {_name(one, names)} changes its {metric} by "
        f"{percent(most['value'] - one['value'], signed=True)} points, from {once} to "
        f"{metric_text(most['value'], metric)}."
    )
    below = [rows for rows in tuned[1:] if rows[0]["value"] < one["value"]]
    if needed := [n for rows in below if (n := _needed(rows, one["value"])) is not None]:
        yield (
            f"Of {counted(len(below), 'fine-tune')} below it, {len(needed)} would reach what it gives with one "
            f"wording, {once}, by being asked in several: in {min(needed)} at the least."
        )
    elif below:
        yield f"Of {counted(len(below), 'fine-tune')} below it, none reaches {once} in any number of wordings."
    for rows in [rows for rows in found if rows[0]["base"]][:1]:
        n, best = _needed(rows, one["value"]), metric_text(max(r["value"] for r in rows), metric)
        if n is None:
            yield f"The base model does not reach {once} in any number of wordings: {best} at most."
        else:
            yield f"The base model needs {counted(n, 'wording')} for {once}."


def _needed(rows: Sequence[Mapping[str, Any]], value: float) -> int | None:
    """The fewest wordings in which a configuration reaches ``value``."""
    return next((int(r["wordings"]) for r in rows if r["value"] >= value), None)


def figure(table: pa.Table, study: Study, names: Mapping[str, str]) -> Figure:
    """The metric over the number of wordings, a curve for the best trials and for the base model. ``names``:
    configuration -> what it is called."""
    found = _by_wordings(table, study)
    base = [i for i, rows in found.items() if rows[0]["base"]][:1]
    places = {float(np.log2(r["wordings"])): str(r["wordings"]) for rows in found.values() for r in rows}
    series = []
    for one in [*base, *(i for i in found if i not in base)][: len(SERIES)] if len(places) > 1 else ():
        rows = found[one]
        x = tuple(float(np.log2(r["wordings"])) for r in rows)
        y, low, high = (_percents(rows, name) for name in ("value", "value_low", "value_high"))
        of = rows[0]["configuration" if any(r["n_seeds"] > 1 for r in rows) else "trial_id"]
        series.append(Estimates(_name(rows[0], names), x, y, low, high, of))
    metric = study.task.metric
    return Figure(
        "wordings",
        "",
        "",
        f"The {metric} over the number of wordings in which a row is asked; bars: 95 % intervals. Training for "
        "robustness and asking several times are rivals.",
        estimates(
            series,
            "wordings asked",
            f"{metric}, {metric_unit(metric)}",
            f"{metric} over wordings asked, {counted(len(series), 'trial')}",
            places,
        ),
    )


def _percents(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[float, ...]:
    return tuple(np.nan if r[name] is None else 100 * r[name] for r in rows)
