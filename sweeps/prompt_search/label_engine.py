"""Label log-probabilities of the base model, before any fine-tuning: every prompt search compares prompts by these.

The base model runs with one slot whose adapter is all zeros, so prompts and rows go through the same renderer, prefill
sharing and label scorer as those of trials. It is loaded for the first pair that the journal lacks: a search that only
repeats what is in the journal needs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.errors import UserError, nearest
from trainer.trial import Model, Task, Template, digest

if TYPE_CHECKING:
    from sweeps.prompt_search.scorer import Pair
    from trainer.data.render import Renderer
    from trainer.model.slots import SlotModel

RULES = ("raw", "per_token", "per_byte", "pmi", "contextual", "batch")


class LabelEngine:
    """Raises UserError where the model cannot be loaded or has a classification head."""

    def __init__(self, model: Model, template: Template, task: Task, decision: str = "raw"):
        if decision not in RULES:
            raise UserError(f'scoring.decision = "{decision}" is not known.{nearest(decision, RULES)}')
        if model.head != "lm":
            raise UserError(
                f'model.head = "{model.head}": the base model has no trained head, so its answers under a prompt mean '
                "nothing. Search with model.head=lm, and give the found prompt to the study with the classifier"
            )
        self.model, self.template, self.task, self.decision = model, template, task, decision
        words = {"chat": template.chat, "system": template.system, "marker": template.marker, "words": template.words}
        self.context = digest(
            {
                "model": model.fingerprint,
                "dtype": model.dtype,
                **({} if model.quantization == "none" else {"quantization": model.quantization}),
                "template": words,
                "labels": task.labels,
                "rule": "raw" if decision == "batch" else decision,
            }
        )
        self._renderer: Renderer | None = None
        self._model: SlotModel | None = None

    def load(self) -> None:
        import trainer.score.logprobs  # noqa: F401  (torch, and what the scorer reads)

        self.renderer()
        self.slots()

    def __call__(self, pairs: Sequence[Pair]) -> list[tuple[tuple[float, ...], int]]:
        from trainer.score.calibration import baseline_for
        from trainer.score.decide import decision_values
        from trainer.score.logprobs import option_logprobs

        renderer = self.renderer()
        requests = renderer.requests(pairs)
        extra = baseline_for(self.decision, renderer, pairs)
        asked = [*requests, *(extra.requests if extra else [])]
        found = option_logprobs(self.slots(), asked, [0] * len(asked))
        values = decision_values(
            "raw" if self.decision == "batch" else self.decision,
            found[: len(requests)],
            [np.array([len(o) for o in r.options]) for r in requests],
            [r.option_bytes for r in requests],
            baseline=extra.expand(found[len(requests) :]) if extra else None,
        )
        tokens = [len(r.context) + sum(map(len, r.options)) for r in requests]
        return [(tuple(float(x) for x in v), t) for v, t in zip(values, tokens, strict=True)]

    def fits(self, pairs: Sequence[Pair]) -> list[bool]:
        """Whether each pair is within ``task.max_length``. Needs the tokenizer, not the model."""
        return [n <= self.task.max_length for n in self.renderer().lengths(pairs)] if pairs else []

    def renderer(self) -> Renderer:
        if self._renderer is None:
            from trainer.data.render import Renderer
            from trainer.data.tokenizer import load_tokenizer

            self._renderer = Renderer(load_tokenizer(self.model), self.template, self.task)
        return self._renderer

    def slots(self) -> SlotModel:
        """The model in evaluation mode, with one slot whose adapter is all zeros."""
        if self._model is None:
            from trainer.model.base import load_base
            from trainer.model.device import pick_device
            from trainer.model.slots import SlotModel

            hide_progress_bars()
            try:
                base: Any = load_base(self.model, pick_device())
            except Exception as error:  # transformers and safetensors raise many kinds
                detail = " ".join(str(error).split())[:300]
                raise UserError(
                    f'model.path = "{self.model.path}" cannot be loaded ({type(error).__name__}: {detail}). '
                    "Give a folder that save_pretrained wrote"
                ) from error
            self._model = SlotModel(base, 1, 1, ("all-linear",)).eval()
        return self._model


def hide_progress_bars() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
