"""AdamW over stacked slots: each slot has its own learning rate, decay, clipping, moments and step count.

One trial under this optimizer takes the steps it would take under torch.optim.AdamW(fused=True) with
torch.nn.utils.clip_grad_norm_: each slot's row of the flat buffers goes through torch's own fused AdamW.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from trainer.trial import Optimization


def learning_rate(plan: Optimization, step: int) -> float:
    """Learning rate of optimizer step ``step`` (0-based): linear warm-up, then the schedule down to 0 at the end
    of ``plan.steps``, as transformers' ``get_*_schedule_with_warmup`` give it."""
    warm = round(plan.warmup * plan.steps)
    if step < warm:
        return plan.lr * (step / warm if warm else 1.0)
    return plan.lr * SCHEDULES[plan.schedule]((step - warm) / max(1, plan.steps - warm))


SCHEDULES: dict[str, Callable[[float], float]] = {  # share of the steps after warm-up -> factor of the rate
    "constant": lambda t: 1.0,
    "linear": lambda t: max(0.0, 1.0 - t),
    "cosine": lambda t: 0.5 * (1.0 + math.cos(math.pi * min(1.0, t))),
}


class SlotAdamW(torch.optim.Optimizer):
    """Parameters are stacked [S, ...]; they and their gradients live in flat buffers [S, P], so that a step is one
    operation a slot, in place, however many layers there are."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        super().__init__(list(parameters), {"lr": 0.0})
        self.parameters = list(parameters)
        self.n_slots = self.parameters[0].shape[0]
        sizes = [p[0].numel() for p in self.parameters]
        self.offsets = [0, *itertools.accumulate(sizes)]
        first = self.parameters[0]
        make = lambda: torch.zeros(self.n_slots, self.offsets[-1], dtype=first.dtype, device=first.device)  # noqa: E731
        self.values, self.grads, self.m, self.v = make(), make(), make(), make()
        for p, view in zip(self.parameters, self.views(self.values), strict=True):
            view.copy_(p.data)
            p.data = view
        self.steps = [0] * self.n_slots
        self.plans: list[Optimization | None] = [None] * self.n_slots
        self.norms = torch.zeros(self.n_slots, device=first.device)  # gradient norms of the last step, before clipping
        self.attach_grads()

    def views(self, flat: Tensor) -> list[Tensor]:
        """``flat`` [S, P] seen as the stacked parameters."""
        spans = itertools.pairwise(self.offsets)
        return [flat[:, a:b].view(p.shape) for p, (a, b) in zip(self.parameters, spans, strict=True)]

    def attach_grads(self) -> None:
        """Point every ``p.grad`` into the zeroed flat buffer (DeepSpeed sets ``p.grad`` to None after a step)."""
        self.grads.zero_()
        for p, view in zip(self.parameters, self.views(self.grads), strict=True):
            p.grad = view

    def reset(self, slot: int, plan: Optimization) -> None:
        """Fresh moments and step count for the trial that takes ``slot``."""
        self.m[slot].zero_()
        self.v[slot].zero_()
        self.steps[slot] = 0
        self.plans[slot] = plan

    def release(self, slot: int) -> None:
        self.plans[slot] = None
        self.values[slot].zero_()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step for every slot that has a gradient to take (``active``); the others stay as they are. Everything is
        done in place: a step needs no memory that it could run out of half way."""
        torch.linalg.vector_norm(self.grads, dim=1, out=self.norms)
        for slot in self.active:
            plan = self.plans[slot]
            if plan is None:
                continue
            if plan.clip > 0:
                self.grads[slot].mul_((plan.clip / (self.norms[slot] + 1e-6)).clamp(max=1.0))
            adamw(
                [self.values[slot]], [self.grads[slot]], [self.m[slot]], [self.v[slot]], [],
                [torch.tensor(float(self.steps[slot]), device=self.grads.device)],
                fused=True, amsgrad=False, maximize=False, lr=learning_rate(plan, self.steps[slot]),
                beta1=plan.beta1, beta2=plan.beta2, weight_decay=plan.weight_decay, eps=plan.eps,
            )  # fmt: skip
            self.steps[slot] += 1

    active: Sequence[int] = ()  # slots that take part in the coming step; the engine sets it
