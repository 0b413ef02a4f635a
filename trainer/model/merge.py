"""An adapter merged into its base model's weights by peft, and the folder that transformers alone then loads.

Weights are merged in float32 on the CPU and rounded once, as they are written. What says how the model is asked comes
from the base's own files as they are: tokenizer, chat template, generation config, and ``config.json`` but for what has
changed. transformers would write them anew, in words that readers of other versions may take for others.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.data.tokenizer import load_tokenizer
from trainer.errors import BaseModelError, UserError
from trainer.model.adapted_base import fill_slot, load_base_for_peft, room_for
from trainer.model.architecture import check_architecture, quiet_transformers, refuse_misfits
from trainer.model.base import load_base
from trainer.model.device import pick_device
from trainer.model.read_back import read_by_peft
from trainer.model.slots import SlotModel
from trainer.model.soundness import answered, output_gap, probe_rows
from trainer.model.weights import Dtype, TensorHead, dtype_on_disk, one_line
from trainer.trial import Trial

COPIED = (".json", ".model", ".txt", ".jinja", ".tiktoken")  # a base's files beside its weights and its code
FURTHER_TEMPLATES = "additional_chat_templates"  # transformers' folder


def merge(trial: Trial, folder: str, tensors: Mapping[str, Tensor]) -> Any:
    """transformers' model with the adapter of the local ``folder`` (its ``tensors``, by peft's names) in its weights,
    on the CPU. ``trial`` is on its base in float32, not quantised. Raises ``UserError`` where the model then gives
    something else for a few tokens than base and adapter."""
    where = f"trial {trial.id}: its adapter was not merged"
    base = load_base_for_peft(trial, torch.device("cpu"))
    rows = probe_rows(base)
    try:
        adapted = read_by_peft(base, folder, tensors)
        before = tuple(answered(adapted, row, hidden=False) for row in rows)
        model = adapted.merge_and_unload(safe_merge=True).eval()
        after = tuple(answered(model, row, hidden=False) for row in rows)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where}, as peft cannot ({type(error).__name__}: {one_line(error)}). Leave out --merge"
        ) from error
    gap = max(output_gap(a, b, torch.float32) for a, b in zip(after, before, strict=True))
    if gap > 1:
        raise UserError(
            f"{where}: the merged weights give other outputs than base and adapter ({gap:.3g} times what rounding may "
            "do). Leave out --merge"
        )
    return model


def write_merged(
    model: Any, trial: Trial, source: Path, heads: Mapping[str, TensorHead], to: Path, dtype: Dtype
) -> None:
    """Write ``model``, as ``merge`` gives it, into the folder ``to``. ``source`` is the base's folder, ``heads`` its
    tensors. Raises ``UserError`` where a weight is beyond what ``dtype`` holds."""
    mixed = dtype_on_disk(heads) != "float32"  # then what the base keeps in float32 stays so, such as a router's bias
    whole = {name for name, head in heads.items() if mixed and head.dtype in ("F32", "F64")}
    if model.can_generate():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig()  # transformers refuses to save some that it loads
    with quiet_transformers():
        model.save_pretrained(to, state_dict=_cast(model.state_dict(), getattr(torch, dtype), whole))
    (to / "generation_config.json").unlink(missing_ok=True)
    for file in to.glob("*.safetensors"):  # safetensors lets nobody else read them, such as a server
        file.chmod((to / "config.json").stat().st_mode)
    made = json.loads((to / "config.json").read_text())
    for file in source.iterdir():
        if file.is_file() and file.suffix in COPIED and not file.name.endswith(".index.json"):
            shutil.copyfile(file, to / file.name)
    if (source / FURTHER_TEMPLATES).is_dir():
        shutil.copytree(source / FURTHER_TEMPLATES, to / FURTHER_TEMPLATES)
    config = json.loads((source / "config.json").read_text())
    if config.get("model_type") != made.get("model_type"):  # of a model with towers the language model alone is written
        config = made
    config.pop("_name_or_path", None)
    for key in [k for k in ("torch_dtype", "dtype") if k in config] or ["torch_dtype"]:
        config[key] = dtype
    config["architectures"] = made["architectures"]
    if trial.model.head == "classifier":
        labels = dict(enumerate(trial.task.labels))
        config |= {"id2label": labels, "label2id": {name: i for i, name in labels.items()}}
        config["pad_token_id"] = load_tokenizer(trial.model).pad_token_id  # without it transformers takes single rows
    (to / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _cast(state: Mapping[str, Tensor], dtype: torch.dtype, whole: Iterable[str]) -> dict[str, Tensor]:
    """``state`` in ``dtype``, but for the names ``whole``. Tensors that share memory still do: transformers writes them
    once."""
    kept, made, found = set(whole), {}, {}
    for name, tensor in state.items():
        if name in kept or not tensor.is_floating_point():
            found[name] = tensor
            continue
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if place not in made:
            made[place] = tensor.to(dtype)
            if not torch.equal(torch.isfinite(made[place]), torch.isfinite(tensor)):
                raise UserError(
                    f'--dtype = "{str(dtype).removeprefix("torch.")}": {name} has weights beyond its largest number, '
                    f"{torch.finfo(dtype).max:g}. Give --dtype bfloat16 or float32"
                )
        found[name] = made[place]
    return found


def load_merged(trial: Trial, expected: Mapping[str, Tensor] | None = None) -> SlotModel:
    """The merged weights that ``trial.model.path`` holds, on the accelerator. Raises ``UserError``, also where they are
    not those ``expected``, in float32 and by transformers' names, rounded to the trial's dtype."""
    try:
        base = _load_classifier(trial) if trial.model.head == "classifier" else _load_lm(trial)
    except UserError as error:
        raise UserError(f"{error}. Export the trial again") from error
    if expected is not None:
        found, dtype = base.state_dict(), getattr(torch, trial.model.dtype)
        names = sorted(found.keys() | expected.keys())
        if wrong := [n for n in names if not _is_rounded(found.get(n), expected.get(n), dtype)]:
            raise UserError(
                f"trial {trial.id}: its adapter was not merged, as transformers reads other weights than were written, "
                f"such as {wrong[0]}. Leave out --merge"
            )
    return without_slots(base, trial)


def _is_rounded(found: Tensor | None, expected: Tensor | None, dtype: torch.dtype) -> bool:
    """Whether ``found`` is ``expected`` in its own dtype; or in ``dtype``, as what models hold in float32 is stored."""
    if found is None or expected is None or found.shape != expected.shape:
        return False
    found = found.cpu()
    return any(torch.equal(found, expected.to(kind).to(found.dtype)) for kind in (found.dtype, dtype))


def _load_lm(trial: Trial) -> Any:
    check_architecture(trial.model)
    return load_base(trial.model, pick_device())


def _load_classifier(trial: Trial) -> Any:
    from transformers import AutoModelForSequenceClassification

    model = trial.model
    try:
        with quiet_transformers():
            found: Any = AutoModelForSequenceClassification.from_pretrained(
                model.path, dtype=getattr(torch, model.dtype), use_safetensors=True, num_labels=len(trial.task.labels),
                output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise BaseModelError(f"{model.path}: its weights cannot be loaded ({one_line(error)})") from error
    base, report = found
    refuse_misfits(model, report)
    return base.to(pick_device()).eval()


def without_slots(base: Any, trial: Trial) -> SlotModel:
    """A model of merged weights as scoring takes it: its slot has no adapter, and a classifier's own head."""
    trial = replace(trial, lora=replace(trial.lora, target_modules=()))
    head = {} if trial.model.head == "lm" else {"base_model.model.score.weight": base.score.weight.detach().float()}
    model = room_for(base, [trial])
    fill_slot(model, 0, trial, head)
    return model
