"""``tables/effects`` and ``tables/variance``: which axis mattered, and what the scores' variance comes from.

Only configurations count that finished and don't give one label nearly always, so that nothing is compared that was
trained for a shorter time than something else. The statistics are those of ``sweeps.statistics.effects``; intervals
and p-values are those of a difference of two configurations, with each side the average over its pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sweeps.display.parts import ShownTable
from sweeps.display.table_files import markdown_rows, markdown_text, remove_table, write_table
from sweeps.display.text import counted, metric_sign, percent, shown
from sweeps.run_folder.reading import RunFolder
from sweeps.statistics import intervals as st
from sweeps.statistics import seeds as sd
from sweeps.statistics.effects import Pairing, pairings, shares
from sweeps.tables.columns import bounds, or_none
from sweeps.tables.configurations import Configuration, configurations
from sweeps.tables.estimates import SeedCells, mean_test, seed_cells, seed_variance
from sweeps.tables.words import in_words
from trainer.measure.grid import Floats
from trainer.trial import AXES

TITLE = "What mattered"
SURE = 0.05  # p, after correction
MOST_CELLS = 50_000_000  # of all configurations together: 400 MB
EFFECTS = pa.schema(
    {
        "axis": pa.string(), "value": pa.string(), "against": pa.string(), "n_pairs": pa.int32(),
        "diff": pa.float64(), "diff_low": pa.float64(), "diff_high": pa.float64(),
        "p": pa.float64(), "p_holm": pa.float64(),
    }
)  # fmt: skip
VARIANCE = pa.schema({"source": pa.string(), "share": pa.float64()})
INTERACTIONS, SEEDS, PROMPTS, ROWS, REST = (
    "interactions of the axes, and the luck of single fine-tunes",
    "seeds",
    "prompts, the same for all configurations",
    "finite rows",
    "prompts that suit some fine-tunes and not others",
)


@dataclass(frozen=True)
class Mattered:
    """``of``: how many configurations are compared, and of how many."""

    effects: pa.Table
    variance: pa.Table
    of: tuple[int, int]
    unpaired: tuple[str, ...]  # axes of which no two configurations are equal but for it
    cut: bool  # whether some were stopped early: those that are left were chosen for being good
    seeds: int = 0  # of each configuration; with one, nothing is known of the luck of the seed


@dataclass(frozen=True)
class _Compared:
    """Cells of the metric of configurations on the same seeds x prompts x rows: ``cells`` [C, S, P, R]."""

    design: list[dict[str, Any]]
    cells: Floats
    first: SeedCells


def write_effects(run: RunFolder) -> Mattered:
    """Write both tables as md, csv and parquet, or remove those of an earlier study where nothing can be compared."""
    found = mattered(run, run.robustness(), run.study.task.metric)
    for name, table in (("effects", found.effects), ("variance", found.variance)):
        if table.num_rows:
            write_table(run.store, name, table, page(name, found, run))
        else:
            remove_table(run.store, name)
    return found


def mattered(run: RunFolder, rows: Sequence[Mapping[str, Any]], metric: str) -> Mattered:
    """The effects and shares of the study's axes. ``rows``: of tables/robustness."""
    sound = {
        row["configuration"]
        for row in rows
        if row.get("status") == "finished" and not row["degenerate"] and row["mean"] is not None
    }
    compared = _compared(run, [one for one in configurations(run.trials) if one.id in sound], metric)
    stopped = any(row.get("status") == "stopped" for row in rows)
    if compared is None:
        return Mattered(EFFECTS.empty_table(), VARIANCE.empty_table(), (len(sound), len(rows)), (), stopped)
    axes = [axis for axis in AXES if axis != "seed" and len({one[axis] for one in compared.design}) > 1]
    beside = ["rung"] if not {"steps", "arm"} & set(axes) else []
    found = pairings(compared.design, axes, beside)
    unpaired = tuple(axis for axis in axes if axis not in {one.axis for one in found})
    effects = pa.Table.from_pylist(_effects(compared, found), schema=EFFECTS)
    variance = pa.Table.from_pylist(_shares(compared, axes), schema=VARIANCE)
    return Mattered(effects, variance, (len(compared.design), len(rows)), unpaired, stopped, compared.cells.shape[1])


def _compared(run: RunFolder, some: Sequence[Configuration], metric: str) -> _Compared | None:
    """None with fewer than two configurations on the same prompts and rows, or with more cells than memory is for."""
    grids = [[grid for row in one.rows if (grid := run.last_grid(row["trial_id"], "test")) is not None] for one in some]
    seeds = min(map(len, grids), default=0)
    flat = [grid for one in grids for grid in one[:seeds]]
    if len(some) < 2 or seeds == 0 or sum(grid.n_cells for grid in flat) > MOST_CELLS:
        return None
    scores, kept = seed_cells(flat, metric)
    whole = [i for i in range(len(some)) if all(i * seeds + s in kept for s in range(seeds))]
    if len(whole) < 2:
        return None
    place = {index: at for at, index in enumerate(kept)}
    cells = np.array([[scores.cells[place[i * seeds + s]] for s in range(seeds)] for i in whole])
    return _Compared([_axes_of(some[i]) for i in whole], cells, scores)


def _axes_of(one: Configuration) -> dict[str, Any]:
    row = one.rows[0]
    return {axis: None if row.get(axis) is None else shown(row[axis]) for axis in AXES} | {"rung": row.get("rung")}


