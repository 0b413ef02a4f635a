"""What one optimizer step did: losses, rate, gradient norm and tokens of each trial, and its loss under each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.train.batches import Collated, Sample


@dataclass
class StepLog:
    """What one optimizer step of one trial did."""

    step: int
    completion_loss: float  # nats per completion token
    prompt_loss: float  # nats per weighted prompt token; NaN where no prompt token has weight
    lr: float
    grad_norm: float
    tokens: int  # tokens that went through the model
    by_prompt: Mapping[int, float] = field(default_factory=dict)  # completion loss, of samples with a prompt


class PromptSums:
    """Completion nats and tokens of a step by slot and prompt, on the device. Every worker has the same keys."""

    def __init__(self, samples: Sequence[Sample], device: torch.device):
        keys = dict.fromkeys((s.slot, s.prompt) for s in samples if s.prompt >= 0)
        self._places = {key: i for i, key in enumerate(keys)}
        self.sums = torch.zeros(len(keys), 2, dtype=torch.float64, device=device)

    def add(self, work: Collated, rows: Tensor, losses: Tensor) -> None:
        """``rows`` [N]: the sequence of each loss [N]."""
        if not self._places:
            return
        place = torch.tensor([self._places.get(key, -1) for key in work.prompts], device=losses.device)[rows]
        wanted = work.completion.to(losses.device) & (place >= 0)
        values = torch.stack([losses[wanted], torch.ones_like(losses[wanted])], dim=1)
        self.sums.index_add_(0, place[wanted], values)

    def mean_losses(self, slot: int) -> dict[int, float]:
        """Prompt -> nats per completion token in this step."""
        found = {p: self.sums[i].tolist() for (s, p), i in self._places.items() if s == slot}
        return {p: nats / n for p, (nats, n) in found.items() if n}
