"""``steadytune run``: from a study to its tables.

Nothing is restored and nothing is special about a second start: the trials are made from the study again, each
finds its finished rungs in the run folder, and the scheduler's decisions follow from their values. A study whose
rungs are all there is decided without starting Ray at all.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweeps.live.table import LiveTable
from sweeps.run_folder.lease import Lease
from sweeps.run_folder.prompts import keep_prompts
from sweeps.schedule.asha import Decision, Rungs
from sweeps.study.load import resolved
from sweeps.study.overlay import dump_yaml
from sweeps.study.schema import Study
from sweeps.study.values import Range
from sweeps.tables.columns import AXES
from sweeps.trials.assets import data_of, load_assets
from sweeps.trials.base_model import model_of
from sweeps.trials.make import axes_of, make_trial, make_trials, points_of, pool_of, target_modules
from trainer.data.assets import Assets
from trainer.errors import UserError
from trainer.measure.metrics import Objective, objective
from trainer.measure.rung import report_of
from trainer.setup import Setup
from trainer.store import Store
from trainer.trial import Model, Trial, axis_columns, rung_steps

log = logging.getLogger("steadytune")

FAILURES = 2  # a trial is tried again this often before it counts as failed
LOSSES = 8  # lost processes and nodes that a trial survives between two rungs
WRITE_EVERY = 5.0  # seconds between writings of trials.parquet while the study runs
MOST_WARNINGS = 5  # of the check, that a run prints


@dataclass
class Progress:
    """Where every trial stands; what ``trials.parquet`` and the live table show."""

    study: Study
    store: Store
    live: LiveTable
    trials: dict[str, Trial] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    seen: set[tuple[str, int]] = field(default_factory=set)
    decisions: dict[str, Decision] = field(default_factory=dict)
    tests: dict[str, Objective] = field(default_factory=dict)
    before: list[dict[str, Any]] = field(default_factory=list)  # rows of a staged study's trials from earlier stages
    measured: bool = True  # whether the trials are scored on the test pool
    began: float = field(default_factory=time.time)
    steps_per_s: float | None = None  # of all hosts, where they answer
    _written: str = ""

    def add(self, trial: Trial) -> None:
        if trial.id not in self.trials:
            self.trials[trial.id] = trial
            rungs = rung_steps(self.shares, trial.optimization.steps)
            self.live.trial_added(trial.id, axis_columns(trial), len(rungs), rungs)

    @property
    def shares(self) -> Sequence[float]:
        return self.study.scheduler.rungs if self.study.scheduler.name == "asha" else (1.0,)

    def report(self, told: Mapping[str, Any]) -> None:
        key = (told["id"], told["rung_index"])
        if key in self.seen:
            return  # a retried trial replays its finished rungs
        self.seen.add(key)
        self.seconds[key[0]] = self.seconds.get(key[0], 0.0) + told["seconds"]
        self.tokens[key[0]] = self.tokens.get(key[0], 0) + told["tokens"]
        self.live.report(
            key[0], key[1], told["step"], told["objective"], told["stderr"], told["degenerate"], told["seconds"]
        )

    def tested(self, trial_id: str, rows: pa.Table, record: Mapping[str, Any]) -> None:
        trial = self.trials[trial_id]
        found = objective(rows, trial.task.metric, 0.0, trial.task.labels, f"trial {trial_id}, test")
        self.seconds[trial_id] = self.seconds.get(trial_id, 0.0) + record["seconds"]
        self.tests[trial_id] = found
        self.live.tested(trial_id, found.mean, found.std)

    def decide(self, decisions: Mapping[str, Decision]) -> None:
        """Take over the scheduler's decisions; the live table hears what changed."""
        for trial_id, decision in decisions.items():
            if self.decisions.get(trial_id) != decision:
                before = self.decisions.get(trial_id)
                self.decisions[trial_id] = decision
                first = before is None and decision.rung is not None  # on its way to its first report is no news
                if first or decision.action != (before.action if before else "continue"):
                    self.live.decided(
                        trial_id, "waiting" if decision.action == "pause" else decision.status, decision.reason
                    )

    def write(self, again: bool = False, over: bool = False) -> None:
        """``trials.parquet``: one row per trial. Left alone where its rows say it all already, unless ``again``: the
        time in it shows that the driver lives. ``over``: nothing will change any more."""
        rows = self.rows()
        if not (again or over) and repr(rows) == self._written:  # as text, where a NaN equals itself
            return
        told = {"began": self.began, "written": time.time(), "steps_per_s": self.steps_per_s, "over": over}
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pylist(rows, schema=TRIALS.with_metadata({"steadytune": json.dumps(told)}))
        pq.write_table(table, sink)
        self.store.write("trials.parquet", sink.getvalue().to_pybytes())
        self._written = repr(rows)

    def rows(self) -> list[dict[str, Any]]:
        """What ``trials.parquet`` says now."""
        standing = self.live.rows()
        rows = [row for row in self.before if row["trial_id"] not in self.trials]
        for trial_id, trial in list(self.trials.items()):
            decision, row, test = self.decisions.get(trial_id), standing[trial_id], self.tests.get(trial_id)
            rows.append(
                {
                    "trial_id": trial_id,
                    **axis_columns(trial),
                    "status": decision.status if decision else "running",
                    "rung": decision.step if decision else None,
                    "reason": decision.reason if decision else "",
                    "seconds": self.seconds.get(trial_id, 0.0),
                    "tokens": self.tokens.get(trial_id, 0),
                    "state": row.state,
                    "objective": row.objective,
                    "stderr": row.stderr,
                    "degenerate": row.degenerate,
                    "test_mean": test.mean if test else None,
                    "test_std": test.std if test else None,
                }
            )
        return rows


