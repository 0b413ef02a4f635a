"""ZOPO (Hu et al. 2024, arXiv 2403.02993): gradient ascent on a surrogate model over embedded candidates.

A Gaussian process with the kernel of ``neural_kernel`` is fitted to the scores of the evaluated candidates nearest to
the current point. Adam climbs its mean, and after each step the point moves to the nearest candidate that was not
evaluated. Where the surrogate is uncertain several times in a row, the candidates around the point are evaluated. After
some evaluations without a gain the search goes back to the best candidate. ``settings.py`` has the published settings
and ours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sweeps.prompt_search.neural_kernel import NeuralKernel, Posterior, normalised
from sweeps.prompt_search.race import final_race, spread_rows
from sweeps.prompt_search.random_search import require_one
from sweeps.prompt_search.result import Evaluation, SearchResult
from sweeps.prompt_search.scorer import Scorer
from sweeps.prompt_search.settings import ZopoSettings
from trainer.data.rows import Row
from trainer.data.wording import Prompt


class ZopoSearch:
    """One run. ``vectors`` [n, d] are the candidates' embeddings, in their order."""

    def __init__(
        self,
        candidates: Sequence[Prompt],
        vectors: np.ndarray,
        scorer: Scorer,
        rows: Sequence[Row],
        settings: ZopoSettings,
        seed: int,
    ):
        self.candidates, self.scorer, self.settings = list(candidates), scorer, settings
        self.all_rows = spread_rows(rows, seed)
        self.rows = self.all_rows[: settings.rows]
        self.reserve = 0.0  # scorings kept for the race at the end
        self.z = normalised(vectors)
        self.kernel = NeuralKernel(self.z.shape[1], settings.width, settings.depth)
        if settings.kernel == "scaled":
            self.kernel.fit_scale(self.z)
        self.rng = random.Random(seed)
        self.scored: dict[int, float] = {}  # by position, in the order of evaluation
        self.evaluated: list[Evaluation] = []

    def run(self) -> SearchResult:
        """Raises UserError where the budget does not pay for one candidate."""
        whole = len(self.candidates) * len(self.rows)
        left = self.scorer.left
        if self.settings.end_share and math.isfinite(left):  # the race also gets what all candidates would leave
            share = max(self.settings.end_share * left, left - whole)
            self.reserve = max(0.0, min(share, left - len(self.rows)))
        affordable = int(min(left - self.reserve, whole) // len(self.rows))
        if self.settings.evaluations is not None:
            affordable = min(affordable, self.settings.evaluations)
        initial = self.settings.initial or max(1, min(affordable, math.ceil(affordable / 4)))
        first = self.rng.sample(range(len(self.candidates)), min(initial, len(self.candidates)))
        self.scorer.prepare([self.candidates[i] for i in first], self.rows)
        for i in first:
            self._evaluate(i)
        require_one(self.evaluated, self.scorer, len(self.rows))
        self._climb()
        return final_race(self.evaluated, self.all_rows, self.scorer, self.reserve)

    @property
    def over(self) -> bool:
        """Whether the search ends: all candidates, or as many as wanted, are evaluated, the budget does not pay for
        another one, or the best one answers every row right."""
        most = min(len(self.candidates), self.settings.evaluations or len(self.candidates))
        done = len(self.scored) >= most or self.scorer.left - self.reserve < len(self.rows)
        return done or max(self.scored.values(), default=0.0) >= 1.0

    @property
    def best(self) -> int:
        return max(self.scored, key=lambda i: self.scored[i])  # the first of equals

    def _climb(self) -> None:
        s = self.settings
        start = self._start()
        since, unsure = 0, 0
        while not self.over:
            if since > s.patience:
                start, since = self._start(), 0
            z, optimizer = start
            model = self._model(z)
            unsure = unsure + 1 if self._var(model, z) > s.uncertain else 0
            if unsure >= s.uncertain_times:
                for i in self._nearest(z, s.explore):
                    since = self._evaluate(i, since)
                unsure = 0
                if self.over:
                    return
                model = self._model(z)
            target = self._ascend(model, z, optimizer)
            since = self._evaluate(target, since)

    def _start(self) -> tuple[Tensor, torch.optim.Adam]:
        """The best candidate so far as the point to climb from, with a new Adam."""
        z = self.z[self.best].clone().requires_grad_(True)
        return z, torch.optim.Adam([z], lr=self.settings.lr)

    def _ascend(self, model: Posterior, z: Tensor, optimizer: torch.optim.Adam) -> int:
        """The candidate to evaluate next. Each step follows the gradient of the mean and then moves to the nearest
        candidate that was not evaluated; an uncertain surrogate ends the steps."""
        target = self._nearest(z, 1)[0]
        for step in range(self.settings.most_steps):
            optimizer.zero_grad()
            (-model.mu(z[None]).sum()).backward()
            optimizer.step()
            target = self._nearest(z, 1)[0]
            with torch.no_grad():
                z.copy_(self.z[target])
            if step + 1 < self.settings.most_steps and self._var(model, z) >= self.settings.uncertain:
                break
        return target

    def _evaluate(self, i: int, since: int = 0) -> int:
        """Evaluate candidate ``i`` and return how many evaluations there were since the last gain: 0 where ``i`` is
        better than all before, else ``since`` + 1. Where the search is over, nothing is evaluated."""
        if self.over:
            return since
        before = max(self.scored.values(), default=-1.0)
        score = self.scored[i] = self.scorer.score(self.candidates[i], self.rows)
        self.evaluated.append(Evaluation(self.candidates[i], score, len(self.rows), self.scorer.spent.scorings))
        return 0 if score > before else since + 1

    def _nearest(self, z: Tensor, n: int) -> list[int]:
        """Positions of the ``n`` candidates nearest to ``z`` among those that were not evaluated."""
        apart = (self.z - z.detach()).norm(dim=1)
        apart[list(self.scored)] = math.inf
        order = torch.argsort(apart, stable=True)[:n].tolist()
        return [i for i in order if apart[i] < math.inf]

    def _model(self, z: Tensor) -> Posterior:
        """The surrogate, fitted to the evaluated candidates nearest to ``z``. Our settings standardise scores by all
        evaluated ones, because a process with mean 0 would predict a score of 0 far away from them."""
        known = torch.tensor(list(self.scored))
        values = torch.tensor(list(self.scored.values()), dtype=torch.float64)
        apart = (self.z[known] - z.detach()).norm(dim=1)
        near = torch.argsort(apart, stable=True)[: self.settings.neighbours]
        mean = float(values.mean())
        spread = float(values.std()) if len(values) > 1 and float(values.std()) > 1e-9 else 1.0
        unit = spread if self.settings.scores == "standardised" else 1.0
        if (sigma := self.settings.noise) is None:  # the standard error of a score on these rows
            sigma = min(1.0, max(0.01, math.sqrt(max(mean * (1 - mean), 1e-9) / len(self.rows)) / unit))
        zero = mean if self.settings.scores == "standardised" else 0.0
        return Posterior.of(self.kernel, self.z[known[near]], values[near], sigma, zero, unit)

    def _var(self, model: Posterior, z: Tensor) -> float:
        with torch.no_grad():
            return float(model.var(z[None])[0])


def zopo(
    candidates: Sequence[Prompt],
    vectors: np.ndarray,
    scorer: Scorer,
    rows: Sequence[Row],
    settings: ZopoSettings | None = None,
    seed: int = 0,
) -> SearchResult:
    """The best candidate found. Raises UserError where the budget does not pay for one."""
    return ZopoSearch(candidates, vectors, scorer, rows, settings or ZopoSettings(), seed).run()
