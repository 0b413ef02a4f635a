"""When the ranking at a rung holds: how well it agrees with the ranking at the end, in a run that is finished.

Configurations are ranked, by their objective over seeds and prompts. Only those that were trained to their end have
both ranks. In a run with early stopping these are the ones that went on, and among them ranks agree less than among
all; where ``scheduler.name: none`` continued such a run in its folder, all have scores at the rungs and at the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeps.display.text import percent
from sweeps.run_folder.reading import RunFolder
from sweeps.schedule.asha import rung_quotas
from sweeps.study.study import Study
from sweeps.tables.configurations import Configuration, configurations
from trainer.measure import metrics
from trainer.measure.grid import Floats
from trainer.measure.replicates import objective_of_seeds
from trainer.trial import rung_steps

LEAST = 4  # configurations: a correlation of fewer says nothing
LOW = 100.0  # more than an objective can be
DRAWS = 500  # sets of configurations, drawn with replacement, in which it is looked whether the best goes on


@dataclass(frozen=True)
class RungRanking:
    shares: tuple[float, ...]  # of the rungs before the end
    correlations: tuple[float, ...]  # Spearman's, of the objective at each of them and at the end; NaN: all alike
    survives: float  # share of the drawn sets in which the best at the end is not stopped at a rung
    ranked: int  # configurations that have scores at all of the rungs and at their end
    of: int  # configurations of the run

    @property
    def text(self) -> str:
        each = ", ".join(
            f"{'-' if math.isnan(c) else f'{c:.2f}'} at {share:g}"
            for share, c in zip(self.shares, self.correlations, strict=True)
        )
        stopped = "" if self.ranked == self.of else "; the others were stopped, and without them ranks agree less"
        return (
            f"of {self.ranked} configurations of {self.of} that have scores at these rungs and at the end{stopped}: "
            f"rank correlation with the end {each}; the best at the end would go on in "
            f"{percent(self.survives, digits=0)} % of sets of as many configurations"
        )


def rung_ranking(run: RunFolder, study: Study) -> RungRanking | None:
    """Of the rungs of ``study``, in the dev scores of ``run``; None where fewer than ``LEAST`` of its
    configurations have scores at all of them and at their end."""
    shares = study.scheduler.shares
    if len(shares) < 2:
        return None
    every = configurations(run.trials)
    found = [each for one in every if (each := _at_rungs(run, one, study)) is not None]
    if len(found) < LEAST:
        return None
    objectives = np.array(found)  # [configurations, rungs]
    end = objectives[:, -1]
    correlations = tuple(_correlation(objectives[:, k], end) for k in range(len(shares) - 1))
    return RungRanking(shares[:-1], correlations, survival(objectives, study.scheduler.eta), len(found), len(every))


def survival(objectives: Floats, eta: int) -> float:
    """In which share of sets drawn with replacement from ``objectives`` [configurations, rungs] the best at the end is
    among those that go on at every rung."""
    rng = np.random.default_rng(0)
    n = len(objectives)
    return float(np.mean([_goes_on(objectives[rng.integers(0, n, n)], eta) for _ in range(DRAWS)]))


def _goes_on(objectives: Floats, eta: int) -> bool:
    here = np.arange(len(objectives))
    quotas = rung_quotas(len(objectives), eta, objectives.shape[1])
    for rung, quota in enumerate(quotas[1:]):
        here = here[np.argsort(-objectives[here, rung], kind="stable")[:quota]]
    return bool(objectives[here, -1].max() == objectives[:, -1].max())


def _correlation(a: Floats, b: Floats) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else math.nan


def _at_rungs(run: RunFolder, one: Configuration, study: Study) -> list[float] | None:
    """The configuration's objective at each rung; None where a seed was not scored at all rungs."""
    seeds = [_of_trial(run, row, study) for row in one.rows]
    scored = [seed for seed in seeds if seed is not None]
    return [_value(at, study.objective.std_weight) for at in zip(*scored, strict=True)] if None not in seeds else None


def _value(seeds: Sequence[metrics.Objective | None], std_weight: float) -> float:
    """The objective of the seeds of a configuration at one rung, lowered by more than any objective where one of them
    is degenerate or NaN, as the scheduler ranks it below all others."""
    sound = [seed for seed in seeds if seed is not None and math.isfinite(seed.value)]
    if len(sound) < len(seeds):
        return -2 * LOW
    value = objective_of_seeds([seed.value for seed in sound], [seed.std for seed in sound], std_weight)
    return value - LOW * any(seed.degenerate for seed in sound)


def _of_trial(run: RunFolder, row: Mapping[str, Any], study: Study) -> list[metrics.Objective | None] | None:
    """The trial's objective at each rung, None where it ended in NaN; None where it was not scored at all rungs."""
    if row["status"] != "finished":
        return None
    at = {rung.step: rung.grid for rung in run.rungs(row["trial_id"], "dev")}
    steps = rung_steps(study.scheduler.shares, row["steps"])
    if not all(step in at for step in steps):
        return None
    metric, weight = study.task.metric, study.objective.std_weight
    return [None if (grid := at[step]) is None else metrics.grid_objective(grid, metric, weight) for step in steps]
