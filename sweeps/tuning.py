"""The sweep under Ray Tune: trials, scheduler and search on one side, progress on the other."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import tune

from cluster.hosts import Fleet
from cluster.trainable import SlotTrainable, Sweep
from sweeps.asha import Rungs
from sweeps.board import Board
from sweeps.run import Progress
from sweeps.trials import axes_of, axis_columns
from sweeps.tune_scheduler import PromotionScheduler
from trainer.metrics import objective
from trainer.trial import Trial

WRITE_EVERY = 5.0  # seconds between writings of trials.parquet while the sweep runs


def tune_trials(
    progress: Progress,
    fleet: Fleet,
    made: Sequence[Trial] | None,
    at: Callable[[Mapping[str, Any]], Trial],
    failures: int,
) -> None:
    """Run the sweep to its end; ``progress`` has every trial's decision afterwards. ``made`` None: the points come
    from Optuna, and ``at`` turns them into trials."""
    study = progress.study
    if made is not None:
        by_id = {t.id: t for t in made}
        trial_of: Callable[[Mapping[str, Any]], Trial] = _Known(by_id)
        search, space, n = None, {"id": tune.grid_search(list(by_id))}, len(made)
    else:
        from sweeps.tune_search import tpe

        assert study.search.trials is not None
        found = tpe(axes_of(study), study.search.trials, study.search.seed, len(progress.shares))
        trial_of, search, space, n = at, found.algorithm, found.space, found.trials
    scheduler = PromotionScheduler(
        Rungs(n, study.scheduler.eta, len(progress.shares)), identify=lambda config: trial_of(config).id
    )
    sweep = Sweep(fleet, trial_of, progress.shares, study.objective.std_weight)
    with (
        tempfile.TemporaryDirectory(prefix="steadytune-tune-") as scratch,
        Watcher(progress, scheduler, trial_of) as watcher,
    ):
        tune.Tuner(
            tune.with_resources(tune.with_parameters(SlotTrainable, sweep=sweep), fleet.resources.for_tune()),
            param_space=space,
            tune_config=tune.TuneConfig(
                scheduler=scheduler,
                search_alg=search,
                num_samples=1 if made is not None else n,
                reuse_actors=True,
                metric="objective" if search is not None else None,
                mode="max" if search is not None else None,
            ),
            run_config=tune.RunConfig(
                name=study.name,
                storage_path=scratch,  # Tune's own state: never read again, a new start replays the run folder
                verbose=0,
                callbacks=[watcher],
                failure_config=tune.FailureConfig(max_failures=failures),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            ),
        ).fit()
        progress.decide(scheduler.decisions())


class _Known:
    """Tune's parameters carry only a trial's id."""

    def __init__(self, trials: Mapping[str, Trial]):
        self.trials = trials

    def __call__(self, config: Mapping[str, Any]) -> Trial:
        return self.trials[config["id"]]


class Watcher(tune.Callback):
    """Carries what Tune tells over to the live table, trials.parquet and TensorBoard."""

    def __init__(
        self, progress: Progress, scheduler: PromotionScheduler, trial_of: Callable[[Mapping[str, Any]], Trial]
    ):
        self.progress, self.scheduler, self.trial_of = progress, scheduler, trial_of
        self._written = time.monotonic()
        self._board = Board(progress.store)
        self._pool = ThreadPoolExecutor(1)  # event files are written beside the scheduler, not in its way

    def __reduce__(self) -> tuple[Any, ...]:
        return (tune.Callback, ())  # Tune pickles its callbacks for a restore that we never do

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        ours = self.trial_of(trial.config)
        if ours.id not in self.progress.trials or not self.progress.seen:
            self._pool.submit(self._safely, self._describe)
        self.progress.add(ours)
        self.progress.live.started(ours.id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "rung_index" not in result:
            return
        if (result["id"], result["rung_index"]) not in self.progress.seen:
            self._pool.submit(self._safely, self._chart, self.trial_of(trial.config), result["step"])
        self.progress.report(result)
        self.progress.decide(self.scheduler.decisions())
        if time.monotonic() - self._written > WRITE_EVERY:
            self._written = time.monotonic()
            self.progress.write()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.progress.decide(self.scheduler.decisions())

    def _safely(self, act: Callable[..., None], *args: Any) -> None:
        try:
            act(*args)
        except Exception as error:  # a chart that cannot be drawn must not end a sweep
            logging.getLogger("steadytune").warning("TensorBoard: %s", error)

    def _describe(self) -> None:
        self._board.study([axis_columns(t) for t in list(self.progress.trials.values())])

    def _chart(self, trial: Trial, step: int) -> None:
        found = self.progress.store.read_scores(trial.id, step, "dev")
        if found is None or "nan" in found[1]:
            return
        rows, record = found
        scored = objective(rows, trial.task.metric, self.progress.study.objective.std_weight, trial.task.labels)
        self._board.rung(trial.id, axis_columns(trial), record, scored)
