"""An exported adapter on its base model: rows in, answers out, through the same renderer and scorer as in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.data.render import Renderer, Request
from trainer.data.rows import Row
from trainer.data.texts import RenderError
from trainer.data.tokenizer import load_tokenizer
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.model.base import load_base
from trainer.model.device import pick_device
from trainer.model.slots import SlotModel
from trainer.score.calibration import baseline_for
from trainer.score.decide import decision_values
from trainer.score.generation import generate_answers
from trainer.score.logprobs import label_logprobs
from trainer.trial import Trial

SHOWN = 5  # rows named in a message


@dataclass(frozen=True)
class Prediction:
    """``index`` of the label or option; None where generated text gave none, or the model gave NaN.
    ``probabilities`` [k]: softmax of what the decision rule compares; None with generated text and NaN."""

    index: int | None
    probabilities: np.ndarray | None = None
    text: str | None = None  # generated


class Predictor:
    """``trial.model`` names the base; ``tensors`` are the adapter's, in peft's names. Raises UserError where the base
    cannot be loaded or is not the adapter's."""

    def __init__(self, trial: Trial, tensors: Mapping[str, torch.Tensor]):
        self.trial = trial
        self.renderer = Renderer(load_tokenizer(trial.model), trial.template, trial.task)
        self.model = _slot_model(trial, tensors)

    def predict(
        self, prompt: Prompt, rows: Sequence[Row], label_counts: Sequence[int] | None = None
    ) -> list[Prediction]:
        """One prediction per row. ``label_counts``, per label: the prior of the decision rule ``batch``, which
        subtracts the mean over ``rows``."""
        requests = self._requests(prompt, rows)
        if self.trial.scoring.scorer == "generate":
            return self._generated(requests, rows)
        return [_prediction(x) for x in self._compared(prompt, rows, requests, label_counts)]

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
    ) -> list[np.ndarray]:
        rule = self.trial.scoring.decision
        extra = baseline_for(rule, self.renderer, [(prompt, row) for row in rows])
        asked = [*requests, *(extra.requests if extra else [])]
        found = label_logprobs(self.model, asked, [0] * len(asked))
        own = found[: len(requests)]
        return decision_values(
            rule,
            own,
            [np.array([len(o) for o in r.options]) for r in requests],
            [r.option_bytes for r in requests],
            baseline=extra.expand(found[len(requests) :]) if extra else None,
            prior=prior,
        )

    def _generated(self, requests: Sequence[Request], rows: Sequence[Row]) -> list[Prediction]:
        words = [self.renderer.texts.words(row) for row in rows]
        decode, stops = self.renderer.tokenizer.decode, self.renderer.stop_ids
        new = self.trial.scoring.max_new_tokens
        made = generate_answers(self.model, requests, [0] * len(rows), words, decode, stops, new)
        return [Prediction(a.index, None, a.text) for a in made]


def _prediction(values: np.ndarray) -> Prediction:
    if np.isnan(values).any():
        return Prediction(None)
    p = np.exp(values - values.max())
    return Prediction(int(values.argmax()), p / p.sum())


def _slot_model(trial: Trial, tensors: Mapping[str, torch.Tensor]) -> SlotModel:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    path = trial.model.path
    try:
        base = load_base(trial.model, pick_device())
    except Exception as error:  # transformers and safetensors raise many kinds
        detail = " ".join(str(error).split())[:300]
        raise UserError(
            f'base model "{path}" cannot be loaded ({type(error).__name__}: {detail}). '
            "Give the folder of the model that the adapter was trained on: --base DIR"
        ) from error
    width = getattr(base.config, "hidden_size", "unknown")
    labels = len(trial.task.labels) if trial.model.head == "classifier" else 0
    try:
        model = SlotModel(base, 1, trial.lora.r, trial.lora.target_modules, labels)
    except ValueError as error:
        raise _other_base(trial, f"{error}") from None
    model.configure(0, trial.lora)
    expected = model.adapter(0, trial.lora)
    for name in sorted(expected.keys() | tensors.keys()):
        has, wants = tensors.get(name), expected.get(name)
        if has is None or wants is None:
            where = "the base has no such layer" if wants is None else "the adapter has nothing for this layer"
            raise _other_base(trial, f"{name}: {where}")
        if has.shape != wants.shape:
            shapes = f"{list(has.shape)} in the adapter, {list(wants.shape)} for a base of hidden size {width}"
            raise _other_base(trial, f"{name} is {shapes}")
    with torch.no_grad():
        for name, stacked in model.slot_parameters():
            stacked[0].copy_(tensors[f"base_model.model.{name}.weight"])
    return model.eval()


def _other_base(trial: Trial, detail: str) -> UserError:
    return UserError(
        f'the adapter of trial {trial.id} does not fit the base model "{trial.model.path}": {detail}. '
        "Give the model it was trained on: --base DIR"
    )