TRIALS = pa.schema(
    [
        ("trial_id", pa.string()),
        ("template", pa.string()),
        ("r", pa.int32()),
        ("alpha", pa.float64()),
        ("dropout", pa.float64()),
        ("target_modules", pa.string()),
        ("rslora", pa.bool_()),
        ("lr", pa.float64()),
        ("steps", pa.int32()),
        ("plw", pa.float64()),
        ("pool", pa.string()),
        ("seed", pa.int64()),
        ("status", pa.string()),  # finished | stopped | failed; running while the sweep runs
        ("rung", pa.int32()),  # optimizer steps at its last report
        ("reason", pa.string()),
        ("seconds", pa.float64()),  # of its accelerator, training and scoring
        ("tokens", pa.int64()),  # that went through the model in training
        ("state", pa.string()),  # waiting | running | testing | finished | stopped | failed
        ("objective", pa.float64()),  # on the dev prompts, at its last report
        ("stderr", pa.float64()),  # of the objective
        ("degenerate", pa.bool_()),  # one answer nearly always
        ("test_mean", pa.float64()),  # of the metric over the test prompts, once they are scored
        ("test_std", pa.float64()),
        ("arm", pa.string()),  # name in the study; null where it has no arms
    ]
)


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
        from sweeps.staged.protocol import run_stages

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


def make_trial_at(config: Mapping[str, Any], study: Study, data: Mapping[str, Any], model: Any, n_rows: int) -> Trial:
    """The trial at the point that Optuna suggested, from Tune's parameters."""
    from sweeps.search.points import decode

    point = decode(config, axes_of(study))
    return make_trial(study, point, data[pool_of(study, point)], model, n_rows)


def check_wordings(study: Study, assets: Assets, model: Model) -> list[str]:
    """Preflight, before anything is asked of the cluster. The warnings; raises ``UserError`` with every finding that is
    an error."""
    from sweeps.checks.preflight import checked_tokenizer, preflight
    from sweeps.trials.assets import pools_by_place, task, templates_read

    templates = templates_read(study)
    tokenizer = checked_tokenizer(model, target_modules(study))
    found = preflight(templates, task(study), assets.rows, pools_by_place(assets), tokenizer)
    if found.errors:
        raise UserError("\n".join(str(f) for f in found.errors))
    return [str(f) for f in found.findings]


