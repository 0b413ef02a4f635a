"""What a base model in 4 bits costs in accuracy, and what it saves in memory.

    python benchmarks/quantized.py [--model smollm2] [--json FILE] [STUDY] [key=value ...]

One configuration of the study with three seeds, on the base in nf4 and in float32. Trials of the same seed start from
the same adapter and see the same rows and wordings in the same order, so their difference is that of the bases. Each
base is one run of ``steadytune run``. A run that was interrupted goes on, and one that is done is kept; so are the two
measurements of memory.

With ``--model smollm2`` (or a chat model's folder) the study is SST-2 with our own wordings, from ../shared/data, 60
steps of 8 rows; SmolLM2's weights were 4-bit ones before they were made dense (benchmarks/smollm2.py). Without it the
base is the 0.48 M parameters that ship with the package, which shows that it works and nothing else: of so small a
model hardly any weight is in the linear layers.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from real_tasks import write_sst2_study
from smollm2 import smollm2
from study_command import ROOT, steadytune

KINDS = ("none", "nf4")
NAMES = {"none": "float32", "nf4": "nf4"}
EMBEDDED = ROOT / "sweeps" / "embedded" / "model"
METRICS = ("mean", "std", "min")  # of the task's metric over the test prompts
# One point of the quickstart; what the user gives comes behind it and wins.
POINT = ("axes.template=plain", "axes.lora.r=8", "axes.plw=0", "axes.pool=many")
SAME = ("scheduler={name: none, rungs: [1.0]}", "tables.precision=whole", "resources.cpus=1")
ROWS = {"train": 1000, "dev": 20, "test": 150}  # of SST-2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default="quickstart", help="default: quickstart")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes to the study, such as axes.lr=1e-3")
    parser.add_argument("--model", help="smollm2, or a chat model's folder; default: the one that the study names")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "quantized", help="where the runs are kept")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the memory of this kind of base, in this process
    args = parser.parse_intermixed_args()
    if "=" in args.study:
        args.study, args.changes = "quickstart", [args.study, *args.changes]
    out: Path = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if args.model:
        args.study = write_study(out, smollm2() if args.model == "smollm2" else Path(args.model))
    point = POINT if args.study == "quickstart" else ()
    changes = [*point, *SAME, f"axes.seed={args.seeds}", *args.changes]
    if args.measure:
        print(json.dumps(measured(args.study, [*changes, f"model.quantization={args.measure}"])))
        return
    asked, settings = out / "asked.json", json.dumps([args.study, *changes])
    if asked.exists() and asked.read_text() != settings:
        sys.exit(f"{out} holds runs of another study or model: {asked.read_text()}. Give another --out")
    asked.write_text(settings)
    for kind in KINDS:
        if not (out / kind / "tables" / "trials.parquet").exists():
            steadytune("run", args.study, *changes, f"model.quantization={kind}", "--out", str(out / kind))
    for kind in KINDS:
        file = out / f"memory-{kind}.json"
        if not file.exists():
            again = [sys.executable, __file__, *sys.argv[1:], "--measure", kind]
            env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
            said = subprocess.run(again, env=env, check=True, capture_output=True, text=True).stdout
            file.write_text(said.splitlines()[-1])
    memory = {k: json.loads((out / f"memory-{k}.json").read_text()) for k in KINDS}
    found: dict[str, Any] = {"seeds": seeds_of(out), "memory": memory}
    found["difference"] = {m: paired([line[m] for line in found["seeds"]]) for m in METRICS}
    found["machine"] = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    found["versions"] = {n: version(n) for n in ("torch", "transformers", "peft", "bitsandbytes")}
    show(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def write_study(out: Path, model: Path) -> str:
    """The study of SST-2; returns its path."""
    about = {
        "axes": {"template": "chat", "lora": {"r": 8, "alpha": 16}, "lr": 1.0e-3, "steps": 60, "plw": 0.0},
        "training": {"batch_size": 8},
    }
    file = out / "sst2.yaml"
    file.write_text(yaml.safe_dump(write_sst2_study(out, model, ROWS) | about, sort_keys=False))
    return str(file)


def seeds_of(out: Path) -> list[dict[str, Any]]:
    """Of every seed, each metric under both bases."""
    import pyarrow.parquet as pq

    rows = {k: {r["seed"]: r for r in pq.read_table(out / k / "tables" / "trials.parquet").to_pylist()} for k in KINDS}
    return [{"seed": s, **{m: {k: rows[k][s][m] for k in KINDS} for m in METRICS}} for s in sorted(rows["none"])]


def paired(values: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """nf4 - float32, mean over seeds with its interval of 95 % (t; none of one seed)."""
    from scipy.stats import t

    gaps = [v["nf4"] - v["none"] for v in values]
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
