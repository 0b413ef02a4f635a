"""``tables/confirmation``: the best configurations of the search, measured again with fresh seeds.

Of the fresh seeds (``confirm`` of the study), some choose the winner by the objective on the dev prompts, and the
others report: every figure here, but those that are called the search's or the choice's, is of seeds that did not
choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from sweeps.display.table_files import markdown_rows, markdown_text
from sweeps.display.text import HEAVY_TAILS, column_with_interval, metric_unit, percent, shown, with_interval
from sweeps.run_folder.columns import CHOOSE, REPORT, SEARCH
from sweeps.statistics import intervals as st
from sweeps.tables.columns import Settings, answer_marks, bounds, is_sampled, or_none
from sweeps.tables.configurations import (
    Configuration,
    Measured,
    SeedVariances,
    combined,
    configurations,
    heavy_difference,
    objective,
)
from sweeps.tables.estimates import mean_test
from trainer.trial import AXES

Row = Mapping[str, Any]
Measure = Callable[[Configuration], Measured | None]
_FLOATS = (
    "mean", "mean_low", "mean_high", "std", "std_corrected", "std_low", "std_high", "std_average", "seed_std",
    "min", "min_low", "min_high", "objective", "chosen_objective", "search_objective", "search_mean", "shrinkage",
    "diff_best", "diff_best_low", "diff_best_high", "p_best", "p_best_holm",
)  # fmt: skip
SCHEMA = pa.schema(
    [
        ("configuration", pa.string()),
        ("trial_id", pa.string()),  # the first seed that reports: the one that is exported
        ("search_trial_id", pa.string()),  # in the search; null where that had several seeds of it
        ("winner", pa.bool_()),
        ("n_choose", pa.int32()),  # fresh seeds that choose
        ("n_report", pa.int32()),  # and that report
        ("n_prompts", pa.int32()),
        ("n_rows", pa.int32()),
        *((name, pa.float64()) for name in _FLOATS),
        ("heavy_tails", pa.bool_()),  # a few test prompts lie far from the rest
        ("heavy_best", pa.bool_()),  # so it is with the differences from the winner: undecided
        ("degenerate", pa.bool_()),
        ("status", pa.string()),
        ("n_cells", pa.int64()),  # scored of every seed that reports; prompts x rows where all were
        ("mean_sampling", pa.float64()),  # standard errors against the whole grid
        ("std_sampling", pa.float64()),
    ]
)


def confirmation_rows(
    rows: Sequence[dict[str, Any]], measure: Measure, variances: SeedVariances, settings: Settings
) -> list[dict[str, Any]]:
    """A row per confirmed configuration, the winner first; none without fresh seeds. ``rows``: of all trials, with the
    columns of their own scores. ``measure`` reads the test scores of a configuration's trials."""
    weight = settings.std_weight
    by_role = {role: {c.id: c for c in configurations(rows, (role,))} for role in (SEARCH, CHOOSE, REPORT)}
    measures: dict[str, Measured | None] = {}
    found = []
    for name, report in by_role[REPORT].items():
        choose, search = by_role[CHOOSE].get(name), by_role[SEARCH].get(name)
        fresh = Configuration(name, (*(choose.rows if choose else ()), *report.rows))
        whole = combined(fresh, None, variances, settings)
        measures[name] = measure(report)
        own = combined(report, measures[name], variances, settings)
        first = objective(search.rows, weight) if search else math.nan
        row = {key: own.get(key) for key in SCHEMA.names}
        row |= {
            "configuration": name,
            "trial_id": report.trial_id,
            "search_trial_id": search.trial_id if search and len(search.rows) == 1 else None,
            "winner": False,
            "n_choose": len(choose.rows) if choose else 0,
            "n_report": len(report.rows),
            "objective": or_none(objective(report.rows, weight)),
            "chosen_objective": or_none(objective(choose.rows, weight)) if choose else None,
            "search_objective": or_none(first),
            "search_mean": or_none(_mean([r.get("mean") for r in search.rows])) if search else None,
            "shrinkage": or_none(first - objective(report.rows, weight)),
            "degenerate": whole["degenerate"],
            "status": whole["status"],
        }
        found.append(row | {axis: report.rows[0].get(axis) for axis in AXES if axis != "seed"})
    _choose(found)
    _compare(found, measures, variances)
    return sorted(found, key=lambda r: (not r["winner"], -(r["chosen_objective"] or r["objective"] or -math.inf)))


def _choose(rows: Sequence[dict[str, Any]]) -> None:
    """Mark the winner: the best by the seeds that choose, or the only one."""
    able = [
        r
        for r in rows
        if r["status"] == "finished" and not r["degenerate"] and (r["chosen_objective"] is not None or len(rows) == 1)
    ]
    for row in sorted(able, key=lambda r: (-(r["chosen_objective"] or 0.0), r["configuration"]))[:1]:
        row["winner"] = True


