"""Gradient checkpointing changes what is kept for the backward pass, and no result."""

from __future__ import annotations

import pytest
import torch
from engine_steps import assert_close, make_batch, train
from tiny_llama import make_llama

from trainer.errors import UserError
from trainer.model.checkpointing import checkpoint_layers
from trainer.setup import Setup
from trainer.train.batches import collate
from trainer.train.engine import Engine
from trainer.trial import Lora, Loss, Optimization

LORA = Lora(r=4, alpha=8.0, dropout=0.2)
PLAN = Optimization(steps=10, lr=3e-3, batch_size=4)


def engine(checkpointing: bool, slots: int, zero: int = 0) -> Engine:
    setup = Setup(slots=slots, max_r=4, target_modules=LORA.target_modules, checkpointing=checkpointing, zero=zero)
    made = Engine(make_llama(), setup)
    for slot in range(slots):
        made.place(slot, LORA, PLAN, seed=7 + slot)
    return made


@pytest.mark.parametrize(("slots", "zero"), [(2, 0), (1, 0), (1, 3)])
def test_checkpointed_training_is_training(slots: int, zero: int) -> None:
    adapters = []
    for checkpointing in (False, True):
        made = engine(checkpointing, slots, zero)
        train(made, 0, PLAN, Loss(plw=0.1), 0, 3)
        adapters.append(made.snapshot(0, LORA))
        made.close()
    assert_close(adapters[1], adapters[0])


def test_a_checkpointed_layer_keeps_its_input_alone() -> None:
    kept = {}
    for checkpointing in (False, True):
        made, found = engine(checkpointing, 2), 0

        def count(x: torch.Tensor) -> torch.Tensor:
            nonlocal found
            found += x.numel()
            return x

        work = collate([s for slot in (0, 1) for s in make_batch(0, 6, Loss(), slot)], 0)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            made.slot_model(work.batch, targets=work.targets).sum()
        kept[checkpointing] = found
        made.close()
    assert kept[True] < 0.4 * kept[False]


def test_a_model_without_marked_layers_is_refused() -> None:
    class Plain(torch.nn.Module):
        pass

    with pytest.raises(UserError, match=r"training\.checkpointing = true: transformers marks no layers of this Plain"):
        checkpoint_layers(Plain())
