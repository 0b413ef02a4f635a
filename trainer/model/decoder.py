"""A faster forward pass for the decoder layers of the Llama kind, with the model's own weights; exact.

Three things differ from transformers' own pass. The last layer computes queries, attention output and feed-forward only
at the positions whose logits are wanted: of the other tokens of a prompt, later layers need nothing, and this one only
keys and values. The adapters of layers that read the same input share products. Normalisation and rotary embedding take
half as many passes over memory (``trainer.model.fused_ops``).

Other architectures keep transformers' pass. Which ones qualify is decided by their classes: these share their
attributes and their formulas (transformers ``models/{llama,mistral,qwen2,qwen3}/modeling_*.py``), and the tests hold
each against its original.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.model.block_linear import block_linears
from trainer.model.deepspeed_internals import is_sharded
from trainer.model.fused_ops import rms_norm, rotate, split_rotate, swiglu
from trainer.model.routing import Routing
from trainer.model.slot_linear import SlotLinear

KINDS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
MOST_WANTED = 0.7  # share of all positions up to which picking them out of the last layer pays


def speed_up(base: Any, routing: Routing) -> None:
    """Give the decoder layers of ``base`` (a transformers causal LM with its slots in place) the pass of this file,
    where it is of a known kind and attends to everything before a token."""
    layers = list(getattr(base.base_model, "layers", ()))
    if base.config._attn_implementation != "sdpa" or not all(_qualifies(layer) for layer in layers):
        return
    for number, layer in enumerate(layers):
        _LayerPass(layer, routing, last=number == len(layers) - 1)


def _qualifies(layer: Any) -> bool:
    if type(layer).__name__ not in KINDS or not type(layer).__module__.startswith("transformers.models."):
        return False
    if not isinstance(layer.mlp.act_fn, nn.SiLU) and type(layer.mlp.act_fn).__name__ != "SiLUActivation":
        return False
    attention = layer.self_attn
    window = attention.sliding_window if hasattr(attention, "sliding_window") else None
    if type(layer).__name__ == "MistralDecoderLayer":
        window = getattr(attention.config, "sliding_window", None)
    return window is None


class _LayerPass:
    """The pass of one layer, put in place of its ``forward``."""

    def __init__(self, layer: Any, routing: Routing, last: bool):
        self.layer, self.routing, self.last = layer, routing, last
        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = LinearGroup((attention.q_proj, attention.k_proj, attention.v_proj), routing)
        self.kv = LinearGroup((attention.k_proj, attention.v_proj), routing) if last else None
        self.gate_up = LinearGroup((mlp.gate_proj, mlp.up_proj), routing)
        layer.forward = types.MethodType(lambda _, *args, **kwargs: self(*args, **kwargs), layer)

    def __call__(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        past_key_values: Any = None,
        **_: Any,
    ) -> Tensor:
        """[B, L, H] -> [B, L, H]; in the last layer [N, 1, H] where that pays."""
        layer = self.layer
        assert position_embeddings is not None
        cos, sin = (t[:, None] for t in position_embeddings)
        x = rms_norm(hidden_states, layer.input_layernorm)
        if self._picks(x, attention_mask, past_key_values):
            return self._wanted(hidden_states, x, attention_mask, cos, sin, past_key_values)
        q, k, v = self._rotated(self.qkv(x), cos, sin)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, layer.self_attn.layer_idx)
        hidden_states = hidden_states + layer.self_attn.o_proj(self._attend(q, k, v, attention_mask).flatten(2))
        return self._fed_forward(hidden_states)

    def _picks(self, x: Tensor, mask: Tensor | None, cache: Any) -> bool:
        route = self.routing
        if not (self.last and route.may_pick) or route.rows is None or route.most_in_row is None:
            return False
        if mask is None and cache is not None and cache.get_seq_length(self.layer.self_attn.layer_idx):
            return False  # which of the earlier tokens a position sees is known to transformers only
        if not len(route.rows):
            return not torch.is_grad_enabled()  # the backward pass needs a graph, also where it has no loss
        return len(route.rows) <= MOST_WANTED * x.shape[0] * x.shape[1]

    def _wanted(
        self, hidden_states: Tensor, x: Tensor, mask: Tensor | None, cos: Tensor, sin: Tensor, cache: Any
    ) -> Tensor:
        """The layer's output at the wanted positions alone, [N, 1, H]. Every row of the batch gets Q places for its
        queries. Places that are left over attend to the first token, and what they give is not used."""
        layer, route = self.layer, self.routing
        assert self.kv is not None
        assert route.rows is not None
        assert route.cols is not None
        assert route.most_in_row is not None
        B, L, H = x.shape
        found = self.kv(x)
        k, v = (self._heads(t) for t in (found.split(self.kv.sizes, dim=-1) if isinstance(found, Tensor) else found))
        k = rotate(self._normed(k, "k_norm"), cos, sin)
        if cache is not None:
            k, v = cache.update(k, v, layer.self_attn.layer_idx)
        rows, cols, n, Q = route.rows, route.cols, len(route.rows), route.most_in_row
        at = rows * L + cols
        with route.at_wanted():
            if not n:
                return hidden_states.new_empty(0, 1, H)
            residual = hidden_states.reshape(B * L, H).index_select(0, at)[:, None]
            asking = layer.self_attn.q_proj(x.reshape(B * L, H).index_select(0, at)[:, None])
            q = self._normed(self._heads(asking), "q_norm")
            turn = [(t[0, 0, cols] if len(t) == 1 else t[rows, 0, cols])[:, None, None] for t in (cos, sin)]
            q = rotate(q, *turn)  # [N, heads, 1, d]
            place = rows * Q + torch.arange(n, device=x.device) - torch.searchsorted(rows, rows)
            queries = q.new_zeros(B * Q, q.shape[1], q.shape[3]).index_copy(0, place, q[:, :, 0])
            if mask is None:
                sees = torch.arange(k.shape[2], device=x.device) <= cols[:, None]  # [N, keys]
            else:
                sees = mask.expand(B, -1, -1, -1)[rows, 0, cols]
            blank = torch.zeros(k.shape[2], dtype=sees.dtype, device=x.device)
            if sees.dtype == torch.bool:
                blank[0] = True
            seen = blank.expand(B * Q, -1).index_copy(0, place, sees).view(B, 1, Q, -1)
            out = self._attend(queries.view(B, Q, *queries.shape[1:]).transpose(1, 2), k, v, seen)  # [B, Q, heads, d]
            picked = out.reshape(B * Q, -1).index_select(0, place)[:, None]
            return self._fed_forward(residual + layer.self_attn.o_proj(picked))

    def _rotated(self, found: Tensor | Sequence[Tensor], cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value [B, heads, L, d] from the projections, side by side or each by itself."""
        if isinstance(found, Tensor):
            if not hasattr(self.layer.self_attn, "q_norm"):
                return split_rotate(found, cos, sin, self.qkv.sizes, self.layer.self_attn.head_dim)
            found = found.split(self.qkv.sizes, dim=-1)
        q, k, v = (self._heads(t) for t in found)
        return rotate(self._normed(q, "q_norm"), cos, sin), rotate(self._normed(k, "k_norm"), cos, sin), v

    def _heads(self, x: Tensor) -> Tensor:
        """[B, L, heads * d] -> [B, heads, L, d]"""
        return x.unflatten(-1, (-1, self.layer.self_attn.head_dim)).transpose(1, 2)

    def _normed(self, x: Tensor, name: str) -> Tensor:
        norm = getattr(self.layer.self_attn, name, None)
        return x if norm is None else rms_norm(x, norm)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """[B, L, heads, d]"""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        attention = self.layer.self_attn
        return ALL_ATTENTION_FUNCTIONS["sdpa"](attention, q, k, v, mask, dropout=0.0, scaling=attention.scaling)[0]

    def _fed_forward(self, hidden_states: Tensor) -> Tensor:
        mlp = self.layer.mlp
        found = self.gate_up(rms_norm(hidden_states, self.layer.post_attention_layernorm))
        gated = swiglu(found) if isinstance(found, Tensor) else mlp.act_fn(found[0]) * found[1]
        return hidden_states + mlp.down_proj(gated)


class LinearGroup:
    """Linear layers that read the same input, whose outputs are wanted side by side."""

    def __init__(self, layers: Sequence[nn.Module], routing: Routing):
        self.layers, self.routing = layers, routing
        self.slotted: list[Any] = [layer for layer in layers if isinstance(layer, SlotLinear)]
        plain = [layer.base for layer in self.slotted]
        # quantised, or a shard: each goes by itself
        self.together = len(plain) == len(layers) and all(
            type(p) is nn.Linear and not is_sharded(p.weight) for p in plain
        )
        self.sizes = [p.out_features for p in plain]

    def __call__(self, x: Tensor) -> Tensor | Sequence[Tensor]:
        """The outputs side by side [.., sum of sizes] where their adapters share products, else each by itself."""
        route = self.routing
        if not self.together or route.slots is None or route.dropout_keys is not None:
            return [layer(x) for layer in self.layers]
        if route.only is not None or route.blocks is None:
            return [layer(x) for layer in self.layers]
        frozen = [(layer.base.weight, layer.base.bias) for layer in self.slotted]
        adapters = [(layer.A, layer.B, layer.scale) for layer in self.slotted]
        return block_linears(x, None, frozen, route.blocks, adapters)