def _compare(rows: Sequence[dict[str, Any]], measures: Mapping[str, Measured | None], variances: SeedVariances) -> None:
    """Paired differences to the winner, over the seeds that report."""
    best = next((measures[r["configuration"]] for r in rows if r["winner"]), None)
    if best is None:
        return
    compared = []
    for row in rows:
        other = measures[row["configuration"]]
        if row["winner"] or other is None:
            continue
        found = mean_test([other.scores, best.scores], variances.on(best.pool))
        if found is None:
            continue
        gap, p = found
        row |= {"diff_best": gap.value, **bounds("diff_best", gap), "p_best": or_none(p)}
        row["heavy_best"] = heavy_difference(other, best)
        compared += [row] if math.isfinite(p) else []
    for row, p in zip(compared, st.holm([r["p_best"] for r in compared]), strict=True):
        row["p_best_holm"] = p


def _mean(values: Sequence[float | None]) -> float:
    return math.nan if None in values or not values else float(np.mean(np.array(values, float)))


def confirmation_table(rows: Sequence[Row]) -> pa.Table:
    axes = [a for a in AXES if a != "seed" and any(a in r for r in rows)]
    texts = [{**{n: r.get(n) for n in SCHEMA.names}, **{a: _text(r.get(a)) for a in axes}} for r in rows]
    return pa.Table.from_pylist(texts, schema=pa.schema([*SCHEMA, *((a, pa.string()) for a in axes)]))


def _text(value: Any) -> str | None:
    return None if value is None else shown(value)


def confirmation_page(table: pa.Table, settings: Settings, said: Sequence[str] = ()) -> str:
    rows = table.to_pylist()
    axes = [a for a in AXES if a in table.column_names and len({r[a] for r in rows}) > 1]
    head = ["configuration", *axes, f"{settings.metric}, mean"]
    head += ["std, noise removed", "worst prompt", "std between seeds", "objective in the search", "chosen by"]
    head += ["objective, confirmed", "difference to the winner", "status"]
    body = []
    for r in rows:
        p = r["p_best_holm"]
        gap = "" if r["diff_best"] is None else column_with_interval(r, "diff_best", signed=True)
        gap += ", undecided (heavy tails)" if r["heavy_best"] else ""
        gap += "" if p is None else f", p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
        marks = [r["status"] or "", "**winner**" if r["winner"] else "", *answer_marks(r, "degenerate")]
        numbers = [column_with_interval(r, "mean"), with_interval(r["std_corrected"], r["std_low"], r["std_high"])]
        numbers += [column_with_interval(r, "min"), percent(r["seed_std"]), percent(r["search_objective"])]
        numbers += [percent(r["chosen_objective"]), percent(r["objective"])]
        name = f"**{r['configuration']}**" if r["winner"] else r["configuration"]
        body.append([name, *(r[a] or "" for a in axes), *numbers, gap, ", ".join(m for m in marks if m)])
    lines = ["# Confirmation with fresh seeds", "", *markdown_rows(head, body), ""]
    lines += [f"- {markdown_text(n)}" for n in said]
    lines += [f"- {sentence}" for sentence in shrinkage(rows)]
    lines += [
        "- Figures are of the seeds that report, which neither the search nor the choice has seen. `chosen by`: the "
        "objective on the dev prompts of the seeds that choose, over seeds and prompts. "
        f"All values: {metric_unit(settings.metric)}.",
        "- Parentheses: 95 % intervals for new seeds, new prompts and new rows. p-values are corrected by Holm.",
    ]
    if part := [r for r in rows if is_sampled(r)]:
        cells = " or ".join(f"{n:,}" for n in sorted({r["n_cells"] for r in part}))
        of = part[0]["n_prompts"] * part[0]["n_rows"]
        lines.append(
            f"- {', '.join(r['configuration'] for r in part)}: on {cells} of {of:,} cells of the test grid; they "
            "estimate what the whole grid would give. Differences are on the cells that both have, so they can be "
            "others than those of the means."
        )
    if any(r["heavy_tails"] or r["heavy_best"] for r in rows):
        lines.append(f"- {HEAVY_TAILS}")
    return "\n".join(lines) + "\n"


def shrinkage(rows: Sequence[Row], name: Callable[[Row], str] | None = None) -> list[str]:
    """How much of the search's lead is left, as a sentence. ``rows``: of tables/confirmation; ``name``: what to call
    one, by default ``confirmed_name``."""
    name = name or confirmed_name
    winner = next((r for r in rows if r["winner"]), None)
    if winner is None or winner["search_objective"] is None or winner["objective"] is None:
        return []
    others = [r for r in rows if not r["winner"] and r["search_objective"] is not None and r["objective"] is not None]
    if not others:
        first, now = percent(winner["search_objective"]), percent(winner["objective"])
        return [f"{name(winner)} had an objective of {first} in the search, and of {now} with fresh seeds."]
    second = max(others, key=lambda r: r["search_objective"])
    before = winner["search_objective"] - second["search_objective"]
    after = winner["objective"] - second["objective"]
    return [
        f"By the objective on the dev prompts, {name(winner)} was {_apart(before)} "
        f"{name(second)} in the search, and {_apart(after)} it with the fresh seeds that report."
    ]


def confirmed_name(row: Row) -> str:
    """A confirmed configuration in a sentence, with the id that the search's tables show."""
    trial = row["search_trial_id"]
    return row["configuration"] if trial is None else f"{row['configuration']} (trial {trial} of the search)"


def _apart(gap: float) -> str:
    return f"{percent(abs(gap))} points {'ahead of' if gap >= 0 else 'behind'}"
