"""The best configurations once more, with fresh seeds (``confirm`` of the study).

The winner of a search is the best of many noisy objectives, and so too good on average. Of the fresh seeds, some choose
among the best configurations, and the others report: figures that chose would be too good again. The trials are
ordinary ones, trained to their end without early stopping, so a second start finds them in the run folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sweeps.display.text import counted
from sweeps.driver.progress import Progress
from sweeps.driver.replay import replayed
from sweeps.live.table import LiveTable
from sweeps.run_folder.columns import CHOOSE, REPORT
from sweeps.run_folder.reading import RunFolder
from sweeps.study.schema import SchedulerSection
from sweeps.tables.columns import Settings
from sweeps.tables.robustness import best_on_dev
from trainer.data.assets import Assets
from trainer.trial import Trial

Execute = Callable[[Progress, Sequence[Trial]], None]


def confirm(progress: Progress, execute: Execute, assets: Assets) -> Progress:
    """Train and score the fresh seeds of the best configurations of the sweep in ``progress``, which has ended and is
    written. Returns the progress of all trials."""
    study, store = progress.study, progress.store
    assert study.confirm is not None
    best = best_on_dev(RunFolder(store), Settings.of(study))[: study.confirm.top]
    seeds = study.confirm.fresh_seeds(study.axes.seed)
    choosing = study.confirm.n_choose if len(best) > 1 else 0  # with one left there is nothing to choose
    roles = {}
    trials = []
    for trial_id in best:
        for i, seed in enumerate(seeds):
            trial = replace(progress.trials[trial_id], seed=seed)
            trials.append(trial)
            roles[trial.id] = CHOOSE if i < choosing else REPORT
    if not trials:  # nothing to confirm: the table says why there is no winner
        progress.write(finished=True)
        return progress
    part = study.model_copy(update={"scheduler": SchedulerSection(name="none")})
    title = f"{study.name}, confirming {counted(len(best), 'configuration')} with {counted(len(seeds), 'fresh seed')}"
    whole = Progress(
        part,
        store,
        LiveTable(title, std_weight=study.objective.std_weight),
        earlier_rows=progress.rows(),
        roles=roles,
        began=progress.began,
    )
    finished = replayed(whole, trials, assets)
    with whole.live:
        for trial in trials:
            whole.add(trial)
        whole.write()
        if finished is not None:
            finished()
        else:
            execute(whole, trials)
        whole.write(finished=True)
    return whole
