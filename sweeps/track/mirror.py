"""Shows a run folder in a tracker: once, or until the run is over.

Only the folder is read and nothing is written to it, so it may be done on any machine that reads the folder. What the
tracker holds decides what is added; there is no state beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sweeps.display.text import counted
from sweeps.run_folder.lease import NAME as LEASE
from sweeps.run_folder.lease import PATIENCE
from sweeps.run_folder.reading import RunFolder
from sweeps.track.open_tracker import open_tracker
from sweeps.track.runs import Source
from sweeps.track.tracker import Added, Tracker, TrackerError
from trainer.errors import UserError
from trainer.store import Store

Say = Callable[[str], None]


def track(
    uri: str,
    kind: str,
    project: str | None = None,
    url: str | None = None,
    follow: bool = False,
    every: float = 15.0,
    say: Say = print,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Show the run folder in the tracker ``kind`` (``open_tracker.TRACKERS``), under the name ``project``: by default
    the study's. With ``follow`` look again every so many seconds until the run is over. Raises ``UserError``."""
    store = Store.open(uri)
    name = RunFolder(store).outline.name
    tracker = open_tracker(kind, project or name, url)
    mirror = Mirror(store, tracker)
    say(_line(name, tracker, mirror.look()))
    lease = _Lease(store)
    while follow and not (mirror.over and lease.ended()):
        pause(every)
        try:
            added = mirror.look()
        except UserError as error:  # out of reach for a moment, or the folder is being changed
            say(f"{error}. Tried again in {every:g} s")
            continue
        if added.points or added.files:
            say(_line(name, tracker, added))


class Mirror:
    """A run folder and a tracker that shows it."""

    def __init__(self, store: Store, tracker: Tracker) -> None:
        self._store, self._tracker, self._source = store, tracker, Source(store)
        self._stamps: dict[str, str] | None = None  # of the runs that the tracker holds whole
        self.over = False

    def look(self) -> Added:
        """Add what the tracker lacks. Raises ``UserError``."""
        run = RunFolder(self._store)
        if self._stamps is None:
            self._stamps = dict(self._tracker.stamps(run.outline.name))
        points = files = 0
        over = run.has_trials and run.driver_state.over
        for one in self._source.runs(run):
            if self._stamps.get(one.key) == one.stamp:
                continue
            try:
                added = self._tracker.put(one)
            except TrackerError:
                self._stamps = None  # what arrived is not known
                raise
            points, files = points + added.points, files + added.files
            self._stamps[one.key] = one.stamp
        self.over = over
        return Added(points, files)


class _Lease:
    """Whether the run still works in its folder: its tables and report are made after its trials are over."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last: tuple[bytes, float] | None = None  # content of the lease, and when it was first seen

    def ended(self) -> bool:
        if not self._store.exists(LEASE):
            return True
        now, content = time.monotonic(), self._store.read(LEASE)
        if self._last is None or self._last[0] != content:
            self._last = (content, now)
        return now - self._last[1] > PATIENCE  # a crash left it behind


def _line(study: str, tracker: Tracker, added: Added) -> str:
    new = [counted(added.points, "value"), counted(added.files, "file")]
    what = " and ".join(new) + " added" if added.points or added.files else "nothing to add"
    return f"{study}: {what}; {tracker.where}"
