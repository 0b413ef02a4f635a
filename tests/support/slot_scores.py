"""Adapters in slots whose answers differ, and requests to score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tiny_llama import make_llama

from trainer.data.render import Request
from trainer.model.slots import SlotModel
from trainer.trial import Lora

LORAS = (
    Lora(r=4, alpha=8.0),
    Lora(r=2, alpha=16.0, target_modules=("q_proj", "down_proj")),
    Lora(r=4, alpha=4.0, rslora=True),
)


def slotted(base: Any, loras: Sequence[Lora] = LORAS, n_labels: int = 0) -> SlotModel:
    """Adapters whose B is not zero, so that every slot answers differently."""
    model = SlotModel(base, len(loras), max(lora.r for lora in loras), ["all-linear"], n_labels).eval()
    for slot, lora in enumerate(loras):
        model.place(slot, lora, seed=slot)
        wanted = lora.target_modules
        with torch.no_grad():
            for i, (name, layer) in enumerate(model.layers.items()):
                if "all-linear" in wanted or name.rsplit(".", 1)[-1] in wanted:
                    generator = torch.Generator().manual_seed(100 * slot + i)
                    layer.B[slot, :, : lora.r] = torch.randn(layer.B.shape[1], lora.r, generator=generator) * 0.1
    return model


def request(rng: np.random.Generator, context: Sequence[int], options: Sequence[Sequence[int]]) -> Request:
    arrays = tuple(np.array(o, dtype=np.int32) for o in options)
    return Request("r", "p", "0", np.array(context, dtype=np.int32), arrays, tuple(3 * len(o) for o in options))


def some_requests(kind: str, n: int = 24) -> list[Request]:
    """Contexts of 3 to 70 tokens; two in three begin with one of two heads of 20 and 33 tokens."""
    rng = np.random.default_rng(3)
    heads = [rng.integers(3, 256, size=20).tolist(), rng.integers(3, 256, size=33).tolist(), []]
    options = {
        "one token": [[7], [9], [200]],
        "several tokens": [[7, 8, 9], [11, 12]],
        "shared first tokens": [[7, 8], [7, 8, 9, 10], [7, 30], [7]],
        "very different lengths": [[5], rng.integers(3, 256, size=40).tolist(), [6, 7]],
    }[kind]
    return [
        request(rng, [1, *heads[i % 3], *rng.integers(3, 256, size=int(rng.integers(2, 37)))], options)
        for i in range(n)
    ]


def peft_alone(model: SlotModel, slot: int, lora: Lora) -> Any:
    """The slot's adapter on a fresh base, in peft's own layers."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    targets = "all-linear" if "all-linear" in lora.target_modules else list(lora.target_modules)
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=targets, use_rslora=lora.rslora)
    peft_model = get_peft_model(make_llama(), config)
    set_peft_model_state_dict(peft_model, model.adapter(slot, lora))
    return peft_model.eval()