def standing_of(progress: Progress, trials: Sequence[Trial]) -> Callable[[], None] | None:
    """Decide the sweep from the run folder alone. What tells ``progress`` of it; None when something is left to do."""
    study, store = progress.study, progress.store
    if not all(store.rungs(t.id, "dev") for t in trials):
        return None
    rungs = Rungs(len(trials), study.scheduler.eta, len(progress.shares))
    todo = {t.id: (t, 0) for t in trials}
    reports = []
    while todo:
        for trial_id, (trial, at) in list(todo.items()):
            found = store.read_scores(trial_id, rung_steps(progress.shares, trial.optimization.steps)[at], "dev")
            if found is None:
                return None
            told = report_of(trial, at, *found, study.objective.std_weight)
            reports.append(told)
            rungs.report(
                trial_id, at, told["objective"], step=told["step"], stderr=told["stderr"], degenerate=told["degenerate"]
            )
            todo[trial_id] = (trial, at + 1)
        todo = {i: todo[i] for i in todo if rungs.decide(i).action == "continue"}
    decisions = rungs.decisions()
    tests = []
    for trial, step in _to_test(study, {t.id: t for t in trials}, decisions) if progress.measured else ():
        scored = store.read_scores(trial.id, step, "test")
        if scored is None:
            return None
        tests.append((trial.id, *scored))

    def tell() -> None:
        for told in reports:
            progress.report(told)
        progress.decide(decisions)
        for test in tests:
            progress.tested(*test)
        progress.live.note("every rung is in the run folder already: nothing to train")

    return tell


def _to_test(study: Study, trials: Mapping[str, Trial], decisions: Mapping[str, Decision]) -> list[tuple[Trial, int]]:
    """(trial, rung) to score on the test pool: where each ended, or only those that reached the last rung."""
    wanted = ("finished",) if study.tables.test == "finalists" else ("finished", "stopped")
    return [
        (trials[i], d.step)
        for i, d in decisions.items()
        if d.status in wanted and d.step is not None and d.objective is not None and math.isfinite(d.objective)
    ]


def sweep(
    progress: Progress, model: Model, assets: Assets, made: Sequence[Trial] | None, at: Any, fleet: Any = None
) -> None:
    """Train under Ray Tune, then score the test pool; both on the same hosts: those of ``fleet``, where it is given.
    Within ``on_ray``."""
    study = progress.study
    fleet = fleet or start_fleet(study, model, assets, progress.store)
    from sweeps.driver.tuning import tune_trials  # after `on_ray`, as it imports ray; slow, while the registry starts

    fleet.warm(study.search.trials or 0 if made is None else len(made))
    tune_trials(progress, fleet, made, at, FAILURES)
    progress.write()
    if progress.measured:
        _test(progress, fleet)
    from cluster.hosting.tensorboard import write_ends

    ends = ((i, d.status, d.step or 0, progress.tests.get(i)) for i, d in progress.decisions.items())
    write_ends(progress.store, ends)


@contextmanager
def on_ray(study: Study) -> Iterator[None]:
    """With the cluster that ``study`` runs on. Raises ``UserError`` where it cannot be had, or can never do it."""
    quiet()
    from cluster.connect import connected

    with connected(study.resources.cpus, study.resources.gpus):
        yield


