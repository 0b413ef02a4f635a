"""Whether a base model is what training and scoring take it for, measured on a few tokens.

No later token may move an earlier logit, all logits are finite, and those of our slots without an adapter are those of
transformers' plain forward. Encoders that are loaded as language models, position ids that count from elsewhere and
weights with NaN fail here, before any step is taken; no list of architectures could know them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.errors import BaseModelError
from trainer.model.deepspeed_internals import is_sharded
from trainer.model.device import device_lost, out_of_memory
from trainer.model.routing import Batch

LENGTHS = (9, 6)  # tokens of the rows
EXACT = 1e-4  # float32: share of the largest output; measured: rounding 1e-6, a later token in RoBERTa 1e-2
ROUGH = 0.05  # other dtypes: mean difference in standard deviations of the logits; measured: rounding up to 0.01


@dataclass(frozen=True)
class PlainOutputs:
    """What transformers' own forward gives for a few rows: of each, token ids [L] and float32 outputs [L, V]. With
    ``hidden`` the outputs are the last hidden states [L, H], since a classification head reads those."""

    rows: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    hidden: bool


def plain_outputs(base: Any, hidden: bool = False) -> PlainOutputs | None:
    """The outputs of ``base`` (a causal LM as transformers loads it) for ``LENGTHS`` tokens. None where it holds no
    weights here: on the meta device, or under ZeRO 3. Raises ``BaseModelError`` where an output is not finite, or
    changes with a later token."""
    if any(p.is_meta or is_sharded(p) for p in base.parameters()):
        return None
    was_training = base.training
    base.eval()
    try:
        rows = probe_rows(base)
        try:
            outputs = tuple(answered(base, row, hidden) for row in rows)
        except Exception as error:  # whatever the model's own code raises
            if out_of_memory(error) or device_lost(error):
                raise
            raise BaseModelError(
                f"this {type(base).__name__} cannot answer a row of tokens by itself ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}). Give a model that needs nothing but text"
            ) from error
        for output in outputs:
            if not torch.isfinite(output).all():
                raise BaseModelError(
                    f"this {type(base).__name__} gives outputs that are not finite: its weights hold NaN or are beyond "
                    f"what {_dtype(base)} can hold. Take sound weights, or model.dtype=float32"
                )
        _check_causal(base, rows[0], outputs[0], hidden)
    finally:
        base.train(was_training)
    return PlainOutputs(rows, outputs, hidden)


def check_same(model: Any, plain: PlainOutputs | None) -> None:
    """Raises ``BaseModelError`` where a ``SlotModel`` without adapters gives something else than ``plain``."""
    gap = 0.0 if plain is None else slot_gap(model, plain)
    if gap > 1:
        raise BaseModelError(
            f"this {type(model.base).__name__} gives other outputs under steadytune than in transformers ({gap:.3g} "
            "times what rounding may do): it counts positions or masks padding in a way of its own. Take another base "
            "model"
        )


@torch.no_grad()
def slot_gap(model: Any, plain: PlainOutputs) -> float:
    """How far slot 0 of a ``SlotModel`` is from ``plain``, as a multiple of what rounding may do; inf where an output
    is not finite. It answers in the way that scores (mask and position ids given) and in the way that trains (rows
    sorted by slot, one position wanted). With a classification head and ``plain`` not ``hidden``, one output a row."""
    device = plain.rows[0].device
    lengths = torch.tensor([len(row) for row in plain.rows], device=device)
    ids = torch.nn.utils.rnn.pad_sequence(list(plain.rows), batch_first=True)
    place = torch.arange(ids.shape[1], device=device).expand(len(ids), -1)
    mask = (place < lengths[:, None]).long()
    rows = torch.arange(len(ids), device=device)
    common: dict[str, Any] = {"input_ids": ids, "mask": mask, "position_ids": place, "slots": torch.zeros_like(rows)}
    everywhere = mask.nonzero(as_tuple=True)
    blocks = ((0, len(ids)),)
    scoring = Batch(**common, rows=everywhere[0], cols=everywhere[1], only=0)
    training = Batch(**common, rows=rows, cols=lengths - 1, most_in_row=1, blocks=blocks, wanted_blocks=blocks)
    tried = [(training, torch.stack([output[-1] for output in plain.outputs]))]
    if plain.hidden or not model.n_labels:
        tried.append((scoring, torch.cat(plain.outputs)))
    answer = model.outputs if plain.hidden else model
    was_training = model.training
    model.eval()
    try:
        return max(output_gap(answer(batch).float(), expected, model.base.dtype) for batch, expected in tried)
    finally:
        model.train(was_training)


@torch.no_grad()
def answered(base: Any, row: Tensor, hidden: bool) -> Tensor:
    """The logits of a model of transformers or peft for one row [L] of token ids, float32 [L, V] ([1, labels] of a
    classifier), or its last hidden states [L, H]."""
    inputs = {"input_ids": row[None], "attention_mask": torch.ones_like(row)[None], "use_cache": False}
    found: Tensor = base.base_model(**inputs).last_hidden_state if hidden else base(**inputs).logits
    return (found if found.dim() == 2 else found[0]).float()


def _check_causal(base: Any, row: Tensor, output: Tensor, hidden: bool) -> None:
    other = row.clone()
    other[-1] = row[0]
    gap = output_gap(answered(base, other, hidden)[:-1], output[:-1], base.dtype)
    if gap > 1:
        raise BaseModelError(
            f"in this {type(base).__name__} later tokens move earlier outputs ({gap:.3g} times what rounding may do): "
            "it reads in both directions, so it cannot be trained to write. Give a causal language model, such as a "
            "Llama, Qwen or Mistral"
        )


def output_gap(found: Tensor, expected: Tensor, dtype: torch.dtype) -> float:
    """The difference as a multiple of what is allowed; inf where one of them is not finite."""
    if found.shape != expected.shape or not torch.isfinite(found).all():
        return float("inf")
    difference = (found - expected).abs()
    if dtype == torch.float32:
        return float(difference.max() / (EXACT * expected.abs().max()).clamp(min=1e-9))
    return float(difference.mean() / (ROUGH * expected.std()).clamp(min=1e-6))


def probe_rows(base: Any) -> tuple[Tensor, ...]:
    """Token ids from all over the vocabulary, none of which the config gives a meaning of its own."""
    table = base.get_input_embeddings().weight
    special = set(_token_ids(base.config.to_dict()))
    ordinary = [i for i in range(min(len(table), 50_000)) if i not in special] or [0]
    step = max(1, len(ordinary) // (sum(LENGTHS) + 1))
    picked = [ordinary[(i * step + 1) % len(ordinary)] for i in range(sum(LENGTHS))]
    positions = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    most = positions if isinstance(positions, int) and positions > 0 else max(LENGTHS)
    first = torch.tensor(picked, device=table.device).split(LENGTHS)
    return tuple(row[:most] for row in first)


def _token_ids(config: dict[str, Any]) -> Sequence[int]:
    found: list[int] = []
    for key, value in config.items():
        if isinstance(value, dict):
            found += _token_ids(value)
        elif str(key).endswith(("token_id", "token_index")):
            found += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)]
    return found


def _dtype(base: Any) -> str:
    return str(base.dtype).removeprefix("torch.")
