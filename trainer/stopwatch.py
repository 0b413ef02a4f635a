"""What a trial's answers cost by itself: its adapter alone on the base model, requests in batches of one size.

In a sweep trials are trained and scored together, so a trial's share of that time says little about it. Here the
adapters of trials with equal ranks and layers go into one slot after the other, in rounds, so that a machine which
gets slower in the meantime slows all of them. Where the template lets the model think, its thought is part of the time
of either answer; its tokens are not among the new tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from trainer.data.render import Renderer
from trainer.data.rows import Row
from trainer.data.tokenizer import load_tokenizer
from trainer.data.wording import Prompt
from trainer.model.adapted_base import fill_slot, load_base_of, room_for
from trainer.model.slots import SlotModel
from trainer.score.generation import generate_answers
from trainer.score.logprobs import label_logprobs
from trainer.score.thoughts import with_thoughts
from trainer.trial import Trial

ONE_BATCH = 10**9  # tokens: a batch of requests is never divided
ROUNDS = 3
Clock = Callable[[], float]  # seconds


@dataclass
class AnswerTimes:
    """Sums over a trial's answers."""

    answers: int = 0
    label_seconds: float = 0.0
    generated: int = 0
    generate_seconds: float = 0.0
    new_tokens: int = 0
    unread: int = 0

    @property
    def label_ms(self) -> float | None:
        """Milliseconds of an answer by label scoring."""
        return 1000.0 * self.label_seconds / self.answers if self.answers else None

    @property
    def generate_ms(self) -> float | None:
        """Milliseconds of a generated answer; None with a classification head."""
        return 1000.0 * self.generate_seconds / self.generated if self.generated else None


@dataclass
class Stopwatch:
    """Times the answers of trials that share a base model, a rank and layers. ``tensors``: trial -> its adapter's, in
    peft's names; None leaves the base model as it is."""

    trials: Sequence[Trial]
    tensors: Mapping[str, Mapping[str, torch.Tensor] | None]
    batch: int
    max_new_tokens: int
    clock: Clock = time.perf_counter
    found: dict[str, AnswerTimes] = field(default_factory=dict)

    def run(self, prompts: Sequence[Prompt], rows: Sequence[Row], answers: int) -> dict[str, AnswerTimes]:
        """Each trial's times of ``answers`` answers, over the prompts and rows in turn. Raises UserError where the base
        cannot be loaded or is not the adapters'."""
        first = self.trials[0]
        model = room_for(load_base_of(first), [first])
        tokenizer = load_tokenizer(first.model)
        renderers = {t.id: Renderer(tokenizer, t.template, t.task) for t in self.trials}
        pairs = [(prompts[i % len(prompts)], rows[i % len(rows)]) for i in range(answers)]
        self.found = {t.id: AnswerTimes() for t in self.trials}
        for number in range(-1, ROUNDS):
            part = pairs[: self.batch] if number < 0 else pairs[number::ROUNDS]
            for trial in self.trials:
                fill_slot(model, 0, trial, self.tensors[trial.id])
                times = self._answers(model, trial, renderers[trial.id], part)
                if number >= 0:  # the round before warms up
                    self._add(trial, times)
        return self.found

    def _answers(
        self, model: SlotModel, trial: Trial, renderer: Renderer, pairs: Sequence[tuple[Prompt, Row]]
    ) -> AnswerTimes:
        times = AnswerTimes()
        for start in range(0, len(pairs), self.batch):
            part = pairs[start : start + self.batch]
            requests, slots = renderer.requests(part), [0] * len(part)
            began = self.clock()
            if renderer.thought_end:  # both ways of scoring answer behind the model's own thought
                requests = with_thoughts(
                    model, requests, slots, renderer, trial.scoring.max_thought_tokens, token_budget=ONE_BATCH
                )
            thinking = self.clock() - began
            began = self.clock()
            label_logprobs(model, requests, slots, token_budget=ONE_BATCH)
            times.label_seconds += thinking + self.clock() - began
            times.answers += len(part)
            if trial.model.head == "classifier":
                continue
            words = [renderer.texts.words(row) for _, row in part]
            began = self.clock()
            made = generate_answers(
                model, requests, slots, words, renderer.tokenizer.decode, renderer.stop_ids, self.max_new_tokens,
                ONE_BATCH,
            )  # fmt: skip
            times.generate_seconds += thinking + self.clock() - began
            times.generated += len(part)
            times.new_tokens += sum(a.new_tokens for a in made)
            times.unread += sum(a.index is None for a in made)
        return times

    def _add(self, trial: Trial, times: AnswerTimes) -> None:
        known = self.found[trial.id]
        for name, value in vars(times).items():
            setattr(known, name, getattr(known, name) + value)
