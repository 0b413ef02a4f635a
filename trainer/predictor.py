"""Exported trials: rows in, answers out, through the same renderer and scorer as in training.

Adapters of one base model answer together: the base is in memory once, each adapter in a slot of it, and their requests
are scored in one pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from trainer.data.render import Renderer, Request
from trainer.data.rows import Row
from trainer.data.texts import RenderError
from trainer.data.tokenizer import load_tokenizer
from trainer.data.wording import Prompt
from trainer.errors import UserError, named
from trainer.model.adapted_base import Adapter, load_base_of, slot_model_of
from trainer.model.slots import SlotModel
from trainer.score.calibration import Baseline, baseline_for
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
    that answers with its weights already, in ``slot``. ``tokenizer``: that of the base, if it is loaded already. Raises
    UserError where the base cannot be loaded or is not the adapter's."""

    def __init__(
        self,
        trial: Trial,
        adapter: Mapping[str, torch.Tensor] | SlotModel,
        slot: int = 0,
        tokenizer: Any = None,
    ):
        self.trial, self.slot = trial, slot
        self.renderer = Renderer(tokenizer or load_tokenizer(trial.model), trial.template, trial.task)
        if isinstance(adapter, SlotModel):
            self.model = adapter
        else:
            self.model = slot_model_of(load_base_of(trial), [(trial, adapter)])

    def predict(
        self, prompt: Prompt, rows: Sequence[Row], label_counts: Sequence[int] | None = None
    ) -> list[Prediction]:
        """One prediction per row. ``label_counts``, per label: the prior of the decision rule ``batch``, which
        subtracts the mean over ``rows``."""
        return predict_together([RowsAsked(self, prompt, rows, label_counts)])[0]


def load_predictors(adapters: Sequence[Adapter]) -> list[Predictor]:
    """A predictor for each of ``adapters`` of one base model, which is in memory once: that of the first trial. Raises
    UserError where it cannot be loaded, or is not that of an adapter."""
    first = adapters[0][0]
    tokenizer = load_tokenizer(first.model)
    model = slot_model_of(load_base_of(first), adapters)
    return [Predictor(trial, model, slot, tokenizer) for slot, (trial, _) in enumerate(adapters)]


@dataclass(frozen=True)
class RowsAsked:
    """What one predictor is asked. ``label_counts`` as of ``Predictor.predict``; ``name`` begins the errors that are
    its own."""

    predictor: Predictor
    prompt: Prompt
    rows: Sequence[Row]
    label_counts: Sequence[int] | None = None
    name: str = ""


def predict_together(asked: Sequence[RowsAsked]) -> list[list[Prediction]]:
    """A prediction per row for each of ``asked``, whose predictors share one model: all that compare labels are scored
    in one pass, and those that generate with the same limits as well. Raises UserError where a row is too long for an
    adapter, or an adapter gives NaN."""
    found: list[list[Prediction]] = [[] for _ in asked]
    generated = [one.predictor.trial.scoring.scorer == "generate" for one in asked]
    for which, answer in ((True, _generated), (False, _compared)):
        members = [i for i, g in enumerate(generated) if g is which]
        for i, predictions in zip(members, answer([asked[i] for i in members]), strict=True):
            found[i] = predictions
    return found


def _requests(asked: RowsAsked) -> list[Request]:
    renderer, rows = asked.predictor.renderer, asked.rows
    pairs = [(asked.prompt, row) for row in rows]
    try:
        return renderer.requests(pairs)
    except RenderError:
        limit = asked.predictor.trial.task.max_length
        long = [(n, r.id) for n, r in zip(renderer.lengths(pairs), rows, strict=True) if n > limit]
        if not long:
            raise
        shown = ", ".join(f'"{i}" ({n} tokens)' for n, i in long[:SHOWN])
        more = f" and {len(long) - SHOWN} more" if len(long) > SHOWN else ""
        raise UserError(
            f"rows: {shown}{more}: longer than the {limit} tokens that the adapter was trained with. "
            "Shorten or leave out these rows, or cut a field in the prompt: --prompt '… {{ text[:500] }}'"
        ) from None


