"""Normalisation, rotary embedding and gated units with half as many passes over memory as transformers' own, forward
and backward; exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def rms_norm(x: Tensor, norm: Any) -> Tensor:
    """``norm`` (a LlamaRMSNorm or one like it) of x [..., H], in float32 inside."""
    y: Tensor = _RmsNorm.apply(x, norm.weight, norm.variance_epsilon)
    return y


class _RmsNorm(torch.autograd.Function):
    """y = w n, n = x / sqrt(mean x^2 + eps); dx = (w g - n mean(w g n)) / sqrt(mean x^2 + eps)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        n = (wide * scale).to(x.dtype)
        ctx.save_for_backward(n, scale, weight)
        return n * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        n, scale, weight = ctx.saved_tensors
        g, n = (grad * weight).float(), n.float()
        share = torch.linalg.vecdot(g, n)[..., None].div_(n.shape[-1])
        return g.addcmul_(n, share, value=-1).mul_(scale).to(grad.dtype), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of x [B, heads, L, d] with cos and sin [B or 1, 1, L, d] (Su et al. 2021), the
    two halves of d being the two coordinates, as transformers has it."""
    y: Tensor = _Rotate.apply(x, cos, sin)
    return y


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, torch.empty_like(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _turn_back(grad, cos, sin, torch.empty_like(grad)), None, None


def split_rotate(
    x: Tensor, cos: Tensor, sin: Tensor, sizes: Sequence[int], head_dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value [B, heads, L, d] of x [B, L, query | key | value], query and key as ``rotate`` gives them;
    ``sizes`` are the widths of the three in x."""
    qkv: tuple[Tensor, Tensor, Tensor] = _SplitRotate.apply(x, cos, sin, sizes, head_dim)
    return qkv


class _SplitRotate(torch.autograd.Function):
    """The backward pass writes all three gradients into one tensor of the shape of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, sizes: Sequence[int], head_dim: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.sizes, ctx.head_dim, ctx.shape = sizes, head_dim, x.shape
        q, k, v = _SplitRotate.parts(x, sizes, head_dim)
        q, k = (_turn(t, cos, sin, torch.empty_like(t)) for t in (q, k))
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        whole = grads[0].new_empty(ctx.shape)
        q, k, v = _SplitRotate.parts(whole, ctx.sizes, ctx.head_dim)
        _turn_back(grads[0], cos, sin, q)
        _turn_back(grads[1], cos, sin, k)
        v.copy_(grads[2])
        return whole, None, None, None, None

    @staticmethod
    def parts(x: Tensor, sizes: Sequence[int], head_dim: int) -> list[Tensor]:
        """Views [B, heads, L, d]."""
        return [t.unflatten(-1, (-1, head_dim)).transpose(1, 2) for t in x.split(list(sizes), dim=-1)]


def _turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    torch.mul(x, cos, out=out)
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


def _turn_back(grad: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> Tensor:
    half = grad.shape[-1] // 2
    torch.mul(grad, cos, out=out)
    out[..., :half].addcmul_(grad[..., half:], sin[..., half:])
    out[..., half:].addcmul_(grad[..., :half], sin[..., :half], value=-1)
    return out


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up of x [..., gate | up]."""
    y: Tensor = _Swiglu.apply(x)
    return y


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        ctx.save_for_backward(x)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate, up = x.chunk(2, dim=-1)
        whole = torch.empty_like(x)
        of_gate, of_up = whole.chunk(2, dim=-1)
        torch.mul(grad, nn.functional.silu(gate), out=of_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=of_gate)
        return whole
