"""The output layer against plain float32 formulas, in one piece and in several."""

from __future__ import annotations

import pytest
import torch
from tiny_llama import make_llama

from trainer.model import output_layer
from trainer.model.output_layer import cross_entropy, float_logits
from trainer.model.routing import Batch
from trainer.model.slots import SlotModel

N, H, V = 7, 16, 50


def made(dtype: torch.dtype, bias: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(N, H).to(dtype), torch.randn(V, H).to(dtype)
    return hidden, weight, torch.randn(V).to(dtype) if bias else None, torch.randint(0, V, (N,))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("piece", [2**24, 3 * V])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients_are_those_of_float32_logits(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, piece: int, bias: bool
) -> None:
    monkeypatch.setattr(output_layer, "PIECE", piece)
    hidden, weight, offset, targets = made(dtype, bias)
    mine, theirs = hidden.clone().requires_grad_(), hidden.float().requires_grad_()
    wide = None if offset is None else offset.float()
    losses = cross_entropy(mine, weight, offset, targets)
    logits = torch.nn.functional.linear(theirs, weight.float(), wide)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(float_logits(hidden, weight, offset), logits.detach(), atol=1e-4, rtol=1e-5)
    share = torch.rand(N)
    (losses * share).sum().backward()
    (expected * share).sum().backward()
    assert mine.grad is not None
    tolerance = 1e-5 if dtype == torch.float32 else 0.03  # the gradient's own rounding to bfloat16
    torch.testing.assert_close(mine.grad.float(), theirs.grad, atol=tolerance, rtol=tolerance)


def test_logits_of_a_bfloat16_model_are_float32_and_differ_where_bfloat16_ties() -> None:
    """CASES V9: rounded to bfloat16, neighbouring logits are one number, and the first label wins by chance."""
    base = make_llama().to(torch.bfloat16)
    model = SlotModel(base, 1, 4, ("all-linear",)).eval()
    ids = torch.arange(3, 15)[None]
    n = torch.arange(ids.shape[1])
    batch = Batch(ids, torch.ones_like(ids), n[None], torch.zeros(1, dtype=torch.long), torch.zeros_like(n), n, only=0)
    logits = model(batch).detach()
    assert logits.dtype == torch.float32
    distinct = [len(row.unique()) for row in logits]
    rounded = [len(row.unique()) for row in logits.to(torch.bfloat16)]
    assert sum(distinct) == logits.numel() > 1.05 * sum(rounded)
    hidden = model.base.base_model(input_ids=ids).last_hidden_state[0].float()
    head = model.base.get_output_embeddings()
    torch.testing.assert_close(logits, hidden @ head.weight.float().T, atol=0.02, rtol=0.02)
