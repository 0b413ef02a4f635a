"""``steadytune run``: from a study to its tables.

A second start does what the first did: it makes the trials from the study, each trial reads its finished rungs from the
run folder, and the scheduler decides from their values again. If all rungs are there, Ray is not started.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from sweeps.checks.preflight import preflight
from sweeps.display.text import counted
from sweeps.driver.confirm import confirm
from sweeps.driver.execute import OnRay
from sweeps.driver.progress import Progress, on_wall_clock
from sweeps.driver.replay import replayed
from sweeps.driver.session import prepare
from sweeps.live.opening import Opening
from sweeps.live.table import LiveTable
from sweeps.run_folder.lease import Lease
from sweeps.run_folder.prompts import keep_prompts
from sweeps.run_folder.reading import RunFolder
from sweeps.run_folder.stages import StageRecords
from sweeps.staged.protocol import Staged
from sweeps.study.load import resolved
from sweeps.study.overlay import dump_yaml
from sweeps.study.study import Study
from sweeps.tables.terminal import show_table
from sweeps.trials.assets import pool_choices
from sweeps.trials.from_points import make_trials, points_of
from sweeps.trials.load_content import Content, content_of
from trainer.store import Store

MOST_WARNINGS = 5  # of the check, that a run prints


def run(study: Study, out: str, opening: Opening | None = None) -> int:
    """Run ``study`` in the run folder ``out``. Returns 1 if a trial failed, else 0. ``opening`` says what is done until
    the live table is there. Raises ``LeaseError`` if another run is at work in the folder."""
    with opening or Opening() as said:
        said.say(f"opening the run folder {out}")
        store = Store.open(out)
        with Lease(store):
            return _run(study, store, said)


def _run(study: Study, store: Store, opening: Opening) -> int:
    print(_where(study, store), flush=True)
    content = content_of(study, opening.say)
    for line in [*content.dropped_lines, *pool_choices(study.pools, study.axes.pool)]:
        print(line, file=sys.stderr)
    statuses, messages = (run_sweep if study.stages is None else run_stages)(study, store, content, opening)
    folder, page = _reported(store)
    show_table(folder, page)
    print("".join(f"{sentence}\n" for sentence in messages), end="")
    print(_next_step(folder), flush=True)  # one line on a terminal, too: the command in it is copied whole
    return 1 if "failed" in statuses else 0


def _reported(store: Store) -> tuple[RunFolder, str]:
    """The folder with its tables and report written, and the page's address. What the run needed is sound by now; score
    files that are damaged and that it did not need are set aside."""
    from sweeps.report.write import report_on

    folder = RunFolder(store)
    page = report_on(folder)
    spoilt = [name for name in folder.damaged_files if name.startswith("scores/") and store.exists(name)]
    if not spoilt:
        return folder, page
    for name in spoilt:
        store.set_aside(name)
    folder = RunFolder(store)
    return folder, report_on(folder)


def _next_step(folder: RunFolder) -> str:
    from sweeps.report.evidence import gather
    from sweeps.report.next_step import next_step

    return next_step(gather(folder))


def _where(study: Study, store: Store) -> str:
    """Where the run's files are, and whether there are any yet: a folder's name follows the current directory."""
    if not (store.exists("study.yaml") or store.folders("scores")):
        return f"run folder: {store.uri} (new: nothing of the study {study.name} is there, so all is trained)"
    with_scores = len(store.folders("scores"))
    return f"run folder: {store.uri} (continued: {counted(with_scores, 'trial')} with scores in it)"


def run_sweep(study: Study, store: Store, content: Content, opening: Opening) -> tuple[list[str], list[str]]:
    """Run the axes as one search. The status of every trial, and no messages."""
    opening.say("looking for finished rungs in the run folder")
    points = points_of(study)
    trials = None if points is None else make_trials(study, points, content)
    live = LiveTable(study.name, std_weight=study.objective.std_weight, since=opening.began)
    progress = Progress(study, store, live, began=on_wall_clock(opening.began))
    finished = None if trials is None else replayed(progress, trials, content.assets)
    if finished is None:
        prepare()
        _print_warnings(preflight(study, content, opening.say).warnings_or_raise())
    with OnRay(study, store, content, opening) as execute:
        if finished is None:
            execute.connect()
        store.write("study.yaml", dump_yaml(resolved(study)).encode())  # after the checks, before any trial
        keep_prompts(store, content.assets, {name: pool.file for name, pool in study.pools.train.items()})
        with progress.live:
            for trial in trials or []:
                progress.add(trial)
            progress.write()
            if finished is not None:
                opening.end()
                finished()
            else:
                execute(progress, trials)
            progress.write(finished=study.confirm is None)
        if study.confirm is not None:
            progress = confirm(progress, execute, content.assets)
    return [row["status"] for row in progress.rows()], []


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings[:MOST_WARNINGS]:
        print(f"warning: {warning}", file=sys.stderr)
    if len(warnings) > MOST_WARNINGS:
        print(f"warning: {len(warnings) - MOST_WARNINGS} more, which `steadytune check` prints", file=sys.stderr)


def run_stages(study: Study, store: Store, content: Content, opening: Opening) -> tuple[list[str], list[str]]:
    """Run one stage after the other. The status of every trial, and the decision of each stage."""
    with OnRay(study, store, content, opening) as on_ray:
        staged = Staged(study, store, content, on_ray, opening.say, opening.began)
        staged.run()
    opening.end()
    return [row["status"] for row in staged.rows], list(decisions_of_stages(staged.records))


def decisions_of_stages(records: StageRecords) -> Iterator[str]:
    """The decision of each stage and the final answer, as lines for the terminal."""
    for stage in records.stages:
        yield f"stage {stage['stage']}, {stage['title']}: {stage['reason']}"
    if records.answer is not None:
        yield f"answer: {records.answer['sentence']}"