def _compared(asked: Sequence[RowsAsked]) -> list[list[Prediction]]:
    """By the labels' log-probabilities, with what each decision rule makes of them."""
    scored: list[Request] = []
    slots: list[int] = []
    parts: list[tuple[RowsAsked, int, int, Baseline | None]] = []
    for one in asked:
        with named(one.name):
            own = _requests(one)
            pairs = [(one.prompt, row) for row in one.rows]
            extra = baseline_for(one.predictor.trial.scoring.decision, one.predictor.renderer, pairs)
            mine = _thought(one.predictor, [*own, *(extra.requests if extra else [])])
        parts.append((one, len(scored), len(own), extra))
        scored += mine
        slots += [one.predictor.slot] * len(mine)
    values = label_logprobs(asked[0].predictor.model, scored, slots) if asked else []
    found = []
    for one, first, n, extra in parts:
        requests, logprobs = scored[first : first + n], values[first : first + n]
        compared = decision_values(
            one.predictor.trial.scoring.decision,
            logprobs,
            [np.array([len(o) for o in r.options]) for r in requests],
            [r.option_bytes for r in requests],
            baseline=extra.expand(values[first + n : first + n + len(extra.requests)]) if extra else None,
            prior=one.label_counts,
        )
        with named(one.name):
            _refuse_nan(one.rows, [bool(np.isfinite(x).all()) for x in compared])
        found.append([_prediction(x, y) for x, y in zip(compared, logprobs, strict=True)])
    return found


def _generated(asked: Sequence[RowsAsked]) -> list[list[Prediction]]:
    """By generated text."""
    each: list[Sequence[Request]] = []
    for one in asked:
        with named(one.name):
            each.append(_requests(one))
    _refuse_nan_logits(asked, each)
    groups: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for i, one in enumerate(asked):
        with named(one.name):
            each[i] = _thought(one.predictor, each[i])
        ends = one.predictor.renderer.stop_ids, one.predictor.trial.scoring.max_new_tokens
        groups.setdefault(ends, []).append(i)
    found: list[list[Prediction]] = [[] for _ in asked]
    for (stops, new), members in groups.items():
        first = asked[members[0]].predictor
        made = iter(
            generate_answers(
                first.model,
                [r for i in members for r in each[i]],
                [asked[i].predictor.slot for i in members for _ in each[i]],
                [asked[i].predictor.renderer.texts.words(row) for i in members for row in asked[i].rows],
                first.renderer.tokenizer.decode,
                stops,
                new,
            )
        )
        for i in members:
            found[i] = [Prediction(a.index, None, a.text) for a in itertools.islice(made, len(each[i]))]
    return found


def _refuse_nan_logits(asked: Sequence[RowsAsked], each: Sequence[Sequence[Request]]) -> None:
    """UserError where the model gives NaN after one of the requests: the argmax of decoding hides it."""
    firsts = [replace(r, options=_ANY_TOKEN, option_bytes=(1,)) for requests in each for r in requests]
    if not firsts:
        return
    slots = [one.predictor.slot for one, requests in zip(asked, each, strict=True) for _ in requests]
    values = iter(option_logprobs(asked[0].predictor.model, firsts, slots, share=False))
    for one in asked:
        with named(one.name):
            _refuse_nan(one.rows, [bool(np.isfinite(x).all()) for x in itertools.islice(values, len(one.rows))])


def _refuse_nan(rows: Sequence[Row], sound: Sequence[bool]) -> None:
    wrong = [row.id for row, fine in zip(rows, sound, strict=True) if not fine]
    if not wrong:
        return
    shown = ", ".join(f'"{i}"' for i in wrong[:SHOWN])
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    raise UserError(
        f"rows: {shown}{more}: the model gives NaN or infinite log-probabilities, so no answer can be read. The "
        "adapter's weights are damaged, or too large for the base model's dtype: export another trial"
    )


def _thought(predictor: Predictor, requests: Sequence[Request]) -> Sequence[Request]:
    """The requests, each with the model's thought where the template lets it think."""
    if not predictor.renderer.thought_end:
        return requests
    limit = predictor.trial.scoring.max_thought_tokens
    return with_thoughts(predictor.model, requests, [predictor.slot] * len(requests), predictor.renderer, limit)


def _prediction(values: np.ndarray, scores: np.ndarray) -> Prediction:
    p = np.exp(values - values.max())
    return Prediction(int(values.argmax()), p / p.sum(), scores=scores)
