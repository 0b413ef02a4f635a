"""A trial's checkpoints in the run folder: adapter, Adam moments, what its arm remembers of the prompts, and the log of
the steps since the last rung.

The log travels with the state, because the scores of the rung are written after it: a process that dies between the two
leaves its training behind, and the record of that training must be there as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import torch

from trainer.files import checksum
from trainer.model.adapters import TARGETS, write_adapter
from trainer.store import Store, StoreError, checkpoint_name
from trainer.train.arms import MEMORY_TENSOR, PromptMemory
from trainer.train.engine import Engine
from trainer.train.resident import Resident
from trainer.train.step_log import StepLog
from trainer.trial import Trial

LOG_TENSOR = "log.steps"  # [n, 6] in float64: the fields of ``StepLog`` but ``by_prompt``; NaN where there is none
# keys of the metadata: accelerator time of the steps in the log, and tokens of the searches between them, if any
_SECONDS, _SEARCH_TOKENS = "log_seconds", "log_search_tokens"


def checkpoint_steps(store: Store, trial: Trial) -> list[int]:
    """Optimizer steps of which there are checkpoints, ascending."""
    found = (re.fullmatch(r"(\d+)\.safetensors", n) for n in store.names(f"checkpoints/{trial.id}"))
    return sorted(int(m[1]) for m in found if m)


def save_checkpoint(store: Store, engine: Engine, resident: Resident) -> None:
    """Store the resident's state and its log. Every worker of a gang takes part; the first writes. The adapter is
    written before the checkpoint: a runner that finds the checkpoint does not write the adapter again."""
    from safetensors.torch import save

    trial, step, memory = resident.trial, resident.step, resident.memory
    tensors = engine.snapshot(resident.slot, trial.lora)
    if engine.rank != 0:
        return
    targets = engine.slot_model.peft_targets(trial.lora)
    if not any(other > step for other in checkpoint_steps(store, trial)):  # else an earlier rung is made again
        write_adapter(store, trial, step, _peft_names(tensors), targets)
    if memory.remembers:
        tensors[MEMORY_TENSOR] = torch.from_numpy(memory.values.copy())
    tensors[LOG_TENSOR] = _log_tensor(resident.log)
    meta = {
        "trial_id": trial.id,
        "step": str(step),
        "trial": json.dumps(trial.to_json()),
        _SECONDS: repr(resident.seconds),
        **({_SEARCH_TOKENS: str(resident.search_tokens)} if resident.search_tokens else {}),
        TARGETS: json.dumps(targets),
        **checksum.METADATA,
    }
    name = checkpoint_name(trial.id, step)
    store.write(name, checksum.fill(save(tensors, metadata=meta), name))


def load_checkpoint(store: Store, engine: Engine, slot: int, trial: Trial, step: int, memory: PromptMemory) -> None:
    """Put the trial's state after ``step`` steps into ``slot`` and ``memory``. ValueError where the file is damaged or
    another checkpoint's; else raises what safetensors, the store and torch raise where it is of another shape."""
    tensors, _ = _read(store, trial, step)
    tensors.pop(LOG_TENSOR, None)
    if memory.remembers:
        memory.restore(tensors[MEMORY_TENSOR].numpy())
    engine.restore(slot, trial.lora, trial.optimization, step, tensors)


def load_log(store: Store, trial: Trial, step: int) -> tuple[list[StepLog], float, int]:
    """The steps since the rung before ``step``, their seconds, and the tokens of the searches between them. Empty where
    the checkpoint is damaged, or was written by a version before the log was in it."""
    from safetensors import SafetensorError

    try:
        tensors, meta = _read(store, trial, step)
        return _log_of(tensors[LOG_TENSOR]), float(meta[_SECONDS]), int(meta.get(_SEARCH_TOKENS, 0))
    except (SafetensorError, StoreError, ValueError, KeyError, TypeError):
        return [], 0.0, 0


def _read(store: Store, trial: Trial, step: int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from safetensors.torch import load

    name = checkpoint_name(trial.id, step)
    data = store.read(name)
    if checksum.state(data, name) == "damaged":
        raise ValueError("its bytes are not those that were written for this place: its checksum differs")
    tensors, meta = load(data), _metadata(data)
    if (meta.get("trial_id"), meta.get("step")) != (trial.id, str(step)):
        raise ValueError(f"it is of trial {meta.get('trial_id')} at step {meta.get('step')}")
    return tensors, meta


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file; its header is JSON after eight bytes that say how long it is."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: dict[str, str] = header.get("__metadata__") or {}
    return found


def _log_tensor(log: Sequence[StepLog]) -> torch.Tensor:
    rows = [(x.step, x.completion_loss, x.prompt_loss, x.lr, x.grad_norm, x.tokens) for x in log]
    values = [[float("nan") if v is None else float(v) for v in row] for row in rows]
    return torch.tensor(values, dtype=torch.float64).reshape(len(rows), 6)


def _log_of(tensor: torch.Tensor) -> list[StepLog]:
    return [
        StepLog(int(step), loss, prompt, lr, norm, int(tokens))
        for step, loss, prompt, lr, norm, tokens in tensor.tolist()
    ]


def _peft_names(snapshot: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapter in a snapshot, under the names that peft gives its tensors."""
    return {f"base_model.model.{k}.weight": v for k, v in snapshot.items() if not k.startswith(("m.", "v."))}
