"""The loss: token weights, their normalisation, and the weighted sum over a whole effective batch.

With l_t the cross-entropy of token t in nats and w_t its weight, a trial's loss over its effective batch is
sum_t w_t l_t / W. W is computed from the weights of the *whole* batch (all micro-batches and workers) before
the first of them runs, so that splitting the batch changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.kinds import COMPLETION
from trainer.trial import Loss

Weights = NDArray[np.float32]
Kinds = NDArray[np.int8]


def token_weights(kinds: Kinds, loss: Loss) -> Weights:
    """Weight of each token as a prediction target [L]: completion 1, row content ``plw``, template 0 or ``plw``."""
    template = loss.plw if loss.template_tokens == "plw" else 0.0
    table = np.array([template, loss.plw, 1.0], dtype=np.float32)
    return table[kinds]


def _weighted_mean(weights: Weights, kinds: Kinds) -> float:
    return float(weights.sum(dtype=np.float64))


def _nonzero_count(weights: Weights, kinds: Kinds) -> float:
    return float(np.count_nonzero(weights))


def _completion_count(weights: Weights, kinds: Kinds) -> float:
    return float(np.count_nonzero(kinds == COMPLETION))


# name -> this sequence's share of W (the second is WIT's, arXiv 2507.07817, with response weight 1)
NORMALIZATIONS: dict[str, Callable[[Weights, Kinds], float]] = {
    "weighted_mean": _weighted_mean,
    "nonzero_count": _nonzero_count,
    "completion_count": _completion_count,
}


def normalizer(kinds: Sequence[Kinds], loss: Loss) -> float:
    """W of an effective batch, from the kinds [L] of its target tokens (the first token of a sequence is none)."""
    share = NORMALIZATIONS[loss.normalization]
    return sum(share(token_weights(k, loss), k) for k in kinds)


def weighted_loss(losses: Tensor, weights: Tensor, normalizers: Tensor) -> Tensor:
    """sum_n w_n l_n / W_n over N target tokens; ``normalizers`` [N] is W of the batch that each token belongs to."""
    return (losses * (weights / normalizers)).sum()


def divergence(logits: Tensor) -> Tensor:
    """Generalised Jensen-Shannon divergence in nats between the V distributions of logits [V, T, C], averaged over T:
    H(mean of them) - mean of their H. 0 where they agree, at most log V."""
    logs = F.log_softmax(logits.float(), dim=-1)
    mean = torch.logsumexp(logs, dim=0) - math.log(logits.shape[0])
    return (_entropy(mean) - _entropy(logs).mean(dim=0)).mean()


def _entropy(logs: Tensor) -> Tensor:
    """Of log-probabilities [..., C], in nats."""
    return -(logs.exp() * logs).sum(dim=-1)


def token_losses(logits: Tensor, targets: Tensor, chunk: int = 4096) -> Tensor:
    """Cross-entropy in nats [N] from logits [N, V], in float32, a chunk of tokens at a time to bound memory."""
    if logits.shape[0] <= chunk:
        return F.cross_entropy(logits.float(), targets, reduction="none")
    parts = [
        torch.utils.checkpoint.checkpoint(_chunk_losses, x, t, use_reentrant=False)
        for x, t in zip(logits.split(chunk), targets.split(chunk), strict=True)
    ]
    return torch.cat(parts)


def _chunk_losses(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")
