"""One sweep: training under Ray Tune, then the test pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeps.driver.progress import Progress
from sweeps.driver.session import start_fleet
from sweeps.driver.test_pool import score_test_pool
from sweeps.driver.test_stages import GridStages
from sweeps.live.opening import Opening
from sweeps.trials.load_content import Content
from trainer.errors import BaseModelError
from trainer.trial import Trial


def sweep(
    progress: Progress,
    content: Content,
    trials: Sequence[Trial] | None,
    fleet: Any = None,
    opening: Opening | None = None,
) -> None:
    """Train under Ray Tune, then score the test pool on the same hosts: those of ``fleet``, if it is given. ``trials``
    is None if Optuna chooses them. ``opening`` ends when Tune begins. To be called within ``on_ray``. Raises
    ``BaseModelError`` where no trial could start, since a host found the base model unfit."""
    study = progress.study
    count = study.search.trials or 0 if trials is None else len(trials)
    opening = opening or Opening()
    opening.say("starting hosts, and importing Ray Tune")
    fleet = fleet or start_fleet(study, content, progress.store, count)
    from sweeps.driver.heartbeat import Heartbeat  # after `on_ray`, as they import ray; slow, while the registry starts
    from sweeps.driver.tuning import tune_trials

    fleet.warm(count)
    heartbeat = Heartbeat(progress, fleet)
    opening.end()
    tune_trials(progress, content, fleet, trials, heartbeat)
    progress.write()
    if all(d.status == "failed" for d in progress.decisions.values()) and (why := fleet.unfit()):
        raise BaseModelError(why)
    if progress.scores_test_pool:
        score_test_pool(progress, fleet, GridStages.of(study, progress.store, content.assets), heartbeat.beat)
        heartbeat.publish()  # no trial is being tested any more
    from cluster.hosting.tensorboard import write_ends

    ends = ((i, d.status, d.step or 0, progress.tests.get(i)) for i, d in progress.decisions.items())
    write_ends(progress.store, ends)
