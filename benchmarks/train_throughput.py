"""Training throughput: 8 trials in slots against the same 8 trials through peft and a standard loop.

    python benchmarks/train_throughput.py [--json FILE] [--quick]
    python benchmarks/train_throughput.py --model smollm2 [--dtype bfloat16] [--json FILE]

Ours steps the trials of a host together: (a) with ``cpus: 1``, the default, two hosts of one core with 4 slots each,
(b) with ``cpus: 2`` one host of 8 slots and two threads. The peers hold one trial at a time: peft,
torch's fused AdamW, right-padded batches, masked labels, the loss of transformers; (a) one trial after another on two
threads, (b) two processes at a time with one thread each. All start from the same tokens and the same initial adapters
and take the same number of steps; that they end at the same losses is checked. Everything is warmed up, loading is not
counted, and the contestants take turns several times (A B C D A B C D …): what is printed is the median.

With `--model smollm2` (or a folder) the rows are sentences of SST-2 in the model's chat template, from ../shared/data,
and two hosts stand against two processes only. The model's weights were 4-bit ones that were made dense
(benchmarks/smollm2.py).

Tokens/s are counted twice: supervised (completion) tokens, and all tokens that go through the model.

FLOPs that a step needs, per token: 4 N (2 N forward, 2 N for the gradient of the inputs; frozen weights need none of
their own) + 6 N_lora; per supervised token 4 V H for the output layer. N: weights of the linear layers, N_lora: those
of one adapter, V: vocabulary, H: width. Attention scores and padding count for nothing. The machine's peak is the
best matrix product of 1024, 1536 or 2048 squared in the model's dtype, measured beside on as many threads.
"""

# ruff: noqa: E402  (threads and offline mode are set before torch and transformers are imported)
from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Protocol

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin for each other ruin a busy machine's numbers
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import logging

import numpy as np
import torch
import transformers
from real_tasks import REVIEW_WORDINGS, sst2
from smollm2 import smollm2
from torch import Tensor

from trainer.data.kinds import COMPLETION
from trainer.data.pools import load_pool
from trainer.data.render import Example, Renderer
from trainer.data.rows import Row
from trainer.data.tokenizer import load_tokenizer
from trainer.data.wording import Prompt
from trainer.model.base import load_base
from trainer.setup import Setup
from trainer.train.batches import Sample
from trainer.train.engine import Engine
from trainer.train.loss import normalizer, token_weights
from trainer.train.optimizer import learning_rate
from trainer.trial import Lora, Loss, Model, Optimization, Task, Template

LORA = Lora(r=8, alpha=16.0)
EMBEDDED = ROOT / "sweeps" / "embedded"
Batches = list[list[Example]]  # by step
Adapter = dict[str, Any]  # arrays by peft's name


@dataclass(frozen=True)
class Size:
    """How much is run: ``steps`` of ``batch`` rows of each trial in each of at most ``rounds``, after ``warm`` of them;
    no round is started after ``seconds``."""

    trials: int = 8
    batch: int = 8  # a study's default
    steps: int = 4
    rounds: int = 9
    warm: int = 2
    seconds: float = 60.0


