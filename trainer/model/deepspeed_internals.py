"""All that we use of DeepSpeed beyond its public interface, as read in version 0.19.8.

Its names and meanings may change with any release. After an update: read them again, run
``tests/trainer/train/test_engine.py`` and ``tests/trainer/test_runner.py``, and write the new version here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq"}  # our name of a moment -> torch AdamW's, which DeepSpeed uses


def skip_shared_memory_op() -> None:
    """Keep DeepSpeed from compiling this op at every start on a CPU (74 s the first time, needs g++ and ninja). Without
    it gloo does the work."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def is_sharded(parameter: Tensor) -> bool:
    """Whether ZeRO 3 has taken the parameter over, of which each worker then holds a part."""
    return hasattr(parameter, "ds_id")


def whole_shape(parameter: Tensor) -> torch.Size:
    """The parameter's shape; under ZeRO 3 that of the whole, of which this worker holds a part."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def create_moments(ds_optimizer: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Give AdamW, which makes its moments in its first step, those of a trial that is at ``step`` already."""
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    shards = getattr(ds_optimizer, "fp32_partitioned_groups_flat", grouped)  # ZeRO 3 has its own list
    for p in shards:
        moments = {name: torch.zeros_like(p) for name in MOMENTS.values()}
        optimizer.state[p] = {"step": torch.tensor(float(step)), **moments}
    link = getattr(ds_optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        link()  # ZeRO 1 and 2 connect parameters with their state in the first step, too


def drop_gradients(ds_optimizer: Any, parameters: Iterable[nn.Parameter]) -> None:
    """Forget the gradients of all micro-batches since the last step, for a backward pass that broke off.
    ``zero_grad`` alone keeps those that ZeRO has reduced already."""
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
    """Empty two caches of DeepSpeed's classes that keep every model it has had in memory."""
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    parameter_offload.FWD_MODULE_STACK.clear()
    cached: Any = vars(PartitionedParameterCoordinator).get("_PartitionedParameterCoordinator__params_to_release")
    while cached is not None and not hasattr(cached, "cache_clear"):  # an lru_cache inside of decorators
        inner = (cell.cell_contents for cell in getattr(cached, "__closure__", None) or ())
        cached = next((f for f in inner if callable(f)), None)
    if cached is not None:
        cached.cache_clear()
