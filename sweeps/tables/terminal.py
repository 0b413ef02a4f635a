"""The robustness table on a terminal."""

from __future__ import annotations

import sys

from sweeps.display.text import metric_sign, metric_unit, one_line, percent, shown
from sweeps.run_folder.reading import RunFolder
from sweeps.tables.columns import answer_marks, is_sampled
from sweeps.tables.configurations import differing_axes, seed_note
from sweeps.tables.confirmation import shrinkage


def show_table(run: RunFolder, report: str) -> None:
    """Print the robustness table, best first, and the places of the full table and of ``report``."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows, threshold = run.robustness(), run.study.tables.thresholds[0]
    several = any(r["n_seeds"] > 1 for r in rows)
    axes = differing_axes(rows)
    scale = metric_sign(run.study.task.metric).strip() or metric_unit(run.study.task.metric)
    table = Table(title=f"robustness over prompts that no trial has seen, {scale}", title_justify="left")
    for name in (
        "rank",
        *(("configuration", "seeds") if several else ("trial",)),
        *axes,
        "mean",
        "std",
        "worst",
        f"above {100 * threshold:g}",
        "status",
    ):
        table.add_column(name, no_wrap=True)
    for r in rows:
        numbers = [percent(r[k]) for k in ("mean", "std", "min", "top")]
        marks = [r["status"], *(["winner"] if r["winner"] else []), *answer_marks(r, "one label")]
        table.add_row(
            str(r["rank"] or "-"),
            *((r["configuration"], str(r["n_seeds"])) if several else (r["trial_id"],)),
            *(Text("-" if r[a] is None else one_line(shown(r[a]))) for a in axes),  # names may look like rich's markup
            *numbers,
            ", ".join(marks),
        )
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)
    if not any(r["winner"] for r in rows):
        from sweeps.tables.winner import why_no_winner

        console.print(
            f"no winner: {why_no_winner(rows, run.confirmation())}", soft_wrap=True, highlight=False, markup=False
        )
    if sampled := [r for r in rows if is_sampled(r)]:
        of = max(r["n_prompts"] * r["n_rows"] for r in sampled)
        cells = max(r["n_cells"] for r in sampled)
        text = f"{len(sampled)} of {len(rows)} were scored on {cells:,} of {of:,} cells of the test grid: estimates"
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    for sentence in shrinkage(run.confirmation()):
        console.print(f"confirmed: {sentence}", soft_wrap=True, highlight=False, markup=False)
    for note in filter(None, [*run.notes, seed_note(rows)]):
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"with intervals, differences and reasons: {run.store.uri}/tables/robustness.md\nreport: {report}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
