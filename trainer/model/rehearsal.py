"""A base model's kind, tried on its miniature before the real weights are read: a second of ``check``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.errors import BaseModelError, UserError
from trainer.model.adapters import lora_config
from trainer.model.miniature import miniature
from trainer.model.read_back import UnreadLayersError, peft_outputs, read_by_peft
from trainer.model.slots import SlotModel
from trainer.model.soundness import plain_outputs, slot_gap
from trainer.model.weights import one_line
from trainer.trial import Lora

TRIED = Lora(r=2, alpha=4.0)
# Kinds whose adapters peft is known to read back: the tests do it, and importing peft costs ``check`` two seconds.
READ_BACK = ("llama", "mistral", "qwen2", "qwen3")


def rehearse(config: Any, target_modules: Sequence[str]) -> None:
    """Raises ``UserError`` where a model with this config (transformers' own) reads later tokens, answers otherwise
    under our slots than in transformers, or where peft would not read its adapters back. A kind that cannot be made
    tiny is left to the hosts, which measure the real model."""
    try:
        base = miniature(config)
        plain_outputs(base)
    except BaseModelError as error:
        if error.__cause__ is None:
            raise
        return  # its own forward fails on the miniature, which says nothing of the model
    except Exception:  # whatever transformers raises for sizes that its authors did not think of
        return
    lora = Lora(TRIED.r, TRIED.alpha, target_modules=tuple(target_modules))
    try:
        model = SlotModel(base, 2, lora.r, target_modules).eval()
    except UserError:
        raise
    except Exception as error:
        raise BaseModelError(
            f"this {type(base).__name__} cannot carry adapters here ({type(error).__name__}: "
            f"{one_line(error)}). Name other layers in axes.lora.target_modules, or take another "
            "base model"
        ) from error
    if target_modules and base.config.model_type not in READ_BACK:
        _read_back(model, config, lora)


def _read_back(model: SlotModel, config: Any, lora: Lora) -> None:
    """Write an adapter as a trial would, let peft read it on a fresh miniature, and compare."""
    from safetensors.torch import save_file

    kind = type(model.base).__name__
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.layers.values():
            layer.A[0] = torch.randn(layer.A[0].shape, generator=generator) * 0.3
            layer.B[0] = torch.randn(layer.B[0].shape, generator=generator) * 0.1
    model.configure(0, lora)
    tensors = model.adapter(0, lora)
    with tempfile.TemporaryDirectory(prefix="steadytune-peft-") as folder:
        save_file({k: v.contiguous() for k, v in tensors.items()}, f"{folder}/adapter_model.safetensors")
        Path(folder, "adapter_config.json").write_text(json.dumps(lora_config(lora, model.peft_targets(lora))))
        try:
            theirs = read_by_peft(miniature(config), folder, tensors)
        except UnreadLayersError as error:
            layers = _layers(error.names)
            raise BaseModelError(
                f"peft would not read the adapters of {len(layers)} of the {len(model.layers)} layers of a {kind} "
                f"back as they were trained, such as {layers[0]}. {_remedy(model.layers, layers)}"
            ) from None
        except Exception as error:  # whatever peft and transformers raise
            raise BaseModelError(
                f"peft cannot put adapters on all these layers of a {kind} ({one_line(error)}). "
                f"{_remedy(model.layers, [])}"
            ) from error
    assert model.plain is not None
    gap = slot_gap(model, peft_outputs(theirs, model.plain.rows))
    if gap > 1:
        raise BaseModelError(
            f"peft gives other outputs than steadytune with the same adapter on a {kind} ({gap:.3g} times what "
            f"rounding may do). {_remedy(model.layers, [])}"
        )


def _layers(tensors: Iterable[str]) -> list[str]:
    names = (n.removeprefix("base_model.model.").split(".lora_")[0] for n in tensors)
    return list(dict.fromkeys(names))


def _remedy(layers: Iterable[str], unread: Sequence[str]) -> str:
    bad = {n.rsplit(".", 1)[-1] for n in unread}
    good = sorted({n.rsplit(".", 1)[-1] for n in layers} - bad)
    if unread and good:
        return f"Set axes.lora.target_modules=[{', '.join(good)}]"
    return "Name the attention's layers in axes.lora.target_modules, such as [q_proj, k_proj, v_proj, o_proj]"
