"""The two files of a trial's adapter, as they were written after the step at which it was scored.

Where the adapter's weights are damaged, or are of another step (a process died before it wrote the checkpoint), they
are taken from the checkpoint of that step, which holds the same tensors.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from sweeps.export.exported import ADAPTER
from sweeps.run_folder.reading import RunFolder
from trainer.errors import UserError
from trainer.files import checksum
from trainer.model.adapters import TARGETS, adapter_text
from trainer.store import Store, checkpoint_name
from trainer.trial import Trial

log = logging.getLogger("steadytune")
_NOT_THE_ADAPTER = ("m.", "v.", "prompts.", "log.")  # in a checkpoint
_CHANGES_ANSWERS = (
    "peft_type", "task_type", "r", "lora_alpha", "use_rslora", "bias", "target_modules", "modules_to_save",
)  # fmt: skip


def sound_adapter(run: RunFolder, trial: Trial, step: int, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """``files``, config and weights, where they are those of ``trial`` after ``step`` steps; else with what is wrong
    replaced. Raises UserError where it cannot be replaced."""
    config, weights = ADAPTER
    store, name = run.store, f"adapters/{trial.id}/{weights}"
    data = files[weights]
    tensors, why = _tensors(data, name, step)
    kept = _checkpoint(store, trial, step)
    if not why and checksum.state(data, name) == "unchecked" and kept is not None and not _alike(tensors, kept):
        why = f"is not the adapter of step {step}"
    if why:
        if kept is None:
            raise UserError(
                f"{store.address(name)}: {why}, and {checkpoint_name(trial.id, step)} is missing or damaged as well. "
                f"Remove the trial's folders in scores/, checkpoints/ and adapters/, and train it again. "
                f"{run.how_to_continue}"
            )
        from safetensors.numpy import save

        log.warning("%s: %s. The adapter is taken from %s", store.address(name), why, checkpoint_name(trial.id, step))
        data = save(kept, {"format": "pt"})
        targets = _targets(store.read(checkpoint_name(trial.id, step)), files[config])
    else:
        targets = _targets(data, files[config])
    wanted = adapter_text(trial, targets)
    text = files[config]
    if not _same(text, wanted):
        log.warning("%s: was changed; it is written as it was", store.address(f"adapters/{trial.id}/{config}"))
        text = wanted
    return {config: text, weights: data}


def _targets(data: bytes, config: bytes) -> list[str]:
    """peft's ``target_modules``: those in the metadata of a sound file of tensors. Versions before had none there, and
    then the configuration is believed."""
    try:
        known = _metadata(data).get(TARGETS)
        return [str(t) for t in (json.loads(known) if known else json.loads(config)["target_modules"])]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _metadata(data: bytes) -> dict[str, str]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header.get("__metadata__") or {})


def _tensors(data: bytes, name: str, step: int) -> tuple[dict[str, Any], str]:
    """The tensors, and why they cannot be used; "" where they can."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if checksum.state(data, name) == "damaged":
        return {}, "is damaged (its checksum differs)"
    try:
        tensors = load(data)
        of = _metadata(data).get("step", str(step))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        return {}, f"is damaged ({error})"
    return tensors, "" if of == str(step) else f"is of step {of}, and the scores are of step {step}"


def _checkpoint(store: Store, trial: Trial, step: int) -> dict[str, Any] | None:
    """The adapter's tensors in the checkpoint, under the names that peft gives them; None where there is none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    name = checkpoint_name(trial.id, step)
    if not store.exists(name):
        return None
    data = store.read(name)
    if checksum.state(data, name) == "damaged":
        return None
    try:
        found = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError):
        return None
    return {f"base_model.model.{k}.weight": v for k, v in found.items() if not k.startswith(_NOT_THE_ADAPTER)}


def _alike(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(v.shape == b[k].shape and v.tobytes() == b[k].tobytes() for k, v in a.items())


def _same(text: bytes, wanted: bytes) -> bool:
    """Whether two configurations give the same answers."""
    try:
        found, expected = json.loads(text), json.loads(wanted)
        return all(found.get(k) == expected[k] for k in _CHANGES_ANSWERS)
    except (ValueError, AttributeError, RecursionError):
        return False
