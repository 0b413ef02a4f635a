"""Adapters in peft's format: ``adapter_config.json`` and ``adapter_model.safetensors``, loadable by peft alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from trainer.files import checksum
from trainer.model.targets import matching_names
from trainer.store import Store
from trainer.trial import Lora, Trial

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_WEIGHTS = "adapter_model.safetensors"
TARGETS = "target_modules"  # key of the metadata of adapters and checkpoints: peft's, as JSON


def adapter_config(trial: Trial, targets: Sequence[str]) -> dict[str, Any]:
    """peft's configuration of the trial's adapter; ``targets`` as ``peft_targets`` gives them. It is written out here,
    and what is not named has peft's default: importing peft would take a host two seconds, as long as torch."""
    classifier = trial.model.head == "classifier"
    return {
        **lora_config(trial.lora, targets),
        "task_type": "SEQ_CLS" if classifier else "CAUSAL_LM",
        "base_model_name_or_path": trial.model.path,
        "revision": trial.model.revision,
        "modules_to_save": ["score"] if classifier else None,
    }


def lora_config(lora: Lora, targets: Sequence[str]) -> dict[str, Any]:
    """The part of the configuration that does not depend on the base model."""
    alpha = float(lora.alpha)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": lora.r,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,  # other readers want an int
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "bias": "none",
        "target_modules": sorted(targets),
    }


def peft_targets(lora: Lora, trained: Iterable[str], modules: Iterable[str]) -> list[str]:
    """``target_modules`` with which peft finds just the layers ``trained`` among the base's ``modules``: the targets of
    ``lora``, last names for all linear layers; whole names where these fit other layers too, such as those of a vision
    tower."""
    layers = set(trained)
    short = {n.rsplit(".", 1)[-1] for n in layers} if "all-linear" in lora.target_modules else set(lora.target_modules)
    return sorted(short if set(matching_names(modules, short)) == layers else layers)


def adapter_text(trial: Trial, targets: Sequence[str]) -> bytes:
    """``adapter_config.json``; ``targets`` as ``peft_targets`` gives them."""
    return json.dumps(adapter_config(trial, targets), indent=2).encode()


def write_adapter(store: Store, trial: Trial, step: int, tensors: dict[str, Tensor], targets: Sequence[str]) -> None:
    """Store the adapter after ``step`` steps under ``adapters/<trial id>/``; ``tensors`` as ``SlotModel.adapter`` gives
    them, ``targets`` as ``SlotModel.peft_targets`` does."""
    from safetensors.torch import save

    meta = {"format": "pt", "trial_id": trial.id, "step": str(step), TARGETS: json.dumps(targets), **checksum.METADATA}
    data, name = save({k: v.contiguous() for k, v in tensors.items()}, meta), f"adapters/{trial.id}/{ADAPTER_WEIGHTS}"
    store.write(name, checksum.fill(data, name))
    store.write(f"adapters/{trial.id}/adapter_config.json", adapter_text(trial, targets))
