"""The robustness table on a terminal."""

from __future__ import annotations

import sys

from sweeps.display.text import one_line, percent, shown
from sweeps.run_folder.reading import RunFolder
from sweeps.tables.columns import answer_marks, is_sampled
from trainer.trial import AXES


def show_table(run: RunFolder, report: str) -> None:
    """Print the robustness table, best first, and the places of the full table and of ``report``."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows, threshold = run.robustness(), run.study.tables.thresholds[0]
    axes = [a for a in AXES if len({str(r[a]) for r in rows}) > 1]
    table = Table(title="robustness over prompts that no trial has seen, %", title_justify="left")
    for name in ("rank", "trial", *axes, "mean", "std", "worst", f"above {100 * threshold:g}", "status"):
        table.add_column(name, no_wrap=True)
    for r in rows:
        numbers = [percent(r[k]) for k in ("mean", "std", "min", "top")]
        marks = [r["status"], *(["winner"] if r["winner"] else []), *answer_marks(r, "one label")]
        table.add_row(
            str(r["rank"] or "-"),
            r["trial_id"],
            *(Text("-" if r[a] is None else one_line(shown(r[a]))) for a in axes),  # names may look like rich's markup
            *numbers,
            ", ".join(marks),
        )
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)
    if not any(r["winner"] for r in rows):
        from sweeps.tables.winner import why_no_winner

        console.print(f"no winner: {why_no_winner(rows)}", soft_wrap=True, highlight=False, markup=False)
    if sampled := [r["n_cells"] for r in rows if is_sampled(r)]:
        of = max(r["n_prompts"] * r["n_rows"] for r in rows if is_sampled(r))
        text = f"{len(sampled)} trials were scored on {max(sampled):,} of {of:,} cells of the test grid: estimates"
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    for note in run.notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"with intervals, differences and reasons: {run.store.uri}/tables/robustness.md\nreport: {report}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