REAL = Size(steps=1, rounds=5, warm=1, seconds=300)
QUICK = Size(trials=2, steps=2, rounds=1, warm=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the claims here")
    parser.add_argument("--quick", action="store_true", help="two trials, two steps: does it run, not how fast")
    parser.add_argument("--model", help="smollm2, or a chat model's folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of both sides")
    args = parser.parse_args()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    threads = min(2, os.cpu_count() or 1)
    torch.set_num_threads(threads)
    embedded, larger = EMBEDDED / "model", ROOT.parent / "shared" / "models" / "tiny1m"
    cases = [(embedded, Size()), (embedded, Size(batch=4)), (embedded, Size(batch=16)), (larger, Size())]
    claims: list[dict[str, Any]] = []
    if args.model:
        cases = [(smollm2() if args.model == "smollm2" else Path(args.model), REAL)]
    for folder, size in [(embedded, QUICK)] if args.quick else cases:
        if folder.is_dir():
            claims += measure(folder, size, threads, args.dtype, chat=bool(args.model))
        else:
            print(f"{folder.name}: not beside this checkout, left out")
    if args.json:
        args.json.write_text(json.dumps(claims, indent=1) + "\n")


def measure(folder: Path, size: Size, threads: int, dtype: str = "float32", chat: bool = False) -> list[dict[str, Any]]:
    """``chat``: a real chat model, for which only two hosts and two processes contend."""
    name = "embedded" if folder.parent == EMBEDDED else folder.name
    model = Model(path=str(folder), fingerprint="", dtype=dtype)  # type: ignore[arg-type]
    data = examples(model, size, chat)
    plan = Optimization(steps=size.warm + size.rounds * size.steps, batch_size=size.batch, lr=1e-3)
    slots = Slots(model, plan, data, range(size.trials), threads)
    hosts = Pair(Slots, model, plan, data, range(size.trials))
    pair = Pair(Peft, model, plan, data, slots.initial)
    ours: dict[str, Contestant] = {"two hosts of one thread": hosts}
    peers: dict[str, Contestant] = {"two processes": pair}
    if not chat:
        alone = Peft(model, plan, data, slots.initial)
        ours["one host of two threads"], peers["one after another"] = slots, alone
    contestants: dict[str, Contestant] = {**ours, **peers}
    seconds: dict[str, list[float]] = {key: [] for key in contestants}
    peaks: list[float] = []
    began = time.perf_counter()
    for steps in (size.warm, *[size.steps] * size.rounds):
        if len(peaks) > 1 and time.perf_counter() - began > size.seconds:
            break
        for key, contestant in contestants.items():
            start = time.perf_counter()
            contestant.run(steps)
            seconds[key].append(time.perf_counter() - start)
        peaks.append(gemm_peak(getattr(torch, dtype)))
    expected = pair.close()
    for losses in (hosts.close(), *([] if chat else [slots.losses, alone.losses])):
        assert_same(losses, expected, dtype)
    timed = {key: values[1:] for key, values in seconds.items()}
    supervised, tokens = counts(data, replace(size, rounds=len(peaks) - 1))
    shape = f"{len(data)} trials, batches of {size.batch} x {tokens / size.steps / len(data) / size.batch:.0f} tokens"
    print(
        f"{name}, {dtype} ({slots.weights / 1e6:.2f} M weights in linear layers), {shape}, median of {len(peaks) - 1}"
    )
    rates = {key: (supervised / median(values), tokens / median(values)) for key, values in timed.items()}
    for key, (useful, all_tokens) in rates.items():
        print(f"  {key}: {useful:.0f} supervised tokens/s, {all_tokens:.0f} of all tokens")
    claims = []
    for mine, peer in itertools.product(ours, peers):
        share = slots.flops(supervised, tokens) / median(timed[mine]) / max(peaks)
        ratio = rates[mine][0] / rates[peer][0]
        print(f"  ours, {mine}, against {peer}: ratio {ratio:.2f}x; {100 * share:.0f}% of the matmul peak")
        claims.append(
            {
                "claim": f"training {shape}, {name}, {dtype}, {mine} against peft {peer}",
                "ours": round(rates[mine][0], 1),
                "peer": round(rates[peer][0], 1),
                "ratio": round(ratio, 2),
                "unit": "supervised tokens/s",
                "all_tokens_per_s": {"ours": round(rates[mine][1]), "peer": round(rates[peer][1])},
                "share_of_matmul_peak": round(share, 3),
                "matmul_peak_gflops": round(max(peaks) / 1e9),
                "machine": f"{platform.processor() or platform.machine()}, {threads} of {os.cpu_count()} cores",
                "versions": {n: version(n) for n in ("torch", "transformers", "peft", "deepspeed")}
                | {"python": platform.python_version()},
            }
        )
    return claims


def assert_same(losses: list[list[float]], expected: list[list[float]], dtype: str) -> None:
    """In float32 every loss; in bfloat16, where rounding makes trials drift apart, the mean."""
    found, wanted = np.array(losses), np.array(expected)
    gap = np.abs(found - wanted)
    print(f"  difference of a trial's loss at a step: mean {gap.mean():.2g}, largest {gap.max():.2g}")
    if dtype == "float32":
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=5e-4)
    else:
        np.testing.assert_allclose(found.mean(), wanted.mean(), rtol=0.05)


