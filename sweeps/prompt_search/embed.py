"""Texts as vectors: the mean last hidden state over a text's tokens.

By default of the base model itself, which is there anyway and is what reads the prompts; or of a sentence-embedding
model's folder that the user names (``paraphrase-MiniLM-L6-v2`` in BATprompt, ``all-MiniLM-L6-v2`` in ZOPO's option),
whose own pooling is that mean.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sweeps.prompt_search.label_engine import LabelEngine, quiet
from trainer.errors import UserError, nearest

BATCH = 32


class Embeddings:
    """``__call__`` gives float64 [n, d]; the same text is embedded once."""

    def __init__(self, load: Callable[[], tuple[Any, Any]], prepare: Callable[[], None] = lambda: None):
        """``load`` gives (tokenizer, model with ``last_hidden_state``); ``prepare`` comes before every batch."""
        self._load, self._prepare = load, prepare
        self._parts: tuple[Any, Any] | None = None
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        missing = [t for t in dict.fromkeys(texts) if t not in self._known]
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            self._known.update(zip(part, self._embed(part), strict=True))
        return np.stack([self._known[t] for t in texts])

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        if self._parts is None:
            self._parts = self._load()
        tokenizer, model = self._parts
        limit = int(getattr(model.config, "max_position_embeddings", 0) or 512)
        # Cut here: `truncation=True` would stay switched on in a tokenizer that the renderer shares.
        ids = [tokenizer(t or " ").input_ids[:limit] or [0] for t in texts]
        width = max(map(len, ids))
        padded, mask = np.zeros((len(ids), width), np.int64), np.zeros((len(ids), width), np.int64)
        for row, keep, own in zip(padded, mask, ids, strict=True):
            row[: len(own)], keep[: len(own)] = own, 1
        device = next(model.parameters()).device
        self._prepare()
        with torch.inference_mode():
            given = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask)}
            hidden = model(**{k: v.to(device) for k, v in given.items()}).last_hidden_state.double().cpu().numpy()
        weights = mask[:, :, None]
        found: np.ndarray = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        return found


def of_base(engine: LabelEngine) -> Embeddings:
    """Through the model that the engine scores with; its adapter slot is all zeros."""

    def load() -> tuple[Any, Any]:
        return engine.renderer().tokenizer, engine.slots().base.base_model

    def prepare() -> None:
        routing = engine.slots().routing  # what the last batch of scoring left: plain layers, all positions
        routing.slots = routing.rows = routing.cols = routing.most_in_row = None

    return Embeddings(load, prepare)


def of_folder(path: str) -> Embeddings:
    """Raises UserError, at once, where ``path`` is no folder of a model."""
    if not os.path.isfile(os.path.join(path, "config.json")):
        parent, name = os.path.split(os.path.abspath(path))
        beside = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
        why = "has no config.json" if os.path.isdir(path) else "is no folder"
        raise UserError(
            f'--embeddings = "{path}" {why}.{nearest(name, beside)}. Give a sentence-embedding model\'s folder'
        )

    def load() -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        quiet()
        try:
            model = AutoModel.from_pretrained(path, use_safetensors=True)
            return AutoTokenizer.from_pretrained(path), model.eval()
        except Exception as error:  # transformers raises many kinds
            detail = " ".join(str(error).split())[:300]
            raise UserError(f'--embeddings = "{path}" cannot be loaded ({type(error).__name__}: {detail})') from error

    return Embeddings(load)
