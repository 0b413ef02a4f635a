"""Gradient checkpointing: the backward pass computes a decoder layer again from its input, and keeps nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from trainer.errors import UserError


def checkpoint_layers(base: Any) -> None:
    """Checkpoint every decoder layer of ``base`` (a transformers model) where gradients are wanted. transformers' own
    switch works in training mode alone, which would turn the base's dropout on. Raises ``UserError`` where the model
    marks no layers."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in base.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"training.checkpointing = true: transformers marks no layers of this {type(base).__name__} that could be "
            "computed again. Leave training.checkpointing out, and lower resources.slots if memory is short"
        )
    for layer in layers:
        layer.forward = _again(layer.forward)


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # dropout of adapters is a function of the row: there is no random state to keep
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return checkpointed
