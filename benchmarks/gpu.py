"""Slots on a GPU: throughput by number of slots, share of the card's matmul rate, memory, scoring; against peft.

    python benchmarks/gpu.py [--json FILE] [--minutes 8] [--tiny]

One command of at most 9 minutes, without network, data or ray: models of about 0.1, 0.5 and 1.5 B parameters are made
from a config with random weights, in bfloat16, and fed random tokens, 8 sequences of 128 per trial and step. Where
deepspeed is installed the engine steps; elsewhere the same slot model and slot optimizer are driven directly, and the
output says so. ``--tiny`` runs all of it in seconds on a CPU, to prove that it runs.

FLOPs: per token 4 N (forward, and the gradient of the inputs) + 6 N_lora, per supervised token 4 V H. The card's rate
is the best bfloat16 product of 4096 or 8192 squared, measured beside. One token in 16 is supervised.
"""

# ruff: noqa: E402  (offline mode is set before transformers is imported)
from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from trainer.data.kinds import COMPLETION, CONTENT
from trainer.data.render import Request
from trainer.model.slots import SlotModel
from trainer.score.logprobs import option_logprobs
from trainer.setup import Setup
from trainer.train.batches import Sample, collate, micro_batches
from trainer.train.loss import token_losses, weighted_loss
from trainer.train.optimizer import SlotAdamW
from trainer.trial import Lora, Optimization

LORA = Lora(r=8, alpha=16.0)
PLAN = Optimization(steps=10_000, lr=1e-4)


@dataclass(frozen=True)
class Shape:
    """A Llama and what is trained on it."""

    name: str
    hidden: int
    layers: int
    heads: int
    inner: int
    vocab: int = 32000
    slots: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    batch: int = 8
    length: int = 128
    dtype: torch.dtype = torch.bfloat16
    token_budget: int = 32768
    least_seconds: float = 1.5


SHAPES = (
    Shape("0.1B", 768, 12, 12, 2048),
    Shape("0.5B", 1280, 24, 20, 3456),
    Shape("1.5B", 2048, 28, 16, 5632),
)
TINY = Shape("tiny", 32, 2, 4, 64, 128, (1, 2), 2, 16, torch.float32, 4096, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the claims here, after every one")
    parser.add_argument("--minutes", type=float, default=8.0, help="start nothing new after this long")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on whatever there is: does it run")
    args = parser.parse_args()
    if not args.tiny and not torch.cuda.is_available():
        raise SystemExit("no GPU here: --tiny proves on a CPU that this runs")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    end = time.monotonic() + 60 * args.minutes
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    through = "deepspeed's engine" if importlib.util.find_spec("deepspeed") else "slot model alone (no deepspeed here)"
    claims: list[dict[str, Any]] = []
    for shape in (TINY,) if args.tiny else SHAPES:
        peak = matmul_rate(shape.dtype, device, (128,) if args.tiny else (4096, 8192))
        print(f"{shape.name}: {machine}, matmul {peak / 1e12:.3g} TFLOP/s {shape.dtype}; through {through}", flush=True)
        if time.monotonic() > end:
            break
        peer = peft_rate(shape, device)
        print(f"  peft, one after another: {peer:.0f} tokens/s", flush=True)
        for slots in shape.slots:
            if time.monotonic() > end:
                print("  out of time")
                break
            found = slots_rate(shape, slots, device, peak)
            ratio = found["ours"] / peer
            print(
                f"  {found['slots']:2d} slots: ours {found['ours']:.0f}, peer {peer:.0f} tokens/s, ratio {ratio:.2f}x;"
                f" {found['tflops']:.3g} TFLOP/s, {100 * found['share']:.1f}% of matmul; {found['gib']:.2f} GiB;"
                f" scoring two labels {found['two_labels']:.0f}, four options {found['four_options']:.0f} rows/s",
                flush=True,
            )
            claim = f"training {shape.name}, {found['slots']} trials of {shape.batch} x {shape.length} tokens in slots"
            claims.append(
                {"claim": claim, **found, "peer": peer, "ratio": round(ratio, 2), "unit": "tokens/s"}
                | {"machine": machine, "through": through, "matmul_tflops": peak / 1e12}
                | {"versions": {n: version(n) for n in ("torch", "transformers", "peft")}}
            )
            if args.json:
                args.json.write_text(json.dumps(claims, indent=1) + "\n")


# training --------------------------------------------------------------------------------------------------------


def slots_rate(shape: Shape, slots: int, device: torch.device, peak: float) -> dict[str, Any]:
    """Tokens/s of ``slots`` trials together, then rows/s of scoring in the first of them."""
    clear(device)
    step, model = trainer(shape, slots, device)
    samples = [s for slot in range(slots) for s in batch_of(shape, slot)]
    seconds = seconds_per(lambda: step(samples), shape, device)
    tokens = sum(len(s.ids) for s in samples)
    layers = model.layers.values()
    weights = sum(x.base.weight.numel() for x in layers)
    adapter = sum(x.A[0].numel() + x.B[0].numel() for x in layers)
    supervised = sum(int(np.count_nonzero(s.weights)) for s in samples)
    rate = (tokens * (4 * weights + 6 * adapter) + supervised * 4 * shape.vocab * shape.hidden) / seconds
    gib = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    found = {"slots": slots, "ours": tokens / seconds, "tflops": rate / 1e12, "share": rate / peak, "gib": gib}
    model.eval()
    for name, options in (("two_labels", (1, 1)), ("four_options", (4, 4, 4, 4))):
        asked = questions(shape, options, 64 if shape is TINY else 512)

        def ask(asked: list[Request] = asked) -> None:
            option_logprobs(model, asked, [0] * len(asked), token_budget=shape.token_budget)

        found[name] = len(asked) / seconds_per(ask, replace(shape, least_seconds=shape.least_seconds / 3), device)
    return found


def trainer(shape: Shape, slots: int, device: torch.device) -> tuple[Callable[[list[Sample]], Any], SlotModel]:
    """One step of all trials: through the engine, or as the engine would do it where there is no deepspeed."""
    base = llama(shape, device)
    if importlib.util.find_spec("deepspeed"):
        from trainer.train.engine import Engine

        engine = Engine(base, Setup(slots, LORA.r, LORA.target_modules, token_budget=shape.token_budget))
        for slot in range(slots):
            engine.place(slot, LORA, PLAN, slot)
        return engine.tick, engine.slot_model
    model = SlotModel(base, slots, LORA.r, LORA.target_modules)
    optimizer = SlotAdamW([p for _, p in model.slot_parameters()])
    for slot in range(slots):
        model.place(slot, LORA, slot)
        optimizer.reset(slot, PLAN)
    optimizer.active = range(slots)
    model.eval()

    def step(samples: list[Sample]) -> None:
        optimizer.attach_grads()
        for group in micro_batches(samples, shape.token_budget):
            work = collate(group, 0)
            losses = token_losses(model(work.batch.to(device)), work.targets.to(device))
            weighted_loss(losses, work.weights.to(device), work.normalizers.to(device)).backward()
        optimizer.step()

    return step, model


def peft_rate(shape: Shape, device: torch.device) -> float:
    """Tokens/s of one trial with peft, fused AdamW and the loss of transformers; trials one after another have it."""
    import peft

    clear(device)
    config = peft.LoraConfig(r=LORA.r, lora_alpha=int(LORA.alpha), target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = peft.get_peft_model(llama(shape, device), config)
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=PLAN.lr, fused=True)
    samples = batch_of(shape, 0)
    ids = torch.from_numpy(np.stack([s.ids for s in samples]).astype(np.int64)).to(device)
    targets = torch.from_numpy(np.stack([s.weights for s in samples])).to(device) > 0

    def step() -> None:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids.where(targets, -100)).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, PLAN.clip)
        optimizer.step()
        optimizer.zero_grad()

    return ids.numel() / seconds_per(step, shape, device)


