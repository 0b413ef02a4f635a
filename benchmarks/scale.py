"""The cost of 2,000 trials for the driver, and of the tables of their 10 million score rows.

    python benchmarks/scale.py [--json FILE] [--quick] [--trials N] [--nodes N] [--slots N]

Trials do not train, but each rung writes real score rows into a real run folder, through Steadytune's scheduler,
progress and live table. The comparison is Ray Tune with its own ASHA: as many trials, on the same cluster, that write
the same rows. TensorBoard's files, which hosts write, are left out on both sides. Steadytune's side has the settings
for Tune that every run has (so Tune does not write its state to disk again and again), and the other side Tune's
defaults. Measured are the processor seconds of the driver process (all of its threads, Ray's included) for each
reported rung, which is one decision; its memory during the sweep; decisions per second; the promotion rule alone,
without Ray; and the tables, in a separate process.

The nodes are raylets on this machine (``ray.cluster_utils``), and each trial that runs is a process. 100 nodes with 4
slots would need more than 400 processes, so the default is 3 nodes with 4 slots. Then as many trials wait at their
rungs or for a place as on 100 nodes, but fewer run at a time.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
os.environ.update(RAY_AUTH_MODE="disabled", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
for quiet in ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "TUNE_DISABLE_SIGINT_HANDLER"):
    os.environ[quiet] = "1"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S"] = "0"

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

from cluster.hosting.hosts import Fleet  # noqa: E402
from trainer.measure.rung import RungReport  # noqa: E402
from trainer.store import SCORES, Store  # noqa: E402

EMBEDDED = ROOT / "sweeps" / "embedded"
GRIDS = {"dev": (10, 100), "test": (20, 200)}  # prompts, rows: 5,000 score rows of each trial are in the tables
STEPS, SHARES = 100, (0.25, 0.5, 1.0)
NAMES = ("no", "yes")


@dataclass(frozen=True)
class NoWork(Fleet):
    """A fleet without hosts, which makes score rows at once."""

    def _advance(self, trial: Any, rung: int, pool: str, cells: int) -> None:
        write_rows(Store.open(self.store_uri), trial.id, rung, pool, trial.to_json())


def write_rows(store: Store, trial_id: str, rung: int, pool: str, trial: Mapping[str, Any]) -> None:
    """Answers of a trial: its skill depends on id and steps, and prompts and rows differ in difficulty."""
    p, r = GRIDS[pool]
    common = np.random.default_rng([p, r])
    easy = common.normal(0, 0.5, (p, 1)) + common.normal(0, 1.0, (1, r))
    own = np.random.default_rng([int(trial_id[:8], 16), rung, p])
    skill = 1.0 + 0.5 * np.random.default_rng(int(trial_id[:8], 16)).normal() + rung / STEPS
    sure = easy + skill + own.normal(0, 0.3, (p, 1))
    label = np.arange(r) % 2
    right = own.random((p, r)) < 1 / (1 + np.exp(-sure))
    answer = np.where(right, label, 1 - label).ravel()
    margin = np.abs(own.normal(1, 0.5, p * r)) * (2 * answer - 1)
    logprobs = -np.log1p(np.exp(np.stack([margin, -margin], axis=1))).astype(np.float32)
    names = pa.array(NAMES)
    rows = {
        "trial_id": pa.repeat(trial_id, p * r),
        "rung": pa.repeat(pa.scalar(rung, pa.int32()), p * r),
        "pool": pa.repeat(pool, p * r),
        "prompt_id": pa.array([f"{pool}{i:02d}" for i in range(p)]).take(pa.array(np.repeat(np.arange(p), r))),
        "row_id": pa.array([f"{pool}-{j:04d}" for j in range(r)]).take(pa.array(np.tile(np.arange(r), p))),
        "label": names.take(pa.array(np.tile(label, p))),
        "predicted": names.take(pa.array(answer)),
        "correct": pa.array(right.ravel()),
        "label_logprobs": pa.FixedSizeListArray.from_arrays(pa.array(logprobs.ravel()), 2).cast(pa.list_(pa.float32())),
        "new_tokens": pa.nulls(p * r, pa.int16()),
    }
    curve = {"step": [rung], "completion_loss": [1 / rung], "prompt_loss": [None], "lr": [1e-3], "grad_norm": [1.0]}
    record = {"trial": trial, "rung": rung, "seconds": 1.0, "tokens": 100, "curve": curve | {"tokens_per_s": [100.0]}}
    record |= {"train_seconds": 0.5, "score_seconds": 0.5}
    store.write_scores(trial_id, rung, pool, pa.table(rows, schema=SCORES), record)


# the driver ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Measured in one sweep: reports (decisions), seconds, the driver's processor seconds, its memory over time."""

    reports: int
    wall: float
    driver: float
    memory: tuple[tuple[int, float], ...]  # (reports so far, MB)

    def memory_at(self, share: float) -> float:
        wanted = share * self.reports
        return next((mb for done, mb in self.memory if done >= wanted), self.memory[-1][1])


