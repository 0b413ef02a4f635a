"""TPE for Ray Tune, through Optuna.

It sets no limit on concurrent trials, because Tune would count paused trials too
(``sweeps/schedule/tune_scheduler.py``). Tune asks such a searcher for one trial at a time unless
``TUNE_MAX_PENDING_TRIALS_PG`` allows more, so on a cluster that scales up set that variable to the number of trials
that can run at once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from sweeps.search.points import (
    Axes,
    Domain,
    Point,
    combinations,
    decode,
    encode,
    encode_value,
    point_key,
    unseen_points,
)
from trainer.measure.rung import RungReport

METRIC = "objective"
REDRAWS = 20  # after so many suggestions of points that exist already, a random new point is taken


class RungSearch(OptunaSearch):
    """Optuna's TPE (tree-structured Parzen estimator, Bergstra et al., 2011) with its defaults, which learns from rungs
    and never suggests a point twice. The points of ``first`` come before those of TPE.

    ``OptunaSearch`` reports a trial to Optuna when the trial ends. With promotion most trials wait for each other for
    a long time, so Optuna would suggest points without having seen results; and it would count a trial that is cut
    while it runs as complete, above one that is cut while paused at a higher rung. Here a trial counts from its first
    rung on, with its objective at the highest rung that it has reached: as complete at the last rung, else as pruned.
    TPE ranks pruned trials by rung, then by objective. A degenerate trial ranks below all of these; NaN and failed
    trials are left out. The same seed and the same order of results give the same suggestions.
    """

    def __init__(self, axes: Axes, seed: int, rungs: int = 1, first: Sequence[Point] = ()) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # one line per suggestion otherwise
        self._axes = dict(axes)
        self._rungs = rungs
        self._first = list(first)
        self._rng = random.Random(seed)
        self._distributions = {n: d for n, v in axes.items() if (d := _distribution(v)) is not None}
        self._suggested: dict[str, dict[str, Any]] = {}  # Tune's trial id -> encoded point
        self._keys: set[tuple[Any, ...]] = set()
        self._reached: dict[str, dict[int, float]] = {}  # Tune's trial id -> rung -> objective
        self.observations: dict[str, FrozenTrial] = {}  # Tune's trial id -> what TPE learns from that trial
        super().__init__(space=None, metric=METRIC, mode="max", sampler=optuna.samplers.TPESampler(seed=seed))

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return metric in (None, METRIC) and mode in (None, "max")

    def suggest(self, trial_id: str) -> Any:
        """The encoded point, or ``Searcher.FINISHED`` when every point has been suggested."""
        if trial_id not in self._suggested:
            total = combinations(self._axes)
            if total is not None and len(self._keys) >= total:
                return Searcher.FINISHED
            point = self._new_point()
            self._keys.add(point_key(point))
            self._suggested[trial_id] = encode(point)
        return dict(self._suggested[trial_id])

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        report = RungReport.decode(result)
        if report is None:
            return
        rung = report.rung_index
        reached = self._reached.setdefault(trial_id, {})
        reached[rung] = report.objective
        if not all(math.isfinite(v) for v in reached.values()):
            self.observations.pop(trial_id, None)
            return
        complete = rung == self._rungs - 1 and not report.degenerate
        params = self._suggested[trial_id]
        self.observations[trial_id] = create_trial(
            state=TrialState.COMPLETE if complete else TrialState.PRUNED,
            value=reached[rung] if complete else None,
            params={name: params[name] for name in self._distributions},
            distributions=self._distributions,
            intermediate_values={} if report.degenerate else {rung: reached[rung]},
        )

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        if error:
            self.observations.pop(trial_id, None)
        elif result:  # a trial that is stopped while it runs reports its last rung only here
            self.on_trial_result(trial_id, result)

    def _new_point(self) -> Point:
        while self._first:
            if point_key(point := self._first.pop(0)) not in self._keys:
                return point
        study = self._study()
        constants = {n: v[0] for n, v in self._axes.items() if not isinstance(v, Domain) and len(v) == 1}
        for _ in range(REDRAWS if self._distributions else 1):
            asked = study.ask(fixed_distributions=self._distributions).params
            point = decode({**encode(constants), **asked}, self._axes)
            if point_key(point) not in self._keys:
                return point
        return next(unseen_points(self._axes, self._keys, self._rng))

    def _study(self) -> optuna.Study:
        """A new Optuna study for each suggestion: a trial's result in a study cannot be replaced by a later one."""
        study = optuna.create_study(direction="maximize", sampler=self._sampler)
        study.add_trials(self.observations.values())
        return study


def _distribution(values: Any) -> BaseDistribution | None:
    """None for an axis with a single value: there is nothing to learn about it."""
    if not isinstance(values, Domain):
        keys = [encode_value(value) for value in values]
        return None if len(keys) == 1 else CategoricalDistribution(keys)
    if values.kind == "int":
        return IntDistribution(int(values.low), int(values.high))
    return FloatDistribution(values.low, values.high, log=values.kind == "loguniform")
