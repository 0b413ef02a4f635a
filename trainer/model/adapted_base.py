"""An exported adapter in a slot of its base model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from trainer.errors import BaseModelError, UserError
from trainer.model.architecture import check_architecture, load_config, quiet_transformers
from trainer.model.base import load_base
from trainer.model.device import pick_device
from trainer.model.quantized_linear import compute_exactly, loading_options
from trainer.model.slots import SlotModel
from trainer.trial import Trial


def load_base_of(trial: Trial, device: torch.device | None = None) -> Any:
    """The base model of an exported trial, on ``device`` (default: the accelerator). Raises ``UserError``."""
    try:
        check_architecture(trial.model)
        return load_base(trial.model, device or pick_device())
    except UserError as error:
        remedy = "Give the folder of the model that the adapter was trained on: --base DIR"
        raise UserError(f"{error}. {remedy}") from error


def load_base_for_peft(trial: Trial, device: torch.device | None = None) -> Any:
    """The base model as peft needs it: with a classification head where the trial has one. Raises ``UserError``, and
    for a classifier what transformers raises."""
    if trial.model.head == "lm":
        return load_base_of(trial, device)
    from transformers import AutoModelForSequenceClassification

    model, device = trial.model, device or pick_device()
    with quiet_transformers():
        options = loading_options(model, load_config(model), device)
        base = AutoModelForSequenceClassification.from_pretrained(
            model.path, revision=model.revision, dtype=getattr(torch, model.dtype), use_safetensors=True,
            trust_remote_code=model.trust_remote_code, num_labels=len(trial.task.labels), **options,
        )  # fmt: skip
    if options:
        compute_exactly(base, model)
        return base.eval()
    return base.to(device).eval()


def slot_model_of(base: Any, trial: Trial, tensors: Mapping[str, torch.Tensor]) -> SlotModel:
    """``base`` with the adapter ``tensors``, by peft's names, in its only slot. Raises ``UserError`` where the base is
    not the adapter's."""
    ranks = {n: len(t) if t.dim() else 0 for n, t in tensors.items() if ".lora_A." in n}
    other = next((n for n, r in ranks.items() if r != trial.lora.r), None)
    if other is not None or not trial.lora.r > 0:  # before room is made for that rank
        raise UserError(
            f"the adapter of trial {trial.id} is damaged: template.json says rank {trial.lora.r}, and "
            f"{other or 'no layer'} has {ranks.get(other or '', 0)}. Export the trial again"
        )
    model = room_for(base, trial)
    fill_slot(model, trial, tensors)
    return model


def room_for(base: Any, trial: Trial) -> SlotModel:
    """``base`` with one slot for an adapter like the trial's. Raises ``UserError`` where it lacks the layers."""
    labels = len(trial.task.labels) if trial.model.head == "classifier" else 0
    try:
        return SlotModel(base, 1, trial.lora.r, trial.lora.target_modules, labels).eval()
    except BaseModelError:
        raise
    except (ValueError, UserError) as error:
        raise _other_base(trial, f"{error}") from None


def fill_slot(model: SlotModel, trial: Trial, tensors: Mapping[str, torch.Tensor] | None) -> None:
    """Put the adapter ``tensors``, by peft's names, into the only slot; None: an adapter that changes nothing. Raises
    ``UserError`` where it does not fit."""
    width = getattr(model.base.config.get_text_config(), "hidden_size", "unknown")
    model.configure(0, trial.lora)
    expected = model.adapter(0, trial.lora)
    if tensors is None:
        tensors = {name: torch.zeros_like(value) for name, value in expected.items()}
    for name in sorted(expected.keys() | tensors.keys()):
        has, wants = tensors.get(name), expected.get(name)
        if has is None or wants is None:
            where = "the base has no such layer" if wants is None else "the adapter has nothing for this layer"
            raise _other_base(trial, f"{name}: {where}")
        if has.shape != wants.shape:
            shapes = f"{list(has.shape)} in the adapter, {list(wants.shape)} for a base of hidden size {width}"
            raise _other_base(trial, f"{name} is {shapes}")
    unsound = [n for n in sorted(tensors) if not torch.isfinite(tensors[n].float()).all()]
    if unsound:
        raise UserError(
            f"the adapter of trial {trial.id} holds NaN or infinite weights ({unsound[0]}), so it cannot answer. "
            "Export another trial"
        )
    with torch.no_grad():
        for name, stacked in model.slot_parameters():
            stacked[0].copy_(tensors[f"base_model.model.{name}.weight"])


def _other_base(trial: Trial, detail: str) -> UserError:
    return UserError(
        f'the adapter of trial {trial.id} does not fit the base model "{trial.model.path}": {detail}. '
        "Give the model it was trained on: --base DIR"
    )
