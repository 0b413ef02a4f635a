"""What lies in a base model's folder: names, shapes and types of its weights, from the files' headers alone.

Reads no weights and imports no torch, so that a study is refused in well under a second whose model is cut, quantised,
an adapter, or smaller than its config says.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer.errors import BaseModelError, UserError
from trainer.model.quantization import check_quantization, stored_bits
from trainer.trial import Model

WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
LONGEST_HEADER = 100_000_000  # bytes: safetensors' own limit
MOST_LAYERS = 1000  # of a model whose header is not at hand; the deepest published ones have about 130
LEAST_BOUND = 10**7  # a size below it costs no memory before it is compared with the shapes
_COUNTS = re.compile(r"(^|_)(n|num)_(hidden_)?layers?$|^(encoder|decoder)_layers$|^num_blocks$|experts?$")
_SIZES = re.compile(r"(hidden|intermediate|inner|state|embd|embedding|vocab|rank|dim|d_model|d_ff|ffn|size|heads?)")
_NOT_SIZES = re.compile(r"position|window|_id$|image|patch|per_tok|chunk|seq|length|block_size|group")
_QUANTISED_NAME = re.compile(
    r"\.(qweight|qzeros|g_idx|SCB|absmax|quant_map|nested_absmax|weight_packed|weight_scale(_inv)?|weight\.quant_state.*"
    r"|weight\.absmax|weight\.quant_map|gate_up_proj_blocks|down_proj_blocks)$"
)
Dtype = Literal["float32", "bfloat16", "float16"]
BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
_FLOATS: dict[str, Dtype] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float32"}


@dataclass(frozen=True)
class TensorHead:
    """One tensor as its file's header has it; ``dtype`` in safetensors' names (F32, BF16, I8, …)."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def model_folder(model: Model) -> Path | None:
    """The folder with the model's files; None for a hub model that is not downloaded."""
    if os.path.isdir(model.path):
        return Path(model.path)
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(model.path, revision=model.revision, local_files_only=True))
    except Exception:  # huggingface_hub's errors for what is not in its cache have no common parent
        return None


def check_folder(model: Model, folder: Path) -> dict[str, TensorHead]:
    """The heads of all tensors. Raises ``BaseModelError`` where the folder holds an adapter, quantised weights, a
    damaged file, or weights that are too small for the config: all that can be told before anything is built."""
    refuse_adapter(folder, model.path)
    config = read_config(folder, model.path)
    refuse_quantised(config, {}, model.path)
    if not os.path.isdir(model.path) and not _is_downloaded(folder):
        return {}  # each host downloads the rest, and looks at it then
    found = tensor_heads(folder, model.path)
    refuse_quantised(config, found, model.path)
    check_quantization(model, config, found)
    refuse_impossible_sizes(config, found, model.path)
    return found


def refuse_adapter(folder: Path, name: str) -> None:
    """``BaseModelError`` where a peft adapter lies in ``folder``: transformers would put it into the base model."""
    if not (folder / ADAPTER).is_file():
        return
    beside = "beside its weights" if _weight_names(folder) else "and no weights of its own"
    raise BaseModelError(
        f'model.path = "{name}" has a peft adapter ({ADAPTER}) {beside}: training would start on another model than '
        "the one named. Merge it first (peft: model.merge_and_unload().save_pretrained(NEW)) and give the new folder, "
        "or take the adapter's files away"
    )


