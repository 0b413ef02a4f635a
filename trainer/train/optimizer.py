"""AdamW over stacked slots: each slot has its own learning rate, decay, clipping, moments and step count.

One trial under this optimizer takes exactly the steps it would take under torch.optim.AdamW with
torch.nn.utils.clip_grad_norm_: the formulas are theirs, applied along the slot dimension.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

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
    """Parameters are stacked [S, ...]; they and their gradients live in flat buffers [S, P], so that a step is a
    handful of operations however many layers and slots there are."""

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
        """One step for every slot that has a gradient to take (``active``); the others stay as they are."""
        active = [s for s in self.active if self.plans[s] is not None]
        if not active:
            return
        plans = [p for s in active if (p := self.plans[s]) is not None]
        index = torch.tensor(active, device=self.values.device)
        everyone = len(active) == self.n_slots
        take = (lambda t: t) if everyone else (lambda t: t.index_select(0, index))
        g, m, v, x = take(self.grads), take(self.m), take(self.v), take(self.values)
        steps = [self.steps[s] + 1 for s in active]
        rates = [learning_rate(plan, n - 1) for plan, n in zip(plans, steps, strict=True)]

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=g.dtype, device=g.device)[:, None]

        norm = torch.linalg.vector_norm(g, dim=1)
        limit = column([p.clip if p.clip > 0 else math.inf for p in plans])[:, 0]
        g = g * (limit / (norm + 1e-6)).clamp(max=1.0)[:, None]
        lr, b1, b2 = (
            column(rates),
            column([p.beta1 for p in plans]),
            column([p.beta2 for p in plans]),
        )
        x = x * (1 - lr * column([p.weight_decay for p in plans]))
        m = m + (g - m) * (1 - b1)
        v = v * b2 + g * g * (1 - b2)
        c1 = column([1 - p.beta1**n for n, p in zip(steps, plans, strict=True)])
        c2 = column([math.sqrt(1 - p.beta2**n) for n, p in zip(steps, plans, strict=True)])
        x = x - (lr / c1) * m / (v.sqrt() / c2 + column([p.eps for p in plans]))
        # Nothing was changed up to here, and no memory is needed from here on: a step that runs out of it is not taken.
        for s, n in zip(active, steps, strict=True):
            self.steps[s] = n
        self.norms[index] = norm
        for store, new in ((self.m, m), (self.v, v), (self.values, x)):
            if everyone:
                store.copy_(new)
            else:
                store.index_copy_(0, index, new)

    active: Sequence[int] = ()  # slots that take part in the coming step; the engine sets it
