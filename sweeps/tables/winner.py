"""Why a study has no winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.display.text import counted


def why_no_winner(rows: Sequence[Mapping[str, Any]]) -> str:
    """Why a finished study has no winner, and what to do. ``rows``: of tables/robustness."""
    ended = sum(row.get("status") == "finished" for row in rows)
    if not ended:
        return f"of {counted(len(rows), 'trial')} none finished. The report lists the reason of each"
    all_of = "the one trial that finished gives" if ended == 1 else f"all {ended} trials that finished give"
    return f"{all_of} one label nearly always. Train longer (axes.steps or axes.epochs), or raise axes.lr"
