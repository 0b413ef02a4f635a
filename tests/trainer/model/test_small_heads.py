"""Attention of small heads against torch's own, forward and backward, and when it is left to torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as reference

from trainer.model.small_heads import LARGEST, attend, pays


def heads(heads: int, length: int, d: int, seed: int, spread: float = 1.0) -> torch.Tensor:
    made = torch.randn(3, length, heads, d, generator=torch.Generator().manual_seed(seed)) * spread
    return made.transpose(1, 2).requires_grad_()  # as the projections leave it: not contiguous


@pytest.mark.parametrize(
    ("of_q", "of_k", "length", "d"), [(4, 4, 46, 24), (8, 4, 88, 8), (2, 1, 2, 16), (4, 4, 160, 32)]
)
def test_equals_torch(of_q: int, of_k: int, length: int, d: int) -> None:
    q, k, v = heads(of_q, length, d, 0), heads(of_k, length, d, 1), heads(of_k, length, d, 2)
    assert pays(q, k)
    wanted = reference(q, k, v, is_causal=True, enable_gqa=True)
    out = attend(q, k, v)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-6)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    for ours, theirs in zip(
        torch.autograd.grad(out, (q, k, v), grad), torch.autograd.grad(wanted, (q, k, v), grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_scores_at_the_limit_stay_finite_and_exact() -> None:
    q, k, v = heads(2, 40, 16, 0), heads(2, 40, 16, 1), heads(2, 40, 16, 2)
    with torch.no_grad():
        q, k = (torch.nn.functional.normalize(t, dim=-1) for t in (q, k))
        q[:, :, 1:] *= LARGEST * 4.0 * 0.999  # sqrt 16
        k[:, :, 3], k[:, :, 5] = q[:, :, 20] / q[:, :, 20].norm(dim=-1, keepdim=True), -k[:, :, 3]
        assert pays(q, k)
        torch.testing.assert_close(attend(q, k, v), reference(q, k, v, is_causal=True), rtol=1e-4, atol=1e-5)


def test_large_scores_and_other_shapes_are_left_to_torch() -> None:
    q = heads(2, 40, 16, 0)
    assert not pays(q * 30, q * 30)
    assert not pays(q * torch.nan, q)
    assert not pays(q[:, :, -1:], q)  # a step of decoding
    assert not pays(q.double(), q.double())
    assert not pays(heads(2, 40, 64, 0), heads(2, 40, 64, 0))
    assert not pays(heads(2, 300, 16, 0), heads(2, 300, 16, 0))
