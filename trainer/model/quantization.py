"""How a base model's linear layers are kept in 8 or 4 bits: what a study's words mean, to bitsandbytes and in bytes.

Imports neither torch nor bitsandbytes, so that plans and model cards can read it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

from trainer.errors import BaseModelError, UserError
from trainer.trial import Model

PACKAGE = "bitsandbytes"
# For transformers' BitsAndBytesConfig. nf4 with its scales quantised as well is how QLoRA was published (Dettmers et
# al. 2023) and what peft's pages advise.
_SETTINGS: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}
# Of one weight. nf4: half a byte, an 8-bit scale for 64 weights, a float32 scale for 256 of those. int8: one byte; the
# scale of a row, 4 bytes, is left out.
BYTES = {"int8": 1.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256)}
_SCALE = re.compile(r"\.weight\.(nested_)?(absmax|quant_map)$|\.quant_state\.|\.(SCB|weight_format)$")
_STORED = {4: re.compile(r"\.quant_state\.bitsandbytes__\w+$"), 8: re.compile(r"\.SCB$")}  # names beside the weights


def settings(model: Model) -> dict[str, Any]:
    """The arguments of transformers' ``BitsAndBytesConfig`` for this model; none where it is not to be quantised."""
    found = dict(_SETTINGS.get(model.quantization, {}))
    return {**found, "bnb_4bit_compute_dtype": model.dtype} if "load_in_4bit" in found else found


def stored_bits(config: Mapping[str, Any]) -> int:
    """The bits in which bitsandbytes has stored the weights, by a model's ``config.json``; 0 where it has not."""
    about = config.get("quantization_config")
    if not isinstance(about, dict) or about.get("quant_method", PACKAGE) != PACKAGE:
        return 0
    return 4 if about.get("load_in_4bit") else 8 if about.get("load_in_8bit") else 0


def nothing_to_quantise(model: Model, kind: str) -> BaseModelError:
    """``kind``: the class of the model."""
    return BaseModelError(
        f'model.quantization = "{model.quantization}": this {kind} has no layers that bitsandbytes quantises, which '
        "are those of torch.nn.Linear but for the output layer. Set model.quantization=none"
    )


def is_scale(name: str) -> bool:
    """Whether a checkpoint's tensor says how bitsandbytes has packed a weight."""
    return bool(_SCALE.search(name))


def check_quantization(model: Model, config: Mapping[str, Any], tensors: Iterable[str]) -> None:
    """Raises ``UserError`` where the package is missing, ``BaseModelError`` where the weights are quantised already and
    the study asks for it again, or where ``config`` says they are and ``tensors`` (names; none: not known) has them
    whole."""
    bits = stored_bits(config)
    if model.quantization != "none" and bits:
        raise BaseModelError(
            f'model.quantization = "{model.quantization}", and model.path = "{model.path}" is quantised already '
            f"(bitsandbytes, {bits} bits). Remove model.quantization, or give the model that it was made from"
        )
    names = list(tensors)
    if bits and names and not any(_STORED[bits].search(name) for name in names):
        raise BaseModelError(
            f'model.path = "{model.path}": its config.json says that bitsandbytes has stored its weights in {bits} '
            "bits, and they have no scales. Give config and weights of the same model, or download it again"
        )
    if (model.quantization != "none" or bits) and find_spec(PACKAGE) is None:
        asks = f'model.path = "{model.path}"' if bits else f'model.quantization = "{model.quantization}"'
        raise UserError(f"{asks} needs the package bitsandbytes: pip install 'steadytune[quantized]'")
