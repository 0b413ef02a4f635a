"""What a sweep shows while it runs: a live table in a terminal, plain lines in a log file.

``LiveTable`` receives events (a trial was added, started, reported a rung, …). Both views are drawn from these events
alone: a terminal shows one table that fits the screen; a log gets a line per event, and the table once at the end.
Events may come from any thread. Output that fails (a closed pipe, an encoding that lacks a character) never ends a
sweep.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, TextIO, cast

from cluster.connect import unwrapped
from sweeps.live.text import (
    Frame,
    QuietStream,
    axis_text,
    clock_time,
    one_line,
    rounded,
    shortened,
    text_of,
    with_error,
)
from trainer.measure.rung import RungReport

ORDER = ("running", "testing", "waiting", "finished", "stopped", "failed")  # of the states in the table, top to bottom
OVER = ("finished", "stopped", "failed")
END_ROWS = 20  # rows of the table at the end of a log
EVERY = 30.0  # seconds, at least, between two progress lines of a log
SILENCE = 60.0  # seconds without an event after which a log gets a progress line


@dataclass
class TrialRow:
    """One trial in the table. ``seconds``: of training and scoring, from its reports."""

    id: str
    axes: dict[str, str]
    n_rungs: int
    rungs: tuple[int, ...] = ()  # the optimizer steps of the rungs, if they are known
    state: str = "waiting"
    rung: int = 0  # rungs reported
    step: int = 0
    objective: float | None = None
    stderr: float = math.nan
    degenerate: bool = False
    unread: bool = False  # degenerate because its answers could not be read
    seconds: float = 0.0
    since: float | None = None  # the clock's time when it last started to work
    reason: str = ""
    test: tuple[float, float] | None = None  # mean and std on the test pool
    before_test: str = "finished"  # stopped trials may be scored on the test pool too

    @property
    def alike(self) -> str:
        """What is said of a degenerate trial."""
        return "unread answers" if self.unread else "one label"


@dataclass
class RungTime:
    """How long one rung took, over the trials that reported it."""

    seconds: float = 0.0
    n: int = 0
    steps: int = 0  # optimizer steps of the trials whose steps are known
    n_known: int = 0


@dataclass
class LiveTable:
    """Use as ``with LiveTable("quickstart") as table: table.started(…)``. ``terminal``: None asks ``stream``."""

    title: str = "sweep"
    stream: TextIO = field(default_factory=lambda: sys.stdout)
    terminal: bool | None = None
    clock: Callable[[], float] = time.monotonic
    every: float = EVERY
    silence: float = SILENCE

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._out = QuietStream(self.stream)
        self._rows: dict[str, TrialRow] = {}
        self._took: dict[int, RungTime] = {}
        self._values: dict[
            str, set[str | None]
        ] = {}  # the values of each axis, kept so that not all trials are read again
        self._steps_per_s: float | None = None  # of all hosts together
        self._lacking = ""  # what trials wait for and no node has
        self._notes: list[str] = []
        self._announced = 0
        self._began = self.clock()
        self._progress_at = self._said_at = self._began
        self._ending = ""
        self._live: Any = None
        if self.terminal is None:
            self.terminal = self._out.isatty() and os.environ.get("TERM") != "dumb"

    # events -----------------------------------------------------------------------------------------------------

    def trial_added(
        self, trial_id: str, axes: Mapping[str, Any], n_rungs: int, rungs: Sequence[int] | None = None
    ) -> None:
        with self._lock:
            shown = {name: axis_text(value) for name, value in axes.items()}
            if trial_id not in self._rows:
                self._rows[trial_id] = TrialRow(trial_id, shown, n_rungs, tuple(rungs or ()))
                self._note_axes(shown)

    def started(self, trial_id: str) -> None:
        """The trial starts, or goes on after it waited at a rung."""
        with self._lock:
            row = self._row(trial_id)
            again = row.rung > 0
            row.state, row.since = "running", self.clock()
            values = " ".join(f"{n}={row.axes.get(n, '-')}" for n in self._differing())
            self._say(trial_id, "goes on" if again else "started" + (f" ({values})" if values else ""))

    def report(self, report: RungReport) -> None:
        """A trial was trained to a rung and scored there."""
        with self._lock:
            row, seconds, index = self._row(report.trial_id), report.seconds, report.rung_index
            row.rung, row.step = index + 1, report.step
            row.objective, row.stderr = report.objective, report.stderr
            row.degenerate, row.unread = report.degenerate, report.unread
            row.seconds += seconds
            # ``seconds`` is the trial's share of its host's time; a rung takes longer, since other slots work, too
            took = seconds if row.since is None else max(seconds, self.clock() - row.since)
            if row.since is not None:
                row.since = self.clock()
            so_far = self._took.setdefault(index, RungTime())
            so_far.seconds, so_far.n = so_far.seconds + took, so_far.n + 1
            if index < len(row.rungs):
                so_far.steps, so_far.n_known = so_far.steps + _steps(row, index), so_far.n_known + 1
            where, value = f"rung {row.rung}/{row.n_rungs} at step {row.step}", with_error(row.objective, row.stderr)
            note = f", {row.alike}" if row.degenerate else ""
            self._say(report.trial_id, f"{where}: objective {value}, {clock_time(seconds)}{note}")

    def decided(self, trial_id: str, status: str, reason: str) -> None:
        """``status``: finished, stopped or failed; also waiting (at a rung) or running (it goes on)."""
        with self._lock:
            row = self._row(trial_id)
            row.state, row.reason = status, reason
            row.since = (row.since or self.clock()) if status == "running" else None
            self._say(trial_id, status + (f": {reason}" if reason else ""))

    def failed(self, trial_id: str, error: str) -> None:
        self.decided(trial_id, "failed", error)

    def testing(self, trial_id: str) -> None:
        with self._lock:
            row = self._row(trial_id)
            row.before_test = row.state if row.state in OVER else "finished"
            row.state, row.since = "testing", self.clock()
            self._say(trial_id, "scoring the test prompts")

    def tested(self, trial_id: str, mean: float, std: float) -> None:
        with self._lock:
            row = self._row(trial_id)
            if row.since is not None:
                row.seconds += self.clock() - row.since
            if row.state == "testing":  # if not, its scores were in the run folder already
                row.state = row.before_test
            row.since, row.test = None, (mean, std)
            self._say(trial_id, f"test prompts: mean {rounded(mean)}, std {rounded(std)}")

    def note(self, text: str) -> None:
        with self._lock:
            self._notes = [*self._notes, one_line(text)][-3:]
            self._say("", text)

    def pulse(self, steps_per_s: float | None, lacking: str = "") -> None:
        """Called between events: optimizer steps a second of all hosts (None: they did not answer), and what trials
        wait for and no node has."""
        with self._lock:
            self._steps_per_s, self._lacking = steps_per_s, lacking
            if not self.terminal and self.clock() - self._said_at >= self.silence:
                self._announce()
                self._progress()

    def restore(self, rows: Iterable[TrialRow], elapsed: float) -> None:
        """Take over the trials of another process that began ``elapsed`` seconds ago, without a line in the log."""
        with self._lock:
            self._rows, self._values = {}, {}
            for row in rows:
                self._rows[row.id] = row
                self._note_axes(row.axes)
            self._announced = len(self._rows)
            self._began = self.clock() - elapsed

    def rows(self) -> dict[str, TrialRow]:
        """Every trial as it is now."""
        with self._lock:
            return {row.id: replace(row) for row in self._rows.values()}

    # the table ---------------------------------------------------------------------------------------------------

    def frame(self, limit: int | None = None) -> Frame:
        """The sweep as it is now, with at most ``limit`` trials."""
        with self._lock:
            ordered = sorted(self._rows.values(), key=_place)
            shown = ordered if limit is None else ordered[: max(limit, 0)]
            axes = self._differing()
            tested = any(row.test for row in ordered)
            columns = ("trial", *axes, "state", "rung", "objective", *(("test",) if tested else ()), "time", "left")
            pace = self._pace()
            rows = tuple(self._cells(row, axes, tested, pace) for row in shown)
            return Frame(self._header(), tuple(one_line(c) for c in columns), rows, len(ordered) - len(shown))

    def _cells(self, row: TrialRow, axes: list[str], tested: bool, pace: float | None) -> tuple[str, ...]:
        objective = "" if row.objective is None else with_error(row.objective, row.stderr)
        left = "" if row.state in OVER else clock_time(self._left(row, pace))
        test = (f"{rounded(row.test[0])} std {rounded(row.test[1])}" if row.test else "",) if tested else ()
        return (
            one_line(row.id)[:12],
            *(shortened(row.axes.get(name, "-")) for name in axes),
            shortened(row.state),
            f"{row.rung}/{row.n_rungs}",
            objective + (f" {row.alike}" if row.degenerate else ""),
            *test,
            clock_time(self._spent(row)),
            left,
        )

    def _header(self) -> str:
        states = [row.state for row in self._rows.values()]
        why = {"waiting": f": {self._lacking}"} if self._lacking else {}
        counts = [f"{states.count(s)} {s}{why.get(s, '')}" for s in dict.fromkeys([*ORDER, *states]) if s in states]
        over = sum(s in OVER for s in states)
        parts = [f"{over} of {len(states)} trials done", *counts, f"elapsed {clock_time(self.clock() - self._began)}"]
        if self._steps_per_s is not None and "running" in states:
            parts.append(f"{self._steps_per_s:.3g} steps/s")
        if over < len(states) and not self._ending:
            parts.append(f"left at most {clock_time(self._all_left())}")
        return f"{one_line(self.title)}{self._ending}: " + ", ".join(parts)

    def _spent(self, row: TrialRow) -> float:
        return row.seconds + (self.clock() - row.since if row.since is not None else 0.0)

    def _left(self, row: TrialRow, pace: float | None) -> float | None:
        """Seconds until the trial ends if it is not stopped. None while test prompts are scored, and while the time of
        a rung cannot be estimated."""
        if row.state == "testing":
            return None
        ahead = [self._expected(row, i, pace) for i in range(row.rung, row.n_rungs)]
        known = [seconds for seconds in ahead if seconds is not None]
        if len(known) < len(ahead):
            return None
        return max(sum(known) - (self.clock() - row.since if row.since is not None else 0.0), 0.0)

    def _expected(self, row: TrialRow, rung: int, pace: float | None) -> float | None:
        """Estimated seconds of one rung: the time that it took other trials, in proportion to its steps. If none has
        reported it: its steps times the seconds of a step so far."""
        steps = _steps(row, rung) if rung < len(row.rungs) else 0
        took = self._took.get(rung)
        if took and (took.steps or not steps):  # reports without steps give no estimate for trials with steps
            share = steps * took.n_known / took.steps if steps and took.steps else 1.0
            return share * took.seconds / took.n
        if pace is None or rung >= len(row.rungs):
            return None
        return pace * steps

    def _pace(self) -> float | None:
        """Seconds of one step of a trial. From the rungs reported, which include scoring; before the first report from
        the hosts' present speed, which may not."""
        known = [t for t in self._took.values() if t.n_known]
        steps = sum(t.steps / t.n_known for t in known)
        if steps:
            return sum(t.seconds / t.n for t in known) / steps
        running = sum(row.state == "running" for row in self._rows.values())
        return running / self._steps_per_s if self._steps_per_s and running else None

    def _all_left(self) -> float | None:
        """Seconds until the sweep ends if no more trials are stopped and as many run at once as now."""
        open_rows = [row for row in self._rows.values() if row.state not in OVER]
        pace = self._pace()
        left = [self._left(row, pace) for row in open_rows]
        known = [seconds for seconds in left if seconds is not None]
        at_once = sum(row.state in ("running", "testing") for row in open_rows)
        if len(known) < len(left) or not at_once:
            return None
        return max(sum(known) / at_once, max(known))

    def _differing(self) -> list[str]:
        """The axes with more than one value."""
        return [name for name, values in self._values.items() if len(values) > 1]

    def _note_axes(self, axes: Mapping[str, str]) -> None:
        """Record the values of a trial that was just added to ``_rows``."""
        for name in axes:
            self._values.setdefault(name, {None} if len(self._rows) > 1 else set())
        for name, values in self._values.items():
            values.add(axes.get(name))

    # the two views ----------------------------------------------------------------------------------------------

    def __enter__(self) -> LiveTable:
        self._began = self._progress_at = self._said_at = self.clock()
        if self.terminal:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=cast(TextIO, self._out), force_terminal=True)
            self._live = Live(console=console, get_renderable=lambda: self._picture(console), refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if error is not None:
                self._ending = " (ended by an error)" if isinstance(unwrapped(error), Exception) else " (interrupted)"
            for row in self._rows.values():
                row.seconds, row.since = self._spent(row), None
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()  # draws once more; without the lock, which the drawing thread may wait for
        else:
            self._announce()
            self._line("\n".join(text_of(self.frame(END_ROWS))))

    def _picture(self, console: Any) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            notes = list(self._notes)
            # the header (which may wrap), column names and notes take the rest of the screen
            frame = self.frame(console.size.height - 6 - len(notes) - len(self._header()) // max(console.size.width, 1))
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in frame.columns:
            right = name in ("rung", "time", "left")
            table.add_column(Text(name), justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
        styles = {"running": "green", "testing": "green", "stopped": "dim", "failed": "red"}
        state = frame.columns.index("state")
        for cells in frame.rows:
            table.add_row(*(Text(cell) for cell in cells), style=styles.get(cells[state]))
        more = [Text(f"and {frame.more} more", style="dim")] if frame.more else []
        last = [Text(note, no_wrap=True, overflow="ellipsis") for note in notes]
        return Group(Text(frame.header, style="bold"), table, *more, *last)

    def _say(self, trial_id: str, text: str) -> None:
        """Write an event as a line of the log. A terminal shows events in the table, and failures also as notes."""
        if self.terminal:
            if self._rows.get(trial_id) and self._rows[trial_id].state == "failed":
                self._notes = [*self._notes, one_line(f"{trial_id} {text}")][-3:]
            return
        self._announce()
        at = clock_time(self.clock() - self._began)
        self._line(f"[{at}] " + (f"{one_line(trial_id)} " if trial_id else "") + one_line(text))
        if self.clock() - self._progress_at >= self.every:
            self._progress()

    def _progress(self) -> None:
        self._progress_at = self.clock()
        self._line(f"[{clock_time(self.clock() - self._began)}] {self._header()}")

    def _announce(self) -> None:
        """One line for all trials that were added since the last line, which may be hundreds."""
        new = len(self._rows) - self._announced
        if new:
            self._announced = len(self._rows)
            axes = self._differing()
            what = f", which differ in {', '.join(axes)}" if axes else ""
            self._line(f"[{clock_time(self.clock() - self._began)}] {new} trial{'s' * (new > 1)} added{what}")

    def _line(self, text: str) -> None:
        self._said_at = self.clock()
        self._out.write(text + "\n")
        self._out.flush()

    def _row(self, trial_id: str) -> TrialRow:
        """The trial's row; a new one if the trial was never added."""
        if trial_id not in self._rows:
            self._rows[trial_id] = TrialRow(trial_id, {}, 1)
            self._note_axes({})
        return self._rows[trial_id]


def _place(row: TrialRow) -> tuple[int, float, str]:
    known = row.objective is not None and not math.isnan(row.objective)
    return (ORDER.index(row.state) if row.state in ORDER else 2, -(row.objective or 0.0) if known else math.inf, row.id)


def _steps(row: TrialRow, rung: int) -> int:
    """Optimizer steps between a rung and the one before it."""
    return row.rungs[rung] - (row.rungs[rung - 1] if rung else 0)
