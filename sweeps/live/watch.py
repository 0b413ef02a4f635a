"""``steadytune watch RUN``: the live table of a run, from its folder alone, on any machine that reads it.

The driver writes ``trials.parquet`` a few seconds after each change, and once a minute without one. That file has all
that the table shows, so a look costs two small reads, of thousands of trials and on S3 too. Nothing is written, and a
watcher that is ended or out of reach changes nothing for the run.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import pyarrow.fs as pafs

from sweeps.display.text import shown
from sweeps.live.opening import Opening
from sweeps.live.overview import Overview
from sweeps.live.rows import TrialRow
from sweeps.live.table import LiveTable
from sweeps.run_folder.columns import SEARCH
from sweeps.run_folder.lease import NAME as LEASE
from sweeps.run_folder.reading import RunFolder
from trainer.errors import UserError
from trainer.measure.rung import RungReport
from trainer.store import Store
from trainer.trial import AXES, rung_steps

LATE = 150.0  # seconds; if the driver has written nothing for so long, watch says so. It writes at least every 60


@dataclass(frozen=True)
class RunState:
    """What the run folder says."""

    title: str
    std_weight: float  # of the study's objective
    rows: Mapping[str, TrialRow]
    reasons: Mapping[str, str]
    elapsed: float  # seconds since the driver began, to its last word where the study is over
    silent: float  # seconds since the driver wrote last
    overview: Overview
    over: bool


def watch(
    run: str,
    every: float,
    once: bool,
    stream: TextIO | None = None,
    pause: Callable[[float], None] = time.sleep,
    opening: Opening | None = None,
) -> int:
    """Show the run until it is over, looking every so many seconds; with ``once`` only as it stands now. ``opening``
    ends when the folder has been read."""
    out = stream or sys.stdout
    store = Store.open(run)
    if store.fs.get_file_info(store.root).type == pafs.FileType.NotFound:
        raise UserError(f'run folder "{store.uri}" does not exist. `steadytune run STUDY --out {run}` makes it')
    state = look(store)
    if opening is not None:
        opening.end()
    if once:
        if state is None:
            raise UserError(f"{store.uri}: no study has started here yet. Without --once, watch waits for it")
        table = LiveTable(state.title, out, std_weight=state.std_weight)
        _show(table, state)
        table.print_once()
        return 0
    if state is None:
        begun = store.exists(LEASE)  # a run holds it from its first seconds on
        what = "a run has begun here and has no trials yet" if begun else "no study has started here yet"
        print(f"{store.uri}: {what}; waiting for it", file=out, flush=True)
    try:
        while state is None:
            pause(every)
            state = look(store)
        _follow(store, state, every, out, pause)
    except KeyboardInterrupt:  # the way to leave; the run goes on
        return 0
    return 0


def _follow(store: Store, state: RunState, every: float, out: TextIO, pause: Callable[[float], None]) -> None:
    with LiveTable(state.title, out, std_weight=state.std_weight) as table:
        _show(table, state)
        if not table.terminal:
            table.print_once()
        while not state.over:
            try:
                pause(every)
            except KeyboardInterrupt:
                table.title = f"{state.title} (goes on, no longer watched)"
                break
            try:
                state = look(store) or state
            except UserError as error:  # out of reach for a moment, or replaced by something else
                table.title = f"{state.title} (cannot be read: {error})"
                continue
            show_changes(table, state)
            _show(table, state)
    if state.over:
        print(f"over; its report: {store.uri}/report.html", file=out, flush=True)


def _show(table: LiveTable, state: RunState) -> None:
    late = state.silent > LATE and not state.over
    table.title = state.title + (f" (its driver has said nothing for {state.silent:.0f} s)" if late else "")
    table.restore(state.rows.values(), state.elapsed)
    table.pulse(Overview() if late else state.overview)


def show_changes(table: LiveTable, state: RunState) -> None:
    """Add what changed since the last look as events: each is a line of a log; a terminal shows only failures."""
    before = table.rows()
    for trial_id, now in state.rows.items():
        if trial_id not in before:
            table.trial_added(trial_id, now.axes, now.n_rungs, now.rungs, now.configuration, now.role)
        was = before.get(trial_id) or TrialRow(trial_id, {}, now.n_rungs)
        if now.rung > was.rung and now.objective is not None:
            seconds = max(now.seconds - was.seconds, 0.0)
            table.report(
                RungReport(
                    trial_id,
                    now.rung - 1,
                    now.step,
                    now.objective,
                    now.stderr,
                    now.degenerate,
                    seconds,
                    unread=now.unread,
                    std=now.std or 0.0,
                )
            )
        if now.test and not was.test:
            table.tested(trial_id, *now.test)
        elif now.state != was.state:
            if now.state == "running":
                table.started(trial_id)
            elif now.state == "testing":
                table.testing(trial_id)
            else:
                table.decided(trial_id, now.state, state.reasons[trial_id])


def look(store: Store) -> RunState | None:
    """The folder as it is now; None while no study has begun in it."""
    run = RunFolder(store)
    if not (run.has_study and run.has_trials):
        return None
    outline = run.outline
    told, now = run.driver_state, time.time()
    began, written, over = told.began, told.written, told.over
    silent = max(now - written, 0.0) if written else 0.0
    return RunState(
        title=outline.name,
        std_weight=outline.std_weight,
        rows={t["trial_id"]: _row(t, outline.shares) for t in run.trials},
        reasons={t["trial_id"]: t.get("reason") or "" for t in run.trials},
        elapsed=max((written if over else now) - began, 0.0) if began else 0.0,  # clocks of two machines may differ
        silent=silent,
        overview=Overview(
            left=None if told.left is None else max(told.left - silent, 0.0),
            steps=told.steps,
            dev_cells=told.dev_cells,
            test_cells=told.test_cells,
            steps_per_s=told.steps_per_s,
            cells_per_s=told.cells_per_s,
            doing=told.doing,
            now=told.now,
        ),
        over=over,
    )


def _row(trial: Mapping[str, Any], shares: Sequence[float]) -> TrialRow:
    # fresh seeds of `confirm` are scored at their end alone
    rungs = rung_steps(shares if trial["role"] == SEARCH else (1.0,), int(trial["steps"]))
    step = int(trial.get("rung") or 0)
    mean, std = trial.get("test_mean"), trial.get("test_std")
    return TrialRow(
        id=trial["trial_id"],
        axes={name: shown(trial[name]) for name in AXES if trial.get(name) is not None},
        n_rungs=len(rungs),
        rungs=rungs,
        state=trial.get("state") or trial.get("status") or "waiting",
        rung=sum(r <= step for r in rungs),
        step=step,
        objective=trial.get("objective"),
        std=trial.get("dev_std"),
        stderr=math.nan if trial.get("stderr") is None else trial["stderr"],
        degenerate=bool(trial.get("degenerate")),
        unread=bool(trial.get("unread")),
        seconds=trial.get("seconds") or 0.0,
        reason=trial.get("reason") or "",
        test=None if mean is None or std is None else (mean, std),
        configuration=trial["configuration"],
        role="" if trial["role"] == SEARCH else trial["role"],
    )
