"""How probable other tokens were at each step of a generated answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.data.render import Request
from trainer.model.routing import Batch
from trainer.model.slots import SlotModel
from trainer.score.generation import slot_batches
from trainer.score.logprobs import TOKEN_BUDGET

MOST = 256  # tokens of each step that are kept


@dataclass(frozen=True)
class Step:
    """The most probable tokens of one step, most probable first: ``ids`` int64 [k] and ``p`` float64 [k]."""

    ids: np.ndarray
    p: np.ndarray


def answer_steps(model: SlotModel, requests: Sequence[Request], answers: Sequence[np.ndarray]) -> list[list[Step]]:
    """For each request, a step for each token of its answer: ``answers[i]`` int64 [n_i], at least one, are the tokens
    that greedy decoding added to the context. ``model`` is in eval mode; slot 0 answers."""
    found: dict[int, list[Step]] = {}
    new = max(map(len, answers), default=0)
    for members in slot_batches(range(len(requests)), requests, [0] * len(requests), new, TOKEN_BUDGET):
        steps = _steps(model, [requests[i].context for i in members], [answers[i] for i in members])
        found.update(zip(members, steps, strict=True))
    return [found[i] for i in range(len(requests))]


@torch.inference_mode()
def _steps(model: SlotModel, contexts: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> list[list[Step]]:
    device = next(model.parameters()).device
    lines = [np.concatenate([c, a[:-1]]) for c, a in zip(contexts, answers, strict=True)]
    shape = (len(lines), max(map(len, lines)))
    ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, seen, line in zip(ids, mask, lines, strict=True):
        row[: len(line)], seen[: len(line)] = line, 1
    sizes = [len(a) for a in answers]
    rows = np.repeat(np.arange(len(lines)), sizes)
    places = np.concatenate([np.arange(len(c) - 1, len(c) - 1 + n) for c, n in zip(contexts, sizes, strict=True)])
    positions = np.broadcast_to(np.arange(shape[1]), shape).copy()
    slots = np.zeros(len(lines), dtype=np.int64)
    batch = Batch(*[torch.from_numpy(x) for x in (ids, mask, positions, slots, rows, places)])  # type: ignore[arg-type]
    p, best = torch.softmax(model(batch.to(device)).double(), dim=-1).topk(min(MOST, model.base.config.vocab_size))
    steps = iter([Step(i, q) for i, q in zip(best.cpu().numpy(), p.cpu().numpy(), strict=True)])
    return [[next(steps) for _ in range(n)] for n in sizes]