def read_config(folder: Path, name: str) -> Mapping[str, Any]:
    """``config.json`` as it is written. Raises ``BaseModelError`` where it is no JSON object."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise UserError(  # as where storage shows files late: trying again may help
            f'model.path = "{name}" has no config.json. Give the folder that save_pretrained wrote'
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BaseModelError(
            f'model.path = "{name}": its config.json cannot be read ({one_line(error)}). Download the model again'
        ) from None
    if not isinstance(config, dict):
        raise BaseModelError(f'model.path = "{name}": its config.json holds no mapping. Download the model again')
    return config


def refuse_quantised(config: Mapping[str, Any], tensors: Mapping[str, TensorHead], name: str) -> None:
    """``BaseModelError`` for weights that GPTQ, AWQ, FP8 or their like have made of the model's own. Those that
    bitsandbytes has made are loaded as they are, where the config says so."""
    if stored_bits(config):
        return
    kind = next((_quantisation(c) for c in _configs(config) if _quantisation(c)), "")
    for tensor, head in () if kind else tensors.items():
        small = tensor.endswith(".weight") and not tensor.endswith("norm.weight") and head.dtype not in _FLOATS
        if _QUANTISED_NAME.search(tensor) or head.dtype.startswith(("F8", "F4", "F6")) or small:
            kind = f"{tensor} is {head.dtype}"
            break
    if kind:
        raise BaseModelError(
            f'model.path = "{name}" is quantised ({kind}). Adapters are trained on float32 or bfloat16 weights, or on '
            "what bitsandbytes makes of them: give the model that it was made from, and set model.quantization=nf4 if "
            "memory is short"
        )


def _quantisation(config: Mapping[str, Any]) -> str:
    for key in ("quantization_config", "compression_config", "quantization"):
        about = config.get(key)
        if about:
            method = about.get("quant_method") if isinstance(about, dict) else None
            bits = about.get("bits") if isinstance(about, dict) else None
            return f"{key}: {method or 'of an unnamed kind'}" + (f", {bits} bits" if bits else "")
    return ""


def refuse_impossible_sizes(config: Mapping[str, Any], tensors: Mapping[str, TensorHead], name: str) -> None:
    """``BaseModelError`` where the config asks for more layers than there are tensors, or for a size beyond the number
    of all weights. Building such a model would take hours or all memory before a shape could be compared."""
    numbers = sum(head.numel for head in tensors.values())
    most = max(MOST_LAYERS, len(tensors))
    for key, value in _integers(config):
        counted = bool(_COUNTS.search(key))
        if counted and value > most:
            held = f"its weights have {len(tensors)} tensors" if tensors else f"{MOST_LAYERS} is the most that is built"
        elif _SIZES.search(key) and not _NOT_SIZES.search(key) and value > max(LEAST_BOUND, numbers):
            held = f"its weights have {numbers} numbers in all" if tensors else "no model has such a size"
        elif value < 0 and (counted or _SIZES.search(key)) and not _NOT_SIZES.search(key) and value != -1:
            held = "a size cannot be negative"
        else:
            continue
        raise BaseModelError(
            f'model.path = "{name}": its config.json says {key} = {value}, and {held}. Give config and weights of the '
            "same model"
        )


def _integers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for part in _configs(config):
        for key, value in part.items():
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if isinstance(value, int) and not isinstance(value, bool):
                yield key, value


def _configs(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The config and those of its parts (text_config, vision_config, …)."""
    yield config
    for value in config.values():
        if isinstance(value, dict):
            yield from _configs(value)


def tensor_heads(folder: Path, name: str) -> dict[str, TensorHead]:
    """Name -> head of every tensor in the files that transformers would load. Raises ``UserError``."""
    names = _weight_names(folder)
    if not names:
        others = sorted(p.name for p in folder.glob("*.safetensors"))
        there = f"it has {', '.join(others[:3])}, which no index names" if others else "none is in it"
        raise UserError(
            f'model.path = "{name}" has no weights that transformers finds: {WEIGHTS} or {INDEX}; {there}. '
            "Download the model again, or save it with save_pretrained"
        )
    found: dict[str, TensorHead] = {}
    for file in names:
        found |= file_heads(folder / file)
    return found


def _weight_names(folder: Path) -> list[str]:
    """The files that transformers loads: one, or those that the index names."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    return index_names(folder)


def _is_downloaded(folder: Path) -> bool:
    try:
        return bool(_weight_names(folder))
    except UserError:
        return False


def dtype_on_disk(heads: Mapping[str, TensorHead]) -> Dtype:
    """The type in which most weights are stored, of those that transformers computes in."""
    numbers = {kind: sum(h.numel for h in heads.values() if h.dtype == kind) for kind in _FLOATS}
    return _FLOATS[max(numbers, key=lambda kind: numbers[kind])]


def index_names(folder: Path) -> list[str]:
    """The files that the index of ``folder`` names; none where it has no index. Raises ``BaseModelError`` for an index
    that is damaged, ``UserError`` where its files are not all there."""
    index = folder / INDEX
    if not index.is_file():
        return []
    try:
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        if not all(isinstance(s, str) and os.path.basename(s) == s for s in shards):
            raise ValueError("its files are not in this folder")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise BaseModelError(
            f"{index}: is not an index of weights ({one_line(error)}). Download the model again"
        ) from None
    absent = [s for s in shards if not (folder / s).is_file()]
    if absent:
        raise UserError(
            f'model.path = "{folder}" lacks {", ".join(absent[:5])}, which its index names. Download the rest'
        )
    return shards


def file_heads(path: Path) -> dict[str, TensorHead]:
    """Name -> head of the tensors in one file; ``BaseModelError`` where the file is cut, or its header is damaged."""
    from safetensors import SafetensorError, safe_open

    found = {}
    try:
        with safe_open(path, framework="np") as file:
            for name in list(file.keys()):  # it is no mapping
                piece = file.get_slice(name)
                found[name] = TensorHead(tuple(piece.get_shape()), str(piece.get_dtype()))
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise BaseModelError(
            f"{path}: is not a whole safetensors file ({one_line(error)}). Download it again"
        ) from None
    return found


def one_line(error: BaseException, most: int = 300) -> str:
    """The error's text in one line; its type where it has none."""
    return " ".join(str(error).split())[:most] or type(error).__name__