class Contestant(Protocol):
    def run(self, steps: int) -> None: ...


# data ------------------------------------------------------------------------------------------------------------


def examples(model: Model, size: Size, chat: bool = False) -> list[Batches]:
    """Per trial and step ``size.batch`` examples of the embedded task, or with ``chat`` of SST-2. Rows and prompts are
    drawn with the trial's seed."""
    if chat:
        prompts, rows = [Prompt(f"p{i}", text) for i, text in enumerate(REVIEW_WORDINGS)], sst2()
        template = Template("chat", chat=True)
    else:
        prompts = load_pool(str(EMBEDDED / "data" / "pools" / "train.yaml"))
        lines = map(json.loads, (EMBEDDED / "data" / "train.jsonl").read_text().splitlines())
        rows = [Row(x["id"], {"text": x["text"]}, "yes" if x["label"] else "no") for x in lines]
        template = Template("plain", words=(("no", " no"), ("yes", " yes")))
    renderer = Renderer(load_tokenizer(model), template, Task(labels=("no", "yes"), max_length=256))
    steps = size.warm + size.rounds * size.steps
    found = []
    for trial in range(size.trials):
        rng = np.random.default_rng(trial)
        picks = rng.integers(0, [len(prompts), len(rows)], size=(steps * size.batch, 2))
        flat = renderer.examples([(prompts[p], rows[r]) for p, r in picks])
        found.append([flat[i : i + size.batch] for i in range(0, len(flat), size.batch)])
    return found


def counts(data: Sequence[Batches], size: Size) -> tuple[float, float]:
    """Supervised and all tokens of one round, the mean over the rounds."""
    timed = [
        e for batches in data for batch in batches[size.warm : size.warm + size.rounds * size.steps] for e in batch
    ]
    supervised = sum(int((e.kinds[1:] == COMPLETION).sum()) for e in timed)
    return supervised / size.rounds, sum(len(e.ids) for e in timed) / size.rounds


# ours --------------------------------------------------------------------------------------------------------------


class Slots:
    """All trials in the slots of one engine; ``seeds`` are those of their adapters."""

    def __init__(
        self, model: Model, plan: Optimization, data: Sequence[Batches], seeds: Sequence[int], threads: int = 1
    ):
        self.data, self.at = data, 0
        setup = Setup(slots=len(data), max_r=LORA.r, target_modules=LORA.target_modules, threads=threads)
        self.engine = Engine(load_base(model, torch.device("cpu")), setup)
        for slot in range(len(data)):
            self.engine.place(slot, LORA, plan, seed=seeds[slot])
        adapters = (self.engine.slot_model.adapter(slot, LORA) for slot in range(len(data)))
        self.initial = [{name: value.numpy() for name, value in adapter.items()} for adapter in adapters]
        self.losses: list[list[float]] = [[] for _ in data]
        layers = self.engine.slot_model.layers.values()
        self.weights = sum(layer.base.weight.numel() for layer in layers)
        self.adapter = sum(layer.A[0].numel() + layer.B[0].numel() for layer in layers)
        self.output = self.engine.slot_model.base.get_input_embeddings().weight.numel()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            logs = self.engine.tick(
                [s for slot, batches in enumerate(self.data) for s in samples(slot, batches[self.at])]
            )
            self.at += 1
            for slot, log in logs.items():
                self.losses[slot].append(log.completion_loss)

    def flops(self, supervised: float, tokens: float) -> float:
        return tokens * (4 * self.weights + 6 * self.adapter) + supervised * 4 * self.output


