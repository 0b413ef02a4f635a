"""The tables as Markdown, with notes that say how to read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from sweeps.display.table_files import markdown_rows, markdown_text
from sweeps.display.text import (
    HEAVY_TAILS,
    column_with_interval,
    metric_unit,
    percent,
    shown,
    unseen,
    with_interval,
)
from sweeps.run_folder.columns import SEARCH
from sweeps.tables.columns import Settings, answer_marks, is_sampled, unread_share
from sweeps.tables.configurations import differing_axes, seed_note
from sweeps.tables.winner import why_no_winner
from trainer.measure.estimate import Z
from trainer.measure.grid import DEGENERATE_SHARE
from trainer.trial import AXES

MOST_NAMED = 10  # trials that a note lists


def robustness_page(
    table: pa.Table, settings: Settings, said: Sequence[str] = (), confirmed: Sequence[Mapping[str, Any]] = ()
) -> str:
    """``said``: what is to be known of the files that the table was made from. ``confirmed``: the rows of
    tables/confirmation."""
    rows = table.to_pylist()
    axes = differing_axes(rows)
    tops = settings.top_names()
    sign = ">" if settings.strict else "≥"
    several = any(r["n_seeds"] > 1 for r in rows)
    head = [
        "rank",
        "configuration" if several else "trial",
        *(["seeds"] if several else []),
        *axes,
        f"{settings.metric}, mean",
        "std",
        "std, noise removed",
        "worst prompt",
    ]
    head += ["std between seeds"] if several else []
    head += [f"prompts {sign} {100 * x:g} %" for x in settings.thresholds]
    head += ["dev objective", "difference to best", "status"]
    lines = [
        "# Robustness over unseen prompts",
        "",
        *markdown_rows(head, [_cells_of(r, axes, tops, several) for r in rows]),
        "",
    ]
    return "\n".join([*lines, *(f"- {markdown_text(n)}" for n in said), *_notes(rows, settings, confirmed)]) + "\n"


def _cells_of(row: Mapping[str, Any], axes: Sequence[str], tops: Sequence[str], several: bool) -> list[str]:
    status, reason = row["status"] or "", row["reason"] if row["status"] in ("failed", "stopped") else ""
    ended = [reason] if reason and reason.startswith(status) else [status, reason or ""]  # most reasons begin with it
    marks = [*ended, "**winner**" if row["winner"] else "", *answer_marks(row, "degenerate")]
    p = row["p_best_holm"]
    gap = ""
    if row["diff_best"] is not None:
        gap = column_with_interval(row, "diff_best", signed=True)
    gap += "" if p is None else f", p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    gap += ", undecided (heavy tails)" if row["heavy_best"] else ""
    dev = "" if row["dev_objective"] is None else f"{percent(row['dev_objective'])} ± {percent(row['dev_stderr'])}"
    name = row["configuration"] if several else row["trial_id"]
    return [
        str(row["rank"] or "-"),
        f"**{name}**" if row["winner"] else name,
        *([row["seeds"]] if several else []),
        *("" if row[a] is None else shown(row[a]) for a in axes),
        column_with_interval(row, "mean"),
        percent(row["std"]),
        with_interval(row["std_corrected"], row["std_low"], row["std_high"]),
        column_with_interval(row, "min"),
        *([percent(row["seed_std"])] if several else []),
        *(column_with_interval(row, t) for t in tops),
        dev,
        gap,
        ", ".join(m for m in marks if m),
    ]


def _notes(rows: Sequence[dict[str, Any]], settings: Settings, confirmed: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    scored = [r for r in rows if r["mean"] is not None]
    sizes = sorted({(r["n_prompts"], r["n_rows"]) for r in scored})
    grid = " or ".join(f"{p} test prompts x {r} rows" for p, r in sizes) or "no test rows"
    stopped = sum(r["status"] == "stopped" for r in rows)
    failed = sum(r["status"] == "failed" for r in rows)
    unread = sum(unread_share(r) > DEGENERATE_SHARE for r in rows)
    degenerate = sum(bool(r["degenerate"]) for r in rows) - unread
    sign = "strictly above (`>`)" if settings.strict else "at or above (`>=`)"
    limits = ", ".join(f"{100 * x:g} %" for x in settings.thresholds)
    weight = f"{settings.std_weight:g}"
    ended = f"{stopped} cut early by the scheduler, {failed} failed, {degenerate} degenerate"
    ended += f", {unread} whose answers could not be read" if unread else ""
    counted_as = "trials" if all(r["n_seeds"] == 1 for r in rows) else "configurations (trials without their seed)"
    yield f"- {len(rows)} {counted_as}: {ended}. Scored on {grid}."
    if note := seed_note(rows):
        yield f"- {note}"
    unit = "percent" if metric_unit(settings.metric) == "percent" else "100 times as large"
    yield f"- All numbers are {unit} here, fractions of 1 in the csv and parquet files."
    several = any(r["n_seeds"] > 1 for r in rows)
    over = "the seeds and the dev prompts" if several else "the dev prompts"
    if any(r["winner"] for r in rows) and settings.confirms:
        yield "- **winner**: chosen by fresh seeds among the best of the search: tables/confirmation."
    elif any(r["winner"] for r in rows):
        whose = "configurations" if several else "trials"
        yield (
            f"- **winner**: the best dev objective (mean - {weight} x std over {over}) of the finished, non-degenerate "
            f"{whose}. It is chosen on the dev prompts. After ±: the standard error of the objective."
        )
    else:
        yield f"- No winner: {why_no_winner(rows, confirmed)}."
    yield (
        f"- rank: by mean - {weight} x std over the test prompts, for reading only. Failed and degenerate trials have "
        "none; a trial cut early was trained for less."
    )
    method = "t intervals with the variance between seeds" if several else "two-way bootstrap-t"
    yield (
        "- Parentheses: 95 % intervals for new prompts and new rows (crossed, both random). Means and differences: "
        f"{method}. Noise-free std: chi-square, adjusted for kurtosis. Shares: Wilson with the bootstrap's design "
        "effect. Worst prompt: two-way bootstrap, for as many new prompts and rows; the intervals of std and worst "
        "prompt are too short where most prompts sit at the ceiling and a few fall far below."
    )
    if part := [r for r in rows if is_sampled(r)]:
        cells = " or ".join(f"{n:,}" for n in sorted({r["n_cells"] for r in part}))
        of = max(r["n_prompts"] * r["n_rows"] for r in part)
        yield (
            f"- {len(part)} {counted_as} were scored on {cells} of the {of:,} cells of the test grid, the same for all "
            "of them; their numbers estimate what the whole grid would give, the mean to "
            f"{percent(Z * max(r['mean_sampling'] for r in part))} points or less (95 %). The best two on the dev "
            "prompts were scored on every cell; with `confirm`, the best two confirmed. Intervals hold the sample's "
            "error; those of samples are t intervals. Differences are on the cells that both have."
        )
    yield "- std: over prompts, ddof 1, as observed. Its finite rows add noise; the next column takes that off."
    yield f"- Share of prompts: counts prompts {sign} {limits}."
    yield (
        "- difference to best: mean less the mean of the best trial by dev objective, paired on the same prompts and "
        "rows; p adjusted by Holm over all comparisons with the best and with the second best."
    )
    if scored:
        yield f"- {unseen(min(p for p, _ in sizes))}"
    if any(r["heavy_tails"] or r["heavy_best"] for r in rows):
        named = [r["trial_id"] for r in rows if r["heavy_tails"]]
        yield (
            f"- {HEAVY_TAILS} Trials: {', '.join(named[:MOST_NAMED])}{', …' * (len(named) > MOST_NAMED)}. Differences "
            "between trials in which a few prompts decide are undecided."
            if named
            else f"- {HEAVY_TAILS} It is so of the differences marked as undecided."
        )
    if degenerate:
        yield (
            f"- degenerate: one answer takes more than {100 * DEGENERATE_SHARE:g} % of the cells, so a std "
            "near 0 is a constant answer, not robustness. Never ranked, never the winner."
        )
    if any(unread_share(r) for r in rows):
        yield (
            "- unread: generated answers that begin with none of the labels. They count as wrong. A trial with more "
            f"than {100 * DEGENERATE_SHARE:g} % of them is never ranked, never the winner: raise "
            "scoring.max_new_tokens if its answers are cut off, else train longer."
        )


def trials_page(table: pa.Table, settings: Settings, said: Sequence[str] = ()) -> str:
    """The trials of every configuration, each by itself."""
    rows = table.to_pylist()
    axes = [a for a in AXES if len({r[a] for r in rows}) > 1]
    fresh = any(r["role"] != SEARCH for r in rows)
    head = ["trial", "configuration", *axes, *(["role"] if fresh else []), f"{settings.metric}, mean", "std"]
    head += ["worst prompt", "dev objective", "status"]
    body = [
        [r["trial_id"], r["configuration"], *("" if r[a] is None else shown(r[a]) for a in axes)]
        + ([r["role"]] if fresh else [])
        + [column_with_interval(r, "mean"), percent(r["std"]), column_with_interval(r, "min")]
        + [percent(r["dev_objective"]), ", ".join([r["status"] or "", *answer_marks(r, "degenerate")])]
        for r in rows
    ]
    notes = [
        *(f"- {markdown_text(n)}" for n in said),
        "- One row per fine-tune. Its intervals are for new prompts and new rows, and speak of this fine-tune alone; "
        "tables/robustness speaks of configurations.",
    ]
    return "\n".join(["# Trials", "", *markdown_rows(head, body), "", *notes]) + "\n"


def groups_page(table: pa.Table, settings: Settings, said: Sequence[str] = ()) -> str:
    rows = table.to_pylist()
    varied = {a for a in AXES if sum(r["axis"] == a for r in rows) > 1}
    sign = ">" if settings.strict else "≥"
    head = ["axis", "value", "trials", "finished", "averaged", f"{settings.metric}, mean", "std", "worst prompt"]
    head.append(f"prompts {sign} {100 * settings.thresholds[0]:g} %")
    body = [
        [r["axis"], r["value"], *(str(r[n]) for n in ("n_trials", "n_finished", "n_averaged"))]
        + [column_with_interval(r, s) for s in ("mean", "std", "min", "top")]
        for r in rows
        if r["axis"] in varied
    ]
    notes = [
        *(f"- {markdown_text(n)}" for n in said),
        "- Averages over the finished, non-degenerate trials with that value. Axes with one value are not shown.",
        "- Parentheses: 95 % intervals for new prompts and rows and the same trials; std is the observed one.",
        "- Early stopping selects: if most trials with a value were cut, its average is over the few that were not.",
    ]
    return "\n".join(["# Averages by axis", "", *markdown_rows(head, body), "", *notes]) + "\n"
