"""Texts and prompts as vectors.

The vector of a text is the mean of a model's last hidden states over the text's tokens. The model is the base model,
which is loaded anyway, or a sentence-embedding model in a folder that the user names (``paraphrase-MiniLM-L6-v2`` in
BATprompt, ``all-MiniLM-L6-v2`` in ZOPO's option; both pool by this mean themselves). The vector of a prompt can also be
the base model's last hidden state where its answer would begin.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sweeps.prompt_search.label_engine import LabelEngine, hide_progress_bars
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.errors import UserError, nearest

BATCH = 32
Spend = Callable[[int, float], None]


class Embeddings:
    """Call it with texts for their vectors, float64 [n, d]. Each text is embedded once."""

    def __init__(
        self,
        load: Callable[[], tuple[Any, Any]],
        prepare: Callable[[], None] = lambda: None,
        spend: Spend = lambda tokens, seconds: None,
    ):
        """``load`` returns (tokenizer, model with ``last_hidden_state``); ``prepare`` is called before every batch,
        ``spend`` after it with the tokens that went through the model and the seconds that took."""
        self._load, self._prepare, self._spend = load, prepare, spend
        self._parts: tuple[Any, Any] | None = None
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        missing = [t for t in dict.fromkeys(texts) if t not in self._known]
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            self._known.update(zip(part, self._embed(part), strict=True))
        return np.stack([self._known[t] for t in texts])

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        if self._parts is None:
            self._parts = self._load()
        tokenizer, model = self._parts
        limit = int(getattr(model.config, "max_position_embeddings", 0) or 512)
        # Cut here: `truncation=True` would stay switched on in a tokenizer that the renderer shares.
        ids = [tokenizer(t or " ").input_ids[:limit] or [0] for t in texts]
        self._prepare()
        began = time.perf_counter()
        found = np.stack([states.mean(axis=0) for states in _states(model, ids)])
        self._spend(sum(map(len, ids)), time.perf_counter() - began)
        return found


def of_base(engine: LabelEngine, spend: Spend = lambda tokens, seconds: None) -> Embeddings:
    """Embeddings by the model that the engine scores with; its adapter slot is all zeros."""

    def load() -> tuple[Any, Any]:
        return engine.renderer().tokenizer, engine.slots().base.base_model

    return Embeddings(load, lambda: _plain(engine), spend)


def at_answer(engine: LabelEngine, prompts: Sequence[Prompt], row: Row) -> tuple[np.ndarray, int]:
    """For each prompt the base model's last hidden state where its answer on ``row`` would begin, float64 [n, d]; and
    the number of tokens that went through the model. Raises RenderError where a prompt and the row are too long."""
    contexts = [r.context.tolist() for r in engine.renderer().requests([(p, row) for p in prompts])]
    model = engine.slots().base.base_model
    _plain(engine)
    parts = [contexts[i : i + BATCH] for i in range(0, len(contexts), BATCH)]
    return np.stack([states[-1] for part in parts for states in _states(model, part)]), sum(map(len, contexts))


def _plain(engine: LabelEngine) -> None:
    routing = engine.slots().routing  # remove what the last batch of scoring set
    routing.slots = routing.rows = routing.cols = routing.most_in_row = None


def _states(model: Any, ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Last hidden states of each sequence, float64 [tokens, d], from one batch."""
    import torch

    width = max(map(len, ids))
    padded, mask = np.zeros((len(ids), width), np.int64), np.zeros((len(ids), width), np.int64)
    for row, keep, own in zip(padded, mask, ids, strict=True):
        row[: len(own)], keep[: len(own)] = own, 1
    device = next(model.parameters()).device
    given = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask)}
    with torch.inference_mode():
        hidden = model(**{k: v.to(device) for k, v in given.items()}).last_hidden_state.double().cpu().numpy()
    return [states[: len(own)] for states, own in zip(hidden, ids, strict=True)]


def of_folder(path: str, spend: Spend = lambda tokens, seconds: None) -> Embeddings:
    """Embeddings by the model in the folder ``path``. Raises UserError at once where there is no model."""
    if not os.path.isfile(os.path.join(path, "config.json")):
        parent, name = os.path.split(os.path.abspath(path))
        beside = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
        why = "has no config.json" if os.path.isdir(path) else "is no folder"
        raise UserError(
            f'--embeddings = "{path}" {why}.{nearest(name, beside)}. Give a sentence-embedding model\'s folder'
        )

    def load() -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        hide_progress_bars()
        try:
            model = AutoModel.from_pretrained(path, use_safetensors=True)
            return AutoTokenizer.from_pretrained(path), model.eval()
        except Exception as error:  # transformers raises many kinds
            detail = " ".join(str(error).split())[:300]
            raise UserError(f'--embeddings = "{path}" cannot be loaded ({type(error).__name__}: {detail})') from error

    return Embeddings(load, spend=spend)
