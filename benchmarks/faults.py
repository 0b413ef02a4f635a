"""How much work a study loses, and for how long it stops, when machines fail: 20 random faults in a study on 3 nodes,
then a run folder that takes no writes and a full disk; a third of the trials end in NaN.

    sudo python benchmarks/faults.py [--json FILE] [--faults 20] [--seed 0] [--trials 84] [--steps 240]

The nodes are network namespaces on this machine (tests/support/nodes.py), which needs root. A study runs once without
faults, and once with faults that are drawn with the seed: nodes killed, cables cut, spot notices, processes killed, the
driver killed and started again, a disk that takes no writes, a node that stops for some seconds. A run that ends
because its folder takes no files is started again once it does. A killed node is replaced at once. Each optimizer step
sends a datagram to this process, which shows when a trial goes on. The recovery time is that from the node's death to
the first step of a trial that was there, on any other node. ASHA is off and each host has one slot, so the rows, tokens
and loss curves of both runs must be equal bit for bit; the exit code is 1 if a row is lost, written twice or different,
or a count of tokens or a curve is. The head notices a silent node (a cut cable) after about 15 s here, and with Ray's
defaults after a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from nodes import BIN, Machines, Node, children, why_not  # noqa: E402
from step_signals import Steps, listening_code  # noqa: E402

EMBEDDED = ROOT / "sweeps" / "embedded"
NODE_LOST = ("node killed", "cable cut", "spot notice")
WEIGHTS = {
    "node killed": 6, "cable cut": 3, "spot notice": 3, "host process killed": 2, "trial process killed": 2,
    "driver killed": 2, "disk takes no writes": 1, "node stands still": 1,
}  # fmt: skip
LAST = ("folder takes no writes", "disk is full")  # after the random faults, once each
DISK = 512 * 2**20  # bytes of the disk that the run folder is on
NOTICE = 5  # seconds between a spot notice and the end; cloud providers give 30 to 120
PAUSE = 5.0  # seconds for which the disk takes no writes, or the node stops
LIMIT = 150.0  # seconds within which a trial must go on


def write_study(folder: Path, trials: int, steps: int) -> Path:
    data = EMBEDDED / "data"
    study = {
        "model": {"path": str(EMBEDDED / "model")},
        "task": {
            "rows": {k: {"path": str(data / f"{k}.jsonl"), "limit": 60} for k in ("train", "dev", "test")},
            "fields": ["text"], "label": "label", "labels": {"0": "no", "1": "yes"}, "id": "id", "max_length": 160,
        },
        "pools": {k: {"file": str(data / "pools" / f"{k}.yaml"), "limit": 5} for k in ("train", "dev", "test")},
        "axes": {
            "steps": steps, "lora": {"r": 4, "dropout": 0.1}, "lr": [1e-3, 3e-3, 1e18], "plw": [0, 0.1],
            "seed": list(range(trials // 6)),
        },
        "training": {"batch_size": 4},
        "scheduler": {"name": "none"},
        "resources": {"slots": 1, "cpus": 1},
    }  # fmt: skip
    path = folder / "study.yaml"
    path.write_text(json.dumps(study))
    return path


class Run:
    """The study that runs on the head; started again after its driver was killed."""

    def __init__(self, machines: Machines, study: Path, out: Path, log: Path, early: float):
        self.machines, self.study, self.out, self.log = machines, study, out, log
        self.early = early  # a step up to which a trial has enough steps left to lose some
        self.start()

    def start(self) -> None:
        words = [sys.executable, "-m", "sweeps", "run", str(self.study), "--out", str(self.out)]
        with self.log.open("a") as log:
            self.process = self.machines.popen(self.machines.head, *words, stdout=log, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        for pid in children(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)

    def done(self) -> set[str]:
        """The trials that have dev rows."""
        return {p.parent.name for p in self.out.glob("scores/*/*-dev.parquet")}

    @property
    def over(self) -> bool:
        """Whether the study is done. A run that ended because its folder took no files is started again."""
        if self.process.poll() == 2 and "run the same command again" in self.log.read_text()[-1000:]:
            self.start()
        return self.process.poll() is not None

    def end(self, seconds: float) -> float:
        start = time.monotonic()
        while not self.over and time.monotonic() < start + seconds:
            time.sleep(0.2)
        if self.process.poll() not in (0, 1):  # 1: some trials failed, as those with a NaN do
            sys.exit(f"the study ended with code {self.process.returncode}:\n{self.log.read_text()[-4000:]}")
        return time.monotonic() - start


@contextmanager
def running(*arguments: Any) -> Iterator[Run]:
    run = Run(*arguments)
    try:
        yield run
    finally:
        run.kill()


@dataclass(frozen=True)
class Fault:
    kind: str
    node: str
    after: float  # seconds since the study began
    recovery: float | None  # seconds; None if the trial had ended before the fault


def strike(kind: str, node: Node, run: Run, steps: Steps, began: float) -> Fault:
    """Cause the fault, repair the damage, and wait until a trial that it hit takes a step."""
    machines, before = run.machines, time.monotonic()
    if kind == "spot notice":
        drain(machines, node)
        machines.start(1)
        time.sleep(max(0.0, before + NOTICE - time.monotonic()))
    victims = steps.on(node.name) - run.done()
    was = {(s.node, s.pid) for s in steps.seen[-400:]}
    at, elsewhere, mend = _apply(kind, node, run)
    there = {"node": lambda s: s.node == node.name, "process": lambda s: (s.node, s.pid) in was}.get(
        elsewhere, lambda s: False
    )
    found, end = None, time.monotonic() + LIMIT
    while found is None and time.monotonic() < end and not run.over:
        found = steps.first(at, victims, there)
        if found is None and victims <= run.done():  # it had taken its last step, and was scored elsewhere
            found = time.monotonic() if victims else None
            break
        time.sleep(0.02)
    else:
        if found is None and not run.over:
            sys.exit(f"{kind} on {node.name}: no trial went on within {LIMIT:.0f} s\n{run.log.read_text()[-4000:]}")
    mend()
    machines.wait_until_alive(len(machines.nodes))
    return Fault(kind, node.name, before - began, None if found is None else found - at)


def _apply(kind: str, node: Node, run: Run) -> tuple[float, str, Callable[[], None]]:
    """(time of the fault, where the trial can no longer go on, what repairs the damage afterwards)."""
    machines = run.machines
    now = time.monotonic()
    if kind == "node killed":
        machines.kill(node)
        machines.start(1)
        return now, "node", lambda: None
    if kind == "cable cut":
        machines.cut(node)
        machines.start(1)
        return now, "node", lambda: machines.kill(node)
    if kind == "spot notice":
        machines.kill(node)
        return now, "node", lambda: None
    if kind in ("host process killed", "trial process killed"):
        for pid in node.processes("ray::Host" if kind.startswith("host") else "ray::ResourceTrainable"):
            os.kill(pid, signal.SIGKILL)
        return now, "process" if kind.startswith("host") else "", lambda: None
    if kind == "driver killed":
        run.kill()
        run.start()
        return now, "process", lambda: None
    if kind == "disk takes no writes":
        machines.read_only(node)
        time.sleep(PAUSE)
        machines.read_only(node, False)
        return now, "", lambda: None
    if kind in LAST:
        if kind == "disk is full":
            full(run, machines)
        else:
            forbidden(machines)
        return time.monotonic(), "", lambda: None
    machines.freeze(node)
    time.sleep(PAUSE)
    machines.freeze(node, False)
    return time.monotonic(), "", lambda: None


def forbidden(machines: Machines) -> None:
    """For some seconds no node may write into the run folder."""
    for node in machines.nodes:
        machines.read_only(node)
    time.sleep(PAUSE)
    for node in machines.nodes:
        machines.read_only(node, False)


def full(run: Run, machines: Machines) -> None:
    """Fill the disk until the run has ended or a minute has gone, then make room."""
    assert machines.shared is not None
    filler = machines.shared / "filler"
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"x" * 2**20)
    end = time.monotonic() + 60
    while run.process.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    filler.unlink()


def drain(machines: Machines, node: Node) -> None:
    """Tell Ray that a machine will be taken away."""
    about = "print(next(n['NodeID'] for n in ray.nodes() if n['NodeManagerAddress'] == sys.argv[1] and n['Alive']))"
    name = machines.ask(about, node.address).strip()
    words = [str(BIN / "ray"), "drain-node", "--address", machines.address, "--node-id", name]
    words += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    words += ["--deadline-remaining-seconds", str(NOTICE)]
    machines.popen(machines.head, *words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait(60)


def strike_all(run: Run, steps: Steps, faults: int, trials: int, rng: random.Random) -> list[Fault]:
    """The faults, spread evenly over the study's progress, each on a node where a trial trains."""
    kinds = [*rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=faults), *LAST]
    began, found = time.monotonic(), []
    for number, kind in enumerate(kinds):
        due, wait = number * (trials - 8) / len(kinds), rng.random() * 2
        while len(run.done()) < due and not run.over:
            time.sleep(0.05)
        time.sleep(wait)
        while not (busy := [n for n in run.machines.nodes[1:] if steps.on(n.name, run.early)]) and not run.over:
            time.sleep(0.02)
        if run.over:
            print(f"the study ended before fault {number + 1}: give it more --trials")
            break
        fault = strike(kind, rng.choice(busy), run, steps, began)
        found.append(fault)
        took = "its trial was done already" if fault.recovery is None else f"{fault.recovery:5.1f} s"
        print(f"{number + 1:3d}  {fault.after:5.0f} s  {fault.kind:21s} {fault.node:7s} {took}", flush=True)
    return found


