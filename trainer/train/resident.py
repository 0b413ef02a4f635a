"""A trial in a slot: the examples of its next steps, and the log of its steps since the last rung."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainer.data.assets import Assets
from trainer.data.render import Example, Renderer, Request
from trainer.data.rows import Row
from trainer.data.texts import RenderError, answer_words
from trainer.data.typos import misspelt
from trainer.data.wording import Prompt
from trainer.train.adversary import CandidateWording, WorstWordings, candidates_of
from trainer.train.arms import PromptMemory, easiest_first
from trainer.train.batches import ExampleOrder, Pick, Sample, stable_hash
from trainer.train.loss import normalizer, token_weights
from trainer.train.row_subsets import row_stages
from trainer.train.step_log import StepLog
from trainer.trial import FORWARD, Trial

STEPS_AHEAD = 32  # steps rendered in one tokenizer call
CURVE_POINTS = 200  # points kept of a rung's training curve


@dataclass
class Resident:
    """``slot`` holds the trial's adapter, trained for ``step`` steps and to be trained to ``target``. ``renderer``
    is for scoring; training uses ``formats`` where the trial's arm has some."""

    trial: Trial
    assets: Assets
    renderer: Renderer
    slot: int
    step: int
    target: int
    log: list[StepLog] = field(default_factory=list)
    seconds: float = 0.0  # accelerator time of this trial since its last rung
    formats: Sequence[Renderer] = ()
    saved: int = 0  # step of its newest checkpoint; 0: none
    search_tokens: int = 0  # that the searches since the last rung have passed forward

    def __post_init__(self) -> None:
        t = self.trial
        self._rows, self._prompts = self.assets.rows["train"], self.assets.train_pools[t.pool]
        ranked = easiest_first(self._prompts) if t.arm.choice == "curriculum" else ()
        sizes, labels = (len(self._rows), len(self._prompts)), [row.label for row in self._rows]
        stages = row_stages(
            t.optimization.row_shares,
            t.optimization.batch_size * t.optimization.accumulation // t.arm.views,
            [row.id for row in self._rows],
            labels,
        )
        self._order = ExampleOrder(t.seed, *sizes, t.draw, t.optimization, t.arm, ranked, labels, stages)
        self.candidates: list[CandidateWording] = []
        self.memory = PromptMemory(t.arm, len(self._prompts))
        if t.arm.choice == "adversarial":
            self.candidates = candidates_of(t.arm, self._prompts, answer_words(t.template, t.task))
            self.memory = WorstWordings(t.arm, self.candidates)
        # a draw that depends on the last step's losses cannot be made earlier
        self._ahead = 1 if t.arm.choice == "importance" else STEPS_AHEAD
        self._ready: dict[int, list[Sample]] = {}
        self._searched = -1  # step before which the last search was made

    def samples(self) -> list[Sample]:
        """The effective batch of the next step."""
        if self.step not in self._ready:
            arm, steps = self.trial.arm, self.trial.optimization.steps
            ahead = min(self.step + self._ahead, steps)
            if self.candidates:  # what is drawn after the next search is not known yet
                ahead = min(ahead, (self.step // arm.search_every + 1) * arm.search_every)
            self._prepare(range(self.step, ahead))
        ready = self._ready.pop(self.step)
        if self.trial.arm.choice != "group_dro" or not self.memory.remembers:
            return ready
        factors = [np.float32(self.memory.weight(s.prompt)) for s in ready]
        return [dataclasses.replace(s, weights=s.weights * f) for s, f in zip(ready, factors, strict=True)]

    def to_search(self) -> dict[int, list[Request]]:
        """If a search for the worst wordings is due before the next step, the questions that it asks under each
        candidate. One under which a row is too long has none."""
        if not isinstance(self.memory, WorstWordings) or self.step % self.trial.arm.search_every:
            return {}
        if self._searched == self.step:
            return {}
        arm, draw = self.trial.arm, random.Random(stable_hash("search", self.trial.seed, self.step))
        # a search costs the same where there are few candidates
        each = arm.searched(1) // min(arm.search_candidates, len(self.candidates))
        rows = draw.sample(self._rows, min(len(self._rows), each))
        asked = {}
        for i in self.memory.to_score(draw):
            one = self.candidates[i]
            try:
                asked[i] = (self.formats or (self.renderer,))[one.format].requests([(one.prompt, row) for row in rows])
            except RenderError:
                asked[i] = []
        return asked

    def take_search(self, losses: Mapping[int, float], tokens: int, seconds: float) -> None:
        """``losses``: in nats per token of the right answer, under each candidate that was asked."""
        assert isinstance(self.memory, WorstWordings)
        self.memory.found(losses)
        self._searched = self.step
        self.search_tokens += tokens
        self.seconds += seconds

    def record(self, log: StepLog, seconds: float) -> None:
        if self.memory.remembers and self.memory.of_steps:
            self.memory.learn(log.by_prompt)
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

    def end_rung(self, score_seconds: float) -> dict[str, Any]:
        """The record of the steps since the last rung, which is stored beside the scores. Clears their log: the next
        rung's record begins after them."""
        points = self.log[:: max(1, len(self.log) // CURVE_POINTS)]
        tokens = sum(p.tokens for p in self.log) + round(FORWARD * self.search_tokens)

        def column(name: str) -> list[float | None]:
            values = (getattr(p, name) for p in points)
            return [float(v) if v is not None and math.isfinite(v) else None for v in values]

        curve = {name: column(name) for name in ("completion_loss", "prompt_loss", "lr", "grad_norm")}
        rate = tokens / self.seconds if self.seconds else 0.0
        record = {
            "trial": self.trial.to_json(),
            "rung": self.step,
            "seconds": self.seconds + score_seconds,
            "train_seconds": self.seconds,
            "score_seconds": score_seconds,
            "tokens": tokens,
            "curve": {"step": [p.step for p in points], **curve, "tokens_per_s": [rate] * len(points)},
        }
        self.log, self.seconds, self.search_tokens = [], 0.0, 0
        return record

    def _prepare(self, steps: range) -> None:
        t = self.trial
        picks = [(s, i, p) for s in steps for i, p in enumerate(self._order.batch(s, self.memory))]
        classes = t.model.head == "classifier"
        rendered = self._render_picks(picks, classes)
        size, arm = self._order.size, t.arm
        for k, s in enumerate(steps):
            part = slice(k * size, (k + 1) * size)
            kinds = [e.kinds[1:] for e in rendered[part] if isinstance(e, Example)]
            W = float(size) if classes else normalizer(kinds, t.loss)
            self._ready[s] = [
                dataclasses.replace(
                    self._sample(e, W, stable_hash("dropout", t.seed, s, i)),
                    prompt=pick.prompt if self.memory.remembers and self.memory.of_steps else -1,
                    family=pick.family if arm.consistency else -1,
                    consistency=arm.consistency / self._order.rows_per_step,
                )
                for e, (_, i, pick) in zip(rendered[part], picks[part], strict=True)
            ]

    def _sample(self, rendered: Example | Request, W: float, key: int) -> Sample:
        if isinstance(rendered, Request):  # a class is read off the end of the context
            one, kinds = np.ones(len(rendered.context), np.float32), np.zeros(len(rendered.context), np.int8)
            label = self.trial.task.labels.index(rendered.label)
            return Sample(self.slot, rendered.context, one, kinds, W, key, label)
        return Sample(self.slot, rendered.ids, token_weights(rendered.kinds, self.trial.loss), rendered.kinds, W, key)

    def _render_picks(self, picks: Sequence[tuple[int, int, Pick]], classes: bool) -> list[Example | Request]:
        """The example, or for a classification head the request, of each pick; one tokenizer call per format."""
        renderers = self.formats or (self.renderer,)
        found: dict[int, Example | Request] = {}
        for form, renderer in enumerate(renderers):
            own = [n for n, (_, _, pick) in enumerate(picks) if self._format(pick) == form]
            pairs = [(self._wording(*picks[n]), self._rows[picks[n][2].row]) for n in own]
            plain = [(self._prompts[picks[n][2].prompt], row) for n, (_, row) in zip(own, pairs, strict=True)]
            made = self._render_within_length(renderer, pairs, plain, classes)
            found.update(zip(own, made, strict=True))
        return [found[n] for n in range(len(picks))]

    def _render_within_length(
        self,
        renderer: Renderer,
        pairs: Sequence[tuple[Prompt, Row]],
        plain: Sequence[tuple[Prompt, Row]],
        classes: bool,
    ) -> Sequence[Example | Request]:
        """``pairs`` rendered. Typos can make a wording a token or two longer. Where that makes it too long, it is taken
        as it is in ``plain``, whose lengths were checked before the run."""
        render = renderer.requests if classes else renderer.examples
        try:
            return render(pairs)
        except RenderError:
            if pairs == plain:
                raise
        found: list[Example | Request] = []
        for pair, bare in zip(pairs, plain, strict=True):
            try:
                found += render([pair])
            except RenderError:
                found += render([bare])
        return found

    def _format(self, pick: Pick) -> int:
        return self.candidates[pick.candidate].format if pick.candidate >= 0 else pick.format

    def _wording(self, step: int, place: int, pick: Pick) -> Prompt:
        """The prompt, with this position's own typos where the arm makes some, or the candidate."""
        if pick.candidate >= 0:
            return self.candidates[pick.candidate].prompt
        prompt: Prompt = self._prompts[pick.prompt]
        share = 0.0 if self.candidates else self.trial.arm.typos
        return misspelt(prompt, share, stable_hash("typos", self.trial.seed, step, place)) if share else prompt
