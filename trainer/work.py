"""What a runner can be asked to do for a trial, and what it tells of its work. Kept apart from the runner, so that a
process that only asks does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from trainer.trial import Trial

BLOCK = 5000  # cells of a whole grid in one block of scoring; hosts without a trial score some of the blocks


class Block(NamedTuple):
    """Part ``number`` (from 0) of the ``of`` nearly equal parts of a grid. Each part has all rows of some prompts."""

    number: int
    of: int


class Span(NamedTuple):
    """A sample in two stages of ``cells`` cells (``trainer.measure.design.staged``), without those of the sample of
    ``begun`` cells, which are scored already."""

    begun: int
    cells: int


@dataclass(frozen=True)
class TrainAndScore:
    """Train ``trial`` to ``rung`` optimizer steps, checkpoint it there and score it on ``pool``: what the trial says of
    the pool's grid, or, with ``cells``, so many in two stages. When it is done, the score rows are in the store."""

    trial: Trial
    rung: int
    pool: str = "dev"
    cells: int = 0


@dataclass(frozen=True)
class TrainOnly:
    """Train ``trial`` to ``rung`` and checkpoint it, for runners that then score ``pool`` in blocks. Gives the
    training's record; None where the rung's score rows are in the store already."""

    trial: Trial
    rung: int
    pool: str
    cells: int = 0  # as of ``TrainAndScore``


@dataclass(frozen=True)
class ScoreBlock:
    """Score one block of the trial's grid on ``pool`` at ``rung``, from the checkpoint where the trial is not in a
    slot. Gives the block's score rows and the seconds they took, and stores nothing; None where the rung's score rows
    are in the store already."""

    trial: Trial
    rung: int
    pool: str
    block: Block
    cells: int = 0  # as of ``TrainAndScore``


Work = TrainAndScore | TrainOnly | ScoreBlock


class TrialGrid(NamedTuple):
    """The grid of ``pool`` for one trial at ``rung``, a number of optimizer steps; with ``cells``, a sample of it in
    two stages."""

    trial: str
    rung: int
    pool: str
    cells: int = 0


def is_scored(record: Mapping[str, Any], cells: int) -> bool:
    """Whether a rung with this record has the scores of so many cells; 0: of all that its work asks for."""
    sample = record.get("sample")
    return sample is None or ("pilot" not in sample if cells == 0 else sample["cells"] >= cells)


def span_of(trial: Trial, record: Mapping[str, Any] | None, cells: int, grid: tuple[int, int]) -> Span | None:
    """What is left to score of ``cells`` cells of a ``grid`` of so many prompts and rows, by the ``record`` of what is
    there; None where the whole grid is asked for (0 cells) and nothing of it is there. Only a pilot is part of every
    larger sample. The decision rule ``batch`` compares a row with all that are scored, so there all are scored anew."""
    prompts, rows = grid
    sample = (record or {}).get("sample") or {}
    whole = cells in (0, prompts * rows)
    begun = sample["cells"] if "pilot" in sample else 0
    kept = whole or begun == sample.get("pilot")
    if trial.scoring.scorer == "labels" and trial.scoring.decision == "batch":
        kept = False
    if not kept:
        begun = 0
    return None if whole and not begun else Span(begun, prompts * rows if whole else cells)


def extended(
    found: tuple[pa.Table, Mapping[str, Any]] | None, rows: pa.Table, record: Mapping[str, Any]
) -> tuple[pa.Table, dict[str, Any]]:
    """Rows and record of a larger sample: ``found``, the smaller one in the store, with the ``rows`` that were scored
    since and their ``record``. What a trial costs is the sum of both. ValueError where the smaller one is gone."""
    if found is None:
        raise ValueError("the score file that was to be extended is gone; the trial is scored anew when it is retried")
    before, told = found
    summed = {name: told[name] + record[name] for name in ("seconds", "train_seconds", "score_seconds", "tokens")}
    kept = {name: value for name, value in told.items() if name not in ("sample", "replayed")}
    return pa.concat_tables([before, rows]), kept | summed


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
