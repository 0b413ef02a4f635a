"""Which part of the dev and the test grid a study has scored: all, or as much as ``tables.precision`` asks for."""

from __future__ import annotations

from sweeps.study.overlay import StudyError
from sweeps.study.study import Study
from trainer.measure import precision
from trainer.measure.precision import Precision
from trainer.measure.registry import kind_of

WHOLE_UP_TO = 10_000  # cells of a grid: minutes for a trial, and a sample of so few would save little
FEWEST_PROMPTS = 4  # of which a std has an interval


def precision_of(study: Study, pool: str, prompts: int, rows: int) -> Precision | None:
    """The half-widths to which the grid of ``pool`` is scored; None: it is scored whole. Where the study says nothing,
    one point from ``WHOLE_UP_TO`` cells on. Stages and training arms are compared on whole grids, and a metric that
    ranks rows needs all rows of a prompt. Raises ``StudyError`` where the std of too few prompts is asked for."""
    asked = study.tables.precision
    if not may_sample(study):
        return None
    if asked is None:
        return Precision() if prompts * rows > WHOLE_UP_TO else None
    if asked.std is not None and prompts < FEWEST_PROMPTS:
        raise StudyError(
            f"tables.precision.std = {asked.std:g} needs {FEWEST_PROMPTS} {pool} prompts or more, and there "
            f"{'is' if prompts == 1 else 'are'} {prompts}: the std of so few has no interval. Add prompts, or remove it"
        )
    return Precision(asked.mean, asked.std)


def may_sample(study: Study) -> bool:
    """Whether the study has a grid sampled if it is large."""
    asked = study.tables.precision
    ranks = kind_of(study.task.metric).ranks
    return study.stages is None and not study.arms and not ranks and (asked is None or not asked.whole)


def usual_cells(study: Study, pool: str, prompts: int, rows: int) -> int:
    """How many cells of a trial's grid of ``pool`` are scored where rows and cells vary as much as on recorded grids.
    The dev grid is scored to just this size, so that all trials are asked the same cells at once."""
    wanted = precision_of(study, pool, prompts, rows)
    if wanted is None:
        return prompts * rows
    width = 1.0 - kind_of(study.task.metric).lowest
    return precision.cells_for([precision.usual_pilot(prompts, rows, width)], wanted)
