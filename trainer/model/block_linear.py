"""Linear layers with low-rank adapters, over rows that are sorted by slot: one autograd function, forward and backward.

What autograd would do step by step, without a copy of A and B for every row, without its index_put in the backward
pass, and with the products added in place. Several layers that read the same input (query, key and value; gate and
up) write their outputs side by side, and their adapters take the input down in one product.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def block_linears(
    x: Tensor,
    dropped: Tensor | None,
    frozen: Sequence[tuple[Tensor, Tensor | None]],
    blocks: Sequence[tuple[int, int]],
    adapters: Sequence[tuple[Tensor, Tensor, Tensor]],
) -> Tensor:
    """y [B, L, sum of out_i], y_i = W_i x + b_i + scale_i,s B_i,s A_i,s z for rows of slot s.

    ``x`` [B, L, in]; ``dropped`` the adapters' input z, None for x itself; ``frozen`` one (W [out_i, in], b [out_i] or
    None) a layer; ``blocks`` ((slot, rows), …) in the order of the rows; ``adapters`` one (A [S, R, in],
    B [S, out_i, R], scale [S]) a layer. Gradients reach x, dropped, A and B.
    """
    used, rows = [s for s, _ in blocks], [n for _, n in blocks]
    scales = [scale for _, _, scale in adapters]
    factors = [f for A, B, _ in adapters for f in (A, B)]
    y: Tensor = _BlockLinears.apply(x, dropped, frozen, scales, used, rows, *factors)
    return y


class _BlockLinears(torch.autograd.Function):
    """Slots that have equally many rows go through batched products, others through one product each."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        z: Tensor | None,
        frozen: Sequence[tuple[Tensor, Tensor | None]],
        scales: list[Tensor],
        used: list[int],
        rows: list[int],
        *factors: Tensor,
    ) -> Tensor:
        n_slots = factors[0].shape[0]
        index = None if used == list(range(n_slots)) else torch.tensor(used, device=x.device)
        if index is not None:
            factors = tuple(f[index] for f in factors)
            scales = [s[index] for s in scales]
        many = [s[:, None, None] for s in scales]
        a = torch.cat(factors[::2], dim=1).to(x.dtype) if len(many) > 1 else factors[0].to(x.dtype)  # [K, n R, in]
        # [K, R, out_i]: with this layout the product of the backward pass that has few columns is twice as fast
        b = [(B * scale).to(x.dtype).mT.contiguous() for B, scale in zip(factors[1::2], many, strict=True)]
        tokens = [n * x.shape[1] for n in rows]
        rows_of_x = x.reshape(-1, x.shape[2])
        y = rows_of_x.new_empty(len(rows_of_x), sum(len(weight) for weight, _ in frozen))
        flat = rows_of_x if z is None else z.reshape(-1, x.shape[2])
        h = flat.new_empty(len(flat), a.shape[1])
        _add_products(h, flat, a.mT, tokens, keep=0)
        for out, (weight, bias), part, up in zip(_parts(y, b, 2), frozen, _parts(h, b, 1), b, strict=True):
            torch.mm(rows_of_x, weight.T, out=out)
            if bias is not None:
                out.add_(bias)
            _add_products(out, part, up, tokens)
        ctx.save_for_backward(flat, h, a, index, *many, *b, *(weight for weight, _ in frozen))
        ctx.tokens, ctx.apart, ctx.n_slots, ctx.shape = tokens, z is not None, n_slots, x.shape
        return y.view(*x.shape[:2], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        z, h, a, index, *rest = ctx.saved_tensors
        n = len(rest) // 3
        many, b, weights = rest[:n], rest[n : 2 * n], rest[2 * n :]
        g, tokens = grad.reshape(-1, grad.shape[2]), ctx.tokens
        gs, hs = _parts(g, b, 2), _parts(h, b, 1)
        dh = torch.empty_like(h)
        for out, part, up in zip(_parts(dh, b, 1), gs, b, strict=True):
            _add_products(out, part, up.mT, tokens, keep=0)
        dA = _outer_products(dh, z, tokens).float().split([up.shape[1] for up in b], dim=1)
        dB = [_outer_products(u, v, tokens).mT.float() * scale for u, v, scale in zip(hs, gs, many, strict=True)]
        found = [f for pair in zip(dA, dB, strict=True) for f in pair]
        if index is not None:
            found = [f.new_zeros(ctx.n_slots, *f.shape[1:]).index_copy_(0, index, f) for f in found]
        dx = dz = None
        if ctx.needs_input_grad[0]:
            dx = gs[0] @ weights[0]
            for part, weight in zip(gs[1:], weights[1:], strict=True):
                dx.addmm_(part, weight)
            dz = torch.zeros_like(dx) if ctx.apart else dx
            _add_products(dz, dh, a, tokens)
            dx, dz = dx.view(ctx.shape), dz.view(ctx.shape) if ctx.apart else None
        return dx, dz, None, None, None, None, *found


def _parts(x: Tensor, factors: Sequence[Tensor], dim: int) -> Sequence[Tensor]:
    """``x`` divided along its columns as the layers' ranks (dim 1 of ``factors``) or their outputs (dim 2) are."""
    return x.split([f.shape[dim] for f in factors], dim=1) if len(factors) > 1 else (x,)


def _add_products(out: Tensor, x: Tensor, weights: Tensor, tokens: list[int], keep: int = 1) -> None:
    """out = keep * out + x @ weights[k], with ``tokens[k]`` consecutive rows of x [T, d] for weights[k] [d, e]."""
    if len(set(tokens)) == 1:
        shape = (len(tokens), tokens[0], -1)
        blocks = out.view(shape)
        torch.baddbmm(blocks, x.view(shape), weights, beta=keep, out=blocks)
        return
    for (start, end), w in zip(itertools.pairwise(itertools.accumulate(tokens, initial=0)), weights, strict=True):
        torch.addmm(out[start:end], x[start:end], w, beta=keep, out=out[start:end])


def _outer_products(g: Tensor, x: Tensor, tokens: list[int]) -> Tensor:
    """[K, e, d] with g.T @ x over the ``tokens[k]`` rows of g [T, e] and x [T, d] that belong to k."""
    if len(set(tokens)) == 1:
        shape = (len(tokens), tokens[0], -1)
        return torch.bmm(g.view(shape).mT, x.view(shape))
    return torch.stack([u.mT @ v for u, v in zip(g.split(tokens), x.split(tokens), strict=True)])
