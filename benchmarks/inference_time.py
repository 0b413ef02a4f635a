"""What an arm's answers cost by itself, on SmolLM2-135M-Instruct: the paper's second table, in small.

    python benchmarks/inference_time.py [--out DIR] [--json FILE]

PAFT's authors report that a fine-tuned model answers faster than the base model. An answer is generated token by token
until the model stops, so a model that stops after its label does less. The study has three arms on SST-2 sentences: the
base model, training on one prompt, and PAFT on twenty (60 steps of 8 rows each), and answers by generation, up to 32
tokens. ``steadytune time`` then times each arm alone, in generation and in label scoring. The peer is the base model.
Needs shared/ beside the checkout. Run again, it goes on.
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

import yaml
from real_tasks import write_sst2_study
from study_command import ROOT, need, steadytune

ROWS = {"train": 1000, "dev": 20, "test": 40}
ARMS = ("base", "user", "paft")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "inference-time", help="where model and run go")
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
    if not (run / "tables" / "paft_main.parquet").exists():
        steadytune("run", study, "--out", str(run))
    if not (run / "timing.json").exists():
        steadytune("time", str(run), "--answers", "96", "--batch", "8")
    found = figures(run)
    for name, of in found["arms"].items():
        print(
            f"{name}: {of['generate_ms']:.0f} ms an answer in generation ({of['new_tokens']:.1f} new tokens, "
            f"{100 * of['unread']:.0f} % unread), {of['label_ms']:.0f} ms by label scoring; to base: generation "
            f"{of['generate_to_base']:.2f}, label scoring {of['label_to_base']:.2f}"
        )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def write_study(out: Path, model: Path) -> str:
    study = write_sst2_study(out, model, ROWS)
    first = next(iter(yaml.safe_load((out / "train.yaml").read_text())))
    study["pools"]["train"]["one"] = {"file": "train.yaml", "only": [first]}
    study |= {
        "arms": {"base": {"pool": "one", "steps": 0}, "user": {"pool": "one"}, "paft": {"pool": "many"}},
        "axes": {"arm": list(ARMS), "template": "chat", "lora": {"r": 8, "alpha": 16}, "lr": 1.0e-3, "steps": 60},
        "training": {"batch_size": 8},
        "scoring": {"scorer": "generate", "max_new_tokens": 32},
        "scheduler": {"name": "none"},
    }
    study["pools"]["dev"] = {"file": "dev.yaml", "limit": 2}
    study["pools"]["test"] = {"file": "test.yaml", "limit": 6}
    file = out / "inference-time.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    return str(file)


def figures(run: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    rows = {r["arm"]: r for r in pq.read_table(run / "tables" / "paft_inference.parquet").to_pylist()}
    main_table = {r["arm"]: r for r in pq.read_table(run / "tables" / "paft_main.parquet").to_pylist()}
    timing = json.loads((run / "timing.json").read_text())
    base, arms = rows["base"], {}
    for name in ARMS:
        of = {n: rows[name][n] for n in ("label_ms", "generate_ms", "new_tokens", "unread")}
        of |= {"generate_to_base": of["generate_ms"] / base["generate_ms"]}
        of |= {"label_to_base": of["label_ms"] / base["label_ms"], "accuracy": main_table[name]["mean"]}
        arms[name] = {n: round(float(v), 4) for n, v in of.items()}
    about = {n: timing[n] for n in ("batch", "answers", "max_new_tokens", "threads")}
    return {
        "claim": "milliseconds of an answer, each arm alone, against the base model",
        "arms": arms,
        **about,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {n: version(n) for n in ("torch", "transformers", "peft")},
    }


if __name__ == "__main__":
    main()
