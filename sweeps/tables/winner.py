"""Which configuration wins, and why a study has no winner.

The winner is the best finished configuration by the objective on the dev prompts, or that of the confirmation
(``confirmation.py``). A degenerate one, which gives one label nearly always, cannot win.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.display.text import counted
from sweeps.tables.columns import unread_share
from trainer.measure.grid import DEGENERATE_SHARE


def by_dev(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of ``rows`` that may win, the best first. The first is the winner. ``rows``: of tables/robustness."""
    able = [
        r
        for r in rows
        if r.get("status") == "finished" and not r.get("degenerate") and r.get("dev_objective") is not None
    ]
    return sorted(able, key=lambda r: (-r["dev_objective"], r["trial_id"]))


def no_winner(rows: Sequence[dict[str, Any]], confirmed: Sequence[Mapping[str, Any]] = ()) -> tuple[str, str]:
    """The two parts of ``why_no_winner``: why, and what to do."""
    why, _, what_to_do = why_no_winner(rows, confirmed).partition(". ")
    return why, what_to_do


def why_no_winner(rows: Sequence[dict[str, Any]], confirmed: Sequence[Mapping[str, Any]] = ()) -> str:
    """Why a finished study has no winner, and what to do. ``rows``: of tables/robustness, ``confirmed``: of
    tables/confirmation."""
    ended = sum(row.get("status") == "finished" for row in rows)
    if not ended:
        unit = "configuration" if any((row.get("n_seeds") or 1) > 1 for row in rows) else "trial"
        return f"of {counted(len(rows), unit)} none finished. The report lists the reason of each"
    if (able := by_dev(rows)) and able[0].get("mean") is None:
        return (
            f"the test scores of trial {able[0]['trial_id']}, the best on the dev prompts, are missing or damaged, so "
            "it cannot be said whether it gives one label nearly always. Run the study again, which scores it anew"
        )
    if confirmed and all(row["status"] == "finished" for row in confirmed):
        return (
            "a fresh seed of each of the best configurations (confirm) gives one label nearly always; "
            "tables/confirmation.md lists them. Train longer (axes.steps or axes.epochs), change axes.lr, or raise "
            "confirm.top"
        )
    if able:
        return (
            "the best configurations of the search are not confirmed: their fresh seeds (confirm) have not all "
            "finished. Run the study again, which goes on; tables/confirmation.md lists them"
        )
    if all(unread_share(row) > DEGENERATE_SHARE for row in rows if row.get("status") == "finished"):
        whose = "the one trial that finished" if ended == 1 else f"all {ended} trials that finished"
        return (
            f"nearly no generated answer of {whose} could be read. Look at the answers with `steadytune predict`; "
            "raise scoring.max_new_tokens if they are cut off, else train longer (axes.steps or axes.epochs)"
        )
    all_of = "the one trial that finished gives" if ended == 1 else f"all {ended} trials that finished give"
    return f"{all_of} one label nearly always. Train longer (axes.steps or axes.epochs), or raise axes.lr"
