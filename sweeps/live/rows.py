"""One trial in the live table."""

from __future__ import annotations

import math
from dataclasses import dataclass

ORDER = ("running", "testing", "waiting", "finished", "stopped", "failed")  # of the states in the table, top to bottom
OVER = ("finished", "stopped", "failed")


@dataclass
class TrialRow:
    """``seconds``: of training and scoring, from the trial's reports."""

    id: str
    axes: dict[str, str]
    n_rungs: int
    rungs: tuple[int, ...] = ()  # the optimizer steps of the rungs, if they are known
    state: str = "waiting"
    rung: int = 0  # rungs reported
    step: int = 0
    objective: float | None = None
    stderr: float = math.nan
    std: float | None = None  # of the metric over the dev prompts
    degenerate: bool = False
    unread: bool = False  # degenerate because its answers could not be read
    seconds: float = 0.0
    spent: float = 0.0  # the most that was shown as its time: ``seconds``, and what its host has told since
    reason: str = ""
    test: tuple[float, float] | None = None  # mean and std on the test pool
    configuration: str = ""  # of which it is a replicate, if that is known
    role: str = ""  # of a fresh seed of ``confirm``: whether it chooses or reports
    before_test: str = "finished"  # stopped trials may be scored on the test pool too
    test_cells: int = 0  # on which ``test`` rests
    asked_cells: int = 0  # that are being scored on the test pool, of a sample; 0: all at once

    @property
    def alike(self) -> str:
        """What is said of a degenerate trial."""
        return "unread answers" if self.unread else "one label"

    def steps_to(self, rung: int) -> int:
        """Optimizer steps between a rung and the one before it; 0 where they are not known."""
        return self.rungs[rung] - (self.rungs[rung - 1] if rung else 0) if rung < len(self.rungs) else 0

    def spend(self, since_report: float = 0.0) -> None:
        """Take over what its host told. The time never goes back: of a host that died, a part is done again."""
        self.spent = max(self.spent, self.seconds + since_report)