def quiet() -> None:
    """Before Ray is imported: no files and no messages of Tune's own."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # trial records are in the run folder
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the command; the next one goes on
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1e9")  # its state of the sweep: never read again
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    for noisy in ("ray.tune", "ray.air", "ray.train"):
        logging.getLogger(noisy).setLevel(logging.ERROR)  # it misses the result files that are switched off above


def start_fleet(study: Study, model: Model, assets: Assets, store: Store) -> Any:
    """The hosts of a study, on the cluster that is connected."""
    from cluster.hosting.hosts import Fleet
    from cluster.resources import Resources

    res = study.resources
    share = Resources(res.slots, res.cpus, res.gpus, res.workers)
    return Fleet.start(model, _setup(study), assets, store, share)


def _setup(study: Study) -> Setup:
    """The engine's shape: large enough for every value of the axes."""
    r = study.axes.lora.r
    res = study.resources
    return Setup(
        slots=res.slots,
        max_r=int(r.high if isinstance(r, Range) else max(r)),
        target_modules=target_modules(study),
        n_labels=len(study.task.names) if study.model.head == "classifier" else 0,
        zero=res.zero,
        offload=res.offload,
        threads=max(1, int(res.cpus)) if not res.gpus else 0,
        std_weight=study.objective.std_weight,
    )


def _test(progress: Progress, fleet: Any) -> None:
    """Score the test pool, as Ray tasks that take the same share of an accelerator as a trial does. Trials that reached
    their last rung have done so themselves."""
    import ray

    from cluster.hosting.gang import PlaceLostError

    jobs = []
    for trial, step in _to_test(progress.study, progress.trials, progress.decisions):
        ended = progress.decisions[trial.id].status == "finished"
        scored = progress.store.read_scores(trial.id, step, "test") if ended else None
        if scored is None:
            jobs.append((trial, step))
        else:
            progress.tested(trial.id, *scored)
    with fleet.resources.for_tasks() as options:
        task = ray.remote(_test_rows).options(**options, max_retries=LOSSES, retry_exceptions=[PlaceLostError])
        running = {task.remote(fleet, trial, step): trial for trial, step in jobs}
        for trial in running.values():
            progress.live.testing(trial.id)
        written = time.monotonic()
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            if time.monotonic() - written > WRITE_EVERY:
                written = time.monotonic()
                progress.write()
            trial = running.pop(done[0])
            try:
                progress.tested(trial.id, *ray.get(done[0]))
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                why = f"test scoring failed: {cause if isinstance(cause, Exception) else error}"
                progress.live.failed(trial.id, why)
                progress.decisions[trial.id] = replace(progress.decisions[trial.id], action="fail", reason=why)


def _test_rows(fleet: Any, trial: Trial, step: int) -> tuple[pa.Table, dict[str, Any]]:
    try:
        found: tuple[pa.Table, dict[str, Any]] = fleet.ensure(trial, step, "test")
        return found
    finally:
        fleet.leave()


def show_table(store: Store, where: str, threshold: float) -> None:
    """The robustness table on the terminal, best first, and where the rest is."""
    from rich.console import Console
    from rich.table import Table

    rows = store.read_table("tables/robustness.parquet").to_pylist()
    axes = [a for a in AXES if len({str(r[a]) for r in rows}) > 1]
    table = Table(title="robustness over prompts that no trial has seen, %", title_justify="left")
    for name in ("rank", "trial", *axes, "mean", "std", "worst", f"above {100 * threshold:g}", "status"):
        table.add_column(name, no_wrap=True)
    for r in rows:
        numbers = [f"{100 * r[k]:.1f}" if r[k] is not None else "-" for k in ("mean", "std", "min", "top")]
        marks = [r["status"], *(["winner"] if r["winner"] else []), *(["one label"] if r["degenerate"] else [])]
        table.add_row(str(r["rank"] or "-"), r["trial_id"], *(str(r[a]) for a in axes), *numbers, ", ".join(marks))
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)
    if not any(r["winner"] for r in rows):
        from sweeps.report.verdict import why_no_winner

        console.print(f"no winner: {why_no_winner(rows)}", soft_wrap=True, highlight=False)
    console.print(
        f"with intervals, differences and reasons: {store.uri}/tables/robustness.md\nreport: {where}",
        soft_wrap=True,
        highlight=False,
    )
