"""A trial on its way: which examples its next step takes, and what its steps since the last rung did."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainer.assets import Assets
from trainer.batches import Order, Sample, stable_hash
from trainer.engine import StepLog
from trainer.loss import normalizer, token_weights
from trainer.render import Renderer
from trainer.trial import Trial

AHEAD = 32  # steps rendered in one tokenizer call
CURVE = 200  # points kept of a rung's training curve


@dataclass
class Resident:
    """``slot`` holds the trial's adapter, trained for ``step`` steps and wanted at ``target``."""

    trial: Trial
    assets: Assets
    renderer: Renderer
    slot: int
    step: int
    target: int
    log: list[StepLog] = field(default_factory=list)
    seconds: float = 0.0  # accelerator time of this trial since its last rung

    def __post_init__(self) -> None:
        t = self.trial
        self._rows, self._prompts = self.assets.rows["train"], self.assets.train_pools[t.pool]
        self._order = Order(t.seed, len(self._rows), len(self._prompts), t.draw, t.optimization)
        self._ready: dict[int, list[Sample]] = {}

    def samples(self) -> list[Sample]:
        """The effective batch of the next step."""
        if self.step not in self._ready:
            self._render(range(self.step, min(self.step + AHEAD, self.trial.optimization.steps)))
        return self._ready.pop(self.step)

    def record(self, log: StepLog, seconds: float) -> None:
        self.step = log.step
        self.log.append(log)
        self.seconds += seconds

    @property
    def broken(self) -> str:
        """Why this trial cannot go on; empty while its losses and gradients are finite."""
        if self.log and not (
            math.isfinite(self.log[-1].completion_loss) and math.isfinite(self.log[-1].grad_norm or 0.0)
        ):
            return f"loss or gradient became NaN between steps {self.step - 1} and {self.step}"
        return ""

    def summary(self, score_seconds: float) -> dict[str, Any]:
        """The rung's record, stored beside its scores; forgets the steps it covers."""
        points = self.log[:: max(1, len(self.log) // CURVE)]
        tokens = sum(p.tokens for p in self.log)

        def column(name: str) -> list[float | None]:
            values = (getattr(p, name) for p in points)
            return [float(v) if v is not None and math.isfinite(v) else None for v in values]

        curve = {name: column(name) for name in ("completion_loss", "prompt_loss", "lr", "grad_norm")}
        rate = tokens / self.seconds if self.seconds else 0.0
        found = {
            "trial": self.trial.to_json(),
            "rung": self.step,
            "seconds": self.seconds + score_seconds,
            "train_seconds": self.seconds,
            "score_seconds": score_seconds,
            "tokens": tokens,
            "curve": {"step": [p.step for p in points], **curve, "tokens_per_s": [rate] * len(points)},
        }
        self.log, self.seconds = [], 0.0
        return found

    def _render(self, steps: range) -> None:
        t = self.trial
        picks = [(s, pick) for s in steps for pick in self._order.batch(s)]
        pairs = [(self._prompts[p.prompt], self._rows[p.row]) for _, p in picks]
        size = self._order.size
        keys = [stable_hash("dropout", t.seed, s, i % size) for i, (s, _) in enumerate(picks)]
        if t.model.head == "classifier":
            for (s, _), request, key in zip(picks, self.renderer.requests(pairs), keys, strict=True):
                one = np.ones(len(request.context), np.float32)
                label = t.task.labels.index(request.label)
                kinds = np.zeros(len(request.context), np.int8)
                self._ready.setdefault(s, []).append(
                    Sample(self.slot, request.context, one, kinds, float(size), key, label)
                )
            return
        examples = self.renderer.examples(pairs)
        for k, s in enumerate(steps):
            batch = examples[k * size : (k + 1) * size]
            W = normalizer([e.kinds[1:] for e in batch], t.loss)
            self._ready[s] = [
                Sample(self.slot, e.ids, token_weights(e.kinds, t.loss), e.kinds, W, key)
                for e, key in zip(batch, keys[k * size : (k + 1) * size], strict=True)
            ]
