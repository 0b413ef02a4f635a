"""One sweep: training under Ray Tune, then the test pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeps.driver.progress import Progress
from sweeps.driver.test_pool import score_test_pool
from sweeps.driver.test_stages import GridStages
from sweeps.live.opening import Opening
from sweeps.trials.from_points import varied_axes
from sweeps.trials.load_content import Content
from trainer.errors import BaseModelError
from trainer.trial import Trial


def sweep(
    progress: Progress,
    content: Content,
    trials: Sequence[Trial] | None,
    fleet: Any,
    opening: Opening,
) -> None:
    """Train under Ray Tune, then score the test pool on the same hosts, those of ``fleet``. ``trials`` is None if
    Optuna chooses them. ``opening`` ends when Tune begins. To be called within ``on_ray``. Raises ``BaseModelError``
    where no trial could start, since a host found the base model unfit."""
    count = progress.study.search.trials or 0 if trials is None else len(trials)
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
        stages = GridStages.of(progress.study, progress.store, content.assets, progress.roles)
        score_test_pool(progress, fleet, stages, heartbeat.beat)
        heartbeat.publish()  # no trial is being tested any more
    from cluster.hosting.tensorboard import BoardRun, write_configurations, write_ends

    axes, trials_by_id = varied_axes(progress.study), progress.trials
    ends = (
        (BoardRun.of(trials_by_id[i], axes), d.status, d.step or 0, progress.tests.get(i))
        for i, d in progress.decisions.items()
    )
    write_ends(progress.store, ends)
    write_configurations(progress.store, trials_by_id.values(), progress.tests, axes)
