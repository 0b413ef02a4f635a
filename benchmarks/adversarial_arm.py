"""Training on the worst wordings, on SmolLM2-135M-Instruct: what the arm costs, and what it changes.

    python benchmarks/adversarial_arm.py [--out DIR] [--json FILE]

Three arms on SST-2 sentences with 20 training wordings: PAFT, PAFT with random typos, and the arm that looks for the
wordings which are worst for the model as it stands (``choice: adversarial``), at the cost of the others. 60 steps of 8
rows, three seeds, 20 unseen wordings x 60 test rows, label scoring; the arm searches every 15 steps, and makes fewer.
The peer is PAFT. Differences are of the means over seeds, with 95 % intervals over seeds (t, two degrees of freedom),
paired by seed. Needs shared/ beside the checkout. Run again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from real_tasks import write_sst2_study
from scipy import stats
from study_command import ROOT, need, steadytune

ROWS = {"train": 1000, "dev": 20, "test": 60}
ARMS = ("paft", "typos", "adversarial")
NUMBERS = ("mean", "std", "min", "tokens", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "adversarial-arm", help="where model and run go")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    script = ROOT.parent / "shared" / "models" / "smollm2.py"
    need(script)
    out: Path = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    model, run = out / "smollm2", out / "run"
    if not (model / "config.json").exists():
        subprocess.run([sys.executable, str(script), str(model)], check=True, stdout=subprocess.DEVNULL)
    study = write_study(out, model)
    if not (run / "tables" / "trials.parquet").exists():
        steadytune("run", study, "--out", str(run))
    found = figures(run)
    for name, of in found["arms"].items():
        print(f"{name}: " + ", ".join(f"{n} {of[n]:.4g}" for n in NUMBERS))
    for name, of in found["minus paft"].items():
        parts = (f"{n} {100 * of[n][0]:+.1f} ({100 * of[n][1]:+.1f} to {100 * of[n][2]:+.1f})" for n in NUMBERS[:3])
        print(f"{name} minus paft, points: {', '.join(parts)}; tokens to paft's {of['tokens_ratio']:.3f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def write_study(out: Path, model: Path) -> str:
    study = write_sst2_study(out, model, ROWS)
    study["templates"] = {
        "chat": {"chat": True},
        "plain": {"marker": "\nAnswer:"},
        "arrow": {"marker": "\n->", "system": "Answer with yes or no."},
    }
    study |= {
        "arms": {
            "paft": {"pool": "many"},
            "typos": {"pool": "many", "typos": 0.2},
            "adversarial": {
                "pool": "many",
                "choice": "adversarial",
                "typos": 0.2,
                "search_every": 15,
                "search_candidates": 16,
            },
        },
        "axes": {
            "arm": list(ARMS),
            "template": "chat",
            "lora": {"r": 8, "alpha": 16},
            "lr": 1.0e-3,
            "steps": 60,
            "seed": [0, 1, 2],
        },
        "training": {"batch_size": 8},
        "scheduler": {"name": "none"},
        "resources": {"slots": 4, "cpus": 1},
    }
    study["pools"]["dev"] = {"file": "dev.yaml", "limit": 2}
    file = out / "adversarial-arm.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    return str(file)


def figures(run: Path) -> dict[str, Any]:
    """Means over seeds of each arm, and its paired differences to PAFT."""
    rows = pq.read_table(run / "tables" / "trials.parquet").to_pylist()
    of = {(r["arm"], r["seed"]): r for r in rows}
    seeds = sorted({seed for _, seed in of})
    values = {arm: {n: np.array([of[arm, s][n] for s in seeds], float) for n in NUMBERS} for arm in ARMS}
    return {
        "claim": "training on the worst wordings against PAFT, at equal cost",
        "seeds": len(seeds),
        "arms": {arm: {n: round(float(v.mean()), 4) for n, v in columns.items()} for arm, columns in values.items()},
        "minus paft": {
            arm: {
                **{n: interval(values[arm][n] - values["paft"][n]) for n in NUMBERS[:3]},
                "tokens_ratio": round(float(values[arm]["tokens"].mean() / values["paft"]["tokens"].mean()), 4),
            }
            for arm in ARMS[1:]
        },
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {n: version(n) for n in ("torch", "transformers", "peft")},
    }


def interval(values: np.ndarray) -> list[float]:
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return [round(float(v), 4) for v in (values.mean(), values.mean() - half, values.mean() + half)]


if __name__ == "__main__":
    main()
