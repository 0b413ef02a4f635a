"""What DeepSpeed 0.19 keeps to itself and we need of ZeRO 1 to 3: their moments before the first step, a clean start
after a backward pass that broke off, and an end that lets go of the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

NAMES = {"m": "exp_avg", "v": "exp_avg_sq"}  # our name of a moment -> torch AdamW's


def create_moments(ds_optimizer: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
    """AdamW makes its state in its first step; a restored trial is past that."""
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    shards = getattr(ds_optimizer, "fp32_partitioned_groups_flat", grouped)  # ZeRO 3 has its own list
    for p in shards:
        moments = {name: torch.zeros_like(p) for name in NAMES.values()}
        optimizer.state[p] = {"step": torch.tensor(float(step)), **moments}
    link = getattr(ds_optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        link()  # ZeRO 1 and 2 connect parameters with their state in the first step, too


def drop_gradients(ds_optimizer: Any, parameters: Iterable[nn.Parameter]) -> None:
    """Forget what micro-batches since the last step have left. ``zero_grad`` keeps what ZeRO has reduced already."""
    ds_optimizer.zero_grad()
    for p in parameters:
        if hasattr(p, "grad_accum"):
            p.grad_accum = None
    if hasattr(ds_optimizer, "averaged_gradients"):
        ds_optimizer.averaged_gradients.clear()
    if hasattr(ds_optimizer, "all_grad_tensors"):  # ZeRO 1 and 2
        ds_optimizer.all_grad_tensors.clear()
        ds_optimizer.micro_step_id = -1


def forget_models() -> None:
    """Empty the caches, of whole classes, that hold on to every model that DeepSpeed has had."""
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    parameter_offload.FWD_MODULE_STACK.clear()
    cached: Any = vars(PartitionedParameterCoordinator).get("_PartitionedParameterCoordinator__params_to_release")
    while cached is not None and not hasattr(cached, "cache_clear"):  # an lru_cache inside of decorators
        inner = (cell.cell_contents for cell in getattr(cached, "__closure__", None) or ())
        cached = next((f for f in inner if callable(f)), None)
    if cached is not None:
        cached.cache_clear()
