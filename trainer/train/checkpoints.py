"""A trial's checkpoints in the run folder: adapter, Adam moments, and what its arm remembers of the prompts."""

from __future__ import annotations

import json
import re

import torch

from trainer.model.adapters import write_adapter
from trainer.store import Store, checkpoint_name
from trainer.train.arms import MEMORY_TENSOR, PromptMemory
from trainer.train.engine import Engine
from trainer.train.resident import Resident
from trainer.trial import Trial


def checkpoint_steps(store: Store, trial: Trial) -> list[int]:
    """Optimizer steps of which there are checkpoints, ascending."""
    found = (re.fullmatch(r"(\d+)\.safetensors", n) for n in store.names(f"checkpoints/{trial.id}"))
    return sorted(int(m[1]) for m in found if m)


def save_checkpoint(store: Store, engine: Engine, resident: Resident) -> None:
    """Store the resident's state. Every worker of a gang takes part; the first writes. The adapter is written before
    the checkpoint: a runner that finds the checkpoint does not write the adapter again."""
    from safetensors.torch import save

    trial, step, memory = resident.trial, resident.step, resident.memory
    tensors = engine.snapshot(resident.slot, trial.lora)
    if engine.rank != 0:
        return
    if not any(other > step for other in checkpoint_steps(store, trial)):  # else an earlier rung is made again
        write_adapter(store, trial, _peft_names(tensors))
    if memory.remembers:
        tensors[MEMORY_TENSOR] = torch.from_numpy(memory.values.copy())
    meta = {"trial_id": trial.id, "step": str(step), "trial": json.dumps(trial.to_json())}
    store.write(checkpoint_name(trial.id, step), save(tensors, metadata=meta))


def load_checkpoint(store: Store, engine: Engine, slot: int, trial: Trial, step: int, memory: PromptMemory) -> None:
    """Put the trial's state after ``step`` steps into ``slot`` and ``memory``. Raises what safetensors, the store and
    torch raise where the file is damaged or of another shape."""
    from safetensors.torch import load

    tensors = load(store.read(checkpoint_name(trial.id, step)))
    if memory.remembers:
        memory.restore(tensors[MEMORY_TENSOR].numpy())
    engine.restore(slot, trial.lora, trial.optimization, step, tensors)


def _peft_names(snapshot: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapter in a snapshot, under the names that peft gives its tensors."""
    return {f"base_model.model.{k}.weight": v for k, v in snapshot.items() if not k.startswith(("m.", "v."))}
