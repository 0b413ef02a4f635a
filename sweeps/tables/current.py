"""The tables of a run folder for a reader: as they were written, or made again where ``trials.parquet`` is newer."""

from __future__ import annotations

import logging
from typing import Any

from sweeps.run_folder.reading import CONFIRMATION_FILE, GROUPS_FILE, ROBUSTNESS_FILE, TRIAL_SCORES_FILE, RunFolder
from sweeps.tables.columns import Settings
from sweeps.tables.confirmation import confirmation_table
from sweeps.tables.robustness import Tables, make_tables
from trainer.errors import UserError

log = logging.getLogger("steadytune")


def current_tables(run: RunFolder) -> Tables:
    """The tables of the run as it is now. They are made again, and not written, where those in the folder are damaged,
    unchecked or older than ``trials.parquet``. Raises ``UserError`` if the run has no trials yet."""
    written = written_tables(run)
    return make_tables(run, Settings.of(run.study)) if written is None else written


def written_tables(run: RunFolder) -> Tables | None:
    """The tables in the folder; None if they are not those of the run as it is now."""
    files = (ROBUSTNESS_FILE, TRIAL_SCORES_FILE, GROUPS_FILE)
    if not all(run.store.exists(name) for name in files) or (run.has_fresh and not run.store.exists(CONFIRMATION_FILE)):
        return None
    try:
        robustness, trials, groups = map(run.table, files)
        confirmation = run.table(CONFIRMATION_FILE) if run.has_fresh else confirmation_table([])
    except UserError as error:
        log.warning("%s", error)
        return None
    rows, listed = {row["trial_id"]: row for row in trials.to_pylist()}, run.trials_by_id
    same = (
        all(map(run.is_checked, files))
        and rows.keys() == listed.keys()
        and all(
            (row["status"], row["rung"]) == (listed[i]["status"], listed[i]["rung"])
            and (row["mean"] is not None or not run.store.rungs(i, "test"))
            for i, row in rows.items()
        )
    )
    return Tables(robustness, trials, groups, confirmation) if same else None


def winning_row(made: Tables) -> dict[str, Any] | None:
    """The winner's row of tables/confirmation, or where nothing was confirmed of tables/robustness; None if there is
    none. Its ``trial_id`` is the trial that ``steadytune export`` takes."""
    rows = (*made.confirmation.to_pylist(), *made.robustness.to_pylist())
    return next((row for row in rows if row["winner"]), None)
