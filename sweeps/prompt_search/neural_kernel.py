"""ZOPO's surrogate model: a Gaussian process whose kernel is the empirical neural tangent kernel of a small network.

k(a, b) = <d net(a)/d theta, d net(b)/d theta> for a ReLU MLP whose weights and biases are drawn from N(0, 1) and never
trained (Hu et al. 2024, arXiv 2403.02993). For layer l with input h and pre-activation gradient d the inner product is
(h(a).h(b) + 1) (d(a).d(b)), so no Jacobian is built, and the kernel is differentiable in a.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


class NeuralKernel:
    """A network with ``depth`` hidden layers of ``width``, in float64. The kernel is divided by ``scale``, which
    ``fit_scale`` sets."""

    def __init__(self, features: int, width: int = 32, depth: int = 2, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        sizes = [features, *[width] * depth, 1]

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.weights = [draw(b, a) for a, b in pairwise(sizes)]
        self.biases = [draw(b) for b in sizes[1:]]
        self.scale = 1.0

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """[n, m]"""
        inputs_a, grads_a = self._parts(a)
        inputs_b, grads_b = self._parts(b)
        parts = zip(inputs_a, grads_a, inputs_b, grads_b, strict=True)
        return sum(((x @ y.T + 1.0) * (u @ v.T) for x, u, y, v in parts), torch.zeros(())) / self.scale

    def fit_scale(self, x: Tensor) -> None:
        """Set ``scale`` so that the prior variance averaged over ``x`` is 1; N(0, 1) weights make it thousands.
        ``Posterior.var`` is then a share of the variance before the first evaluation."""
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
    """The posterior of a Gaussian process with ``kernel`` and the constant mean ``mean``, given values ``y`` [n] at the
    points ``x`` [n, d]."""

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
        """[m] means in the units of y, differentiable in ``z``."""
        return self.mean + self.unit * (self.kernel(z, self.x) @ self.alpha)

    def var(self, z: Tensor) -> Tensor:
        """[m] variances of the standardised values, at least 0."""
        across = self.kernel(z, self.x)
        own = torch.stack([self.kernel(row[None], row[None])[0, 0] for row in z])
        return (own - (across * torch.cholesky_solve(across.T, self.factor).T).sum(dim=1)).clamp(min=0.0)


def normalised(vectors: np.ndarray) -> Tensor:
    """Each dimension scaled to [0, 1] by its minimum and maximum. A dimension of equal values, or with a value that is
    not finite, becomes 0."""
    finite = np.where(np.isfinite(vectors).all(axis=0), vectors, 0.0)
    low, high = finite.min(axis=0), finite.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    return torch.from_numpy(((finite - low) / spread).astype(np.float64))


def _cholesky(matrix: Tensor) -> Tensor:
    """The Cholesky factor of a positive matrix. Equal candidates with little noise make the matrix singular; then a
    small number is added to its diagonal."""
    extra = 0.0
    for _ in range(8):
        factor, failed = torch.linalg.cholesky_ex(matrix + extra * torch.eye(len(matrix), dtype=torch.float64))
        if not int(failed):
            return factor
        extra = max(10 * extra, 1e-10 * float(matrix.diagonal().mean()))
    raise ValueError("the kernel matrix of the evaluated prompts is not positive: an embedding is not finite")