# what is fed to it ---------------------------------------------------------------------------------------------


def llama(shape: Shape, device: torch.device) -> Any:
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(shape.dtype)
    try:
        with device:
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def batch_of(shape: Shape, slot: int) -> list[Sample]:
    """One effective batch of random tokens; the last sixteenth of each sequence is the completion."""
    rng = np.random.default_rng(slot)
    kinds = np.full(shape.length, CONTENT, np.int8)
    kinds[-max(1, shape.length // 16) :] = COMPLETION
    weights = (kinds == COMPLETION).astype(np.float32)
    ids = rng.integers(3, shape.vocab, (shape.batch, shape.length)).astype(np.int32)
    return [Sample(slot, row, weights, kinds, float(weights.sum() * shape.batch)) for row in ids]


def questions(shape: Shape, options: tuple[int, ...], n: int) -> list[Request]:
    """Contexts of random tokens, with options of so many tokens each."""
    rng = np.random.default_rng(0)

    def draw(length: int) -> np.ndarray:
        return rng.integers(3, shape.vocab, length).astype(np.int32)

    words = tuple(draw(k) for k in options)
    return [Request(str(i), "p", "", draw(shape.length), words, tuple(4 * k for k in options)) for i in range(n)]


# measuring ---------------------------------------------------------------------------------------------------------


def seconds_per(run: Callable[[], Any], shape: Shape, device: torch.device) -> float:
    """Mean seconds of ``run`` after two warm-ups, over at least ``shape.least_seconds``."""
    run()
    run()
    synchronize(device)
    start, done = time.perf_counter(), 0
    while done < 2 or time.perf_counter() - start < shape.least_seconds:
        run()
        synchronize(device)
        done += 1
    return (time.perf_counter() - start) / done


def matmul_rate(dtype: torch.dtype, device: torch.device, sizes: tuple[int, ...]) -> float:
    best = 0.0
    for n in sizes:
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        F.linear(a, b)
        synchronize(device)
        start = time.perf_counter()
        for _ in range(20):
            F.linear(a, b)
        synchronize(device)
        best = max(best, 20 * 2 * n**3 / (time.perf_counter() - start))
    return best


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def clear(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
