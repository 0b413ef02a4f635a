"""The robustness table on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeps.display.terminal_table import TerminalColumn, fitted, wrapped
from sweeps.display.text import counted, metric_sign, metric_unit, one_line, percent, short_ids, shown
from sweeps.run_folder.reading import RunFolder
from sweeps.tables.columns import answer_marks, is_sampled
from sweeps.tables.configurations import differing_axes, seed_note
from sweeps.tables.confirmation import shrinkage
from sweeps.tables.winner import no_winner

if TYPE_CHECKING:
    from rich.console import Console


def show_table(run: RunFolder, report: str, console: Console | None = None) -> None:
    """Print the robustness table, best first, and the places of the full table and of ``report``. On a terminal no line
    is wider than it is, but for a path; elsewhere lines are as long as they are."""
    from rich.console import Console
    from rich.text import Text

    out = console or Console()
    width = out.width if out.is_terminal else None
    rows, threshold = run.robustness(), run.study.tables.thresholds[0]

    def say(text: str, style: str = "") -> None:
        for line in [text] if width is None else wrapped(text, width):
            out.print(Text(line), style=style, soft_wrap=True, highlight=False)

    scale = metric_sign(run.study.task.metric).strip() or metric_unit(run.study.task.metric)
    unit = "configuration" if any(r["n_seeds"] > 1 for r in rows) else "trial"
    say(f"{counted(len(rows), unit)}: robustness over prompts that no trial has seen, {scale}", "italic")
    columns, cells = _table(rows, unit, threshold, whole_ids=width is None)
    table = fitted(columns, cells, width)
    for i, line in enumerate(table.lines):  # they fit already
        out.print(Text(line), style="bold" if i < len(table.head) else "", soft_wrap=True, highlight=False)
    if not any(r["winner"] for r in rows):
        say(f"no winner: {no_winner(rows, run.confirmation())[0]}.")
    if sampled := [r for r in rows if is_sampled(r)]:
        of = max(r["n_prompts"] * r["n_rows"] for r in sampled)
        most = max(r["n_cells"] for r in sampled)
        say(f"{len(sampled)} of {len(rows)} were scored on {most:,} of {of:,} cells of the test grid: estimates")
    for sentence in shrinkage(run.confirmation()):
        say(f"confirmed: {sentence}")
    for note in filter(None, [*run.notes, seed_note(rows)]):
        say(note)
    say(f"with intervals, differences and reasons: {run.store.uri}/tables/robustness.md")
    say(f"report: {report}")


def _table(
    rows: Sequence[dict[str, Any]], unit: str, threshold: float, whole_ids: bool
) -> tuple[list[TerminalColumn], list[list[str]]]:
    """Columns and cells. The mean comes first, then the other numbers, and the axes that differ last."""
    axes, several = differing_axes(rows), unit == "configuration"
    ids = [r["configuration"] if several else r["trial_id"] for r in rows]
    names = {i: i for i in ids} if whole_ids else short_ids(ids)
    columns = [
        TerminalColumn("rank"),
        TerminalColumn(unit if whole_ids else "id", "value"),
        TerminalColumn("mean"),
        TerminalColumn("std"),
        TerminalColumn("worst"),
        TerminalColumn(f"above {100 * threshold:g}"),
        *([TerminalColumn("seeds")] if several else []),
        *(TerminalColumn(axis, "axis") for axis in axes),
        TerminalColumn("status", "text"),
    ]
    cells = [
        [
            str(r["rank"] or "-"),
            names[i],
            *(percent(r[k]) for k in ("mean", "std", "min", "top")),
            *([str(r["n_seeds"])] if several else []),
            *("-" if r[a] is None else one_line(shown(r[a])) for a in axes),
            ", ".join(["winner" if r["winner"] else r["status"], *answer_marks(r, "one label")]),
        ]
        for i, r in zip(ids, rows, strict=True)
    ]
    return columns, cells
