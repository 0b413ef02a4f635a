"""Label scoring against the reference harness: 50 prompts x 40 rows, from text to log-probabilities, on one core.

    python benchmarks/scoring.py [--json FILE] [--quick]
    python benchmarks/scoring.py --model smollm2 [--json FILE]

Ours renders and scores through a slot; the peer is lm-eval's ``HFLM.loglikelihood`` on the same texts and the same
LoRA adapter, held by peft as ``lm_eval --model_args peft=...`` holds it, at the best of three batch sizes. A second
line gives the peer an adapter that was merged into the weights beforehand. Every run checks that both give the same
log-probabilities. CPU seconds of this process, tokenising included, after a warm-up.

With `--model smollm2` (or a folder) the model's own chat template asks for SST-2 sentences under 50 wordings, half of
which put the sentence first, and for the four options of OpenBookQA under 5; rows are read from ../shared/data. The
model's weights were 4-bit ones that were made dense (benchmarks/smollm2.py).
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
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
from real_tasks import OPTION_WORDINGS, openbookqa, review_prompts, sst2
from smollm2 import smollm2

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
    parser.add_argument("--model", help="smollm2, or a chat model's folder")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    claims = []
    if args.model:
        folder = smollm2() if args.model == "smollm2" else Path(args.model)
        claims += [measure(asking, folder.name, folder) for asking in real_questions()]
    for name, folder in {} if args.model else models().items():
        prompts, rows = questions(*((10, 10) if args.quick else (50, 40)))
        claims += [measure(asked(case, folder, prompts, rows), name, folder) for case in CASES]
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


@dataclass(frozen=True)
class Asking:
    case: str
    template: Template
    task: Task
    pairs: list[tuple[Prompt, Row]]


def asked(case: str, folder: Path, prompts: list[Prompt], rows: list[Row]) -> Asking:
    words = one_token(transformers.AutoTokenizer.from_pretrained(folder)) if case.startswith("two") else CASES[case]
    pairs = [(prompt, Row(row.id, row.fields, words[0][0])) for prompt in prompts for row in rows]
    labels = tuple(name for name, _ in words)
    return Asking(
        f"{case}, {shape(prompts, rows)}", Template("plain", words=words), Task(labels, max_length=512), pairs
    )


def real_questions() -> list[Asking]:
    chat, two, four = Template("chat", chat=True), sst2(4), openbookqa(12)
    reviews, wordings = review_prompts(), [Prompt(f"o{i}", text) for i, text in enumerate(OPTION_WORDINGS)]
    return [
        Asking(f"yes or no, {shape(reviews, two)}", chat, Task(("no", "yes")), list(product(reviews, two))),
        Asking(f"four options, {shape(wordings, four)}", chat, Task(), list(product(wordings, four))),
    ]


def shape(prompts: Sequence[Prompt], rows: Sequence[Row]) -> str:
    return f"{len(prompts)} prompts x {len(rows)} rows"


def measure(asking: Asking, name: str, folder: Path) -> dict[str, Any]:
    case, template, task, pairs = asking.case, asking.template, asking.task, asking.pairs
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = SlotModel(copy.deepcopy(base), 1, LORA.r, LORA.target_modules).eval()
    model.place(0, LORA, seed=0)
    torch.manual_seed(0)
    for layer in model.layers.values():
        torch.nn.init.normal_(layer.B, std=0.02)
    config = LoraConfig(r=LORA.r, lora_alpha=int(LORA.alpha), target_modules="all-linear")
    peft_model = get_peft_model(copy.deepcopy(base), config).eval()
    set_peft_model_state_dict(peft_model, model.adapter(0, LORA))
    merged = copy.deepcopy(peft_model).merge_and_unload().eval()

    def ours() -> np.ndarray:
        requests = Renderer(tokenizer, template, task).requests(pairs)
        return np.array(option_logprobs(model, requests, [0] * len(requests)))

    texts = Renderer(tokenizer, template, task).texts
    contexts = [context.text for context in texts.contexts(pairs)]
    words = [texts.shown_words(row) for _, row in pairs]
    through_peft, size = peer(peft_model, tokenizer, contexts, words, bos=not template.chat)
    through_merged, merged_size = peer(merged, tokenizer, contexts, words, bos=not template.chat)
    ours()  # as the peers have been: warm
    seconds: dict[str, float] = {}
    answers: dict[str, np.ndarray] = {}
    for who, run in (("ours", ours), ("peer", through_peft), ("merged", through_merged)):
        answers[who], seconds[who] = timed(run)
    for who in ("peer", "merged"):
        mine, theirs = answers["ours"], answers[who]
        if template.chat:
            # lm-eval counts the line's end that closes the question to the answer: the same term for each option
            mine, theirs = (x - x.mean(axis=1, keepdims=True) for x in (mine, theirs))
        gap = float(np.abs(mine - theirs).max())
        print(f"{name}, {case}: log-probabilities differ from lm-eval's ({who}) by at most {gap:.1g}")
        np.testing.assert_allclose(mine, theirs, atol=1e-3)
    rate = {who: len(pairs) / s for who, s in seconds.items()}
    ratio = rate["ours"] / rate["peer"]
    print(f"{case}: ours {rate['ours']:.0f}, lm-eval {rate['peer']:.0f} rows/s (batches of {size}): {ratio:.1f}x")
    less = rate["ours"] / rate["merged"]
    print(f"  adapter merged beforehand: lm-eval {rate['merged']:.0f} rows/s (batches of {merged_size}): {less:.1f}x")
    return {
        "claim": f"scoring {case}, {name}, one core",
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


def peer(
    model: Any, tokenizer: Any, contexts: list[str], words: list[list[str]], bos: bool
) -> tuple[Callable[[], np.ndarray], int]:
    """lm-eval's own call on the same texts, and the batch size that is fastest on a tenth of them."""
    # lm-eval 0.4.9 names a class that transformers 5 has renamed.
    sys.modules["transformers"].__dict__.setdefault("AutoModelForVision2Seq", transformers.AutoModelForImageTextToText)
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    def run(size: int, places: range) -> np.ndarray:
        harness = HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=size, add_bos_token=bos)
        asked = [Instance("loglikelihood", {}, (contexts[i], word), 0) for i in places for word in words[i]]
        found = np.array([x for x, _ in harness.loglikelihood(asked, disable_tqdm=True)])
        return found.reshape(len(places), -1)

    every, sample = range(len(contexts)), range(0, len(contexts), 10)
    run(16, sample[:16])
    best = min((8, 16, 32), key=lambda size: timed(lambda: run(size, sample))[1])
    return lambda: run(best, every), best


def timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    start = time.process_time()
    found = run()
    return found, time.process_time() - start


if __name__ == "__main__":
    main()
