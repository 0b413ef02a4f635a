"""Adapters in peft's format: ``adapter_config.json`` and ``adapter_model.safetensors``, loadable by peft alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from trainer import checksum
from trainer.store import Store
from trainer.trial import Trial

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def adapter_config(trial: Trial, layers: list[str]) -> dict[str, Any]:
    """peft's configuration of the trial's adapter; ``layers`` are the full names of the layers that carry it. It is
    written out here, and what is not named has peft's default: importing peft would take a host two seconds, as long
    as torch."""
    classifier = trial.model.head == "classifier"
    targets, alpha = trial.lora.target_modules, float(trial.lora.alpha)
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if classifier else "CAUSAL_LM",
        "base_model_name_or_path": trial.model.path,
        "revision": trial.model.revision,
        "inference_mode": True,
        "r": trial.lora.r,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,  # other readers want an int
        "lora_dropout": trial.lora.dropout,
        "use_rslora": trial.lora.rslora,
        "bias": "none",
        "target_modules": sorted({n.rsplit(".", 1)[-1] for n in layers} if "all-linear" in targets else targets),
        "modules_to_save": ["score"] if classifier else None,
    }


def adapter_text(trial: Trial, tensors: Iterable[str]) -> bytes:
    """``adapter_config.json`` of an adapter with tensors of these names."""
    marks = (".lora_A.weight", ".lora_B.weight")
    names = {n.removeprefix("base_model.model.").removesuffix(m) for n in tensors for m in marks if n.endswith(m)}
    return json.dumps(adapter_config(trial, sorted(names)), indent=2).encode()


def write_adapter(store: Store, trial: Trial, step: int, tensors: dict[str, Tensor]) -> None:
    """Store the adapter after ``step`` steps under ``adapters/<trial id>/``; ``tensors`` as ``SlotModel.adapter`` gives
    them."""
    from safetensors.torch import save

    meta = {"format": "pt", "trial_id": trial.id, "step": str(step), **checksum.METADATA}
    data, name = save({k: v.contiguous() for k, v in tensors.items()}, meta), f"adapters/{trial.id}/{ADAPTER_WEIGHTS}"
    store.write(name, checksum.fill(data, name))
    store.write(f"adapters/{trial.id}/adapter_config.json", adapter_text(trial, tensors))
