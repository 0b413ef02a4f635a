"""One frozen base model with S adapter slots: every row of a batch goes through its own trial's adapter.

Each targeted linear layer keeps its frozen weight once and holds the adapters of all slots stacked,
A [S, R, in] and B [S, out, R], R being the largest rank; a smaller rank, or a trial that leaves a layer out,
leaves zeros there, which receive zero gradient and so stay zero. ``Routing`` says, for the batch at hand,
which slot each row belongs to and at which positions the output layer is wanted: logits are computed there
and nowhere else. Adapters are float32 whatever the base's dtype, as in mixed-precision training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainer.model.adapters import peft_targets
from trainer.model.decoder import speed_up
from trainer.model.output_layer import SelectiveHead, can_skip_logits, cross_entropy
from trainer.model.routing import Batch, Routing
from trainer.model.slot_linear import SlotLinear
from trainer.model.soundness import check_same, plain_outputs
from trainer.model.targets import matching_layers, matching_names
from trainer.trial import Lora

if TYPE_CHECKING:
    from transformers import Cache


class SlotModel(nn.Module):
    """``forward(batch)`` gives logits [N, V] (or [N, labels] with a classification head) at the wanted positions."""

    def __init__(self, base: Any, n_slots: int, max_r: int, target_modules: Iterable[str], n_labels: int = 0):
        """``base`` is a transformers causal LM. ``n_labels`` > 0 gives each slot a trained linear head over the
        last hidden state in place of the output layer. Raises ``BaseModelError`` where the base reads later tokens,
        gives NaN, or is moved by the slots alone (``trainer.model.soundness``)."""
        super().__init__()
        self.plain = plain_outputs(base, hidden=n_labels > 0)
        self._module_names = [name for name, _ in base.named_modules()]
        for parameter in base.parameters():
            parameter.requires_grad_(False)
        self.routing = Routing(dropout=[0.0] * n_slots)
        self.n_slots, self.max_r, self.n_labels = n_slots, max_r, n_labels
        self.base: Any = base
        self.linear_widths = sum(m.in_features + m.out_features for m in base.modules() if isinstance(m, nn.Linear))
        if base.get_output_embeddings() is not None:  # a merged classifier has none
            self.linear_widths -= sum(base.get_output_embeddings().weight.shape)
        self.layers: dict[str, SlotLinear] = {}
        for name in matching_layers(base, target_modules):
            parent, _, leaf = name.rpartition(".")
            holder = base.get_submodule(parent)
            layer = SlotLinear(getattr(holder, leaf), name, n_slots, max_r, self.routing)
            setattr(holder, leaf, layer)
            self.layers[name] = layer
        if n_labels:
            device = next(base.parameters()).device
            width = self.base.config.get_text_config().hidden_size
            self.head = nn.Parameter(torch.zeros(n_slots, n_labels, width, device=device))
        else:
            self.base.set_output_embeddings(SelectiveHead(self.base.get_output_embeddings(), self.routing))
        self.skips_logits = not n_labels and can_skip_logits(self.base)
        speed_up(self.base, self.routing)
        check_same(self, self.plain)

    def forward(self, batch: Batch, cache: Cache | None = None, targets: Tensor | None = None) -> Tensor:
        """``cache`` holds the keys and values of tokens that precede the batch's, and takes up the batch's own. Where
        the model ``skips_logits``, it may be given ``targets`` [N] and returns their cross-entropy in nats, float32
        [N]: the logits are then in memory a piece at a time."""
        if targets is not None:
            hidden = self.routing.wanted(self.base.base_model(**self._inputs(batch, None)).last_hidden_state)
            head = self.base.get_output_embeddings()
            return cross_entropy(hidden, head.weight, head.bias, targets)
        found = self.outputs(batch, cache)
        if not self.n_labels:
            return found
        return torch.einsum("nh,nkh->nk", found, self.head[batch.slots[batch.rows]])

    def outputs(self, batch: Batch, cache: Cache | None = None) -> Tensor:
        """At the wanted positions: logits [N, V], or what a classification head reads, float32 [N, H]."""
        inputs = self._inputs(batch, cache)
        if not self.n_labels:
            logits: Tensor = self.base(**inputs).logits
            return logits
        return self.routing.wanted(self.base.base_model(**inputs).last_hidden_state).float()

    def _inputs(self, batch: Batch, cache: Cache | None) -> dict[str, Any]:
        """Begins a pass over ``batch``; what the base is called with."""
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
        return inputs

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

    def peft_targets(self, lora: Lora) -> list[str]:
        """``target_modules`` of peft's configuration for an adapter of this base."""
        return peft_targets(lora, matching_names(self.layers, lora.target_modules), self._module_names)

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
