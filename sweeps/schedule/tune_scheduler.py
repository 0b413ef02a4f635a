"""``sweeps.schedule.asha`` as a Ray Tune scheduler.

A trial that reports a rung is paused, which frees its place on the accelerator, until it is certain that it
goes on or is cut. What Tune (2.60) does with it, and what follows:

* PAUSE means: save, take the actor away (or keep it for the next trial with ``reuse_actors``), status PAUSED. There
  is nothing to save here but how many rungs are done, which goes into the trial's config (``RUNGS_DONE``); so trials
  are paused without a save, and two of four calls to an actor for each rung fall away. A paused trial runs again when
  ``choose_trial_to_run`` returns it.
* The actor of a paused trial is kept where another was asked for; with nothing asked for it is ended. So a trial that
  could go on is asked for first, and the one that reported is paused in the controller's next step. With nobody to
  take its place it is not paused but left running without a task: a new process would cost it seconds. So a trial that
  is certain to go on before it was paused is simply given its next task. STOP ends the actor of whoever is cut in the
  same way; so that trial, too, is paused first, and its actor goes to those that its report let go on.
* A paused trial is ended by ``controller.stop_trial``: no actor is started, the status goes from PAUSED to
  TERMINATED, and the search algorithm hears ``on_trial_complete`` without a result. It happens in
  ``choose_trial_to_run``, which the controller calls in every step.
* A failure that Tune will retry and the last one reach ``on_trial_error`` alike. They differ in the status when
  the controller is done (PENDING or ERROR), so a failure is booked one step later. A few ends are not told at
  all (an actor that could not be reset); when nothing can be started, the statuses are looked through for them.
* An idle actor that died with its node fails the trial that is to take it over, and Tune counts that one failure
  twice, the second time as final. Such a trial, which has attempts left, is put back in the queue.
* Tune gives an idle actor to the trial that it is told to run, and takes down the one that was starting for it. With
  rungs shorter than the start of a process, all trials would go through one actor while the others start for ever
  (seen: 6 rungs a second instead of 25). So an idle actor goes to a trial for which none was asked for; those asked
  for stay asked for, which is also what an autoscaler adds nodes for.
* Tune asks for an actor, that is for a placement group, for each new trial as soon as it is made, and takes it back
  where an idle actor comes first: half of the driver's time. So the trials of a grid, all known at the start, are
  paused before they begin, and asked for from here, as many at a time as run.
* Tune's count of failures is over a trial's whole life, which on spot machines may see many. Here a new rung sets it
  to nought, so the limit is on failures without progress. Trials to be retried go before all others.
* A limit of concurrent trials (``TuneConfig(max_concurrent_trials=...)``, ``ConcurrencyLimiter``) counts paused
  trials, so with fewer places than trials the sweep would stand still: refused. Concurrency comes from resources.

The trainable's ``step()`` trains to the rung that its config's ``RUNGS_DONE`` says (none: the first) and returns an
encoded ``RungReport``, or ``failed`` with the reason; a result with neither is progress and decides nothing.
``done=True`` at the last rung is allowed. Replayed rungs are harmless.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import BasicVariantGenerator

from cluster.hosting.trainable import RUNGS_DONE
from sweeps.schedule.asha import Decision, Rungs
from trainer.measure.rung import RungReport

KEEP_PROCESS = 60.0  # seconds for which a trial that waits keeps its process where no other trial asks for its place
LEAST_REQUESTED = 16  # actors asked for beyond those that run; more where more run, so that a cluster can double


class PromotionScheduler(TrialScheduler):
    """Pauses trials at rungs and lets the best go on. ``decisions()`` tells every trial's fate and reason.

    ``identify`` gives the trial's id from its Tune config: the id that breaks ties and names the decisions.
    Without it Tune's own trial id is used, which differs from run to run. A second trial with the same id is
    treated as a trial of its own, ``<id>#2``.
    """

    _metric = "objective"
    _supports_buffered_results = False  # a buffered trial would train past its rung

    def __init__(self, rungs: Rungs, identify: Callable[[Mapping[str, Any]], str] | None = None) -> None:
        super().__init__()
        self.rungs = rungs
        self._identify = identify
        self._names: dict[str, str] = {}  # Tune's trial id -> our id
        self._trials: dict[str, Trial] = {}  # our id -> Tune's trial
        self._same_id: Counter[str] = Counter()  # how many trials have the id that ``identify`` gives
        self._unended: dict[str, Trial] = {}  # not known to have ended
        self._changed: dict[str, None] = {}  # decided anew since ``changes`` was asked; in order
        self._new: dict[str, Trial] = {}
        self._retries: dict[str, Trial] = {}  # to be retried
        self._reached: dict[str, int] = {}  # our id -> its highest rung
        self._promoted: list[dict[str, Trial]] = [{} for _ in range(rungs.count)]  # by rung, to be started again
        self._requested: dict[str, Trial] = {}  # returned to the controller, not running yet
        self._pausing: dict[str, tuple[Trial, float]] = {}  # reported, and when; to be paused or to go on
        self._paused: set[str] = set()  # paused, and may yet go on
        self._to_end: dict[str, Trial] = {}  # to be ended as soon as they are paused
        self._errors: dict[str, Trial] = {}  # failed; whether for good shows in the next step
        self._controller: Any = None

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Accepts the metric that it reads anyway; False makes Tune say that metric or mode do not fit."""
        return metric in (None, self._metric) and mode in (None, "max")

    # -- what the controller tells

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        if trial.trial_id not in self._names:
            if len(self._names) >= self.rungs.trials:
                raise ValueError(f"the search made more than the {self.rungs.trials} trials that were announced.")
            limit = _concurrency_limit(tune_controller.search_alg)
            if 0 < limit < self.rungs.trials:
                raise ValueError(
                    f"max_concurrent_trials = {limit} counts paused trials, so {self.rungs.trials} trials would wait "
                    "for each other for ever. Leave it unset and limit concurrency by resources per trial."
                )
            name = self._identify(trial.config) if self._identify else trial.trial_id
            self._same_id[name] += 1
            name = f"{name}#{self._same_id[name]}" if self._same_id[name] > 1 else name
            self._names[trial.trial_id], self._trials[name], self._unended[name] = name, trial, trial
            self._new[name] = trial
            if isinstance(tune_controller.search_alg, BasicVariantGenerator):
                trial.set_status(Trial.PAUSED)
            return
        self._errors.pop(self._names[trial.trial_id], None)
        self._retries[self._names[trial.trial_id]] = trial

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        report = RungReport.decode(result)
        decision = self._report(trial, report, str(result.get("failed", "")))
        if report is not None:
            trial.set_config({**trial.config, RUNGS_DONE: report.rung_index + 1})
        if decision.action in ("pause", "stop"):
            self._pausing[self._names[trial.trial_id]] = (trial, time.monotonic())
        if decision.action == "stop":
            self._to_end[self._names[trial.trial_id]] = trial
        return {"continue": self.CONTINUE, "pause": self.NOOP, "stop": self.NOOP}.get(decision.action, self.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """A running trial ends: our own STOP, ``done=True``, or someone else's wish."""
        result = result or {}
        decision = self._report(trial, RungReport.decode(result), str(result.get("failed", "")))
        if decision.status == "running":
            self._fail(self._names[trial.trial_id], "it ended before its last rung")

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A paused or pending trial ends: one that we cut, or someone else's wish."""
        self._fail(self._names[trial.trial_id], "it was removed before its last rung")

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._controller = tune_controller
        self._errors[self._names[trial.trial_id]] = trial

    # -- what the controller asks

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Those that lost their place first, then promoted ones, the highest rung first, then new ones in order."""
        self.requeue()
        self._book_failures()
        if tune_controller.search_alg.is_finished() and len(self._names) < self.rungs.trials and self._names:
            self.no_more_trials(len(self._names))
        self._pause(tune_controller)
        self._end_cut(tune_controller)
        places = _Places(tune_controller)
        trial = self._next(places)
        if trial is None and not any((self._retries, self._requested, *self._promoted)) and self._find_lost():
            return self._next(places)
        return trial

    def no_more_trials(self, trials: int) -> None:
        """Only ``trials`` will exist. Called by itself when the search algorithm says that it has finished."""
        self.rungs.no_more_trials(trials)
        self._take_decisions()

    def requeue(self) -> None:
        """Puts back the trials that Tune gave up although they have attempts left. To be called when Tune tells of
        an error, too: where that trial was the only one left, the controller takes no further step."""
        for trial in list(self._errors.values()):
            if trial.status == Trial.ERROR and trial.should_recover():
                _put_back(self._controller, trial)

    def decisions(self) -> dict[str, Decision]:
        """Our id -> the trial's last decision, for every trial that Tune has made."""
        self._book_failures()
        return {name: self.rungs.decide(name) for name in self._trials}

    def changes(self) -> dict[str, Decision]:
        """The decisions taken since the last call: of all trials but for the words in which a wait is described, which
        change with every report. To put thousands into words at each of thousands of reports would be the driver's
        main work."""
        self._book_failures()
        changed, self._changed = self._changed, {}
        return {name: self.rungs.decide(name) for name in changed}

    def debug_string(self) -> str:
        counts: dict[str, int] = {}
        for decision in self.decisions().values():
            counts[decision.action] = counts.get(decision.action, 0) + 1
        return f"PromotionScheduler: entrants per rung {self.rungs.quotas}, {counts}"

    # -- the work

    def _report(self, trial: Trial, report: RungReport | None, failure: str) -> Decision:
        name = self._names[trial.trial_id]
        for waiting in (*self._promoted, self._requested):  # it runs, as a retried trial may of its own accord
            waiting.pop(name, None)
        self._changed[name] = None
        if failure:
            self._fail(name, failure)
        if report is None:
            return self.rungs.decide(name)
        if report.rung_index > self._reached.get(name, -1):
            self._reached[name] = report.rung_index
            _forget_failures(trial)
        decision = self.rungs.report(
            name,
            report.rung_index,
            report.objective,
            step=report.step,
            stderr=report.stderr,
            degenerate=report.degenerate,
        )
        self._take_decisions()
        return decision

    def _fail(self, name: str, why: str) -> None:
        self.rungs.fail(name, why)
        self._changed[name] = None
        self._take_decisions()

    def _take_decisions(self) -> None:
        """Files the trials whose waiting is over."""
        for name in self.rungs.newly_decided():
            self._changed[name] = None
            self._paused.discard(name)
            decision = self.rungs.decide(name)
            if decision.action == "continue" and decision.rung is not None:
                self._promoted[decision.rung][name] = self._trials[name]
            else:
                self._to_end[name] = self._trials[name]

    def _pause(self, tune_controller: Any) -> None:
        """Lets those that reported go on where that is certain, and frees the places of the others, of the cut first:
        of as many as actors were asked for that may have them; where nobody asks, after a while, and of the cut at once
        where nobody will."""
        if not self._pausing:
            return
        wanted = _Places(tune_controller).wanted
        others = any(name not in self._pausing for queue in (*self._promoted, self._new) for name in queue)
        for name in sorted(self._pausing, key=lambda n: n not in self._to_end):
            trial, since = self._pausing[name]
            promoted = next((queue for queue in self._promoted if name in queue), None)
            idle = time.monotonic() - since > KEEP_PROCESS or (name in self._to_end and not self._paused)
            if trial.status != Trial.RUNNING:
                del self._pausing[name]
            elif promoted is not None:
                del self._pausing[name], promoted[name]
                _give_next_task(tune_controller, trial)
            elif wanted > 0 or (idle and not others):
                del self._pausing[name]
                wanted -= 1
                if name not in self._to_end:
                    self._paused.add(name)
                tune_controller.pause_trial(trial, should_checkpoint=False)

    def _end_cut(self, tune_controller: Any) -> None:
        for name, trial in list(self._to_end.items()):
            if trial.status == Trial.PAUSED:
                tune_controller.stop_trial(trial)
            if trial.is_finished():
                del self._to_end[name]

    def _next(self, places: _Places) -> Trial | None:
        """A trial for the idle actor, or one to ask for an actor for; None where enough are asked for."""
        for queue in (self._retries, self._requested):
            for name in [n for n, t in queue.items() if t.status not in (Trial.PENDING, Trial.PAUSED)]:
                del queue[name]
        if not places.idle:
            if places.requested >= max(LEAST_REQUESTED, places.running):
                return None
            return next((t for t in self._retries.values() if not places.has_actor(t)), None) or self._next_waiting()
        again = next((t for t in self._retries.values() if not places.has_process(t)), None)
        return (
            again
            or self._next_waiting()
            or next((t for t in self._requested.values() if not places.has_process(t)), None)
        )

    def _next_waiting(self) -> Trial | None:
        """Of those that no actor was asked for: the first of the highest rung, or the first new one."""
        for waiting in reversed(self._promoted):
            for name in [n for n in waiting if n not in self._pausing]:
                trial = waiting.pop(name)
                if not trial.is_finished():
                    self._requested[name] = trial
                    return trial
        while self._new:
            name = next(iter(self._new))
            trial = self._new.pop(name)
            if trial.status in (Trial.PENDING, Trial.PAUSED):
                self._requested[name] = trial
                return trial
        return None

    def _book_failures(self) -> None:
        for name, trial in list(self._errors.items()):
            if trial.status == Trial.ERROR and not trial.should_recover():
                del self._errors[name]
                self._fail(name, _error_text(trial))

    def _find_lost(self) -> bool:
        """Books trials that ended without a word to the scheduler. True if there were any."""
        ended = [(name, trial) for name, trial in self._unended.items() if trial.is_finished()]
        lost = [(name, trial) for name, trial in ended if self.rungs.decide(name).status == "running"]
        for name in {name for name, _ in ended} - {name for name, _ in lost}:
            del self._unended[name]
        for name, trial in lost:
            self._fail(name, _error_text(trial) if trial.status == Trial.ERROR else "it ended before its last rung")
        return bool(lost)


# -- private parts of Ray Tune, read in Ray 2.60.0: of TuneController (ray/tune/execution/tune_controller.py), its actor
#    manager and Trial. No other line of this file names one, except for ``_metric`` and ``_supports_buffered_results``,
#    which Tune looks for in a scheduler's class


def _inner(tune_controller: Any) -> Any:
    """The controller itself, where the scheduler is given a part of it."""
    return getattr(tune_controller, "_tune_controller", tune_controller)


def _put_back(tune_controller: Any, trial: Trial) -> None:
    """Queue a trial again that the controller has given up."""
    controller = _inner(tune_controller)
    controller._resetting_trials.discard(trial)
    controller._requeue_trial(trial)


def _give_next_task(tune_controller: Any, trial: Trial) -> None:
    """Let a running trial train on in the process that it has."""
    _inner(tune_controller)._schedule_trial_train(trial)


def _forget_failures(trial: Trial) -> None:
    trial.run_metadata.num_failures = 0


class _Places:
    """What the controller has of actors at this moment."""

    def __init__(self, tune_controller: Any):
        controller = _inner(tune_controller)
        manager = controller._actor_manager
        self._actors, self._live = controller._trial_to_actor, manager._live_actors_to_ray_actors_resources
        idle = controller._actor_cache.num_cached_objects
        self.idle = idle > 0
        self.wanted = len(controller._staged_trials) - idle  # how many more Tune would keep
        self.requested, self.running = manager.num_pending_actors, len(self._live)

    def has_actor(self, trial: Trial) -> bool:
        """Whether an actor was asked for, or is there."""
        return trial in self._actors

    def has_process(self, trial: Trial) -> bool:
        """Whether its process starts, or resets."""
        return trial in self._actors and self._actors[trial] in self._live


def _concurrency_limit(search_alg: Any) -> int:
    """The most live trials that the search algorithm allows; 0 if there is no limit."""
    while search_alg is not None:
        limit = getattr(search_alg, "max_concurrent", 0)
        if limit:
            return int(limit)
        search_alg = getattr(search_alg, "searcher", None)
    return 0


def _error_text(trial: Trial) -> str:
    """The last line of the error, which names the exception."""
    try:
        text = Path(trial.error_file).read_text(errors="replace") if trial.error_file else ""
    except OSError:  # the driver's staging folder is gone
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "the trial failed"
