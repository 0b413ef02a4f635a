"""Exported adapters in the slots of their base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trainer.errors import BaseModelError, UserError
from trainer.model.architecture import check_architecture, load_config, quiet_transformers
from trainer.model.base import load_base
from trainer.model.device import pick_device
from trainer.model.quantized_linear import compute_exactly, loading_options
from trainer.model.slots import SlotModel
from trainer.model.targets import matching_layers
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


Adapter = tuple[Trial, Mapping[str, torch.Tensor]]  # with its tensors, by peft's names


def slot_model_of(base: Any, adapters: Sequence[Adapter]) -> SlotModel:
    """``base`` with ``adapters[i]`` in slot i. Raises ``UserError`` where the base is not that of one of them, or a
    rank is not the trial's."""
    for trial, tensors in adapters:
        ranks = {n: len(t) if t.dim() else 0 for n, t in tensors.items() if ".lora_A." in n}
        other = next((n for n, r in ranks.items() if r != trial.lora.r), None)
        if other is not None or not trial.lora.r > 0:  # before room is made for that rank
            raise UserError(
                f"the adapter of trial {trial.id} is damaged: template.json says rank {trial.lora.r}, and "
                f"{other or 'no layer'} has {ranks.get(other or '', 0)}. Export the trial again"
            )
    model = room_for(base, [trial for trial, _ in adapters])
    for slot, (trial, tensors) in enumerate(adapters):
        fill_slot(model, slot, trial, tensors)
    return model


def room_for(base: Any, trials: Sequence[Trial]) -> SlotModel:
    """``base`` with a slot for an adapter like that of each trial: as many ranks as the largest needs, in the layers
    that any of them names. All have the same head, classifiers as many labels. Raises ``UserError`` where the base
    lacks the layers."""
    first = trials[0]
    labels = len(first.task.labels) if first.model.head == "classifier" else 0
    try:
        for trial in trials:
            matching_layers(base, trial.lora.target_modules)
    except UserError as error:
        raise _other_base([trial], f"{error}") from None
    modules = dict.fromkeys(name for trial in trials for name in trial.lora.target_modules)
    try:
        return SlotModel(base, len(trials), max(t.lora.r for t in trials), modules, labels).eval()
    except BaseModelError:
        raise
    except (ValueError, UserError) as error:
        raise _other_base(trials, f"{error}") from None


def fill_slot(model: SlotModel, slot: int, trial: Trial, tensors: Mapping[str, torch.Tensor] | None) -> None:
    """Put the adapter ``tensors``, by peft's names, into ``slot``, in the place of all that was there; None: an adapter
    that changes nothing. Raises ``UserError`` where it does not fit."""
    width = getattr(model.base.config.get_text_config(), "hidden_size", "unknown")
    model.configure(slot, trial.lora)
    expected = model.adapter(slot, trial.lora)
    if tensors is None:
        tensors = {name: torch.zeros_like(value) for name, value in expected.items()}
    for name in sorted(expected.keys() | tensors.keys()):
        has, wants = tensors.get(name), expected.get(name)
        if has is None or wants is None:
            where = "the base has no such layer" if wants is None else "the adapter has nothing for this layer"
            raise _other_base([trial], f"{name}: {where}")
        if has.shape != wants.shape:
            shapes = f"{list(has.shape)} in the adapter, {list(wants.shape)} for a base of hidden size {width}"
            raise _other_base([trial], f"{name} is {shapes}")
    unsound = [n for n in sorted(tensors) if not torch.isfinite(tensors[n].float()).all()]
    if unsound:
        raise UserError(
            f"the adapter of trial {trial.id} holds NaN or infinite weights ({unsound[0]}), so it cannot answer. "
            "Export another trial"
        )
    with torch.no_grad():
        for name, stacked in model.slot_parameters():
            stacked[slot].zero_()
            own = tensors.get(f"base_model.model.{name}.weight")
            if own is not None:  # of a smaller rank than the slot's, or none in a layer that another adapter is in
                stacked[slot, : own.shape[0], : own.shape[1]].copy_(own)


def _other_base(trials: Sequence[Trial], detail: str) -> UserError:
    return UserError(
        f"the adapter of trial {' or '.join(t.id for t in trials)} does not fit the base model "
        f'"{trials[0].model.path}": {detail}. Give the model it was trained on: --base DIR'
    )