def _effects(compared: _Compared, found: Sequence[Pairing]) -> list[dict[str, Any]]:
    first = compared.first
    luck = sd.pooled([seed_variance(SeedCells(first.grid, cells, first.metric)) for cells in compared.cells])
    rows: list[dict[str, Any]] = []
    for one in found:
        sides = [
            SeedCells(first.grid, compared.cells[list(side)].mean(axis=0), first.metric)
            for side in zip(*one.pairs, strict=True)
        ]
        tested = mean_test(sides, _of_average(luck, len(one.pairs)))
        gap, p = tested or (st.Estimate(np.nan, np.nan, np.nan), np.nan)
        rows.append(
            {
                "axis": one.axis, "value": str(one.value), "against": str(one.other), "n_pairs": len(one.pairs),
                "diff": gap.value, **bounds("diff", gap), "p": or_none(p),
            }
        )  # fmt: skip
    tested_rows = [row for row in rows if row["p"] is not None]
    for row, adjusted in zip(tested_rows, st.holm([row["p"] for row in tested_rows]), strict=True):
        row["p_holm"] = adjusted
    return rows


def _of_average(luck: sd.SeedVariance, n: int) -> sd.SeedVariance:
    """The variance between seeds of an average of ``n`` configurations, each with its own."""
    return sd.SeedVariance(
        sd.Component(luck.of_mean.value / n, luck.of_mean.df),
        sd.Component(luck.interaction.value / n, luck.interaction.df),
    )


def _shares(compared: _Compared, axes: Sequence[str]) -> list[dict[str, Any]]:
    """The parts of the sum of squares of the metric by configuration, seed and prompt."""
    seen = compared.first.grid.seen
    mask = np.ones(compared.cells.shape[2:], bool) if seen is None else seen
    count = mask.sum(axis=1)
    cells = np.where(mask, compared.cells, 0.0)
    scores = cells.sum(axis=3) / count
    squares = np.where(mask, (cells - scores[..., None]) ** 2, 0.0).sum(axis=3)
    found = shares(scores, squares / np.maximum(count - 1, 1) / count, compared.design, axes)
    if found.total <= 0.0:
        return []
    parts = list(found.axes.items())
    parts += [] if found.interactions is None else [(INTERACTIONS, found.interactions)]
    parts += [(SEEDS, found.seeds)] if compared.cells.shape[1] > 1 else []
    parts += [(PROMPTS, found.prompts), (REST, found.rest), (ROWS, found.rows)]
    return [{"source": source, "share": value / found.total} for source, value in parts]


# the page ---------------------------------------------------------------------------------------------------------


def page(name: str, found: Mattered, run: RunFolder) -> str:
    metric = run.study.task.metric
    shown = effect_table(found, metric) if name == "effects" else variance_table(found, metric)
    lines = [f"# {TITLE}", "", *markdown_rows(shown.head, shown.rows), ""]
    return "\n".join([*lines, *(f"- {markdown_text(n)}" for n in (*run.notes, *notes(found, metric)))]) + "\n"


def effect_table(found: Mattered, metric: str) -> ShownTable:
    """The largest effect of the surest axis first."""
    rows = sorted(found.effects.to_pylist(), key=lambda r: (1.0 if r["p"] is None else r["p"], -abs(r["diff"])))
    columns = ("axis", "value", "against", "diff", "diff_low", "diff_high", "p", "p_holm", "n_pairs")
    return in_words("", rows, metric, columns)


def variance_table(found: Mattered, metric: str) -> ShownTable:
    return in_words("What the variance comes from", found.variance.to_pylist(), metric, ("source", "share"))


def notes(found: Mattered, metric: str) -> Iterator[str]:
    compared, whole = found.of
    unit = "points" if metric_sign(metric) else "times 100"
    yield (
        f"{counted(compared, 'configuration')} of {whole} are compared: those that finished and don't give one label "
        f"nearly always. A difference is the mean over pairs that differ in this axis alone, in {unit} of {metric} on "
        "the test prompts, with its 95 % interval; p is corrected for the number of lines (Holm)."
    )
    if found.seeds == 1:
        yield (
            "Each configuration has one seed, so intervals and p-values speak of these fine-tunes and not of their "
            "settings: with other seeds a difference may be another. Several values of axes.seed show how much."
        )
    if found.cut:
        yield (
            "Early stopping has left the configurations that were good at the rungs, so an axis can matter more than "
            "it does among them. scheduler.name=none trains all to their end."
        )
    yield (
        "Shares are of the variance of the metric by configuration, seed and prompt; of an axis, the average over all "
        "orders in which axes can enter an additive fit."
    )
    sources = found.variance.column("source").to_pylist()
    if INTERACTIONS not in sources and len(set(AXES) & set(sources)) > 1:
        yield (
            "Interactions of the axes are not known: there are as few configurations as an additive fit has "
            "coefficients, so what the axes do together is counted as theirs."
        )


def unpaired_note(found: Mattered) -> str:
    """Of which axes nothing is known; "" where there is none."""
    if not found.unpaired:
        return ""
    return f"No two finished configurations are equal but for {', '.join(found.unpaired)}: no difference is known."


def sentence(found: Mattered, metric: str) -> str:
    """Which axis mattered, for a reader who reads nothing else; "" where no difference is known."""
    rows = [row for row in found.effects.to_pylist() if row["p_holm"] is not None]
    whose = " of these fine-tunes, which have one seed each," if found.seeds == 1 else ""
    if not rows:
        return ""
    sure = [row for row in sorted(rows, key=lambda row: row["p"]) if row["p_holm"] < SURE]
    if not sure:
        return f"No axis changes the mean {metric}{whose} by more than chance may explain in a study of this size."
    texts = [
        f"{r['axis']} {r['value']} is {percent(abs(r['diff']))} {'above' if r['diff'] > 0 else 'below'} {r['against']}"
        for r in sure[:3]
    ]
    more = f", and {len(sure) - 3} more" if len(sure) > 3 else ""
    return f"Sure differences in the mean {metric}{whose.rstrip(',')}: {'; '.join(texts)}{more}."
