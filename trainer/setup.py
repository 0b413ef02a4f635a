"""How a host runs its base model, and how many tokens go through it at a time. Kept apart from the engine, so that a
process that only starts hosts, or plans them, does not import torch."""

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
    checkpointing: bool = False  # keep each layer's input alone, and compute the rest again in the backward pass
    token_budget: int = 0  # padded tokens per micro-batch; 0: ``micro_batch_tokens``
    threads: int = 0  # CPU threads; 0 leaves torch's choice
    std_weight: float = 1.0  # of the dev objective that TensorBoard is given
    study: str = ""  # its name, which labels the host's metrics
    varied_axes: tuple[str, ...] = ()  # of the study, by which TensorBoard names runs


MOST_TOKENS = 8192  # of a micro-batch: beyond it no product gets faster
LEAST_TOKENS = 512  # below it they get slower
ACTIVATIONS = 512 * 2**20  # bytes that a micro-batch may keep for its backward pass in a CPU's memory


def micro_batch_tokens(activations: float, on_gpu: bool) -> int:
    """Padded tokens of a micro-batch, from the bytes that the backward pass needs of one token. A GPU needs many to be
    busy, and halves them where memory runs out; a CPU is as fast with few, which need less memory and padding."""
    if on_gpu:
        return MOST_TOKENS
    return int(min(MOST_TOKENS, max(LEAST_TOKENS, ACTIVATIONS / max(1.0, activations))))
