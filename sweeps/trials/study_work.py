"""How much a study has to do: trials at each rung, and cells of the dev and test grids that are scored for each."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.schedule.asha import rung_quotas
from sweeps.study.study import Study
from trainer.measure import design
from trainer.work import BLOCK


@dataclass(frozen=True)
class StudyWork:
    """``plan`` says what it costs, and the live table how much of it is left."""

    quotas: tuple[int, ...]  # trials that enter each rung
    dev_cells: tuple[int, ...]  # scored for one trial at each rung
    test_cells: int  # scored for one trial
    tested: int  # trials that are scored on the test pool: those that finish, and perhaps those that are stopped
    slots: int = 1  # of a host
    gpus: bool = False

    def scored_by_all(self, cells: int) -> bool:
        """Whether hosts without a trial take part in the scoring of a grid of so many cells."""
        return cells // BLOCK > 1


def seeds_each(study: Study) -> int:
    """Trials of each configuration of the search."""
    seeds = study.axes.seed
    return len(seeds) if isinstance(seeds, tuple) and study.stages is None else 1


def study_work(
    study: Study, trials: int, dev: tuple[int, int], test: tuple[int, int], tested: bool = True, seeds: int = 1
) -> StudyWork:
    """``dev`` and ``test``: prompts and rows of the pools. ``tested``: whether the test pool is scored at all.
    ``seeds``: trials of each configuration, which go on together."""
    shares = study.scheduler.shares
    quotas = tuple(n * seeds for n in rung_quotas(-(-trials // seeds), study.scheduler.eta, len(shares)))
    sample = design.sample_size(study.scoring.sample, *dev).cells
    return StudyWork(
        quotas=quotas,
        dev_cells=(*[sample] * (len(shares) - 1), dev[0] * dev[1]),
        test_cells=test[0] * test[1],
        tested=0 if not tested else quotas[-1] if study.tables.test == "finalists" else trials,
        slots=study.resources.slots,
        gpus=bool(study.resources.gpus),
    )
