"""The linear layers that bitsandbytes quantises, made to compute the same in training and scoring.

Each product takes its weights back to the model's dtype and multiplies there. That is what bitsandbytes does too where
gradients are wanted on a CPU. Elsewhere it has ways of its own. On CPUs with AVX512-BF16, layers in eval mode pack
their 4-bit weights anew, round to bfloat16, and give no gradient from then on. 8-bit layers round their inputs to 8
bits as well, on GPUs always and on CPUs in eval mode; they leave out of that those columns in which any token of the
batch is large, so that a row's answer would depend on its company. Read in bitsandbytes 0.50.2: ``nn/modules.py``,
``autograd/_functions.py``.
"""

from __future__ import annotations

import logging
import sys
import types
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.model.quantization import PACKAGE, nothing_to_quantise, settings, stored_bits
from trainer.trial import Model

FETCHES = "kernels"  # the package that gets code from the hub


def loading_options(model: Model, config: Any, device: torch.device, zero: int = 0) -> dict[str, Any]:
    """What transformers' ``from_pretrained`` needs besides the usual, where the weights are quantised as they are
    loaded, or are stored so; ``config`` is transformers' own. Call ``compute_exactly`` on what it gives."""
    if model.quantization == "none" and not stored_bits(config.to_dict()):
        return {}
    if zero == 3:
        raise UserError(
            f'model.path = "{model.path}" is quantised, and resources.zero = 3 shards whole weights only. Set '
            "resources.zero=2"
        )
    import_quietly()
    found: dict[str, Any] = {"device_map": {"": device}}
    if model.quantization != "none":
        from transformers import BitsAndBytesConfig

        found["quantization_config"] = BitsAndBytesConfig(**settings(model))
    return found


def import_quietly() -> None:
    """bitsandbytes looks, when it is first imported, for the package kernels: with it, it gets native code from the hub
    and runs it; without, it warns. Nothing here makes use of that code, so kernels is hidden meanwhile. peft imports
    bitsandbytes too, wherever it is installed."""
    if PACKAGE in sys.modules or find_spec(PACKAGE) is None:
        return
    log = logging.getLogger(PACKAGE)
    level, known = log.level, sys.modules.pop(FETCHES, None)
    log.setLevel(logging.ERROR)
    sys.modules[FETCHES] = None  # type: ignore[assignment]  # so that an import fails
    try:
        import bitsandbytes  # noqa: F401
    finally:
        log.setLevel(level)
        del sys.modules[FETCHES]
        if known is not None:
            sys.modules[FETCHES] = known


def compute_exactly(base: Any, model: Model) -> None:
    """Let the quantised layers of ``base`` multiply in ``model.dtype`` alone. Raises ``BaseModelError`` where it has
    none."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    dtype, found = getattr(torch, model.dtype), 0
    for module in base.modules():
        layer: Any = module
        if isinstance(module, Linear4bit):
            layer.support_avx512bf16_for_cpu = False
            layer.compute_dtype, layer.compute_type_is_set = dtype, True
            layer.weight.quant_state.dtype = dtype  # to which the backward pass takes the weights
        elif isinstance(module, Linear8bitLt):
            layer.forward = types.MethodType(_int8_forward, layer)
        else:
            continue
        found += 1
    if not found:
        raise nothing_to_quantise(model, type(base).__name__)


def copy_whole_weights(base: Any) -> None:
    """Give what is not quantised memory of its own. On a CPU it may be a view into the mapped file, and one such view
    keeps the whole file in memory, with all the weights that were quantised since (measured: 135 M parameters in nf4
    took more than in float32)."""
    for parameter in base.parameters():
        if parameter.device.type == "cpu" and parameter.is_floating_point():
            parameter.data = parameter.data.clone()


def _int8_forward(layer: Any, x: Tensor) -> Tensor:
    codes, scales = layer.weight.data, layer.weight.SCB
    y: Tensor = _Int8Product.apply(x, codes, layer.state.SCB if scales is None else scales, layer.bias)
    return y


class _Int8Product(torch.autograd.Function):
    """y = x W^T + bias with W[o, i] = codes[o, i] * scales[o] / 127. The backward pass makes W again, so that it is not
    held in between. Only x gets a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(codes, scales)
        return torch.nn.functional.linear(x, _whole(codes, scales, x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        codes, scales = ctx.saved_tensors
        return grad @ _whole(codes, scales, grad.dtype), None, None, None


def _whole(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return codes.to(dtype).mul_(scales[:, None] / 127)
