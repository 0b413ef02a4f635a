"""How a host runs its base model. Kept apart from the engine, so that a process that
only starts hosts does not import torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setup:
    """How a host runs its base model; nothing here changes a trial's result beyond floating-point rounding."""

    slots: int = 1
    max_r: int = 8
    target_modules: tuple[str, ...] = ("all-linear",)
    n_labels: int = 0  # > 0: classification head
    zero: int = 0
    offload: bool = False  # optimizer state (and with ZeRO 3 the weights) in CPU memory
    token_budget: int = 8192  # padded tokens per micro-batch
    threads: int = 0  # CPU threads; 0 leaves torch's choice
    std_weight: float = 1.0  # of the dev objective that TensorBoard is given
    study: str = ""  # its name, which labels the host's metrics
