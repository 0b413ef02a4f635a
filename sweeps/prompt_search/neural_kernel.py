"""ZOPO's surrogate: a Gaussian process whose kernel is the empirical neural tangent kernel of a small random network.

k(a, b) = <d net(a)/d theta, d net(b)/d theta> for an MLP with ReLU, weights and biases drawn from N(0, 1) and never
trained (Hu et al. 2024, arXiv 2403.02993). For layer l with input h and pre-activation gradient d the inner product is
(h(a).h(b) + 1) (d(a).d(b)), so no Jacobian is built, and the whole is differentiable in a.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


class NeuralKernel:
    """``depth`` hidden layers of ``width``; float64. ``scale`` divides the kernel: see ``fit_scale``."""

    def __init__(self, features: int, width: int = 32, depth: int = 2, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        sizes = [features, *[width] * depth, 1]

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.weights = [draw(b, a) for a, b in pairwise(sizes)]
        self.biases = [draw(b) for b in sizes[1:]]
        self.scale = 1.0

    def net(self, x: Tensor) -> Tensor:
        """[n, features] -> [n]"""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = torch.relu(x @ weight.T + bias)
        return (x @ self.weights[-1].T + self.biases[-1]).squeeze(-1)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """[n, m]"""
        inputs_a, grads_a = self._parts(a)
        inputs_b, grads_b = self._parts(b)
        parts = zip(inputs_a, grads_a, inputs_b, grads_b, strict=True)
        return sum(((x @ y.T + 1.0) * (u @ v.T) for x, u, y, v in parts), torch.zeros(())) / self.scale

    def fit_scale(self, x: Tensor) -> None:
        """Make the prior variance 1 on the average over ``x``, so that ``var`` is a share of what was not known before
        the first evaluation: with N(0, 1) weights it is in the thousands."""
        self.scale = 1.0
        self.scale = float(sum(float(self(row[None], row[None])) for row in x) / len(x))

    def _parts(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Each layer's inputs [n, in] and d net / d its pre-activations [n, out]."""
        inputs, signs = [], []
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            inputs.append(x)
            before = x @ weight.T + bias
            signs.append((before > 0).double())
            x = torch.relu(before)
        inputs.append(x)
        grads = [torch.ones(len(x), 1, dtype=torch.float64)]
        for weight, sign in zip(reversed(self.weights[1:]), reversed(signs), strict=True):
            grads.append((grads[-1] @ weight) * sign)
        return inputs, grads[::-1]


@dataclass(frozen=True)
class Posterior:
    """Of a Gaussian process with ``kernel`` and constant mean ``mean``, given ``y`` [n] at ``x`` [n, d]."""

    kernel: NeuralKernel
    x: Tensor
    alpha: Tensor
    factor: Tensor  # Cholesky factor of K + sigma^2 I
    mean: float
    unit: float  # of y: values are modelled as (y - mean) / unit

    @classmethod
    def of(
        cls, kernel: NeuralKernel, x: Tensor, y: Tensor, sigma: float, mean: float = 0.0, unit: float = 1.0
    ) -> Posterior:
        """``sigma``: the standard deviation of the noise, in units of ``unit``."""
        noisy = kernel(x, x) + sigma**2 * torch.eye(len(x), dtype=torch.float64)
        factor = _cholesky(noisy)
        alpha = torch.cholesky_solve(((y - mean) / unit)[:, None], factor)[:, 0]
        return cls(kernel, x, alpha, factor, mean, unit)

    def mu(self, z: Tensor) -> Tensor:
        """[m], in the units of y; differentiable in ``z``."""
        return self.mean + self.unit * (self.kernel(z, self.x) @ self.alpha)

    def var(self, z: Tensor) -> Tensor:
        """[m], of the standardised values, never below 0."""
        across = self.kernel(z, self.x)
        own = torch.stack([self.kernel(row[None], row[None])[0, 0] for row in z])
        return (own - (across * torch.cholesky_solve(across.T, self.factor).T).sum(dim=1)).clamp(min=0.0)


def normalised(vectors: np.ndarray) -> Tensor:
    """Min-max to [0, 1] per dimension; a dimension without spread, or with values that are not finite, becomes 0."""
    finite = np.where(np.isfinite(vectors).all(axis=0), vectors, 0.0)
    low, high = finite.min(axis=0), finite.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    return torch.from_numpy(((finite - low) / spread).astype(np.float64))


def _cholesky(matrix: Tensor) -> Tensor:
    """Of a positive matrix; equal candidates and small noise make it singular, so a little is added where it fails."""
    extra = 0.0
    for _ in range(8):
        factor, failed = torch.linalg.cholesky_ex(matrix + extra * torch.eye(len(matrix), dtype=torch.float64))
        if not int(failed):
            return factor
        extra = max(10 * extra, 1e-10 * float(matrix.diagonal().mean()))
    raise ValueError("the kernel matrix of the evaluated prompts is not positive: an embedding is not finite")
