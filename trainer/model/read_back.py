"""An adapter as peft reads it, held against what was trained: key by key, and by what the model then answers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.model.quantized_linear import import_quietly
from trainer.model.soundness import PlainOutputs, answered


class UnreadLayersError(UserError):
    """peft leaves out tensors of an adapter, changes them, or adds some."""

    def __init__(self, names: list[str]):
        super().__init__(f"peft does not read {len(names)} tensors of the adapter as they are, such as {names[0]}")
        self.names = names


def read_by_peft(base: Any, folder: str, tensors: Mapping[str, Tensor]) -> Any:
    """``base`` with the adapter in ``folder`` (a ``PeftModel``; it changes ``base``). Raises ``UnreadLayersError``
    where what peft holds then is not ``tensors``, by peft's names, and what peft raises where it cannot read it."""
    import_quietly()
    from peft import PeftModel, get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that are missing, which are found below
        model: Any = PeftModel.from_pretrained(base, folder).eval()
    held = get_peft_model_state_dict(model)
    wrong = [n for n, t in tensors.items() if n not in held or not _equal(held[n], t)]
    wrong += sorted(held.keys() - tensors.keys())
    if wrong:
        raise UnreadLayersError(wrong)
    return model


def peft_outputs(peft_model: Any, rows: Sequence[Tensor]) -> PlainOutputs:
    """What ``peft_model`` gives for ``rows``, to be held against a ``SlotModel`` by ``slot_gap``."""
    return PlainOutputs(tuple(rows), tuple(answered(peft_model, row, hidden=False) for row in rows), hidden=False)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.detach().cpu().float(), b.detach().cpu().float())
