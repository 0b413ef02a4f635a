"""What a base model in 4 bits costs in accuracy, and what it saves in memory.

    python benchmarks/quantized.py [--model FOLDER] [--parts N] [--json FILE] [STUDY] [key=value ...]

One trial of the study at each of three seeds, on the base in nf4 and in float32. Trials of the same seed start from the
same adapter and see the same rows and wordings in the same order, so their difference is that of the bases. Every trial
is a run of ``steadytune run`` in a folder of its own, and a part of this benchmark, as are the two measurements of
memory: parts that are done are kept, so it can be interrupted and started again. ``--parts 1`` does one and ends.

Without ``--model`` the base is the 0.48 M parameters that ship with the package, which shows that it works and nothing
else: of so small a model hardly any weight is in the linear layers.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study_command import ROOT, steadytune

KINDS = ("none", "nf4")
NAMES = {"none": "float32", "nf4": "nf4"}
EMBEDDED = ROOT / "sweeps" / "embedded" / "model"
METRICS = ("mean", "std", "min")  # of the task's metric over the test prompts
# One point of the study, the same in all parts; what the user gives comes behind it and wins.
POINT = (
    "axes.template=plain", "axes.lora.r=8", "axes.plw=0", "axes.pool=many", "scheduler={name: none, rungs: [1.0]}",
    "resources.slots=1",
)  # fmt: skip
LARGER = ("axes.lr=5e-4",)  # for a given model: the quickstart's rate is that of a tiny one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default="quickstart", help="default: quickstart")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes to the study, such as axes.lr=1e-3")
    parser.add_argument("--model", type=Path, help="the base model's folder; default: the one that the study names")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", type=int, default=10**6, help="do so many parts that are not done, and end")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "quantized", help="where the parts are kept")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the memory of this kind of base, in this process
    args = parser.parse_intermixed_args()
    if "=" in args.study:
        args.study, args.changes = "quickstart", [args.study, *args.changes]
    changes = [*POINT, *(LARGER if args.model else ()), *args.changes]
    changes += [f"model.path={args.model.resolve()}"] if args.model else []
    if args.measure:
        print(json.dumps(measured(args.study, [*changes, f"model.quantization={args.measure}"])))
        return
    out: Path = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    asked, settings = out / "asked.json", json.dumps([args.study, *changes])
    if asked.exists() and asked.read_text() != settings:
        sys.exit(f"{out} holds parts of another study or model: {asked.read_text()}. Give another --out")
    asked.write_text(settings)
    left = args.parts
    for seed in args.seeds:
        for kind in KINDS:
            folder = out / f"{kind}-{seed}"
            if not (folder / "tables" / "robustness.parquet").exists() and left:
                start = time.perf_counter()
                one = [*changes, f"axes.seed={seed}", f"model.quantization={kind}"]
                steadytune("run", args.study, *one, "--out", str(folder))
                (out / f"{kind}-{seed}.seconds").write_text(f"{time.perf_counter() - start:.0f}")
                left -= 1
    for kind in KINDS:
        file = out / f"memory-{kind}.json"
        if not file.exists() and left:
            again = [sys.executable, __file__, *sys.argv[1:], "--measure", kind]
            env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
            found = subprocess.run(again, env=env, check=True, capture_output=True, text=True)
            file.write_text(found.stdout.splitlines()[-1])
            left -= 1
    found = {"seeds": seeds_of(out, args.seeds), "memory": memory_of(out)}
    found["difference"] = {m: paired([line[m] for line in found["seeds"]]) for m in METRICS}
    show(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def seeds_of(out: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Of every seed whose parts are both done, each metric under both bases."""
    lines = []
    for seed in seeds:
        rows = {kind: result(out / f"{kind}-{seed}") for kind in KINDS}
        if all(rows.values()):
            lines.append({"seed": seed, **{m: {k: rows[k][m] for k in KINDS} for m in METRICS}})
    return lines


def result(folder: Path) -> Mapping[str, Any]:
    """The trial's row of the run's table; empty where the run is not done."""
    import pyarrow.parquet as pq

    table = folder / "tables" / "robustness.parquet"
    rows: list[dict[str, Any]] = pq.read_table(table).to_pylist() if table.exists() else []
    if len(rows) > 1:
        sys.exit(f"{folder}: the study has {len(rows)} trials, and here it must have one: give axes one value each")
    return rows[0] if rows and rows[0]["mean"] is not None else {}


def memory_of(out: Path) -> dict[str, Any]:
    files = {kind: out / f"memory-{kind}.json" for kind in KINDS}
    return {kind: json.loads(file.read_text()) for kind, file in files.items() if file.exists()}


def paired(values: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """nf4 - float32, mean over seeds with its interval of 95 % (t; none of one seed)."""
    from scipy.stats import t

    gaps = [v["nf4"] - v["none"] for v in values]
    if not gaps:
        return {}
    middle = statistics.mean(gaps)
    if len(gaps) < 2:
        return {"difference": middle, "low": None, "high": None, "seeds": len(gaps)}
    half = float(t.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return {"difference": middle, "low": middle - half, "high": middle + half, "seeds": len(gaps)}


def show(found: Mapping[str, Any]) -> None:
    print("\nOver the test prompts, percent; nf4 - float32 with its interval of 95 % over seeds:")
    for metric in METRICS:
        for line in found["seeds"]:
            each = ", ".join(f"{NAMES[k]} {100 * line[metric][k]:.2f}" for k in KINDS)
            print(f"  {metric:5} seed {line['seed']}: {each}")
        gap = found["difference"][metric]
        if gap:
            ends = "" if gap["low"] is None else f" [{100 * gap['low']:+.2f}, {100 * gap['high']:+.2f}]"
            print(f"  {metric:5} {100 * gap['difference']:+.2f}{ends} ({gap['seeds']} seeds)")
    for kind, held in found["memory"].items():
        print(
            f"  memory of the base in {NAMES[kind]}: {held['resident'] / 1e6:.1f} MB resident, "
            f"{held['planned'] / 1e6:.1f} by the plan, {held['peak'] / 1e6:.1f} at its highest while it was loaded"
        )


# memory, in a process of its own ------------------------------------------------------------------------------------


def measured(name: str, changes: Sequence[str]) -> dict[str, float]:
    """Bytes that this process holds more once the base is loaded and has answered one row, and at their highest."""
    import torch

    from sweeps.plan.cost import base_bytes
    from sweeps.plan.sizes import model_size
    from sweeps.study.load import load_study
    from sweeps.study.shipped import study_path
    from trainer.model.base import load_base
    from trainer.trial import Model

    torch.set_num_threads(1)
    study = load_study(study_path(name), changes)
    m = study.model

    def answering(path: str, revision: str | None) -> Any:
        about = Model(path, "", revision, m.dtype, m.head, False, m.quantization)
        base: Any = load_base(about, torch.device("cpu"))
        with torch.no_grad():
            base(input_ids=torch.arange(3, 35)[None])
        return base

    answering(str(EMBEDDED), None)  # the code that is loaded and set up for it is not the base's memory
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident()
    base = answering(m.path, m.revision)
    peak = resident("VmHWM")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    assert base is not None
    return {"resident": resident() - before, "peak": peak - before, "planned": base_bytes(study, model_size(study))}


def resident(what: str = "VmRSS") -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


if __name__ == "__main__":
    main()
