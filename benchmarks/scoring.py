"""Label scoring against the reference harness: 50 prompts x 40 rows, from text to log-probabilities, on one core.

    python benchmarks/scoring.py [--json FILE] [--quick]

Ours renders and scores through a slot; the peer is lm-eval's ``HFLM.loglikelihood`` on the same texts and the same
LoRA adapter, held by peft as ``lm_eval --model_args peft=...`` holds it, at the best of three batch sizes. A second
line gives the peer an adapter that was merged into the weights beforehand. Every run checks that both give the same
log-probabilities. CPU seconds of this process, tokenising included, after a warm-up.
"""

# ruff: noqa: E402  (threads and offline mode are set before torch and transformers are imported)
from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import logging

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

from trainer.data.pools import load_pool
from trainer.data.render import Renderer
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.model.slots import SlotModel
from trainer.score.logprobs import option_logprobs
from trainer.trial import Lora, Task, Template

LORA = Lora(r=8, alpha=16.0)
CASES = {
    "two one-token labels": (("no", " no"), ("yes", " yes")),
    "four options of several tokens": (
        ("a", " the writer is angry about it"),
        ("b", " the writer is quite happy"),
        ("c", " nobody can tell from this"),
        ("d", " it is not about a feeling at all"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the claims here")
    parser.add_argument("--quick", action="store_true", help="10 prompts x 10 rows: does it run, not how fast")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    prompts, rows = questions(*((10, 10) if args.quick else (50, 40)))
    claims = []
    for name, folder in models().items():
        print(f"{name}, {len(prompts)} prompts x {len(rows)} rows, one core")
        claims += [measure(case, name, folder, prompts, rows) for case in CASES]
    if args.json:
        args.json.write_text(json.dumps(claims, indent=1) + "\n")


def models() -> dict[str, Path]:
    """The embedded model and, where it is at hand, a shared one with heads of 8."""
    found = {"embedded": ROOT / "sweeps" / "embedded" / "model"}
    shared = ROOT.parent / "shared" / "models" / "stories260K"
    return found | ({shared.name: shared} if shared.is_dir() else {})


def questions(n_prompts: int, n_rows: int) -> tuple[list[Prompt], list[Row]]:
    """The embedded task's own pools and rows: wordings by hand, some before the message and some after it."""
    data = ROOT / "sweeps" / "embedded" / "data"
    prompts = [p for name in ("test", "dev", "train") for p in load_pool(str(data / "pools" / f"{name}.yaml"))]
    lines = (data / "test.jsonl").read_text().splitlines()[:n_rows]
    return prompts[:n_prompts], [Row(r["id"], {"text": r["text"]}, "") for r in map(json.loads, lines)]


def measure(case: str, name: str, folder: Path, prompts: list[Prompt], rows: list[Row]) -> dict[str, Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    words = CASES[case]
    if case.startswith("two"):
        words = one_token(tokenizer)
    template, task = Template("plain", words=words), Task(labels=tuple(name for name, _ in words), max_length=512)
    pairs = [(prompt, Row(row.id, row.fields, words[0][0])) for prompt in prompts for row in rows]

    model = SlotModel(copy.deepcopy(base), 1, LORA.r, LORA.target_modules).eval()
    model.place(0, LORA, seed=0)
    torch.manual_seed(0)
    for layer in model.layers.values():
        torch.nn.init.normal_(layer.B, std=0.02)
    config = LoraConfig(r=LORA.r, lora_alpha=LORA.alpha, target_modules="all-linear")
    peft_model = get_peft_model(copy.deepcopy(base), config).eval()
    set_peft_model_state_dict(peft_model, model.adapter(0, LORA))
    merged = copy.deepcopy(peft_model).merge_and_unload().eval()

    def ours() -> np.ndarray:
        requests = Renderer(tokenizer, template, task).requests(pairs)
        return np.array(option_logprobs(model, requests, [0] * len(requests)))

    contexts = [context.text for context in Renderer(tokenizer, template, task).texts.contexts(pairs)]
    through_peft, size = peer(peft_model, tokenizer, contexts, [word for _, word in words])
    through_merged, merged_size = peer(merged, tokenizer, contexts, [word for _, word in words])
    ours()  # as the peers have been: warm
    seconds: dict[str, float] = {}
    answers: dict[str, np.ndarray] = {}
    for who, run in (("ours", ours), ("peer", through_peft), ("merged", through_merged)):
        answers[who], seconds[who] = timed(run)
    for who in ("peer", "merged"):
        np.testing.assert_allclose(answers["ours"], answers[who], atol=1e-4)
    rate = {who: len(pairs) / s for who, s in seconds.items()}
    ratio = rate["ours"] / rate["peer"]
    print(f"{case}: ours {rate['ours']:.0f}, lm-eval {rate['peer']:.0f} rows/s (batches of {size}): {ratio:.1f}x")
    less = rate["ours"] / rate["merged"]
    print(f"  adapter merged beforehand: lm-eval {rate['merged']:.0f} rows/s (batches of {merged_size}): {less:.1f}x")
    return {
        "claim": f"scoring {case}, {len(prompts)} prompts x {len(rows)} rows, {name}, one core",
        "ours": round(rate["ours"], 1),
        "peer": round(rate["peer"], 1),
        "peer_merged_adapter": round(rate["merged"], 1),
        "ratio": round(ratio, 2),
        "unit": "rows per CPU second",
        "machine": f"{platform.processor() or platform.machine()}, 1 of {os.cpu_count()} cores",
        "versions": {n: version(n) for n in ("torch", "transformers", "peft", "lm_eval")}
        | {"python": platform.python_version()},
    }


def one_token(tokenizer: Any) -> tuple[tuple[str, str], ...]:
    """Two label words that are one token each after the marker: " no" and " yes" where the tokenizer has them."""
    front = tokenizer("\nAnswer:").input_ids
    found = []
    for word in (" no", " yes", " the", " a", " was", " he", " she"):
        full = tokenizer("\nAnswer:" + word).input_ids
        if full[: len(front)] == front and len(full) == len(front) + 1:
            found.append((word.strip(), word))
    return tuple(found[:2])


def peer(model: Any, tokenizer: Any, contexts: list[str], words: list[str]) -> tuple[Callable[[], np.ndarray], int]:
    """lm-eval's own call on the same texts, and the batch size that is fastest on a tenth of them."""
    # lm-eval 0.4.9 names a class that transformers 5 has renamed.
    sys.modules["transformers"].__dict__.setdefault("AutoModelForVision2Seq", transformers.AutoModelForImageTextToText)
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    def run(size: int, texts: list[str]) -> np.ndarray:
        harness = HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=size, add_bos_token=True)
        asked = [Instance("loglikelihood", {}, (text, word), 0) for text in texts for word in words]
        return np.array([x for x, _ in harness.loglikelihood(asked, disable_tqdm=True)]).reshape(-1, len(words))

    sample = contexts[::10]
    run(16, sample[:16])
    best = min((8, 16, 32), key=lambda size: timed(lambda: run(size, sample))[1])
    return lambda: run(best, contexts), best


def timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    start = time.process_time()
    found = run()
    return found, time.process_time() - start


if __name__ == "__main__":
    main()
