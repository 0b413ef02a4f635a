"""Which layers of a model carry adapters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from trainer.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import nn


def matching_names(names: Iterable[str], target_modules: Iterable[str]) -> list[str]:
    """Layers that peft would take for ``target_modules``: the name itself or its last parts."""
    targets = list(target_modules)
    if "all-linear" in targets:
        return list(names)
    return [n for n in names if any(n == t or n.endswith("." + t) for t in targets)]


def _linear_layers(base: nn.Module) -> list[str]:
    """Names of the linear layers that may carry an adapter: all but the output layer."""
    from torch import nn  # here, since a plan that only matches names needs no torch

    head = base.get_output_embeddings()  # type: ignore[operator]
    return [n for n, m in base.named_modules() if isinstance(m, nn.Linear) and m is not head]


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