class Meter:
    """Counts reports and reads the driver's memory every second."""

    def __init__(self) -> None:
        self.reports = 0
        self._memory: list[tuple[int, float]] = []
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Meter:
        gc.collect()
        self._began, self._used = time.perf_counter(), time.process_time()
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        wall, driver = time.perf_counter() - self._began, time.process_time() - self._used
        self._over.set()
        self._watch.join()
        self.cost = Cost(self.reports, wall, driver, (*self._memory, (self.reports, resident_mb())))

    def _look(self) -> None:
        while not self._over.wait(1.0):
            self._memory.append((self.reports, resident_mb()))


def resident_mb() -> float:
    """MB of this process, without memory that it shares with files and other processes (Ray's objects)."""
    resident, shared = (int(x) for x in Path("/proc/self/statm").read_text().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGESIZE") / 2**20


def study_of(n: int, folder: Path) -> Any:
    from sweeps.study.load import load_study

    data = EMBEDDED / "data"
    (folder / "study.yaml").write_text(
        json.dumps(
            {
                "name": "scale",
                "model": {"path": str(EMBEDDED / "model")},
                "task": {
                    "rows": {k: {"path": str(data / f"{k}.jsonl"), "limit": 8} for k in ("train", "dev", "test")},
                    "fields": ["text"],
                    "label": "label",
                    "labels": {"0": "no", "1": "yes"},
                    "id": "id",
                },
                "pools": {k: {"file": str(data / "pools" / f"{k}.yaml"), "limit": 2} for k in ("train", "dev", "test")},
                "axes": {
                    "steps": STEPS,
                    "lora": {"r": [4, 8, 16, 32]},
                    "plw": [0, 0.01, 0.1, 1],
                    "lr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
                    "seed": list(range(max(1, n // 80))),
                },
                "scheduler": {"name": "asha", "eta": 2, "rungs": list(SHARES)},
            }
        )
    )
    return load_study(str(folder / "study.yaml"))


def ours(n: int, folder: Path, slots: int) -> tuple[Cost, float]:
    """The sweep, and the seconds that scoring all of its trials on the test pool takes."""
    from sweeps.driver.heartbeat import Heartbeat
    from sweeps.driver.progress import Progress
    from sweeps.driver.session import quiet, setup_of
    from sweeps.driver.test_pool import score_test_pool
    from sweeps.driver.test_stages import GridStages
    from sweeps.driver.tuning import tune_trials
    from sweeps.live.table import LiveTable
    from sweeps.trials.from_points import make_trials, points_of
    from sweeps.trials.load_content import content_of

    study = study_of(n, folder)
    content = content_of(study)
    made = make_trials(study, points_of(study) or [], content)
    store = Store.open(folder / "run")
    progress = Progress(study, store, LiveTable("scale", stream=io.StringIO(), terminal=False))
    from cluster.resources import Resources

    share = Resources(slots, 1)
    quiet()
    fleet = NoWork.start(content.model, setup_of(study), content.assets, store, share)
    with progress.live:
        for trial in made:
            progress.add(trial)
        with Meter() as meter, counted(progress, meter):
            tune_trials(progress, content, fleet, made, Heartbeat(progress, fleet))
        began = time.perf_counter()
        score_test_pool(progress, fleet, GridStages.of(study, store, content.assets, progress.roles))
        tested = time.perf_counter() - began
        progress.write(finished=True)
    assert not [d for d in progress.decisions.values() if d.status not in ("finished", "stopped")]
    return meter.cost, tested


@contextmanager
def counted(progress: Any, meter: Meter) -> Iterator[None]:
    report = progress.report

    def count(rung: RungReport) -> None:
        meter.reports += 1
        report(rung)

    progress.report = count
    yield


def peer(n: int, folder: Path, slots: int) -> Cost:
    """Ray Tune alone, with its ASHA."""
    from ray import tune
    from ray.tune.schedulers import AsyncHyperBandScheduler

    class Rows(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.name, self.rung = new_config["name"], 0
            return True

        def step(self) -> dict[str, Any]:
            store, step = Store.open(folder / "peer-run"), int(STEPS * SHARES[self.rung])
            write_rows(store, self.name, step, "dev", {})
            found = store.read_scores(self.name, step, "dev")
            assert found is not None
            self.rung += 1
            value = float(np.mean(found[0]["correct"].to_numpy(zero_copy_only=False)))
            return {"step": step, "objective": value, "done": self.rung == len(SHARES)}

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
            return {"rung": self.rung}

        def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
            self.rung = (checkpoint or {"rung": 0})["rung"]

    class Count(tune.Callback):
        def on_trial_result(self, *_: Any, **__: Any) -> None:
            meter.reports += 1

        def __reduce__(self) -> tuple[Any, ...]:
            return (tune.Callback, ())

    asha = AsyncHyperBandScheduler("step", max_t=STEPS, grace_period=STEPS // 4, reduction_factor=2)
    space = {"name": tune.grid_search([f"{i * 2654435761 % 2**32:08x}{i:04x}" for i in range(n)])}
    with Meter() as meter:
        tune.Tuner(
            tune.with_resources(Rows, {"CPU": 1 / slots}),
            param_space=space,
            tune_config=tune.TuneConfig(scheduler=asha, metric="objective", mode="max", reuse_actors=True),
            run_config=tune.RunConfig(name="peer", storage_path=str(folder / "tune"), verbose=0, callbacks=[Count()]),
        ).fit()
    return meter.cost


def rule(n: int) -> float:
    """Decisions per second of the promotion rule alone."""
    from sweeps.schedule.asha import Rungs

    rng = np.random.default_rng(0)
    rungs, made = Rungs(n, 2, len(SHARES)), 0
    ready = [(f"{i:06d}", 0) for i in rng.permutation(n)]
    began = time.perf_counter()
    while ready:
        trial, at = ready.pop()
        decided = rungs.report(trial, at, float(rng.random()), step=at + 1, stderr=0.01)
        made += 1
        if decided.action == "continue":
            ready.append((trial, at + 1))
        for name in rungs.newly_decided():
            found = rungs.decide(name)
            if found.action == "continue" and found.rung is not None:
                ready.append((name, found.rung + 1))
    return made / (time.perf_counter() - began)


# the tables --------------------------------------------------------------------------------------------------------

TABLES = """
import json, resource, sys, time
from sweeps.run_folder.reading import RunFolder
from sweeps.study.load import load_study
from sweeps.tables import robustness as tables
from sweeps.tables.columns import Settings
from trainer.store import Store
run = RunFolder(Store.open(sys.argv[1]))
settings = Settings.of(load_study(sys.argv[2], files=False))
began, used = time.perf_counter(), time.process_time()
tables.write_tables(run, settings)
wall, used = time.perf_counter() - began, time.process_time() - used
print(json.dumps([wall, used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def tables(folder: Path) -> tuple[float, float, float]:
    """(seconds, processor seconds, MB at most) for all tables of the run folder, in a separate process."""
    command = [sys.executable, "-c", TABLES, str(folder / "run"), str(folder / "study.yaml")]
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=env)
    wall, used, most = json.loads(found.stdout)
    return wall, used, most


# all of it -----------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the claims here")
    parser.add_argument("--quick", action="store_true", help="80 trials on one node: does it run, not how fast")
    parser.add_argument("--trials", type=int, default=2000, help="a multiple of 80")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--slots", type=int, default=4, help="trials at a time on each node")
    args = parser.parse_args()
    n, nodes = (80, 1) if args.quick else (args.trials, args.nodes)
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        with raylets(nodes):
            mine, tested = ours(n, folder, args.slots)
            say("ours", mine)
            os.environ.pop(
                "TUNE_GLOBAL_CHECKPOINT_S", None
            )  # `quiet` sets it for Steadytune; the other side has Tune's default
            theirs = peer(n, folder, args.slots)
            say("Ray Tune", theirs)
        found = tables(folder)
    print(f"{n} trials on {nodes} nodes with {args.slots} slots each; ours, Ray Tune's ASHA, ratio")
    claims = claims_of(n, mine, tested, theirs, found, rule(n))
    for c in claims:
        against = "" if c["peer"] is None else f", {c['peer']:.2f}, ratio {c['ratio']:.2f}"
        print(f"  {c['claim']}: {c['ours']:.2f}{against} {c['unit']}")
    if args.json:
        args.json.write_text(json.dumps(claims, indent=1) + "\n")


def say(who: str, cost: Cost) -> None:
    shown = ", ".join(f"{cost.memory_at(s):.0f}" for s in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0))
    print(f"{who}: {cost.reports} reports in {cost.wall:.0f} s, {cost.driver:.1f} s of the driver's processor time")
    print(f"  memory at 10, 20, 40, 60, 80, 100 % of the reports: {shown} MB", flush=True)


def claims_of(
    n: int, mine: Cost, tested: float, theirs: Cost, tabled: tuple[float, float, float], alone: float
) -> list[dict[str, Any]]:
    rows = f"{n * sum(p * r for p, r in GRIDS.values()):,} score rows"
    measures: list[tuple[str, Callable[[Cost], float], str]] = [
        ("driver's processor time per decision", lambda c: 1000 * c.driver / c.reports, "ms"),
        ("driver's processor time per trial", lambda c: 1000 * c.driver / n, "ms"),
        ("decisions per second, no work in between", lambda c: c.reports / c.wall, "1/s"),
        ("driver's memory at the end", lambda c: c.memory_at(1.0), "MB"),
        ("driver's memory, last report less a fifth", lambda c: c.memory_at(1.0) - c.memory_at(0.2), "MB"),
    ]
    found: list[tuple[str, float, float | None, str]] = [
        *((claim, of(mine), of(theirs), unit) for claim, of, unit in measures),
        ("decisions per second of the rule alone, without Ray", alone, None, "1/s"),
        ("test rows of all trials, scored by Ray tasks", tested, None, "s"),
        (f"tables of {rows}", tabled[0], None, "s"),
        (f"tables of {rows}, processor time", tabled[1], None, "s"),
        (f"tables of {rows}, memory at most", tabled[2], None, "MB"),
    ]
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    versions = {name: version(name) for name in ("ray", "numpy", "pyarrow")} | {"python": platform.python_version()}
    return [
        {
            "claim": f"{claim}, {n} trials",
            "ours": round(own, 3),
            "peer": None if other is None else round(other, 3),
            "ratio": round(own / other, 3) if other else None,
            "unit": unit,
            "machine": machine,
            "versions": versions,
        }
        for claim, own, other, unit in found
    ]


@contextmanager
def raylets(nodes: int) -> Iterator[None]:
    """A cluster of one head without processors and ``nodes`` nodes with one each, all on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    for name in ("ray.tune", "ray.air", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they miss the result files that are switched off above
    memory = 100 * 2**20
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": memory}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1, object_store_memory=memory)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
