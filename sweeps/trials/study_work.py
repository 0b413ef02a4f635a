"""How much a study has to do: trials at each rung, and cells of the dev and test grids that are scored for each."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.schedule.configurations import entrants
from sweeps.study.precision import precision_of, usual_cells
from sweeps.study.study import Study
from trainer.measure import design
from trainer.work import BLOCK

# whose test grid is scored whole in any case: the winner, and the configuration that the report compares it with
SCORED_WHOLE = 2


@dataclass(frozen=True)
class StudyWork:
    """``plan`` says what it costs, and the live table how much of it is left."""

    quotas: tuple[int, ...]  # trials that enter each rung
    dev_cells: tuple[int, ...]  # scored for one trial at each rung
    test_cells: int  # scored for one trial; of a sample, about
    tested: int  # trials that are scored on the test pool: those that finish, and perhaps those that are stopped
    slots: int = 1  # of a host
    gpus: bool = False
    whole_tests: int = 0  # cells of the test grid where it is sampled, when the sweep is over; else 0
    best: int = 0  # trials of which the whole grid is scored then

    def scored_by_all(self, cells: int) -> bool:
        """Whether hosts without a trial take part in the scoring of a grid of so many cells."""
        return cells // BLOCK > 1

    def all_test_cells(self, tested: int) -> int:
        """Of so many trials."""
        best = min(self.best, tested)
        return (tested - best) * self.test_cells + best * self.whole_tests


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
    scheduler = study.scheduler
    quotas = tuple(n * seeds for n in entrants(-(-trials // seeds), scheduler.eta, len(shares), scheduler.rule))
    most = usual_cells(study, "dev", *dev)
    sample = design.sample_size(study.scoring.sample, *dev, most).cells
    sampled = precision_of(study, "test", *test) is not None
    return StudyWork(
        quotas=quotas,
        dev_cells=(*[sample] * (len(shares) - 1), design.sample_size(1.0, *dev, most).cells),
        test_cells=usual_cells(study, "test", *test),
        tested=0 if not tested else quotas[-1] if study.tables.test == "finalists" else trials,
        slots=study.resources.slots,
        gpus=bool(study.resources.gpus),
        whole_tests=test[0] * test[1] if sampled else 0,
        best=0 if not sampled or study.confirm is not None else SCORED_WHOLE * seeds,
    )
