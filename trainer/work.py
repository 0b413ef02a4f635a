"""What a runner can be asked to do for a trial. Kept apart from the runner, so that a process that only
asks does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from trainer.trial import Trial


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
