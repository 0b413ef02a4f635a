"""``sweeps.schedule.asha`` as a Ray Tune scheduler.

A trial that reports a rung is paused, which frees its place on the accelerator, until it is certain that it goes on or
is cut. What Tune (2.60) does, and what this file does because of it:

* Pausing. Tune saves the trial, takes its actor away (or, with ``reuse_actors``, keeps it for the next trial) and sets
  the status PAUSED. Here all there is to save is how many rungs are done, and that goes into the trial's config
  (``RUNGS_DONE``). So trials are paused without saving, which avoids two of the four calls to an actor at each rung. A
  paused trial runs again when ``choose_trial_to_run`` returns it.
* Actors of paused trials. Tune keeps such an actor if another one was requested; otherwise it ends the actor. So an
  actor is first requested for a trial that could go on, and the trial that reported is paused in the controller's next
  step. If no trial can take its place, it is not paused but keeps its process without a task, because a new process
  would cost seconds. If it then becomes certain that it goes on, it is given its next task where it is. STOP ends the
  actor of a trial that is cut; so that trial is paused first, too, and its actor goes to a trial that may go on.
* Ending a paused trial. ``controller.stop_trial`` starts no actor, changes the status from PAUSED to TERMINATED, and
  calls the search algorithm's ``on_trial_complete`` without a result. It is called in ``choose_trial_to_run``, which
  the controller calls in every step.
* Failures. ``on_trial_error`` is called alike for a failure that Tune will retry and for the last one. They differ in
  the status when the controller is done (PENDING or ERROR), so a failure is recorded one step later. Tune does not
  report some ends at all (an actor that could not be reset); when no trial can be started, their statuses are searched
  for them.
* Lost idle actors. If an idle actor has died with its node, the trial that is to take it over fails, and Tune counts
  that failure twice, the second time as final. Such a trial has attempts left and is put back into the queue.
* Idle actors. Tune gives an idle actor to the trial that it is asked to run, and ends the actor that was starting for
  that trial. If rungs are shorter than the start of a process, all trials would go through one actor while the others
  start again and again (measured: 6 rungs a second instead of 25). So an idle actor goes to a trial for which none was
  requested; the requests stay, and they are also what an autoscaler adds nodes for.
* Requests. Tune requests an actor, that is a placement group, for each new trial at once, and cancels the request if an
  idle actor comes first: that took half of the driver's time. So the trials of a grid, which all exist at the start,
  are paused before they begin, and this file requests actors for as many at a time as run.
* Retries. Tune counts a trial's failures over its whole life, which may be many on spot machines. Here a new rung
  resets the count, so the limit is on failures without progress. Trials that are retried come before all others.
* Concurrency. A limit of concurrent trials (``TuneConfig(max_concurrent_trials=...)``, ``ConcurrencyLimiter``) counts
  paused trials, so with a limit below the number of trials the sweep would never end: such a limit is refused.
  Resources per trial limit how many run at once.

The trainable's ``step()`` trains to the rung that its config's ``RUNGS_DONE`` names (none: the first) and returns an
encoded ``RungReport``, or ``failed`` with the reason; a result with neither only shows progress and decides nothing.
``done=True`` at the last rung is allowed. Reporting a rung again does no harm.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import BasicVariantGenerator

from cluster.hosting.trainable import RUNGS_DONE
from sweeps.schedule.asha import Decision, Rungs
from sweeps.schedule.configurations import ConfigurationRungs, give
from sweeps.schedule.tune_private import Places, forget_failures, give_next_task, put_back
from trainer.measure.rung import RungReport

KEEP_PROCESS = 60.0  # seconds for which a waiting trial keeps its process while no other trial needs it
LEAST_REQUESTED = (
    16  # actors requested beyond those that run; as many as run if those are more, so a cluster can double
)


class Record(Protocol):
    """Where decisions that depend on the order of reports are recorded, before anything follows from them."""

    def add(self, report: RungReport) -> None: ...

    def fail(self, trial: str, why: str) -> None: ...

    def note(self) -> None: ...


class PromotionScheduler(TrialScheduler):
    """Pauses trials at rungs and lets the best go on. ``decisions()`` gives every trial's decision with its reason.

    ``identify`` makes the trial's id from its Tune config: the id that breaks ties and under which decisions are given.
    Without it Tune's own trial id is used, which differs from run to run. A second trial with the same id is treated as
    another trial, ``<id>#2``.
    """

    _metric = "objective"
    _supports_buffered_results = False  # a buffered trial would train past its rung

    def __init__(
        self,
        rungs: Rungs | ConfigurationRungs,
        identify: Callable[[Mapping[str, Any]], str] | None = None,
        record: Record | None = None,
    ) -> None:
        super().__init__()
        self.rungs, self.record = rungs, record
        self._identify = identify
        self._names: dict[str, str] = {}  # Tune's trial id -> our id
        self._trials: dict[str, Trial] = {}  # our id -> Tune's trial
        self._same_id: Counter[str] = Counter()  # how many trials have the id that ``identify`` gives
        self._unended: dict[str, Trial] = {}  # not known to have ended
        self._changed: dict[str, None] = {}  # with a new decision since the last call of ``changes``, in order
        self._new: dict[str, Trial] = {}
        self._retries: dict[str, Trial] = {}  # to be retried
        self._reached: dict[str, int] = {}  # our id -> its highest rung
        self._promoted: list[dict[str, Trial]] = [{} for _ in range(rungs.count)]  # by rung; to be started again
        self._requested: dict[str, Trial] = {}  # returned to the controller, not running yet
        self._pausing: dict[str, tuple[Trial, float]] = {}  # reported, and when; to be paused or to go on
        self._paused: set[str] = set()  # paused, and may yet go on
        self._to_end: dict[str, Trial] = {}  # to be ended as soon as they are paused
        self._errors: dict[str, Trial] = {}  # failed; the next step shows whether Tune retries them
        self._controller: Any = None

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """True if Tune asks for the metric that it reads, or for none; on False Tune reports an error."""
        return metric in (None, self._metric) and mode in (None, "max")

    # -- called by the controller when something happened

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
            if decision.rung is not None and report.rung_index < decision.rung:
                return self.CONTINUE  # the scores of a later rung, which was reported before, may be lost
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

    # -- called by the controller for a trial to run, and by the driver

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Trials to be retried come first, then promoted ones from the highest rung down, then new ones in order."""
        self.requeue()
        self._record_failures()
        if tune_controller.search_alg.is_finished() and len(self._names) < self.rungs.trials and self._names:
            self.no_more_trials(len(self._names))
        self._pause(tune_controller)
        self._end_cut(tune_controller)
        places = Places(tune_controller)
        trial = self._next(places)
        if trial is None and not any((self._retries, self._requested, *self._promoted)) and self._find_lost():
            return self._next(places)
        return trial

    def no_more_trials(self, trials: int) -> None:
        """Only ``trials`` trials will exist. Called here when the search algorithm says that it has finished."""
        self.rungs.no_more_trials(trials)
        self._take_decisions()

    def requeue(self) -> None:
        """Put back the trials that Tune gave up although they have attempts left. To be called on every error as well:
        if the failed trial was the only one left, the controller takes no further step."""
        for trial in list(self._errors.values()):
            if trial.status == Trial.ERROR and trial.should_recover():
                put_back(self._controller, trial)

    def decisions(self) -> dict[str, Decision]:
        """Our id -> the trial's last decision, for every trial that Tune has made."""
        self._record_failures()
        return {name: self.rungs.decide(name) for name in self._trials}

    def changes(self) -> dict[str, Decision]:
        """The decisions that are new since the last call. The reason of a waiting trial changes with every report, and
        that alone is no new decision: wording thousands of reasons at thousands of reports would take most of the
        driver's time."""
        self._record_failures()
        changed, self._changed = self._changed, {}
        return {name: self.rungs.decide(name) for name in changed}

    def debug_string(self) -> str:
        counts: dict[str, int] = {}
        for decision in self.decisions().values():
            counts[decision.action] = counts.get(decision.action, 0) + 1
        return f"PromotionScheduler: {self.rungs.trials} trials, {counts}"

    # -- decisions and what follows from them

    def _report(self, trial: Trial, report: RungReport | None, failure: str) -> Decision:
        name = self._names[trial.trial_id]
        for waiting in (*self._promoted, self._requested, self._new):  # it runs; Tune may have started it itself
            waiting.pop(name, None)
        self._changed[name] = None
        if failure:
            self._fail(name, failure, by_itself=True)
        if report is None:
            return self.rungs.decide(name)
        if report.rung_index > self._reached.get(name, -1):
            self._reached[name] = report.rung_index
            forget_failures(trial)
        decision = give(self.rungs, report, name)
        if self.record is not None:
            self.record.add(report)
        self._take_decisions()
        return decision

    def _fail(self, name: str, why: str, by_itself: bool = False) -> None:
        """``by_itself``: it failed, and was not ended by somebody, which no later start has to know of."""
        if by_itself and self.record is not None:
            self.record.fail(name, why)
        self.rungs.fail(name, why)
        self._changed[name] = None
        self._take_decisions()

    def _take_decisions(self) -> None:
        """Queue the trials that have been promoted or cut since the last call."""
        if self.record is not None:
            self.record.note()
        for name in self.rungs.newly_decided():
            self._changed[name] = None
            self._paused.discard(name)
            self._new.pop(name, None)  # after a resume, it may be decided before it starts
            decision = self.rungs.decide(name)
            if decision.action == "continue" and decision.rung is not None:
                self._promoted[decision.rung][name] = self._trials[name]
            else:
                self._to_end[name] = self._trials[name]

    def _pause(self, tune_controller: Any) -> None:
        """Give the next task to trials that reported and go on, and pause others, those that are cut first: as many as
        there are requests for actors. Without requests a trial is paused after ``KEEP_PROCESS`` seconds, and one that
        is cut at once if no paused trial may still need its process."""
        if not self._pausing:
            return
        wanted = Places(tune_controller).missing
        others = any(name not in self._pausing for queue in (*self._promoted, self._new) for name in queue)
        for name in sorted(self._pausing, key=lambda n: n not in self._to_end):
            trial, since = self._pausing[name]
            promoted = next((queue for queue in self._promoted if name in queue), None)
            idle = time.monotonic() - since > KEEP_PROCESS or (name in self._to_end and not self._paused)
            if trial.status != Trial.RUNNING:
                del self._pausing[name]
            elif promoted is not None:
                del self._pausing[name], promoted[name]
                give_next_task(tune_controller, trial)
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

    def _next(self, places: Places) -> Trial | None:
        """A trial for the idle actor, or one to request an actor for; None if enough are requested."""
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
        """Of the trials without a requested actor: the first of the highest rung, or the first new one."""
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

    def _record_failures(self) -> None:
        for name, trial in list(self._errors.items()):
            if trial.status == Trial.ERROR and not trial.should_recover():
                del self._errors[name]
                self._fail(name, _error_text(trial), by_itself=True)

    def _find_lost(self) -> bool:
        """Record trials that ended without a call of the scheduler. True if there were any."""
        ended = [(name, trial) for name, trial in self._unended.items() if trial.is_finished()]
        lost = [(name, trial) for name, trial in ended if self.rungs.decide(name).status == "running"]
        for name in {name for name, _ in ended} - {name for name, _ in lost}:
            del self._unended[name]
        for name, trial in lost:
            failed = trial.status == Trial.ERROR
            self._fail(name, _error_text(trial) if failed else "it ended before its last rung", by_itself=failed)
        return bool(lost)


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
