"""The device that a process computes on: which one, how its workers meet, and what its errors mean."""

from __future__ import annotations

import ctypes
import os
import socket

import torch

from trainer.model.deepspeed_internals import skip_shared_memory_op


def pick_device() -> torch.device:
    """The GPU of this process's rank on its node; the CPU where there is none."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def join_workers(device: torch.device) -> None:
    """Join the process group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe; alone without them."""
    if torch.distributed.is_initialized():
        return
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    if device.type == "cpu":
        skip_shared_memory_op()
    alone = "RANK" not in os.environ
    if alone:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
    if alone:  # a process started from here must find a port of its own
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            del os.environ[name]


def keep_memory() -> None:
    """Let the C library keep what a step frees for the next one. By default glibc hands large blocks back to the
    kernel, which then clears the same pages again in every step (measured: 10 to 15 % of a step). Threads that start
    from here on share one arena: one of their own is cut into pieces of 64 MB, which large tensors leave half empty."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        mallopt(option, 2**30)
    mallopt(-8, 1)  # M_ARENA_MAX


def out_of_memory(error: BaseException) -> bool:
    """Whether less work at a time could help. Torch raises a plain RuntimeError where a CPU's memory ends."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def device_lost(error: BaseException) -> bool:
    """Whether this process can use its accelerator no more: after an illegal access, a failed assertion on the device
    or a hardware error every later call fails as well, whoever makes it."""
    return not out_of_memory(error) and (isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error))
