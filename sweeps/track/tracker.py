"""What a tracker has to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from sweeps.track.runs import TrackedRun
from trainer.errors import UserError


@dataclass(frozen=True)
class Added:
    """What a tracker did not have yet."""

    points: int = 0  # values
    files: int = 0


class TrackerError(UserError):
    """The tracker is out of reach, or refuses what it is given."""


class Tracker(Protocol):
    """A place that shows runs. Every method raises ``TrackerError``."""

    @property
    def where(self) -> str:
        """Where a reader finds the runs, as one line shows it."""

    def stamps(self, study: str) -> Mapping[str, str]:
        """Key -> stamp of the study's runs that it holds whole."""

    def put(self, run: TrackedRun) -> Added:
        """Make its run with this key show what ``run`` does: add what is missing, then note the stamp. The study's run
        is put before those of its trials. If it is ended at any place and called again, nothing is there twice."""
