"""Memory of a run's processes on CPUs, beside what `steadytune plan` says.

    python benchmarks/memory.py [--model smollm2 | FOLDER] [--json FILE] [key=value …]

8 trials of rank 16 with batches of 8 rows of about 128 tokens take two steps each: first in the 8 slots of one host,
then in 4 slots of each of two hosts. While they run, the proportional set size of each of their processes is read twice
a second: a page that n processes share counts as 1/n for each, so that weights which two hosts map from one file count
once. The peak is that of the sum over the processes of a kind. `key=value` change the study, for example
training.checkpointing=true.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from smollm2 import smollm2

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "sweeps" / "embedded" / "data"
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="smollm2, or a model's folder")
    parser.add_argument("--json", type=Path, help="write the claims here")
    parser.add_argument("overrides", nargs="*", help="key=value of the study")
    args = parser.parse_args()
    model = smollm2() if args.model == "smollm2" else Path(args.model)
    claims = []
    for slots in (8, 4):
        with TemporaryDirectory() as folder:
            study = write_study(Path(folder), model.resolve(), slots)
            planned = plan(study, args.overrides)
            peaks, seconds = measured(study, args.overrides, Path(folder) / "out")
        hosts = 8 // slots
        host, trials = peaks["host"], peaks["trial"]
        ours, expected = host + trials, hosts * planned
        print(f"{hosts} host{'s' * (hosts > 1)} of {slots} slots: {host / MIB:.0f} MiB, their trials' processes "
              f"{trials / MIB:.0f} MiB; planned {expected / MIB:.0f} MiB: ratio {ours / expected:.2f}; "
              f"{seconds:.0f} s of training and scoring")  # fmt: skip
        claims.append({
            "claim": f"memory of {hosts} x {slots} slots, rank 16, batches of 8 x 128 tokens, {model.name} "
                     + " ".join(args.overrides),
            "ours": round(ours / MIB), "peer": round(expected / MIB), "ratio": round(ours / expected, 2),
            "unit": "MiB (PSS), measured and planned", "hosts_alone": round(host / MIB),
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "versions": {n: version(n) for n in ("torch", "transformers", "ray")},
        })  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(claims, indent=1) + "\n")


def write_study(folder: Path, model: Path, slots: int) -> Path:
    """A study whose rows are about 128 tokens long: five messages to a row."""
    rows = {}
    for name, count in (("train", 64), ("dev", 8), ("test", 8)):
        lines = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
        long = [
            {
                "id": f"{name}-{i}",
                "text": " ".join(x["text"] for x in lines[i * 5 : i * 5 + 5]),
                "label": lines[i * 5]["label"],
            }
            for i in range(count)
        ]
        rows[name] = str(folder / f"{name}.jsonl")
        Path(rows[name]).write_text("".join(json.dumps(row) + "\n" for row in long))
    pools = {name: {"file": str(DATA / "pools" / f"{name}.yaml"), "limit": 2} for name in ("train", "dev", "test")}
    study = {
        "model": {"path": str(model)},
        "task": {"rows": rows, "fields": ["text"], "label": "label", "labels": {"0": "no", "1": "yes"}, "id": "id"},
        "templates": {"chat": {"chat": True}},
        "pools": pools,
        "axes": {"steps": 2, "lora": {"r": 16}, "lr": 1e-3, "seed": list(range(8))},
        "scheduler": {"name": "none"},
        "resources": {"slots": slots, "cpus": 2 if slots == 8 else 1},  # of a machine with two cores: one host, or two
    }
    path = folder / "study.yaml"
    path.write_text(json.dumps(study))
    return path


def plan(study: Path, overrides: list[str]) -> float:
    """Planned bytes of a host with its trials' processes."""
    from sweeps.plan.cost import plan as planned
    from sweeps.study.load import load_study

    return planned(load_study(study, overrides)).memory.total


def measured(study: Path, overrides: list[str], out: Path) -> tuple[Counter[str], float]:
    """The peak bytes by kind of process, and the seconds that the run took."""
    before = set(pids())
    words = [sys.executable, "-m", "sweeps", "run", str(study), "--out", str(out), *overrides]
    start = time.perf_counter()
    run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    peaks: Counter[str] = Counter()
    while run.poll() is None:
        now: Counter[str] = Counter()
        for pid in set(pids()) - before:
            with suppress(OSError, ValueError):  # it has ended
                now[kind(pid)] += pss(pid)
        peaks |= now
        time.sleep(0.5)
    assert run.stdout is not None
    if run.returncode:
        sys.exit(run.stdout.read()[-3000:])
    return peaks, time.perf_counter() - start


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def kind(pid: int) -> str:
    name = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    if name.startswith("ray::Host"):
        return "host"
    return "trial" if "Trainable" in name else "other"


def pss(pid: int) -> int:
    """Bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
