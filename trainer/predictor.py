"""An exported trial: rows in, answers out, through the same renderer and scorer as in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from trainer.data.render import Renderer, Request
from trainer.data.rows import Row
from trainer.data.texts import RenderError
from trainer.data.tokenizer import load_tokenizer
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.model.adapted_base import load_base_of, slot_model_of
from trainer.model.slots import SlotModel
from trainer.score.calibration import baseline_for
from trainer.score.decide import decision_values
from trainer.score.generation import generate_answers
from trainer.score.logprobs import label_logprobs, option_logprobs
from trainer.score.thoughts import with_thoughts
from trainer.trial import Trial

SHOWN = 5  # rows named in a message
_ANY_TOKEN = (np.zeros(1, dtype=np.int32),)


@dataclass(frozen=True)
class Prediction:
    """``index`` of the label or option; None where generated text gave none. ``probabilities`` [k]: softmax of what the
    decision rule compares; ``scores`` [k]: the labels' log-probabilities in nats; None with generated text."""

    index: int | None
    probabilities: np.ndarray | None = None
    text: str | None = None  # generated
    scores: np.ndarray | None = None


class Predictor:
    """``trial.model`` names the base and its tokenizer. ``adapter``: the adapter's tensors, in peft's names, or a model
    that answers with its weights already. Raises UserError where the base cannot be loaded or is not the adapter's."""

    def __init__(self, trial: Trial, adapter: Mapping[str, torch.Tensor] | SlotModel):
        self.trial = trial
        self.renderer = Renderer(load_tokenizer(trial.model), trial.template, trial.task)
        if isinstance(adapter, SlotModel):
            self.model = adapter
        else:
            self.model = slot_model_of(load_base_of(trial), trial, adapter)

    def predict(
        self, prompt: Prompt, rows: Sequence[Row], label_counts: Sequence[int] | None = None
    ) -> list[Prediction]:
        """One prediction per row. ``label_counts``, per label: the prior of the decision rule ``batch``, which
        subtracts the mean over ``rows``."""
        requests = self._requests(prompt, rows)
        if self.trial.scoring.scorer == "generate":
            return self._generated(requests, rows)
        scores, found = self._compared(prompt, rows, requests, label_counts)
        self._refuse_nan(rows, [bool(np.isfinite(x).all()) for x in found])
        return [_prediction(x, own) for x, own in zip(found, scores, strict=True)]

    def _requests(self, prompt: Prompt, rows: Sequence[Row]) -> list[Request]:
        pairs = [(prompt, row) for row in rows]
        try:
            return self.renderer.requests(pairs)
        except RenderError:
            limit = self.trial.task.max_length
            long = [(n, r.id) for n, r in zip(self.renderer.lengths(pairs), rows, strict=True) if n > limit]
            if not long:
                raise
            named = ", ".join(f'"{i}" ({n} tokens)' for n, i in long[:SHOWN])
            more = f" and {len(long) - SHOWN} more" if len(long) > SHOWN else ""
            raise UserError(
                f"rows: {named}{more}: longer than the {limit} tokens that the adapter was trained with. "
                "Shorten or leave out these rows, or cut a field in the prompt: --prompt '… {{ text[:500] }}'"
            ) from None

    def _compared(
        self, prompt: Prompt, rows: Sequence[Row], requests: Sequence[Request], prior: Sequence[int] | None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Of every row, the labels' log-probabilities, and what the decision rule makes of them."""
        rule = self.trial.scoring.decision
        extra = baseline_for(rule, self.renderer, [(prompt, row) for row in rows])
        asked = self._thought([*requests, *(extra.requests if extra else [])])
        requests = asked[: len(requests)]
        found = label_logprobs(self.model, asked, [0] * len(asked))
        own = found[: len(requests)]
        values = decision_values(
            rule,
            own,
            [np.array([len(o) for o in r.options]) for r in requests],
            [r.option_bytes for r in requests],
            baseline=extra.expand(found[len(requests) :]) if extra else None,
            prior=prior,
        )
        return own, values

    def _refuse_nan(self, rows: Sequence[Row], sound: Sequence[bool]) -> None:
        wrong = [row.id for row, fine in zip(rows, sound, strict=True) if not fine]
        if not wrong:
            return
        named = ", ".join(f'"{i}"' for i in wrong[:SHOWN])
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UserError(
            f"rows: {named}{more}: the model gives NaN or infinite log-probabilities, so no answer can be read. The "
            "adapter's weights are damaged, or too large for the base model's dtype: export another trial"
        )

    def _thought(self, requests: Sequence[Request]) -> Sequence[Request]:
        """The requests, each with the model's thought where the template lets it think."""
        if not self.renderer.thought_end:
            return requests
        limit = self.trial.scoring.max_thought_tokens
        return with_thoughts(self.model, requests, [0] * len(requests), self.renderer, limit)

    def _generated(self, requests: Sequence[Request], rows: Sequence[Row]) -> list[Prediction]:
        words = [self.renderer.texts.words(row) for row in rows]
        decode, stops = self.renderer.tokenizer.decode, self.renderer.stop_ids
        new = self.trial.scoring.max_new_tokens
        firsts = [replace(r, options=_ANY_TOKEN, option_bytes=(1,)) for r in requests]  # argmax hides NaN
        values = option_logprobs(self.model, firsts, [0] * len(rows), share=False)
        self._refuse_nan(rows, [bool(np.isfinite(x).all()) for x in values])
        made = generate_answers(self.model, self._thought(requests), [0] * len(rows), words, decode, stops, new)
        return [Prediction(a.index, None, a.text) for a in made]


def _prediction(values: np.ndarray, scores: np.ndarray) -> Prediction:
    p = np.exp(values - values.max())
    return Prediction(int(values.argmax()), p / p.sum(), scores=scores)
