"""One frozen base model with S adapter slots: every row of a batch goes through its own trial's adapter.

Each targeted linear layer keeps its frozen weight once and holds the adapters of all slots stacked,
A [S, R, in] and B [S, out, R], R being the largest rank; a smaller rank, or a trial that leaves a layer out,
leaves zeros there, which receive zero gradient and so stay zero. ``Routing`` says, for the batch at hand,
which slot each row belongs to and at which positions the output layer is wanted: logits are computed there
and nowhere else. Adapters are float32 whatever the base's dtype, as in mixed-precision training.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainer.errors import UserError, nearest
from trainer.model.block_linear import block_linears
from trainer.model.decoder import speed_up
from trainer.trial import Lora

if TYPE_CHECKING:
    from transformers import Cache


@dataclass
class Batch:
    """Model input for B rows of L positions. Right-padded; padding has ``mask`` 0.

    ``mask`` is [B, L] (1 = token), or [B, 1, L, L] bool (True = may attend) where options share a prefix.
    ``blocks`` ((slot, rows), …) may be given where rows are sorted by slot and nothing precedes or joins them: plain
    sequences from position 0.
    ``rows``/``cols`` [N] name the positions whose next-token logits are wanted. Where ``rows`` ascend, ``most_in_row``
    may say how many one row has at most, and ``wanted_blocks`` ((slot, positions), …) divide them as ``blocks`` do the
    rows: the last layer is then computed there alone. ``dropout_keys`` [B] (int64) seeds each row's dropout mask; None
    outside training.
    """

    input_ids: Tensor
    mask: Tensor
    position_ids: Tensor
    slots: Tensor  # [B]
    rows: Tensor  # [N]
    cols: Tensor  # [N]
    dropout_keys: Tensor | None = None
    only: int | None = None  # the slot, where all rows share it
    blocks: tuple[tuple[int, int], ...] | None = None
    most_in_row: int | None = None
    wanted_blocks: tuple[tuple[int, int], ...] | None = None

    def to(self, device: torch.device) -> Batch:
        moved: dict[str, Any] = {
            k: (v.to(device, non_blocking=True) if isinstance(v, Tensor) else v) for k, v in self.__dict__.items()
        }
        return Batch(**moved)


@dataclass
class Routing:
    """What the layers need to know of the batch in flight; set by ``SlotModel.forward``."""

    slots: Tensor | None = None
    only: int | None = None  # the slot, when all rows share it
    length: int = 0  # positions of each row
    rows: Tensor | None = None
    cols: Tensor | None = None
    dropout_keys: Tensor | None = None
    blocks: tuple[tuple[int, int], ...] | None = None
    most_in_row: int | None = None
    wanted_blocks: tuple[tuple[int, int], ...] | None = None
    dropout: list[float] = field(default_factory=list)  # per slot
    may_pick: bool = True  # False where several workers must do the same operations in the same order
    columns: Tensor | None = None  # [rows of the layer's input], where they are single positions of longer sequences
    wanted_only: bool = False  # the last layer has left the other positions out

    def take(self, batch: Batch, n_slots: int) -> None:
        """Begin a pass over ``batch``."""
        for name in ("slots", "rows", "cols", "blocks", "most_in_row", "wanted_blocks"):
            setattr(self, name, getattr(batch, name))
        self.only, self.length = 0 if n_slots == 1 else batch.only, batch.input_ids.shape[1]
        dropping = batch.dropout_keys is not None and any(self.dropout)
        self.dropout_keys = batch.dropout_keys if dropping else None
        self.wanted_only = False

    def wanted(self, hidden: Tensor) -> Tensor:
        """[N, H] the last hidden states at the wanted positions."""
        return hidden[:, 0] if self.wanted_only else hidden[self.rows, self.cols]

    @contextmanager
    def at_wanted(self) -> Iterator[None]:
        """While the wanted positions, and not the batch's rows, are what layers see: [N, 1, features]."""
        assert self.slots is not None
        assert self.rows is not None
        before = (self.slots, self.length, self.blocks, self.dropout_keys, self.columns)
        self.slots, self.length, self.columns = self.slots[self.rows], 1, self.cols
        self.blocks = self.wanted_blocks if self.blocks is not None else None
        self.dropout_keys = None if self.dropout_keys is None else self.dropout_keys[self.rows]
        try:
            yield
        finally:
            self.slots, self.length, self.blocks, self.dropout_keys, self.columns = before
        self.wanted_only = True


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
            return block_linears(x, dropped, self.base.weight, self.base.bias, route.blocks, [adapter])
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


class SelectiveHead(nn.Module):
    """The model's own output layer, run on the wanted positions only: [B, L, H] -> [N, V]."""

    def __init__(self, head: nn.Module, routing: Routing):
        super().__init__()
        self.head: Any = head
        self.routing = routing

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.head.weight
        return weight

    def forward(self, hidden: Tensor) -> Tensor:
        if self.routing.rows is not None:
            hidden = self.routing.wanted(hidden)
        logits: Tensor = self.head(hidden)
        return logits


