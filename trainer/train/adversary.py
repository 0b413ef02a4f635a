"""``adversarial``: an arm that looks for the wordings which are worst for the model as it stands, and trains on them
more. PAFT (arXiv 2502.12859) names adversarial training as future work; as of training on the worst of several
perturbations, see Wallace et al. 2019 (arXiv 1908.07125) for triggers and Jin et al. 2020 (arXiv 1907.11932) for
wordings.

Candidates are the pool's prompts, rule-based rewrites of them (``trainer.data.rewrites``), a version with typos where
the arm has typos, and all of these under every format of the arm. Every ``search_every`` steps, the first time before
the first step, the mean loss of the right answer on ``search_rows`` train rows is computed under ``search_candidates``
candidates: those that were the worst so far, and others drawn at random. Where there are fewer candidates, there are
more rows. The ``search_worst`` worst of them are then
drawn for a ``search_share`` of the examples, which is the bound, until the next search; other examples draw from the
pool as PAFT does.

A search passes ``search_candidates x search_rows`` sequences forward, each a third of the cost of one that is trained
on. So that the arm costs what others do, it makes fewer steps (``Arm.matched_steps``).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.rewrites import RuleWriter
from trainer.data.typos import misspelt
from trainer.data.wording import Prompt
from trainer.train.arms import PromptMemory
from trainer.trial import Arm


@dataclass(frozen=True)
class CandidateWording:
    prompt: Prompt
    format: int = 0  # its place in the arm's list


def candidates_of(arm: Arm, prompts: Sequence[Prompt], answers: Sequence[str] = ()) -> list[CandidateWording]:
    """The wordings among which the arm looks, the same for the same pool. ``answers``: the labels' words, which a
    rewrite keeps and may list."""
    writer, texts = RuleWriter(answers), {p.text: p for p in prompts}
    for prompt in prompts:
        rewrites = writer.paraphrase(prompt.text, arm.search_rewrites, 0) if arm.search_rewrites else []
        for i, text in enumerate(rewrites, 1):
            texts.setdefault(text, Prompt(f"{prompt.id}~{i}", text))
        if arm.typos:
            mistyped = misspelt(prompt, arm.typos, 0)
            texts.setdefault(mistyped.text, Prompt(f"{prompt.id}~typos", mistyped.text))
    return [CandidateWording(p, form) for p in texts.values() for form in range(max(1, len(arm.formats)))]


class WorstWordings(PromptMemory):
    """The worst candidates of the last search, with their losses in nats per token; NaN for all others."""

    of_steps = False  # it learns from searches, not from the steps' losses

    def __init__(self, arm: Arm, candidates: Sequence[CandidateWording]):
        super().__init__(arm, len(candidates))
        self.remembers = True

    def reset(self) -> None:
        self.values = np.full(self.n_prompts, math.nan)

    @property
    def worst(self) -> list[int]:
        """The worst first; equal ones in the candidates' order."""
        known = [i for i in range(self.n_prompts) if not math.isnan(self.values[i])]
        return sorted(known, key=lambda i: -self.values[i])

    def to_score(self, draw: random.Random) -> list[int]:
        """The candidates of the next search."""
        kept = self.worst
        others = [i for i in range(self.n_prompts) if i not in kept]
        return sorted([*kept, *draw.sample(others, min(len(others), max(0, self.arm.search_candidates - len(kept))))])

    def found(self, losses: Mapping[int, float]) -> None:
        """Take in the loss under each candidate that was scored; those whose loss is not finite count as not scored."""
        finite = [i for i in losses if math.isfinite(losses[i])]
        self.reset()
        for i in sorted(finite, key=lambda i: (-losses[i], i))[: self.arm.search_worst]:
            self.values[i] = losses[i]

    def draw(self, u: float, v: float) -> int | None:
        """The candidate for an example at ``u`` and ``v`` in [0, 1); None where it draws from the pool."""
        worst = self.worst
        return worst[int(v * len(worst))] if worst and u < self.arm.search_share else None
