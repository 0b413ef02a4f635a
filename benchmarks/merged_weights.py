"""Merged weights answer as base and adapter: `predict`, peft alone and transformers alone on the same rows.

    python benchmarks/merged_weights.py [--model smollm2] [--rows 500] [--json FILE]

A chat model is tuned for 20 steps of 8 rows of SST-2 and exported three times: as an adapter, merged in float32, and
merged in bfloat16. Then other rows are answered under a wording that it was not trained on: by `predict` from each
export, by peft alone on the base model, and by transformers alone on the weights merged in float32. The last two make
the input with the tokenizer's chat template themselves, and take rows of one length together. Compared are the label
scores, the log-probabilities of the two answers.

Needs ../shared/data for SST-2. The run, its exports and each answerer's scores are kept in --out and used again.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from real_tasks import write_sst2_study
from smollm2 import smollm2
from study_command import ROOT, steadytune

from trainer.data.rows import Row
from trainer.data.wording import Prompt, fill

AXES = {"template": "chat", "lora": {"r": 8, "alpha": 16}, "lr": 1.0e-3, "steps": 20, "plw": 0.0}
EXPORTS = {"adapter": (), "float32": ("--merge", "--dtype", "float32"), "bfloat16": ("--merge", "--dtype", "bfloat16")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="smollm2, or a chat model's folder")
    parser.add_argument("--rows", type=int, default=500, help="rows that are answered")
    parser.add_argument("--steps", type=int, default=AXES["steps"])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "merged", help="where the run is kept")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    out: Path = args.out.resolve()
    base = (smollm2() if args.model == "smollm2" else Path(args.model)).resolve()
    seconds = made(out, base, args.steps)
    prompt, rows = asked(out, args.rows)
    found = {
        name: kept(out / f"{name}-{args.rows}.npy", functools.partial(predicted, out / name, prompt, rows))
        for name in EXPORTS
    }
    for name, model, adapter in (("peft", base, out / "adapter"), ("transformers", out / "float32", None)):
        score = functools.partial(alone, model, prompt, rows, adapter)
        found[name] = kept(out / f"{name}-{args.rows}.npy", score)
    figures = {
        "rows": len(rows),
        "wording": prompt.text,
        "export_seconds": seconds,
        "bytes": {name: sum(p.stat().st_size for p in (out / name).iterdir()) for name in EXPORTS},
        "beside_predict_with_the_adapter": {
            name: difference(scores, found["adapter"]) for name, scores in found.items() if name != "adapter"
        },
        "cards": {name: card_lines(out / name) for name in EXPORTS if name != "adapter"},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {n: version(n) for n in ("torch", "transformers", "peft")},
    }
    show(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def kept(file: Path, score: Callable[[], np.ndarray]) -> np.ndarray:
    """The scores in ``file``, which is made where it is not there."""
    if not file.exists():
        print(f"scoring for {file.name}", flush=True)
        np.save(file, score())
    found: np.ndarray = np.load(file, allow_pickle=False)
    return found


def made(out: Path, base: Path, steps: int) -> dict[str, float]:
    """The run, and its trial exported in each way; seconds of each export that was made now or before."""
    out.mkdir(parents=True, exist_ok=True)
    study, times = out / "sst2.yaml", out / "seconds.json"
    limits = {"train": 1000, "dev": 40, "test": 20}
    about = {"axes": {**AXES, "steps": steps}, "training": {"batch_size": 8}, "scheduler": {"name": "none"}}
    sections = write_sst2_study(out, base, limits) | about
    for pool in ("dev", "test"):  # few, since nothing is read from the run but the trial
        sections["pools"][pool] = {"file": f"{pool}.yaml", "limit": 2}
    text = yaml.safe_dump(sections, sort_keys=False)
    if study.exists() and study.read_text() != text:
        sys.exit(f"{out} holds a run of another model, or of other numbers. Give another --out")
    study.write_text(text)
    if not (out / "run" / "tables" / "trials.parquet").exists():
        steadytune("run", str(study), "--out", str(out / "run"), "resources.cpus=2")
    [trial] = [p.name for p in (out / "run" / "adapters").iterdir()]
    seconds: dict[str, float] = json.loads(times.read_text()) if times.exists() else {}
    for name, words in EXPORTS.items():
        if not (out / name).exists():
            start = time.perf_counter()
            steadytune("export", str(out / "run"), "--trial", trial, "--to", str(out / name), *words)
            seconds[name] = round(time.perf_counter() - start, 1)
            times.write_text(json.dumps(seconds))
    return seconds


def asked(out: Path, count: int) -> tuple[Prompt, list[Row]]:
    """A test wording, and as many rows of the test split."""
    from sweeps.study.load import load_study
    from sweeps.trials.assets import load_pools, source_of
    from trainer.data.rows import load_rows

    study = load_study(out / "sst2.yaml")
    wording = load_pools(study.pools, study.axes.pool)[1]["test"][0]
    return wording, load_rows(replace(source_of(study.task, "test"), limit=count), "test")


def predicted(folder: Path, prompt: Prompt, rows: Sequence[Row]) -> np.ndarray:
    """Label scores [row, label] of what `predict` loads from an export."""
    from safetensors.torch import load_file

    from sweeps.export.exported import merged_trial, read_exported
    from trainer.model.merge import load_merged
    from trainer.predictor import Predictor
    from trainer.store import Store

    exported = read_exported(Store.open(folder))
    if exported.merged is None:
        predictor = Predictor(exported.trial, load_file(folder / "adapter_model.safetensors"))
    else:
        here = merged_trial(exported.trial, str(folder), exported.merged)
        predictor = Predictor(here, load_merged(here))
    return np.array([p.scores for p in predictor.predict(prompt, rows)])


def alone(model: Path, prompt: Prompt, rows: Sequence[Row], adapter: Path | None = None) -> np.ndarray:
    """Label scores [row, label] of transformers alone, with an adapter of peft alone, in the files' own dtype."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    if adapter is not None:
        from peft import PeftModel

        found = PeftModel.from_pretrained(found, adapter)
    found.eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    words = [tokenizer(word, add_special_tokens=False).input_ids for word in ("no", "yes")]
    assert [len(w) for w in words] == [1, 1], "both are read at the question's last token"
    asked: dict[int, dict[int, list[int]]] = defaultdict(dict)  # rows of one length need no padding
    for i, row in enumerate(rows):
        chat = [{"role": "user", "content": fill(prompt, row.fields).text}]
        ids: Any = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        asked[len(ids)][i] = ids
    scores = np.zeros((len(rows), len(words)))
    for batch in asked.values():
        with torch.no_grad():
            logits = found(torch.tensor(list(batch.values())), logits_to_keep=1).logits[:, -1]
        scores[list(batch)] = torch.log_softmax(logits.float(), dim=-1)[:, [w[0] for w in words]].numpy()
    return scores


def difference(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    gaps = np.abs(found - expected)
    changed = int((found.argmax(1) != expected.argmax(1)).sum())
    return {"largest": float(gaps.max()), "mean": float(gaps.mean()), "answers_changed": changed}


def card_lines(folder: Path) -> list[str]:
    lines = (folder / "README.md").read_text().splitlines()
    return [line for line in lines if "differs by at most" in line]


def show(figures: Mapping[str, Any]) -> None:
    print(f"\nLabel scores of {figures['rows']} rows beside `predict` with the adapter, in nats:")
    for name, gap in figures["beside_predict_with_the_adapter"].items():
        who = {"peft": "peft alone", "float32": "predict, merged in float32", "bfloat16": "predict, merged in bfloat16"}
        print(
            f"  {who.get(name, name + ' alone')}: largest {gap['largest']:.2g}, mean {gap['mean']:.2g}, "
            f"{gap['answers_changed']} answers changed"
        )
    for name, seconds in figures["export_seconds"].items():
        print(f"  export, {name}: {seconds} s, {figures['bytes'][name] / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
