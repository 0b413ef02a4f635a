"""Random batches, and steps of an engine on them."""

from __future__ import annotations

import numpy as np
import torch

from trainer.data.kinds import COMPLETION, CONTENT
from trainer.train.batches import Sample
from trainer.train.engine import Engine
from trainer.train.loss import normalizer, token_weights
from trainer.trial import Lora, Loss, Optimization


def make_batch(step: int, size: int, loss: Loss, slot: int = 0, seed: int = 0) -> list[Sample]:
    """``size`` random sequences of 8 to 24 tokens whose last 3 are the completion."""
    rng = np.random.default_rng([seed, step])
    parts = []
    for i in range(size):
        length = int(rng.integers(8, 25))
        kinds = np.full(length, CONTENT, np.int8)
        kinds[:4], kinds[-3:] = 0, COMPLETION
        parts.append((rng.integers(3, 256, length).astype(np.int32), kinds, int(rng.integers(2**31)) + i))
    W = normalizer([k[1:] for _, k, _ in parts], loss)
    return [Sample(slot, ids, token_weights(k, loss), k, W, key) for ids, k, key in parts]


def train(
    engine: Engine, slot: int, plan: Optimization, loss: Loss, start: int, stop: int, seed: int = 0
) -> list[float]:
    size = plan.batch_size * plan.accumulation
    return [engine.tick(make_batch(t, size, loss, slot, seed))[slot].completion_loss for t in range(start, stop)]


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], rel: float = 1e-5) -> None:
    """Every tensor agrees to ``rel`` in relative norm."""
    assert a.keys() == b.keys()
    for k in a:
        gap, size = float((a[k] - b[k]).norm()), float(b[k].norm())
        assert gap <= rel * size, f"{k}: {gap / size:.2e}"


LORA = Lora(r=4, alpha=8.0, target_modules=("q_proj", "v_proj", "down_proj"))
PLAN = Optimization(steps=12, lr=3e-3, batch_size=6, warmup=0.25, weight_decay=0.01, clip=0.5)