def compare(whole: Path, torn: Path) -> dict[str, int]:
    """How many score rows of the run with faults are lost, duplicated, extra or different, and how many rungs have
    other tokens or another curve of losses."""
    import pyarrow.parquet as pq

    def files(out: Path) -> dict[str, Any]:
        return {str(p.relative_to(out)): pq.read_table(p) for p in sorted(out.glob("scores/*/*.parquet"))}

    def records(tables: dict[str, Any]) -> dict[str, Any]:
        """The tokens and the curve of each rung, from its dev file; of the curve what is no matter of time."""
        found = {
            n: json.loads(t.schema.metadata[b"steadytune"]) for n, t in tables.items() if n.endswith("-dev.parquet")
        }
        curves = {n: {k: v for k, v in (r.get("curve") or {}).items() if k != "tokens_per_s"} for n, r in found.items()}
        return {name: [record.get("tokens"), curves[name], record.get("nan")] for name, record in found.items()}

    a, b = files(whole), files(torn)
    told, again = records(a), records(b)
    a, b = ({n: t.replace_schema_metadata(None) for n, t in one.items()} for one in (a, b))
    assert all(re.fullmatch(r"scores/\w+/\d+-(dev|test)\.parquet", name) for name in b)
    cells = {
        name: list(zip(*(t[c].to_pylist() for c in ("prompt_id", "row_id")), strict=True)) for name, t in b.items()
    }
    wanted = {
        name: set(zip(*(t[c].to_pylist() for c in ("prompt_id", "row_id")), strict=True)) for name, t in a.items()
    }
    ids = pq.read_table(torn / "trials.parquet").column("trial_id").to_pylist()
    return {
        "rows": sum(map(len, cells.values())),
        "lost": sum(len(rows - set(cells.get(name, ()))) for name, rows in wanted.items()),
        "repeated": sum(len(rows) - len(set(rows)) for rows in cells.values()) + len(ids) - len(set(ids)),
        "unknown": sum(len(set(rows) - wanted.get(name, set())) for name, rows in cells.items()),
        "contradictory": sum(t.num_rows for name, t in b.items() if name in a and not t.equals(a[name])),
        "other_tokens_or_curves": sum(again.get(name) != record for name, record in told.items()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=84)
    parser.add_argument("--steps", type=int, default=240)
    args = parser.parse_args()
    if why_not():
        sys.exit(f"no nodes here: {why_not()}")
    trials, early = -(-args.trials // 6) * 6, 0.7 * args.steps
    with tempfile.TemporaryDirectory(prefix="faults-") as name, ExitStack() as ends:
        folder = Path(name)
        shared = folder / "shared"
        shared.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(shared)], check=True)
        ends.callback(subprocess.run, ["umount", "-l", str(shared)], check=True)
        (shared / "site").mkdir()
        study = write_study(shared, trials, args.steps)
        path = os.pathsep.join(str(p) for p in (shared / "site", ROOT, ROOT / "tests" / "support"))
        with Machines(folder, shared, env={"PYTHONPATH": path}) as machines:
            steps = Steps(machines.gateway)
            (shared / "site" / "sitecustomize.py").write_text(listening_code(steps))
            for number in range(3):
                machines.start(1, first=number == 0)
            machines.wait_until_alive(3)
            with running(machines, study, shared / "whole", folder / "whole.log", early) as run:
                undisturbed = run.end(900)
            print(f"{trials} trials, undisturbed: {undisturbed:.0f} s. Then with faults, and the time to go on:")
            start = time.monotonic()
            with running(machines, study, shared / "torn", folder / "torn.log", early) as run:
                faults = strike_all(run, steps, args.faults, trials, random.Random(args.seed))
                run.end(900)
            disturbed = time.monotonic() - start
        rows = compare(shared / "whole", shared / "torn")
    lost = [f.recovery for f in faults if f.kind in NODE_LOST and f.recovery is not None]
    print(f"undisturbed {undisturbed:.0f} s, with {len(faults)} faults {disturbed:.0f} s; score rows: {rows}")
    for kind in (*WEIGHTS, *LAST):
        times = [f.recovery for f in faults if f.kind == kind and f.recovery is not None]
        if times:
            middle = statistics.median(times)
            print(f"  {kind:21s} {len(times):2d} times, median {middle:5.1f} s, at most {max(times):5.1f} s")
    if lost:
        middle = statistics.median(lost)
        print(f"from a node's death to its trial's first step elsewhere: median {middle:.1f} s of {len(lost)}")
    if args.json:
        told = {
            "claim": f"{len(faults)} random faults over a 3-node study lose, repeat and contradict no row",
            "seed": args.seed, "trials": trials, "steps": args.steps, "rows": rows,
            "undisturbed_s": round(undisturbed, 1), "disturbed_s": round(disturbed, 1),
            "node_lost_median_s": round(statistics.median(lost), 1) if lost else None,
            "faults": [
                {"kind": f.kind, "after_s": round(f.after, 1), "recovery_s": f.recovery and round(f.recovery, 2)}
                for f in faults
            ],
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "versions": {n: version(n) for n in ("torch", "ray")} | {"python": platform.python_version()},
        }  # fmt: skip
        args.json.write_text(json.dumps(told, indent=1) + "\n")
    wrong = sum(rows[k] for k in ("lost", "repeated", "unknown", "contradictory", "other_tokens_or_curves"))
    return 1 if wrong or len(faults) < args.faults + len(LAST) else 0


if __name__ == "__main__":
    sys.exit(main())