class SlotModel(nn.Module):
    """``forward(batch)`` gives logits [N, V] (or [N, labels] with a classification head) at the wanted positions."""

    def __init__(self, base: Any, n_slots: int, max_r: int, target_modules: Iterable[str], n_labels: int = 0):
        """``base`` is a transformers causal LM. ``n_labels`` > 0 gives each slot a trained linear head over the
        last hidden state in place of the output layer."""
        super().__init__()
        for parameter in base.parameters():
            parameter.requires_grad_(False)
        self.routing = Routing(dropout=[0.0] * n_slots)
        self.n_slots, self.max_r, self.n_labels = n_slots, max_r, n_labels
        self.base: Any = base
        self.layers: dict[str, SlotLinear] = {}
        for name in matching_layers(base, target_modules):
            parent, _, leaf = name.rpartition(".")
            holder = base.get_submodule(parent)
            layer = SlotLinear(getattr(holder, leaf), name, n_slots, max_r, self.routing)
            setattr(holder, leaf, layer)
            self.layers[name] = layer
        if n_labels:
            device = next(base.parameters()).device
            self.head = nn.Parameter(torch.zeros(n_slots, n_labels, self.base.config.hidden_size, device=device))
        else:
            self.base.set_output_embeddings(SelectiveHead(self.base.get_output_embeddings(), self.routing))
        speed_up(self.base, self.routing)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Tensor:
        """``cache`` holds the keys and values of tokens that precede the batch's, and takes up the batch's own."""
        self.routing.take(batch, self.n_slots)
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids,
            # Padding on the right comes too late for any token to see: causal order is mask enough, and faster.
            "attention_mask": batch.mask if batch.blocks is None else None,
            "position_ids": batch.position_ids if batch.blocks is None else None,
            "use_cache": cache is not None,
        }
        if cache is not None:
            inputs["past_key_values"] = cache
        if not self.n_labels:
            logits: Tensor = self.base(**inputs).logits
            return logits
        hidden = self.routing.wanted(self.base.base_model(**inputs).last_hidden_state).float()
        return torch.einsum("nh,nkh->nk", hidden, self.head[batch.slots[batch.rows]])

    def slot_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """(peft's name without its prefix, stacked parameter) for everything that is trained."""
        named = [(f"{n}.lora_{k}", p) for n, layer in self.layers.items() for k, p in (("A", layer.A), ("B", layer.B))]
        return [*named, ("score", self.head)] if self.n_labels else named

    @torch.no_grad()
    def place(self, slot: int, lora: Lora, seed: int) -> None:
        """Start a fresh adapter in ``slot``: A uniform as peft draws it (kaiming, a = sqrt 5), B zero."""
        generator = torch.Generator().manual_seed(seed)
        wanted = set(matching_names(self.layers, lora.target_modules))
        for name, layer in self.layers.items():
            layer.A[slot].zero_()
            layer.B[slot].zero_()
            if name in wanted:
                bound = 1 / math.sqrt(layer.A.shape[2])
                layer.A[slot, : lora.r] = torch.empty(lora.r, layer.A.shape[2]).uniform_(
                    -bound, bound, generator=generator
                )
        if self.n_labels:
            self.head[slot] = torch.randn(self.head.shape[1:], generator=generator) * 0.02
        self.configure(slot, lora)

    def configure(self, slot: int, lora: Lora) -> None:
        """Set what is not a parameter: the adapter's scale and dropout."""
        for layer in self.layers.values():
            layer.scale[slot] = lora.alpha / (math.sqrt(lora.r) if lora.rslora else lora.r)
        self.routing.dropout[slot] = lora.dropout

    def adapter(self, slot: int, lora: Lora) -> dict[str, Tensor]:
        """The slot's adapter in peft's names and shapes (copies, on the CPU)."""
        found: dict[str, Tensor] = {}
        for name in matching_names(self.layers, lora.target_modules):
            layer = self.layers[name]
            found[f"base_model.model.{name}.lora_A.weight"] = layer.A[slot, : lora.r].detach().cpu().clone()
            found[f"base_model.model.{name}.lora_B.weight"] = layer.B[slot, :, : lora.r].detach().cpu().clone()
        if self.n_labels:
            found["base_model.model.score.weight"] = self.head[slot].detach().cpu().clone()
        return found


def linear_layers(base: nn.Module) -> list[str]:
    """Names of the linear layers that may carry an adapter: all but the output layer."""
    head = base.get_output_embeddings()  # type: ignore[operator]
    return [n for n, m in base.named_modules() if isinstance(m, nn.Linear) and m is not head]


def matching_layers(base: nn.Module, target_modules: Iterable[str]) -> list[str]:
    """The layers that shall carry adapters. Raises ``UserError`` where a target is none of the model's, or it has
    none."""
    names = linear_layers(base)
    targets = list(target_modules)
    if targets and not names:
        raise UserError(
            f"this {type(base).__name__} has no linear layers that can carry an adapter: "
            "its products are of another kind. Take another base model"
        )
    missing = [t for t in targets if t != "all-linear" and not matching_names(names, [t])]
    if missing:
        known = sorted({n.rsplit(".", 1)[-1] for n in names})
        raise UserError(
            f'axes.lora.target_modules = "{missing[0]}" is no linear layer of this model.'
            + nearest(missing[0], [*known, "all-linear"])
        )
    return matching_names(names, targets)


def matching_names(names: Iterable[str], target_modules: Sequence[str] | Iterable[str]) -> list[str]:
    """Layers that peft would take for ``target_modules``: the name itself or its last parts."""
    targets = list(target_modules)
    if "all-linear" in targets:
        return list(names)
    return [n for n in names if any(n == t or n.endswith("." + t) for t in targets)]
