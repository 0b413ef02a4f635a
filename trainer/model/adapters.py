"""Adapters in peft's format: ``adapter_config.json`` and ``adapter_model.safetensors``, loadable by peft alone."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from trainer.store import Store
from trainer.trial import Trial


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


def write_adapter(store: Store, trial: Trial, tensors: dict[str, Tensor]) -> None:
    """Store the adapter under ``adapters/<trial id>/``; ``tensors`` as ``SlotModel.adapter`` gives them."""
    from safetensors.torch import save

    marks = (".lora_A.weight", ".lora_B.weight")
    names = {n.removeprefix("base_model.model.").removesuffix(m) for n in tensors for m in marks if n.endswith(m)}
    text = json.dumps(adapter_config(trial, sorted(names)), indent=2)
    store.write(f"adapters/{trial.id}/adapter_model.safetensors", save({k: v.contiguous() for k, v in tensors.items()}))
    store.write(f"adapters/{trial.id}/adapter_config.json", text.encode())
