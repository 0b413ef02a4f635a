"""What a runner can be asked to do for a trial, and what it tells of its work. Kept apart from the runner, so that a
process that only asks does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from trainer.trial import Trial

BLOCK = 5000  # cells of a whole grid in one block of scoring; hosts without a trial score some of the blocks


class Block(NamedTuple):
    """Part ``number`` (from 0) of the ``of`` nearly equal parts of a grid. Each part has all rows of some prompts."""

    number: int
    of: int


@dataclass(frozen=True)
class TrainAndScore:
    """Train ``trial`` to ``rung`` optimizer steps, checkpoint it there and score it on ``pool``. When it is done, the
    score rows are in the store."""

    trial: Trial
    rung: int
    pool: str = "dev"


@dataclass(frozen=True)
class TrainOnly:
    """Train ``trial`` to ``rung`` and checkpoint it, for runners that then score ``pool`` in blocks. Gives the
    training's record; None where the rung's score rows are in the store already."""

    trial: Trial
    rung: int
    pool: str


@dataclass(frozen=True)
class ScoreBlock:
    """Score one block of the trial's grid on ``pool`` at ``rung``, from the checkpoint where the trial is not in a
    slot. Gives the block's score rows and the seconds they took, and stores nothing; None where the rung's score rows
    are in the store already."""

    trial: Trial
    rung: int
    pool: str
    block: Block


Work = TrainAndScore | TrainOnly | ScoreBlock


class TrialGrid(NamedTuple):
    """The grid of ``pool`` for one trial at ``rung``, a number of optimizer steps."""

    trial: str
    rung: int
    pool: str


@dataclass(frozen=True)
class WorkDone:
    """What a runner has done since it started, and how far the trials are that it works on. A cell is a prompt with a
    row, scored for one trial; one that is being scored counts in part."""

    ticks: Mapping[int, tuple[int, float]] = field(default_factory=dict)  # trials stepped together -> ticks, seconds
    cells: Mapping[str, float] = field(default_factory=dict)  # scored, by pool
    cell_seconds: Mapping[str, float] = field(default_factory=dict)  # that these took, by pool
    cell_tokens: Mapping[str, float] = field(default_factory=dict)  # through the model for a cell, by pool; a mean
    step_of: Mapping[str, int] = field(default_factory=dict)  # trials at work -> optimizer steps since their start
    seconds_of: Mapping[str, float] = field(default_factory=dict)  # trials at work -> seconds since their last report
    scored: Mapping[TrialGrid, float] = field(default_factory=dict)  # cells of the scorings under way or just ended

    @property
    def steps(self) -> int:
        """Optimizer steps, over all trials."""
        return sum(trials * ticks for trials, (ticks, _) in self.ticks.items())
