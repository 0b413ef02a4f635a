"""The loss against hand-computed numbers and against transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_llama import make_llama

from trainer.data.kinds import COMPLETION, CONTENT, TEMPLATE
from trainer.train.loss import normalizer, token_losses, token_weights, weighted_loss
from trainer.trial import Loss

NAMES = {"a": "weighted_mean", "b": "nonzero_count", "c": "completion_count"}
GOLDEN = [  # PLW, (a), (b), (c) for token losses [2, 1 | 4, 3]
    (0.0, 3.5, 3.5, 3.5),
    (0.01, 3.480198, 1.7575, 3.515),
    (0.1, 3.318182, 1.825, 3.65),
    (0.242, 3.110306, 1.9315, 3.863),
    (0.5, 2.833333, 2.125, 4.25),
    (1.0, 2.5, 2.5, 5.0),
]


def loss_of(losses: list[float], kinds: list[int], spec: Loss) -> float:
    k = np.array(kinds, np.int8)
    weights = torch.from_numpy(token_weights(k, spec))
    W = normalizer([k], spec)
    return float(weighted_loss(torch.tensor(losses), weights, torch.full((len(losses),), W)))


@pytest.mark.parametrize("row", GOLDEN, ids=lambda r: f"plw{r[0]}")
@pytest.mark.parametrize("column", "abc")
def test_golden_table(row: tuple[float, ...], column: str) -> None:
    spec = Loss(plw=row[0], normalization=NAMES[column])  # type: ignore[arg-type]
    found = loss_of([2.0, 1.0, 4.0, 3.0], [CONTENT, CONTENT, COMPLETION, COMPLETION], spec)
    assert found == pytest.approx(row["abc".index(column) + 1], abs=1e-6)


def test_only_nonzero_count_jumps_at_zero() -> None:
    """(a) and (c) are continuous in PLW at 0; (b) is not: a change of learning rate in disguise."""
    kinds, losses = [CONTENT] * 2 + [COMPLETION] * 2, [2.0, 1.0, 4.0, 3.0]
    for name, jumps in (("weighted_mean", False), ("nonzero_count", True), ("completion_count", False)):
        at, near = (loss_of(losses, kinds, Loss(plw=p, normalization=name)) for p in (0.0, 1e-6))  # type: ignore[arg-type]
        assert (abs(at - near) > 1) == jumps, name


def test_template_tokens_weigh_nothing_unless_asked() -> None:
    kinds = np.array([TEMPLATE, CONTENT, COMPLETION], np.int8)
    assert token_weights(kinds, Loss(plw=0.25)).tolist() == [0.0, 0.25, 1.0]
    assert token_weights(kinds, Loss(plw=0.25, template_tokens="plw")).tolist() == [0.25, 0.25, 1.0]


@pytest.mark.parametrize("plw", [0.0, 1.0])
def test_equals_transformers_own_loss(plw: float) -> None:
    """PLW 0 is transformers' loss on masked labels, PLW 1 that on all labels."""
    model = make_llama()
    ids = torch.randint(3, 256, (1, 20), generator=torch.Generator().manual_seed(1))
    kinds = np.array([CONTENT] * 15 + [COMPLETION] * 5, np.int8)
    labels = ids.clone()
    if plw == 0.0:
        labels[0, :15] = -100
    out = model(input_ids=ids, labels=labels)
    losses = token_losses(out.logits[0, :-1], ids[0, 1:])
    spec = Loss(plw=plw)
    weights = torch.from_numpy(token_weights(kinds, spec))[1:]
    W = normalizer([kinds[1:]], spec)
    assert float(weighted_loss(losses, weights, torch.full_like(losses, W)).detach()) == pytest.approx(
        float(out.loss.detach()), abs=1e-6
    )


def test_losses_in_chunks_are_the_same_and_have_the_same_gradient() -> None:
    logits = torch.randn(50, 30, requires_grad=True)
    targets = torch.randint(0, 30, (50,))
    whole, parts = token_losses(logits, targets), token_losses(logits, targets, chunk=7)
    assert torch.equal(whole, parts)
    assert torch.allclose(*(torch.autograd.grad(x.sum(), logits)[0] for x in (whole, parts)))
