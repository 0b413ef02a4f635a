"""A local model that writes wordings: a folder or hub name with safetensors weights.

Requests go through the model's chat template; a model without one gets the messages as plain text. It runs on the GPU
where there is one. Only one model is in memory at a time: ``generation`` closes each before it opens the next. torch
and transformers are imported with the first request, so a generation whose answers are all in the journal needs
neither.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.prompts.endpoints import ModelAnswer
from trainer.errors import UserError

TOP_P = 0.95
DTYPES = ("float32", "bfloat16")


class LocalModelError(UserError):
    """The model cannot be loaded or cannot answer; the message names it."""


class LocalModel:
    """``name``: the folder or hub name as the user gave it."""

    def __init__(
        self,
        name: str,
        max_tokens: int,
        temperature: float,
        dtype: str | None = None,
        trust_remote_code: bool = False,
        top_p: float = TOP_P,
    ):
        self.name, self.max_tokens, self.temperature, self.top_p = name, max_tokens, temperature, top_p
        self._dtype, self._trusted = dtype, trust_remote_code
        self._loaded: tuple[Any, Any] | None = None

    def fingerprint(self) -> str:
        """A digest of the weights in a folder; of a hub model the name. Raises UserError where there is no model."""
        from sweeps.study.overlay import StudyError
        from sweeps.trials.base_model import fingerprint_model

        if not os.path.isdir(self.name):
            if os.path.isabs(self.name) or self.name.startswith((".", "~")):
                raise LocalModelError(f'--model = "{self.name}" is no folder. Give a model\'s folder or a hub name')
            return self.name
        try:
            return fingerprint_model(self.name)
        except StudyError as error:
            raise LocalModelError(str(error).replace("model.path", "--model")) from None

    def write(self, messages: Sequence[Mapping[str, str]], seed: int) -> ModelAnswer:
        """The model's answer, the same for the same seed on the same hardware. Raises UserError."""
        import torch

        model, tokenizer = self._load()
        ids = self._encoded(tokenizer, messages)
        room = getattr(model.config, "max_position_embeddings", None) or len(ids) + self.max_tokens
        if room - len(ids) < min(64, self.max_tokens):
            raise LocalModelError(
                f'model "{self.name}" reads {room} tokens at most, and the request alone has {len(ids)}. Take a model '
                "with a longer context"
            )
        inputs = torch.tensor([ids], device=next(model.parameters()).device)
        options: dict[str, Any] = {"max_new_tokens": min(self.max_tokens, room - len(ids)), "do_sample": False}
        if self.temperature > 0:
            options |= {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        devices = [inputs.device] if inputs.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            out = model.generate(
                inputs, attention_mask=torch.ones_like(inputs), pad_token_id=tokenizer.pad_token_id, **options
            )
        new = out[0, len(ids) :].tolist()
        return ModelAnswer(
            tokenizer.decode(new, skip_special_tokens=True),
            len(ids),
            len(new),
            cut=len(new) >= options["max_new_tokens"],
        )

    def close(self) -> None:
        """Free the model's memory."""
        if self._loaded is None:
            return
        import gc

        import torch

        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch

            from trainer.data.tokenizer import load_tokenizer
            from trainer.model.base import load_base
            from trainer.model.device import pick_device
            from trainer.trial import Model

            device = pick_device()
            usual = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
            about = Model(self.name, "", dtype=self._dtype or usual, trust_remote_code=self._trusted)  # type: ignore[arg-type]
            try:
                tokenizer, model = load_tokenizer(about), load_base(about, device)
            except UserError as error:
                raise LocalModelError(str(error).replace("model.path", "--model")) from None
            except (
                OSError,
                ValueError,
                RuntimeError,
                ImportError,
            ) as error:  # errors of transformers, and too little memory
                said = " ".join(str(error).split())[:300]
                raise LocalModelError(
                    f'--model = "{self.name}": cannot be loaded ({type(error).__name__}: {said}). Give a folder with '
                    "config.json and *.safetensors, or the name of such a model on the hub"
                ) from None
            self._loaded = model, tokenizer
        return self._loaded

    def _encoded(self, tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
        if tokenizer.chat_template is None:
            text = "\n\n".join(m["content"] for m in messages) + "\n\n"
            return list(tokenizer(text)["input_ids"])
        try:
            found = self._templated(tokenizer, messages)
        except Exception:  # a template without a system role may raise any error
            merged = [{"role": "user", "content": "\n\n".join(m["content"] for m in messages)}]
            try:
                found = self._templated(tokenizer, merged)
            except Exception as error:
                said = " ".join(str(error).split())[:300]
                raise LocalModelError(f'model "{self.name}": its chat template fails ({said})') from None
        return found

    def _templated(self, tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
