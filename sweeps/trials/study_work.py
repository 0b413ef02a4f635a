"""How much a study has to do: trials at each rung, and cells of the dev and test grids that are scored for each."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.schedule.asha import rung_quotas
from sweeps.study.precision import precision_of, usual_cells
from sweeps.study.study import Study
from trainer.measure import design
from trainer.work import BLOCK

SCORED_WHOLE = 2  # trials whose test grid is scored whole in any case: the winner, and the one it is compared with


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

    def scored_by_all(self, cells: int) -> bool:
        """Whether hosts without a trial take part in the scoring of a grid of so many cells."""
        return cells // BLOCK > 1

    def all_test_cells(self, tested: int) -> int:
        """Of so many trials."""
        best = min(SCORED_WHOLE, tested) if self.whole_tests else 0
        return (tested - best) * self.test_cells + best * self.whole_tests


def study_work(
    study: Study, trials: int, dev: tuple[int, int], test: tuple[int, int], tested: bool = True
) -> StudyWork:
    """``dev`` and ``test``: prompts and rows of the pools. ``tested``: whether the test pool is scored at all."""
    shares = study.scheduler.shares
    quotas = rung_quotas(trials, study.scheduler.eta, len(shares))
    most = usual_cells(study, "dev", *dev)
    sample = design.sample_size(study.scoring.sample, *dev, most).cells
    return StudyWork(
        quotas=quotas,
        dev_cells=(*[sample] * (len(shares) - 1), design.sample_size(1.0, *dev, most).cells),
        test_cells=usual_cells(study, "test", *test),
        tested=0 if not tested else quotas[-1] if study.tables.test == "finalists" else trials,
        slots=study.resources.slots,
        gpus=bool(study.resources.gpus),
        whole_tests=0 if precision_of(study, "test", *test) is None else test[0] * test[1],
    )
