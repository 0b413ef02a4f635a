"""Decides a sweep whose rungs are all in the run folder, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sweeps.driver.decisions import DecisionRecord
from sweeps.driver.progress import Progress
from sweeps.driver.test_stages import GridStages, trials_to_test
from sweeps.schedule.configurations import give, promotion
from trainer.data.assets import Assets
from trainer.measure.rung import RungReport
from trainer.trial import Trial, rung_steps


def replayed(progress: Progress, trials: Sequence[Trial], assets: Assets) -> Callable[[], None] | None:
    """Decide the sweep from the scores in the run folder. Returns a function that reports the result to ``progress``;
    None if something is left to train or score."""
    study, store = progress.study, progress.store
    if not all(store.rungs(t.id, "dev") for t in trials):
        return None
    scheduler = study.scheduler
    rungs = promotion(trials, scheduler.eta, len(scheduler.shares), study.objective.std_weight, scheduler.rule)
    record = DecisionRecord.of(store, study, trials, rungs)
    reports = [] if record is None else record.replay()
    if record is not None and record.lost:
        return None
    known = {(r.trial_id, r.rung_index) for r in reports}
    todo = {t.id: (t, sum((t.id, at) in known for at in range(len(scheduler.shares)))) for t in trials}
    todo = {i: todo[i] for i in todo if rungs.decide(i).action == "continue"}
    while todo:
        for trial_id, (trial, at) in list(todo.items()):
            steps = rung_steps(scheduler.shares, trial.optimization.steps)
            found = store.read_scores(trial_id, steps[at], "dev")
            if found is None:
                return None
            report = RungReport.of(trial, at, *found, study.objective.std_weight)
            reports.append(report)
            give(rungs, report)
            if record is not None:
                record.add(report)
            todo[trial_id] = (trial, at + 1)
        todo = {i: todo[i] for i in todo if rungs.decide(i).action == "continue"}
    decisions = rungs.decisions()
    stages = GridStages.of(study, store, assets, progress.roles)
    if progress.scores_test_pool:
        tested = trials_to_test(study, {t.id: t for t in trials}, decisions)
        if stages.next(tested, decisions):
            return None

    def report_all() -> None:
        for report in reports:
            progress.report(report)
        progress.decide(decisions)
        for trial_id, scored in stages.found.items():
            progress.add_test_scores(trial_id, *scored)
        progress.live.note("every rung is in the run folder already: nothing to train")

    return report_all
