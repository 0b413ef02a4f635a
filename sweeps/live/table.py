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
from sweeps.display.terminal_table import TerminalColumn, fitted, wrapped
from sweeps.display.text import one_line, short_ids
from sweeps.live.configurations import by_configuration
from sweeps.live.left import Told
from sweeps.live.overview import Overview, overview
from sweeps.live.rows import ORDER, OVER, TrialRow
from sweeps.live.text import Frame, QuietStream, axis_text, clock_time, rounded, shortened, text_of, with_error
from sweeps.trials.study_work import StudyWork
from trainer.measure.rung import RungReport

END_ROWS = 20  # rows of the table at the end of a log
EVERY = 30.0  # seconds, at least, between two progress lines of a log
SILENCE = 60.0  # seconds without an event after which a log gets a progress line; fewer at the start
MOST_PASSED = 0.5  # of the time left: so much may pass without a word of the hosts before less is not believed
LONGEST_BAR = 40  # characters
SOON = 3.0  # so many when the sweep has just begun


@dataclass
class LiveTable:
    """Use as ``with LiveTable("quickstart") as table: table.started(…)``. ``terminal``: None asks ``stream``."""

    title: str = "sweep"
    stream: TextIO = field(default_factory=lambda: sys.stdout)
    terminal: bool | None = None
    clock: Callable[[], float] = time.monotonic
    every: float = EVERY
    silence: float = SILENCE
    std_weight: float = 1.0  # of the study's objective
    since: float | None = None  # the clock's time from which times count; None: from the entry on

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._out = QuietStream(self.stream)
        self._rows: dict[str, TrialRow] = {}
        self._values: dict[
            str, set[str | None]
        ] = {}  # the values of each axis, kept so that not all trials are read again
        self._work: StudyWork | None = None  # what the study has to do
        self._expected_tests: dict[str, int] = {}
        self._told = Told()
        self._given: Overview | None = None  # made by the driver, where this process only watches
        self._told_at = 0.0
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
        self,
        trial_id: str,
        axes: Mapping[str, Any],
        n_rungs: int,
        rungs: Sequence[int] | None = None,
        configuration: str = "",
        role: str = "",
    ) -> None:
        with self._lock:
            shown = {name: axis_text(value) for name, value in axes.items()}
            if trial_id not in self._rows:
                self._rows[trial_id] = TrialRow(
                    trial_id, shown, n_rungs, tuple(rungs or ()), configuration=configuration, role=role
                )
                self._note_axes(shown)

    def started(self, trial_id: str) -> None:
        """The trial starts, or goes on after it waited at a rung."""
        with self._lock:
            row = self._row(trial_id)
            again = row.rung > 0
            row.state = "running"
            values = " ".join(f"{n}={row.axes.get(n, '-')}" for n in self._differing())
            self._say(trial_id, "goes on" if again else "started" + (f" ({values})" if values else ""))

    def report(self, report: RungReport) -> None:
        """A trial was trained to a rung and scored there."""
        with self._lock:
            row, seconds, index = self._row(report.trial_id), report.seconds, report.rung_index
            row.rung, row.step = index + 1, report.step
            row.objective, row.stderr, row.std = report.objective, report.stderr, report.std
            row.degenerate, row.unread = report.degenerate, report.unread
            row.seconds += seconds
            row.spend()
            where, value = f"rung {row.rung}/{row.n_rungs} at step {row.step}", with_error(row.objective, row.stderr)
            note = f", {row.alike}" if row.degenerate else ""
            self._say(report.trial_id, f"{where}: objective {value}, {clock_time(seconds)}{note}")

    def decided(self, trial_id: str, status: str, reason: str) -> None:
        """``status``: finished, stopped or failed; also waiting (at a rung) or running (it goes on)."""
        with self._lock:
            row = self._row(trial_id)
            row.state, row.reason = status, reason
            self._say(trial_id, status + (f": {reason}" if reason else ""))

    def failed(self, trial_id: str, error: str) -> None:
        self.decided(trial_id, "failed", error)

    def testing(self, trial_id: str, cells: int = 0) -> None:
        """``cells``: of a sample of the test grid; 0: the whole grid at once."""
        with self._lock:
            row = self._row(trial_id)
            row.asked_cells = cells
            row.before_test = row.state if row.state in OVER else "finished"
            row.state = "testing"
            self._say(trial_id, "scoring the test prompts")

    def tested(self, trial_id: str, mean: float, std: float, seconds: float = 0.0, cells: int = 0) -> None:
        """``seconds``: the trial's share of its host's time for it. ``cells``: those on which its scores rest."""
        with self._lock:
            row = self._row(trial_id)
            row.seconds += seconds
            row.spend()
            if row.state == "testing":  # if not, its scores were in the run folder already
                row.state = row.before_test
            row.test, row.test_cells = (mean, std), cells
            on = f" on {cells:,} cells" if row.asked_cells else ""
            self._say(trial_id, f"test prompts: mean {rounded(mean)}, std {rounded(std)}{on}")

    def note(self, text: str) -> None:
        with self._lock:
            self._notes = [*self._notes, one_line(text)][-3:]
            self._say("", text)

    def expect(self, work: StudyWork) -> None:
        """What the study has to do, from which the time left is estimated."""
        with self._lock:
            self._work = work

    def expect_tests(self, cells: Mapping[str, int]) -> None:
        """Of each trial, how many cells of the test grid will have been scored at the end."""
        with self._lock:
            self._expected_tests = dict(cells)

    def pulse(self, told: Told | Overview, lacking: str = "") -> None:
        """Called between events, with what the hosts have told, or what the driver has made of it; and with what trials
        wait for and no node has."""
        with self._lock:
            now = self.clock()
            self._lacking = lacking
            if isinstance(told, Overview):
                self._given, self._told_at = told, now
            else:
                if (told.work.ticks, told.work.cells) != (self._told.work.ticks, self._told.work.cells):
                    self._told_at = now  # else a host is in the middle of a batch, which counts when it is done
                self._told = told
                for trial_id, seconds in told.work.seconds_of.items():
                    row = self._rows.get(trial_id)
                    # what a host told before the trial's last report is in that report
                    if row and (row.state == "testing" or told.work.step_of.get(trial_id, 0) > row.step):
                        row.spend(seconds)
            silence = min(self.silence, max(SOON, (now - self._began) / 6))
            if not self.terminal and now - self._said_at >= silence:
                self._announce()
                self._progress()

    def overview(self) -> Overview:
        """How far the sweep is, from what the hosts have told last."""
        with self._lock:
            found = self._given or overview(self._work, self._rows.values(), self._told, self._expected_tests)
            if found.left is None:
                return found
            passed = min(self.clock() - self._told_at, MOST_PASSED * found.left)
            return replace(found, left=found.left - passed)

    def restore(self, rows: Iterable[TrialRow], elapsed: float) -> None:
        """Take over the trials of another process that began ``elapsed`` seconds ago, without a line in the log."""
        with self._lock:
            self._rows, self._values = {}, {}
            for row in rows:
                row.spend()
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
        """The sweep as it is now, with at most ``limit`` trials, or configurations where there are several seeds."""
        with self._lock:
            ordered = sorted(by_configuration(self._rows.values(), self.std_weight), key=_place)
            shown = ordered if limit is None else ordered[: max(limit, 0)]
            axes, unit = self._differing(), "trial"
            if len(ordered) < len(self._rows):
                axes, unit = [a for a in axes if a != "seed"], "configuration"
            found = self.overview()
            columns = self._columns(ordered, axes, unit)
            # a log, which is searched for ids, has them whole
            names = short_ids(row.id for row in ordered) if self.terminal else {row.id: row.id[:12] for row in shown}
            cells = [
                self._cells(row, axes) | {columns[0].name: names[row.id], "now": found.now.get(row.id, "")}
                for row in shown
            ]
            rows = tuple(tuple(shortened(values[c.name]) for c in columns) for values in cells)
            return Frame(self._header(found), columns, rows, len(ordered) - len(shown))

    def _columns(self, rows: Sequence[TrialRow], axes: Sequence[str], unit: str) -> tuple[TerminalColumn, ...]:
        """Numbers that are compared come first; what a narrow terminal can do without comes last."""
        wanted = {
            TerminalColumn("id" if self.terminal else unit, "value"): True,
            TerminalColumn("objective", "value"): True,
            TerminalColumn("test", "value"): any(row.test for row in rows),
            TerminalColumn("state", "value"): True,
            TerminalColumn("rung"): True,
            **{TerminalColumn(one_line(axis), "axis"): True for axis in axes},
            TerminalColumn("seeds", "axis"): unit == "configuration",
            TerminalColumn("note", "text"): any(row.degenerate for row in rows),
            TerminalColumn("time", spare=True): True,
            TerminalColumn("now", "text", spare=True): not self._is_over(),
        }
        return tuple(column for column, is_wanted in wanted.items() if is_wanted)

    def _cells(self, row: TrialRow, axes: Sequence[str]) -> dict[str, str]:
        return {
            "objective": "" if row.objective is None else with_error(row.objective, row.stderr),
            "test": f"{rounded(row.test[0])} std {rounded(row.test[1])}" if row.test else "",
            "state": row.state,
            "rung": f"{row.rung}/{row.n_rungs}",
            **{one_line(axis): row.axes.get(axis, "-") for axis in axes},
            "seeds": row.axes.get("seeds", ""),
            "note": row.alike if row.degenerate else "",
            "time": clock_time(row.spent),
        }

    def _header(self, found: Overview) -> str:
        states = [row.state for row in self._rows.values()]
        why = {"waiting": f": {self._lacking}"} if self._lacking else {}
        counts = [f"{states.count(s)} {s}{why.get(s, '')}" for s in dict.fromkeys([*ORDER, *states]) if s in states]
        over = sum(s in OVER for s in states)
        parts = [f"{over} of {len(states)} trials done", *counts, f"elapsed {clock_time(self.clock() - self._began)}"]
        parts += found.words(self._is_over(), cells_too=not self._bars(found))
        return f"{one_line(self.title)}{self._ending}: " + ", ".join(parts)

    def _is_over(self) -> bool:
        return bool(self._ending) or all(row.state in OVER for row in self._rows.values())

    def _bars(self, found: Overview) -> list[tuple[str, tuple[int, int], str]]:
        """What a terminal shows as bars, until nothing more is to come."""
        return found.bars if self.terminal and not self._is_over() else []

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
        self._progress_at = self._said_at = self.clock()
        self._began = self._progress_at if self.since is None else self.since
        if self.terminal:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=cast(TextIO, self._out), force_terminal=True)
            self._live = Live(
                console=console, get_renderable=lambda: self._picture(*console.size), refresh_per_second=2
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if error is not None:
                self._ending = " (ended by an error)" if isinstance(unwrapped(error), Exception) else " (interrupted)"
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()  # draws once more; without the lock, which the drawing thread may wait for
        else:
            self._announce()
            self._line("\n".join(text_of(self.frame(END_ROWS))))

    def print_once(self) -> None:
        """The sweep as it is now, with all rows."""
        if not self.terminal:
            self._line("\n".join(text_of(self.frame())))
            return
        from rich.console import Console

        console = Console(file=cast(TextIO, self._out), force_terminal=True)
        console.print(self._picture(console.width))

    def _picture(self, width: int, height: int | None = None) -> Any:
        """What a terminal shows: header, bars, as many rows as ``height`` lines have room for, and notes."""
        from rich.console import Group
        from rich.text import Text

        with self._lock:
            notes, found, frame = list(self._notes), self.overview(), self.frame(height)
        header, bars = wrapped(frame.header, width), _drawn(self._bars(found), width)
        table = fitted(frame.columns, frame.rows, width)
        room = math.inf if height is None else height - len(header) - len(bars) - len(table.head) - len(notes) - 3
        styles = {"running": "green", "testing": "green", "stopped": "dim", "failed": "red"}
        state = [column.name for column in frame.columns].index("state")
        lines, drawn = [Text(line, style="bold") for line in table.head], 0
        for cells, row in zip(frame.rows, table.rows, strict=True):
            room -= len(row)
            if room < 0:
                break
            lines += [Text(line, style=styles.get(cells[state], "")) for line in row]
            drawn += 1
        left_out = frame.more + len(frame.rows) - drawn
        more = [Text(f"and {left_out} more", style="dim")] if left_out else []
        last = [Text(note, no_wrap=True, overflow="ellipsis") for note in notes]
        return Group(*(Text(line, style="bold") for line in header), *bars, *lines, *more, *last)

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
        self._line(f"[{clock_time(self.clock() - self._began)}] {self._header(self.overview())}")

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


def _drawn(bars: Sequence[tuple[str, tuple[int, int], str]], width: int) -> list[Any]:
    """Each as a line: title, bar, how much is done."""
    from rich.columns import Columns
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    counts = [f"{done:,} of {of:,} {unit}" for _, (done, of), unit in bars]
    title_width = max((len(title) for title, _, _ in bars), default=0)
    room = width - title_width - max(map(len, counts), default=0) - 2
    drawn = []
    for (title, (done, of), _), count in zip(bars, counts, strict=True):
        bar = ProgressBar(of, done, width=max(1, min(LONGEST_BAR, room)))
        drawn.append(Columns([Text(title.ljust(title_width)), bar, Text(count)]))
    return drawn


def _place(row: TrialRow) -> tuple[int, float, str]:
    known = row.objective is not None and not math.isnan(row.objective)
    return (ORDER.index(row.state) if row.state in ORDER else 2, -(row.objective or 0.0) if known else math.inf, row.id)
