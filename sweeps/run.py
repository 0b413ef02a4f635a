"""``steadytune run``: from a study to its tables.

Nothing is restored and nothing is special about a second start: the trials are made from the study again, each
finds its finished rungs in the run folder, and the scheduler's decisions follow from their values. A study whose
rungs are all there is decided without starting Ray at all.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial

from sweeps.checks.preflight import check_wordings
from sweeps.driver.progress import Progress
from sweeps.driver.replay import standing_of
from sweeps.driver.session import on_ray
from sweeps.driver.sweep import sweep
from sweeps.live.table import LiveTable
from sweeps.run_folder import stages as record
from sweeps.run_folder.lease import Lease
from sweeps.run_folder.prompts import keep_prompts
from sweeps.staged.protocol import Staged
from sweeps.study.load import resolved
from sweeps.study.overlay import dump_yaml
from sweeps.study.schema import Study
from sweeps.tables.terminal import show_table
from sweeps.trials.assets import data_of, load_assets
from sweeps.trials.base_model import model_of
from sweeps.trials.make import make_trial_at, make_trials, points_of
from trainer.data.assets import Assets
from trainer.store import Store
from trainer.trial import Model

log = logging.getLogger("steadytune")

MOST_WARNINGS = 5  # of the check, that a run prints


def run(study: Study, out: str) -> int:
    """Run ``study`` in the run folder ``out``; 0 when every trial ended well, 1 when some failed. Raises ``LeaseError``
    where another run is at work there."""
    store = Store.open(out)
    with Lease(store):
        return _run(study, store)


def _run(study: Study, store: Store) -> int:
    assets = load_assets(study)
    model = model_of(study)
    data = data_of(assets)
    if study.stages is not None:
        return run_stages(study, store, assets, model)
    points = points_of(study)
    made = None if points is None else make_trials(study, points, data, model, len(assets.rows["train"]))
    progress = Progress(study, store, LiveTable(study.name))
    standing = None if made is None else standing_of(progress, made)
    if standing is None:
        _warn(check_wordings(study, assets, model))
    with on_ray(study) if standing is None else nullcontext():
        store.write("study.yaml", dump_yaml(resolved(study)).encode())  # of a study that can run, before any trial
        keep_prompts(store, assets, {name: pool.file for name, pool in study.pools.train.items()})
        with progress.live:
            for trial in made or []:
                progress.add(trial)
            progress.write()
            if standing is not None:
                standing()
            else:
                at = partial(make_trial_at, study=study, data=data, model=model, n_rows=len(assets.rows["train"]))
                sweep(progress, model, assets, made, at)
            progress.write(over=True)
    from sweeps.report.write import write_report

    where = write_report(store.uri)
    show_table(store, where, study.tables.thresholds[0])
    failed = [t for t, d in progress.decisions.items() if d.status == "failed"]
    return 1 if failed else 0


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings[:MOST_WARNINGS]:
        print(f"warning: {warning}", file=sys.stderr)
    if len(warnings) > MOST_WARNINGS:
        print(f"warning: {len(warnings) - MOST_WARNINGS} more, which `steadytune check` prints", file=sys.stderr)


def run_stages(study: Study, store: Store, assets: Assets, model: Model) -> int:
    """Run all stages in the folder of ``store``, which is leased already; 0, or 1 where a trial failed."""
    from sweeps.report.write import write_report
    from sweeps.staged.execute import OnRay

    with OnRay(study, store, assets) as on_ray:
        staged = Staged(study, store, assets, model, on_ray)
        staged.run()
    where = write_report(store.uri)
    show_table(store, where, study.tables.thresholds[0])
    print("\n".join(spoken(staged.records)), flush=True)
    return 1 if any(row["status"] == "failed" for row in staged.rows) else 0


def spoken(records: record.Records) -> Iterator[str]:
    """What the stages decided, for the terminal."""
    for stage in records.stages:
        yield f"stage {stage['stage']}, {stage['title']}: {stage['reason']}"
    if records.answer is not None:
        yield f"answer: {records.answer['sentence']}"
