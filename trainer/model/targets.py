"""Which layers of a model carry adapters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import nn

# Parts that need a picture, sound or an encoder's output; in models of these kinds text alone never gets there.
_NO_TEXT = re.compile(r"(^|\.)(encoder_attn|cross_attn|vision\w*|image_\w+|audio_\w+|speech_\w+)(\.|$)")


# Other classes that derive from nn.Linear give more than a product, such as a router's choice, or less.
_LINEAR = ("Linear", "FalconLinear", "Linear4bit", "Linear8bitLt")  # the last two are bitsandbytes'


def matching_names(names: Iterable[str], target_modules: Iterable[str]) -> list[str]:
    """Layers that peft would take for ``target_modules``: the name itself or its last parts."""
    targets = list(target_modules)
    if "all-linear" in targets:
        return list(names)
    return [n for n in names if any(n == t or n.endswith("." + t) for t in targets)]


def _linear_layers(base: nn.Module) -> list[str]:
    """Names of the linear layers that may carry an adapter: all that text goes through, but the output layer."""
    from torch import nn  # here, since a plan that only matches names needs no torch

    head = base.get_output_embeddings()  # type: ignore[operator]
    within = text_part(base)
    return [
        n
        for n, m in base.named_modules()
        if isinstance(m, nn.Linear) and type(m).__name__ in _LINEAR and m is not head
        if n.startswith(within) and not _NO_TEXT.search(n)
    ]


def text_part(base: Any) -> str:
    """What the names of all modules begin with that text goes through: "" but in a model with towers for images or
    sound, where it is the name of the language model in it."""
    config = base.config
    if config.get_text_config() is config:
        return ""
    decoder = base.get_decoder()
    name = next((n for n, m in base.named_modules() if m is decoder), "")
    return f"{name}." if name else ""


def frozen_experts(base: nn.Module) -> list[str]:
    """Kinds of expert weights that are no linear layers, and so can carry no adapter: names without their numbers."""
    within = text_part(base)
    stacked = (n for n, p in base.named_parameters() if p.dim() >= 3 and n.startswith(within))
    kinds = (".".join(part for part in n.split(".") if not part.isdigit()) for n in stacked)
    return list(dict.fromkeys(kind for kind in kinds if "expert" in kind))


def matching_layers(base: nn.Module, target_modules: Iterable[str]) -> list[str]:
    """The layers that shall carry adapters. Raises ``UserError`` where a target is none of the model's, or it has
    none."""
    names = _linear_layers(base)
    targets = list(target_modules)
    if targets and not names:
        raise UserError(
            f"this {type(base).__name__} has no linear layers that can carry an adapter: "
            "its products are of another kind. Take another base model"
        )
    missing = [t for t in targets if t != "all-linear" and not matching_names(names, [t])]
    if missing:
        known = sorted({n.rsplit(".", 1)[-1] for n in names})
        raise UserError(
            f'axes.lora.target_modules = "{missing[0]}" is no linear layer of this model.'
            + nearest(missing[0], [*known, "all-linear"])
        )
    return matching_names(names, targets)