def samples(slot: int, batch: Sequence[Example]) -> list[Sample]:
    loss = Loss()
    total = normalizer([e.kinds[1:] for e in batch], loss)
    return [Sample(slot, e.ids, token_weights(e.kinds, loss), e.kinds, total) for e in batch]


# the peers ---------------------------------------------------------------------------------------------------------


class PeftTrial:
    """One trial as peft's users write it."""

    def __init__(self, model: Model, plan: Optimization, batches: Batches, initial: Adapter):
        import peft

        config = peft.LoraConfig(
            r=LORA.r, lora_alpha=int(LORA.alpha), target_modules="all-linear", task_type="CAUSAL_LM"
        )
        self.model = peft.get_peft_model(load_base(model, torch.device("cpu")), config)
        peft.set_peft_model_state_dict(self.model, {name: torch.from_numpy(value) for name, value in initial.items()})
        self.model.train()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=plan.lr, weight_decay=plan.weight_decay, fused=True)
        self.plan, self.batches, self.at = plan, batches, 0
        self.losses: list[float] = []

    def run(self, steps: int) -> None:
        for _ in range(steps):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.plan, self.at)
            loss = self.model(**padded(self.batches[self.at])).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.losses.append(loss.item())
            self.at += 1


def padded(batch: Sequence[Example]) -> dict[str, Tensor]:
    """Right-padded ids, mask, and labels that are -100 outside the completion."""
    longest = max(len(e.ids) for e in batch)
    ids, mask = np.zeros((len(batch), longest), np.int64), np.zeros((len(batch), longest), np.int64)
    labels = np.full((len(batch), longest), -100, np.int64)
    for i, e in enumerate(batch):
        ids[i, : len(e.ids)], mask[i, : len(e.ids)] = e.ids, 1
        labels[i, : len(e.ids)] = np.where(e.kinds == COMPLETION, e.ids, -100)
    arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class Peft:
    """One trial after another."""

    def __init__(self, model: Model, plan: Optimization, data: Sequence[Batches], initial: Sequence[Adapter]):
        self.trials = [PeftTrial(model, plan, batches, x) for batches, x in zip(data, initial, strict=True)]

    def run(self, steps: int) -> None:
        for trial in self.trials:
            trial.run(steps)

    @property
    def losses(self) -> list[list[float]]:
        return [t.losses for t in self.trials]


Kind = type[Slots] | type[Peft]


# two processes of one thread -----------------------------------------------------------------------------------------


class Pair:
    """Every one runs half of the trials; ``starts``: seeds, or initial adapters."""

    def __init__(
        self,
        kind: Kind,
        model: Model,
        plan: Optimization,
        data: Sequence[Batches],
        starts: Sequence[Any],
    ):
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for half in range(2):
            here, there = context.Pipe()
            job = (there, kind, model, plan, data[half::2], starts[half::2])
            process = context.Process(target=serve, args=job, daemon=True)
            process.start()
            self.pipes.append(here)
            self.processes.append(process)
        for pipe in self.pipes:
            pipe.recv()

    def run(self, steps: int) -> None:
        for pipe in self.pipes:
            pipe.send(steps)
        for pipe in self.pipes:
            pipe.recv()

    def close(self) -> list[list[float]]:
        """End both; their trials' losses."""
        for pipe in self.pipes:
            pipe.send(0)
        halves = [pipe.recv() for pipe in self.pipes]
        for process in self.processes:
            process.join()
        return [losses for both in zip(*halves, strict=True) for losses in both]


def serve(
    pipe: Any,
    kind: Kind,
    model: Model,
    plan: Optimization,
    data: Sequence[Batches],
    starts: Sequence[Any],
) -> None:
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    half = kind(model, plan, data, starts)
    pipe.send(None)
    while steps := pipe.recv():
        half.run(steps)
        pipe.send(None)
    pipe.send(half.losses)


def gemm_peak(dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of the best matrix product of a few."""
    best = 0.0
    for n in (1024, 1536, 2048):
        a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
        for _ in range(3):
            start = time.perf_counter()
            a @ b
            best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


if __name__ == "__main__":
    main()
