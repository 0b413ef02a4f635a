"""The private parts of Ray Tune that the scheduler uses, as they are in Ray 2.60.0: of TuneController
(ray/tune/execution/tune_controller.py), its actor manager and Trial; and what it hands to trials' processes
(ray/tune/execution/class_cache.py).

No other file names one, except that ``sweeps/schedule/tune_scheduler.py`` sets ``_metric`` and
``_supports_buffered_results``, which Tune looks for in a scheduler's class.
"""

from __future__ import annotations

from typing import Any

from ray.tune.execution import class_cache
from ray.tune.experiment import Trial


def _inner(tune_controller: Any) -> Any:
    """The controller itself, where the scheduler is given a part of it."""
    return getattr(tune_controller, "_tune_controller", tune_controller)


def put_back(tune_controller: Any, trial: Trial) -> None:
    """Queue a trial again that the controller has given up."""
    controller = _inner(tune_controller)
    controller._resetting_trials.discard(trial)
    controller._requeue_trial(trial)


def give_next_task(tune_controller: Any, trial: Trial) -> None:
    """Let a running trial train on in the process that it has."""
    _inner(tune_controller)._schedule_trial_train(trial)


def forget_failures(trial: Trial) -> None:
    trial.run_metadata.num_failures = 0


def keep_credentials() -> None:
    """Let Tune hand no credentials of this process to the trials' processes. It would write them into the settings of
    each process, and Ray's logs show these. Ours have what they need in their environment."""
    for name in [n for n in class_cache.ENV_VARS_TO_PROPAGATE if n.startswith("AWS_")]:
        class_cache.ENV_VARS_TO_PROPAGATE.discard(name)


class Places:
    """The controller's actors at this moment."""

    def __init__(self, tune_controller: Any):
        controller = _inner(tune_controller)
        manager = controller._actor_manager
        self._actors, self._live = controller._trial_to_actor, manager._live_actors_to_ray_actors_resources
        idle = controller._actor_cache.num_cached_objects
        self.idle = idle > 0
        self.missing = len(controller._staged_trials) - idle  # how many more Tune would keep
        self.requested, self.running = manager.num_pending_actors, len(self._live)

    def has_actor(self, trial: Trial) -> bool:
        """Whether an actor is requested for the trial, or exists."""
        return trial in self._actors

    def has_process(self, trial: Trial) -> bool:
        """Whether the trial's actor has a process, which starts or is being reset."""
        return trial in self._actors and self._actors[trial] in self._live
