"""``tables/binary``: what a task with two labels, of which one may be rare, is judged by beside its metric.

Of every configuration with test scores: macro-F1 at a threshold of 0.5 and at the one that is best on the dev prompts,
how far the best thresholds of prompts lie apart, ROC-AUC, PR-AUC and calibration. It is made from stored label
log-probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from sweeps.display.table_files import markdown_rows, markdown_text, remove_table, write_table
from sweeps.run_folder.reading import RunFolder
from sweeps.statistics import binary
from sweeps.study.study import Study
from sweeps.tables.configurations import configurations

TITLE = "Two labels: thresholds, areas and calibration"
GENERATED = "generated answers have no label log-probabilities"
SAMPLED = "not available from a sample of the test grid"
NAN = "a log-probability is NaN"
SCHEMA = pa.schema(
    {
        "trial_id": pa.string(), "configuration": pa.string(), "n_seeds": pa.int32(), "positive": pa.string(),
        **dict.fromkeys(binary.NUMBERS, pa.float64()), "note": pa.string(),
    }
)  # fmt: skip


def write_binary(run: RunFolder) -> pa.Table:
    """Write ``tables/binary`` as md, csv and parquet and return it; nothing is written where no configuration has two
    labels and test scores. ``tables/robustness`` must be there: its order is the order of the rows."""
    table = binary_table(run)
    if table.num_rows:
        write_table(run.store, "binary", table, page(table, run.study, run.notes))
    else:
        remove_table(run.store, "binary")
    return table


def binary_table(run: RunFolder) -> pa.Table:
    """A row per configuration, averaged over its seeds; one with a note where there are no numbers."""
    found: list[dict[str, Any] | None] = []
    if len(run.study.task.names) == 2:
        trials = {one.id: [str(row["trial_id"]) for row in one.rows] for one in configurations(run.trials)}
        found = [_of_configuration(run, row, trials[row["configuration"]]) for row in run.robustness()]
    return pa.Table.from_pylist([row for row in found if row is not None], schema=SCHEMA)


def _of_configuration(run: RunFolder, one: Mapping[str, Any], trials: Sequence[str]) -> dict[str, Any] | None:
    """``one``: the configuration's row of tables/robustness. ``trials``: ids of its trials."""
    tested = [(i, grid) for i in trials if (grid := run.last_grid(i, "test")) is not None]
    if not tested:
        return None
    row: dict[str, Any] = {name: one[name] for name in ("trial_id", "configuration")}
    row |= {"n_seeds": len(tested), "positive": run.study.task.names[1], "note": ""}
    numbers = []
    for trial_id, test in tested:
        dev = run.last_grid(trial_id, "dev")
        grids = [test] if dev is None else [test, dev]
        if any(grid.label_logprobs is None for grid in grids):
            return row | {"note": GENERATED}
        if any(grid.nan for grid in grids):
            return row | {"note": NAN}
        if test.seen is not None:
            return row | {"note": SAMPLED}
        numbers.append(binary.binary_metrics(dev, test))
    return row | {name: _average([of[name] for of in numbers]) for name in binary.NUMBERS}


def _average(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


# the page ---------------------------------------------------------------------------------------------------------


def page(table: pa.Table, study: Study, said: Sequence[str] = ()) -> str:
    head, body = cells(table)
    lines = [f"# {TITLE}", "", *markdown_rows(head, body), ""]
    return "\n".join([*lines, *(f"- {markdown_text(n)}" for n in (*said, *notes(table, study)))]) + "\n"


def cells(table: pa.Table, names: Mapping[str, str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Head and rows as text. ``names``: configuration -> what it is called instead of its id."""
    rows = table.to_pylist()
    several = any(r["n_seeds"] > 1 for r in rows)
    head = ["configuration" if several else "trial", *(binary.TITLES[name] for name in binary.NUMBERS), "note"]
    of = "configuration" if several else "trial_id"
    body = [
        [(names or {}).get(r["configuration"], r[of])]
        + ["-" if r[n] is None else f"{r[n]:.3f}" for n in binary.NUMBERS]
        + [r["note"]]
        for r in rows
    ]
    return head, body


def answer(table: pa.Table, names: Mapping[str, str]) -> Iterator[str]:
    """What tuning the threshold does for the best configuration, and for all. ``names``: configuration -> what it is
    called."""
    rows = [r for r in table.to_pylist() if r["f1_half"] is not None and r["f1_tuned"] is not None]
    if not rows:
        return
    best, gains = rows[0], [r["f1_tuned"] - r["f1_half"] for r in rows]
    yield (
        f"At the threshold that is best on the dev prompts, {best['threshold']:.3f}, the macro-F1 of "
        f"{names.get(best['configuration'], best['trial_id'])} on the test prompts is {best['f1_tuned']:.3f}, and "
        f"{best['f1_half']:.3f} at 0.5."
    )
    if len(rows) > 1:
        yield (
            f"The tuned threshold is better than 0.5 for {sum(g > 0 for g in gains)} of {len(rows)}; on average it "
            f"changes the macro-F1 by {sum(gains) / len(gains):+.3f}."
        )


def notes(table: pa.Table, study: Study) -> Iterator[str]:
    positive, other = study.task.names[1], study.task.names[0]
    yield (
        f"The positive label is {positive}, the second of task.labels; its probability is its share of the two labels' "
        f"probabilities, and the answer is {positive} where that is above the threshold, else {other}."
    )
    yield from (f"{binary.TITLES[name]}: {says}." for name, says in binary.SAYS.items())
    if study.scoring.decision != "raw" and study.scoring.scorer == "labels":
        yield (
            f"The study decides by {study.scoring.decision}; these are figures of the plain probabilities, which it "
            "corrects."
        )
    if any(n > 1 for n in table["n_seeds"].to_pylist()):
        yield "Of several seeds: the average of their figures, each with its own threshold."
