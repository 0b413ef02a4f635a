"""How probable other tokens were at each step of a generated answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.data.render import Request
from trainer.model.routing import Batch
from trainer.model.slots import SlotModel

MOST = 256  # tokens of each step that are kept


@dataclass(frozen=True)
class Step:
    """The most probable tokens of one step, most probable first: ``ids`` int64 [k] and ``p`` float64 [k]."""

    ids: np.ndarray
    p: np.ndarray


@torch.inference_mode()
def answer_steps(
    model: SlotModel, requests: Sequence[Request], answers: Sequence[np.ndarray], slot: int = 0
) -> list[list[Step]]:
    """For each request, a step for each token of its answer: ``answers[i]`` int64 [n_i] are the tokens that greedy
    decoding added to the context. ``model`` is in eval mode; one forward pass for each request."""
    device = next(model.parameters()).device
    found = []
    for request, answer in zip(requests, answers, strict=True):
        tokens = np.concatenate([request.context.astype(np.int64), answer[:-1]])
        ids = torch.from_numpy(tokens)[None].to(device)
        places = torch.arange(len(request.context) - 1, len(tokens), device=device)
        rows, positions = torch.zeros_like(places), torch.arange(ids.shape[1], device=device)[None]
        batch = Batch(ids, torch.ones_like(ids), positions, torch.full((1,), slot, device=device), rows, places)
        p, best = torch.softmax(model(batch).double(), dim=-1).topk(min(MOST, model.base.config.vocab_size))
        found.append([Step(i, q) for i, q in zip(best.cpu().numpy(), p.cpu().numpy(), strict=True)])
    return found
