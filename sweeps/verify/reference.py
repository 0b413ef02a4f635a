"""What a server would answer under a set-up, computed here on the base model with the exported adapter."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sweeps.verify.setups import ServerSetup
from trainer.data.render import Renderer, Request
from trainer.data.rows import Row
from trainer.data.texts import RenderError
from trainer.data.wording import Prompt
from trainer.model.adapted_base import fill_slot
from trainer.predictor import Predictor
from trainer.score.generation import generate, parse
from trainer.score.steps import Step, answer_steps
from trainer.trial import Template


@dataclass(frozen=True)
class ReferenceAnswer:
    """``index``: the label or option that ``text`` gives, None where it gives none. ``question_tokens`` counts the
    question's tokens, ``ids`` int64 [n] are the answer's, the stop token included where one came, and ``steps`` [n] how
    probable which tokens were there."""

    text: str
    index: int | None
    question_tokens: int
    ids: np.ndarray
    steps: Sequence[Step]


class ReferenceModel:
    """``predictor`` holds the adapter ``tensors`` and is asked about ``rows`` under ``wording``. Without ``tensors``
    its weights have the adapter in them, and no set-up without the adapter can be tried."""

    def __init__(
        self, predictor: Predictor, tensors: Mapping[str, Any] | None, wording: Prompt, rows: Sequence[Row]
    ) -> None:
        self._predictor, self._tensors, self._wording, self._rows = predictor, tensors, wording, rows
        self._special = {i for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}

    @property
    def tokenizer(self) -> Any:
        return self._predictor.renderer.tokenizer

    @property
    def template(self) -> Template:
        """The exported one."""
        return self._predictor.trial.template

    def requests(self, setup: ServerSetup, at: Sequence[int]) -> list[Request] | None:
        """The questions of the rows at the positions ``at``; None where this set-up cannot be tried on one of them."""
        if not setup.adapter and self._tensors is None:
            return None
        renderer = self._predictor.renderer
        pairs = [(self._wording, self._rows[i]) for i in at]
        try:
            if setup.template != renderer.template or setup.chat_template is not None:
                tokenizer = copy.copy(self.tokenizer)
                if setup.chat_template is not None:
                    tokenizer.chat_template = setup.chat_template
                renderer = Renderer(tokenizer, setup.template, replace(renderer.task, max_length=_ENDLESS))
            found = renderer.requests(pairs)
        except RenderError:
            return None
        bos = self.tokenizer.bos_token_id
        if setup.bos < 0 and any(r.context[0] != bos or len(r.context) < 2 for r in found):
            return None
        return [replace(r, context=_with_bos(r.context, bos, setup.bos)) for r in found]

    def answers(self, setup: ServerSetup, at: Sequence[int], requests: Sequence[Request]) -> list[ReferenceAnswer]:
        """Greedy answers to ``requests``, which are those of the rows at the positions ``at``."""
        predictor = self._predictor
        trial, model, renderer = predictor.trial, predictor.model, predictor.renderer
        stops = renderer.stop_ids if setup.stops else ()
        if not setup.adapter:
            fill_slot(model, 0, trial, None)
        try:
            made = generate(model, requests, [0] * len(requests), stops, trial.scoring.max_new_tokens)
            steps = answer_steps(model, requests, made)
        finally:
            if not setup.adapter:
                fill_slot(model, 0, trial, self._tensors)
        found = []
        for i, request, ids, probable in zip(at, requests, made, steps, strict=True):
            text = self.text(ids)
            index = parse(text, renderer.texts.words(self._rows[i]))
            found.append(ReferenceAnswer(text, index, len(request.context), ids, probable))
        return found

    def index_of(self, text: str, at: int) -> int | None:
        """The label or option that a server's ``text`` gives for the row at ``at``."""
        return parse(text, self._predictor.renderer.texts.words(self._rows[at]))

    def text(self, ids: Sequence[int] | np.ndarray) -> str:
        """As a server writes it: without special tokens."""
        kept = [int(i) for i in ids if int(i) >= 0 and int(i) not in self._special]
        return str(self.tokenizer.decode(kept, skip_special_tokens=True))

    def lead(self, answer: ReferenceAnswer, text: str) -> float:
        """By how much the first token in which ``answer`` differs from ``text`` is more probable than the one that
        ``text`` has there, in nats: near 0 where rounding alone may decide. 0 where the texts are the same but for
        spaces around them."""
        text = text.strip()
        if text == answer.text.strip():
            return 0.0
        so_far = [self.text(answer.ids[:k]).lstrip() for k in range(len(answer.ids))]
        at = max(k for k, begun in enumerate(so_far) if text.startswith(begun))
        step, begun = answer.steps[at], so_far[at]
        mine = theirs = 0.0
        for token, p in zip(step.ids.tolist(), step.p.tolist(), strict=True):
            if token == answer.ids[at]:
                mine = p
            elif self._goes_on([*answer.ids[:at], token], begun, text):
                theirs = max(theirs, p)
        return math.log(mine / theirs) if theirs else math.inf

    def _goes_on(self, ids: Sequence[int], begun: str, text: str) -> bool:
        """Whether the last token of ``ids`` is one with which ``text`` goes on, or ends, after ``begun``."""
        longer = self.text(ids).lstrip()
        if text == begun:
            return int(ids[-1]) in self._special
        return longer != begun and text.startswith(longer)


def _with_bos(context: np.ndarray, bos: int, more: int) -> np.ndarray:
    """``context`` int32 [n] with ``more`` tokens ``bos`` before it, or fewer."""
    return np.concatenate([np.full(more, bos, dtype=context.dtype), context]) if more > 0 else context[-more:]


_ENDLESS = 1 << 30  # a wrong chat template may write more than the adapter was trained with
