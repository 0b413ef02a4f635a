"""A linear layer with one LoRA adapter per slot."""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.model.block_linear import block_linears
from trainer.model.routing import Routing


class SlotLinear(nn.Module):
    """A frozen linear layer with S low-rank adapters beside it: y = W x + scale_s B_s A_s x for rows of slot s."""

    scale: Tensor

    def __init__(self, base: nn.Linear, name: str, n_slots: int, max_r: int, routing: Routing):
        super().__init__()
        self.base, self.name, self.routing = base, name, routing
        self.key = zlib.crc32(name.encode())  # of dropout: the same whatever other layers carry adapters
        place: dict[str, Any] = {"device": base.weight.device, "dtype": torch.float32}
        self.A = nn.Parameter(torch.zeros(n_slots, max_r, base.in_features, **place))
        self.B = nn.Parameter(torch.zeros(n_slots, base.out_features, max_r, **place))
        self.register_buffer("scale", torch.zeros(n_slots, **place), persistent=False)

    @property
    def weight(self) -> Tensor:
        """Nothing may read it: what is computed from the frozen weight alone would leave the adapter out."""
        leaf = self.name.rsplit(".", 1)[-1]
        raise UserError(
            f"layer {self.name}: the model reads its weights directly, so an adapter there would have no effect. Name "
            f'layers without "{leaf}" in axes.lora.target_modules'
        )

    def forward(self, x: Tensor) -> Tensor:
        route = self.routing
        if route.slots is None:
            return self.base(x)
        alike = route.only is not None and route.dropout_keys is None  # then no token needs to know its row
        if not alike and x.shape[:-1] != (len(route.slots), route.length):
            return self.forward(self._by_row(x)).view(*x.shape[:-1], -1)
        z = self._dropped(x) if route.dropout_keys is not None else x
        if route.only is not None:
            s = route.only
            if z is x and not torch.is_grad_enabled() and self._merging_pays(x):
                return nn.functional.linear(
                    x, torch.addmm(self.base.weight, self.B[s], self.A[s] * self.scale[s]), self.base.bias
                )
            y: Tensor = self.base(x)
            h = z @ self.A[s].to(z.dtype).T
            return y + (h * self.scale[s].to(z.dtype)) @ self.B[s].to(z.dtype).T
        if route.blocks is not None and type(self.base) is nn.Linear:
            adapter = (self.A, self.B, self.scale)
            dropped = None if z is x else z
            frozen = (self.base.weight, self.base.bias)
            return block_linears(x, dropped, [frozen], route.blocks, [adapter])
        y = self.base(x)
        A, B = self.A[route.slots].to(z.dtype), self.B[route.slots].to(z.dtype)
        h = torch.bmm(z, A.transpose(1, 2)) * self.scale[route.slots].to(z.dtype)[:, None, None]
        return torch.baddbmm(y, h, B.transpose(1, 2)) if y.dtype == h.dtype else y + torch.bmm(h, B.transpose(1, 2))

    def _by_row(self, x: Tensor) -> Tensor:
        """[B, L, in] of all tokens in another shape: some models run them as one row, [B L, in]."""
        route = self.routing
        assert route.slots is not None
        rows = (len(route.slots), route.length)
        if x.numel() != math.prod(rows) * x.shape[-1]:
            raise ValueError(
                f"layer {self.name} gets {x.numel() // x.shape[-1]} of {math.prod(rows)} tokens, and not which: it can "
                "carry no adapter with several slots or dropout. Take it out of axes.lora.target_modules, or set "
                "resources.slots=1 and axes.lora.dropout=0"
            )
        return x.reshape(*rows, -1)

    def _merging_pays(self, x: Tensor) -> bool:
        """Whether W + scale B A costs less than taking every token of ``x`` through A and B. Float32 only: in
        bfloat16 the sum would round the adapter away."""
        weight = self.base.weight
        tokens = x.numel() // x.shape[-1]
        return weight.dtype == x.dtype == torch.float32 and tokens * sum(weight.shape) > weight.numel() > 0

    def _dropped(self, x: Tensor) -> Tensor:
        """Dropout whose mask is a function of (row key, layer, position, feature) alone, so that it does not
        depend on which rows share the batch, on padding, or on where training was interrupted."""
        route = self.routing
        p = torch.tensor(route.dropout, device=x.device)[route.slots]  # [B]
        assert route.dropout_keys is not None
        place = torch.arange(x.shape[1] * x.shape[2], device=x.device, dtype=torch.int32)[None, :]
        if route.columns is not None:
            place = place + (route.columns * x.shape[2]).int()[:, None]
        key = _mix(route.dropout_keys + self.key)
        key = torch.where(key > 0x7FFFFFFF, key - (1 << 32), key).int()  # the same 32 bits, at half the traffic
        bits = _mix_(key[:, None] ^ place).bitwise_and_(0xFFFFFF)
        keep = (bits.view(x.shape).float() / 0x1000000) >= p[:, None, None]
        return x * keep * (1 / (1 - p)).to(x.dtype)[:, None, None]


def _mix(x: Tensor) -> Tensor:
    """A 32-bit integer hash (murmur3's finaliser) on int64 tensors."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


def _mix_(x: Tensor) -> Tensor:
    """``_mix`` in place on int32 tensors: products wrap around, and what a signed shift brings in is masked out."""
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    x *= 0x85EBCA6B - (1 << 32)
    x ^= (x >> 13).bitwise_and_(0x7FFFF)
    x *= 0xC2B2AE35 - (1 << 32)
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    return x
