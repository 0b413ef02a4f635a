"""When the ranking at a rung holds: how well it agrees with the ranking at the end, in a run that is finished.

Configurations are ranked, by their objective over seeds and prompts. A run with early stopping knows the end of those
that went on alone, and among them ranks agree less than among all. Where ``scheduler.name: none`` continued such a run
in its folder, all have scores at their end; at a rung, those that were not stopped before it.
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
    """One rung before the end."""

    share: float  # of a trial's steps
    correlation: float  # Spearman's, of the objectives at the rung and at the end; NaN: all alike
    survives: float  # share of the drawn sets in which the best at the end is among those that go on
    going_on: int  # configurations
    ranked: int  # configurations that have scores at the rung and at their end
    of: int  # configurations of the run

    @property
    def text(self) -> str:
        found = "-" if math.isnan(self.correlation) else f"{self.correlation:.2f}"
        return (
            f"at {self.share:g} a rank correlation of {found} with the end ({self.ranked} of {self.of} configurations "
            f"have both); in {percent(self.survives, digits=0)} % of bootstrap samples of the configurations the best "
            f"at the end is among the {self.going_on} that go on"
        )


def rung_rankings(run: RunFolder, study: Study) -> list[RungRanking]:
    """Of each rung of ``study``, in the dev scores of ``run``, where ``LEAST`` of its configurations have scores there
    and at their end."""
    shares, eta = study.scheduler.shares, study.scheduler.eta
    every = configurations(run.trials)
    values = [_at_rungs(run, one, study) for one in every]
    quotas = rung_quotas(max(1, len(every)), eta, len(shares))
    found = []
    for rung, share in enumerate(shares[:-1]):
        pairs = [(of[rung], of[-1]) for of in values if of is not None and of[rung] is not None]
        if len(pairs) >= LEAST:
            there, end = np.array(pairs, float).T
            going_on = min(quotas[rung + 1], len(pairs))
            chance = survival(there, end, going_on)
            found.append(RungRanking(share, _correlation(there, end), chance, going_on, len(pairs), len(every)))
    return found


def survival(there: Floats, end: Floats, going_on: int) -> float:
    """In which share of sets of as many configurations, drawn with replacement, the best at the ``end`` is among the
    ``going_on`` best ``there``."""
    rng, n = np.random.default_rng(0), len(there)
    kept = 0
    for _ in range(DRAWS):
        drawn = rng.integers(0, n, n)
        best = drawn[np.argsort(-there[drawn], kind="stable")[:going_on]]
        kept += bool(end[best].max() == end[drawn].max())
    return kept / DRAWS


def _correlation(a: Floats, b: Floats) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else math.nan


def _at_rungs(run: RunFolder, one: Configuration, study: Study) -> list[float | None] | None:
    """The configuration's objective at each rung, None where a seed has no scores there; None where a seed did not
    come to its end."""
    seeds = [_of_trial(run, row, study) for row in one.rows]
    scored = [seed for seed in seeds if seed is not None]
    if len(scored) < len(seeds):
        return None
    weight = study.objective.std_weight
    found = []
    for rung in range(len(study.scheduler.shares)):
        there = [seed[rung] for seed in scored if rung in seed]
        found.append(_value(there, weight) if len(there) == len(scored) else None)
    return found if found[-1] is not None else None


def _value(seeds: Sequence[metrics.Objective | None], std_weight: float) -> float:
    """The objective of the seeds of a configuration at one rung, lowered by more than any objective where one of them
    is degenerate or NaN, as the scheduler ranks it below all others."""
    sound = [seed for seed in seeds if seed is not None and math.isfinite(seed.value)]
    if len(sound) < len(seeds):
        return -2 * LOW
    value = objective_of_seeds([seed.value for seed in sound], [seed.std for seed in sound], std_weight)
    return value - LOW * any(seed.degenerate for seed in sound)


def _of_trial(run: RunFolder, row: Mapping[str, Any], study: Study) -> dict[int, metrics.Objective | None] | None:
    """Number of the rung -> the trial's objective, None where it was NaN; None where it did not come to its end."""
    if row["status"] != "finished":
        return None
    at = {rung.step: rung.grid for rung in run.rungs(row["trial_id"], "dev")}
    metric, weight = study.task.metric, study.objective.std_weight
    return {
        number: None if (grid := at[step]) is None else metrics.grid_objective(grid, metric, weight)
        for number, step in enumerate(rung_steps(study.scheduler.shares, row["steps"]))
        if step in at
    }
