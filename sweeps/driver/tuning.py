"""Runs the sweep under Ray Tune, with our scheduler and search, and reports to ``Progress``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ray import tune
from ray.tune.search import BasicVariantGenerator

from cluster.hosting.hosts import Fleet
from cluster.hosting.trainable import SlotTrainable, Sweep
from sweeps.driver.continuing import staged_points
from sweeps.driver.decisions import DecisionRecord
from sweeps.driver.heartbeat import Heartbeat
from sweeps.driver.progress import Progress
from sweeps.driver.session import FAILURES, LOSSES
from sweeps.driver.watcher import Watcher
from sweeps.schedule.asha import Rungs
from sweeps.schedule.configurations import promotion
from sweeps.schedule.tune_private import keep_credentials
from sweeps.schedule.tune_scheduler import PromotionScheduler
from sweeps.search.points import combinations
from sweeps.study.precision import precision_of
from sweeps.trials.from_points import axes_of, make_trial_at
from sweeps.trials.load_content import Content
from sweeps.trials.study_work import study_work
from trainer.trial import Trial


def tune_trials(
    progress: Progress, content: Content, fleet: Fleet, trials: Sequence[Trial] | None, heartbeat: Heartbeat
) -> None:
    """Run the sweep to its end; afterwards ``progress`` has every trial's decision. If ``trials`` is None, Optuna
    chooses the points."""
    study = progress.study
    by_id = {t.id: t for t in trials or ()}
    if trials is not None:
        trial_of: Callable[[Mapping[str, Any]], Trial] = _TrialsById(by_id)
        # Not `grid_search`, which copies the whole grid for each of its points.
        search: Any = BasicVariantGenerator([{"id": i} for i in by_id])
        space, n = {"id": tune.choice([""])}, len(trials)
    else:
        from sweeps.search.tpe import RungSearch

        assert study.search.trials is not None
        axes, trial_of = axes_of(study), partial(make_trial_at, study=study, content=content.light())
        space, n = {}, min(study.search.trials, combinations(axes) or study.search.trials)
        first = staged_points(progress.store, axes, trial_of)
        search = RungSearch(axes, study.search.seed, len(study.scheduler.shares), first)
    seeds = 1 if not trials else n // len({trial.configuration for trial in trials})
    grids = fleet.grids["dev"], fleet.grids["test"]
    progress.live.expect(study_work(study, n, *grids, progress.scores_test_pool, max(seeds, 1)))
    keep_credentials()
    eta, count = study.scheduler.eta, len(study.scheduler.shares)
    weight = study.objective.std_weight
    rungs = Rungs(n, eta, count) if trials is None else promotion(trials, eta, count, weight, study.scheduler.rule)
    record = DecisionRecord.of(progress.store, study, trials or (), rungs)
    replayed = [] if record is None else record.replay()
    scheduler = PromotionScheduler(rungs, identify=lambda config: trial_of(config).id, record=record)
    at_once = progress.scores_test_pool and precision_of(study, "test", *fleet.grids["test"]) is None
    sweep = Sweep(fleet, trial_of, study.scheduler.shares, study.objective.std_weight, FAILURES, at_once)
    with (
        tempfile.TemporaryDirectory(prefix="steadytune-tune-") as scratch,
        Watcher(progress, scheduler, trial_of, heartbeat, content.pools) as watcher,
    ):
        for report in replayed:
            watcher.replayed(by_id[report.trial_id], report)
        tune.Tuner(
            tune.with_resources(tune.with_parameters(SlotTrainable, sweep=sweep), fleet.resources.for_tune()),
            param_space=space,
            tune_config=tune.TuneConfig(
                scheduler=scheduler,
                search_alg=search,
                num_samples=n,
                reuse_actors=True,
                metric="objective" if trials is None else None,
                mode="max" if trials is None else None,
            ),
            run_config=tune.RunConfig(
                name=study.name,
                storage_path=scratch,  # Tune's own state, never read again: a new start replays the run folder
                verbose=0,
                progress_reporter=tune.CLIReporter(),  # in a notebook Ray's own would clear what was printed before
                callbacks=[watcher],
                failure_config=tune.FailureConfig(max_failures=LOSSES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # Tune's default for a class is True
            ),
        ).fit()
        progress.decide(scheduler.decisions())


class _TrialsById:
    """The trial of a Tune config, which holds only the trial's id."""

    def __init__(self, trials: Mapping[str, Trial]):
        self.trials = trials

    def __call__(self, config: Mapping[str, Any]) -> Trial:
        return self.trials[config["id"]]
