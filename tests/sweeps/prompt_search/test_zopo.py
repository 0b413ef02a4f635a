"""ZOPO's parts against references (autograd, scikit-learn) and the search on landscapes whose best is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prompt_landscape import LABELS, Landscape, prompts, rows
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct

from sweeps.prompt_search import scorer as scorer_module
from sweeps.prompt_search.journal import FolderJournal, SearchJournal
from sweeps.prompt_search.neural_kernel import NeuralKernel, Posterior, normalised
from sweeps.prompt_search.random_search import random_search
from sweeps.prompt_search.result import SearchResult
from sweeps.prompt_search.scorer import Scorer
from sweeps.prompt_search.settings import AS_PUBLISHED, RandomSettings, ZopoSettings
from sweeps.prompt_search.zopo import zopo
from trainer.errors import UserError
from trainer.store import Store


def network(kernel: NeuralKernel, x: torch.Tensor) -> torch.Tensor:
    """The output of the kernel's network, [n, features] -> [n]."""
    for weight, bias in zip(kernel.weights[:-1], kernel.biases[:-1], strict=True):
        x = torch.relu(x @ weight.T + bias)
    return (x @ kernel.weights[-1].T + kernel.biases[-1]).squeeze(-1)


def gradients(kernel: NeuralKernel, x: torch.Tensor) -> torch.Tensor:
    """[n, parameters] of the network by autograd."""
    parameters = [p.requires_grad_(True) for p in (*kernel.weights, *kernel.biases)]
    found = []
    for row in x:
        parts = torch.autograd.grad(network(kernel, row[None])[0], parameters)
        found.append(torch.cat([g.flatten() for g in parts]))
    for p in parameters:
        p.requires_grad_(False)
    return torch.stack(found)


@pytest.mark.parametrize(("depth", "width"), [(1, 8), (2, 32), (3, 5)])
def test_the_kernel_is_the_inner_product_of_the_networks_gradients(depth: int, width: int) -> None:
    kernel = NeuralKernel(7, width, depth, seed=3)
    a, b = (torch.rand(n, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (5, 4))
    torch.testing.assert_close(kernel(a, b), gradients(kernel, a) @ gradients(kernel, b).T, rtol=1e-10, atol=1e-8)


def test_the_scaled_kernel_has_prior_variance_one_on_the_average() -> None:
    kernel = NeuralKernel(6)
    x = torch.rand(30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel.fit_scale(x)
    assert float(kernel(x, x).diagonal().mean()) == pytest.approx(1.0)


def test_the_posterior_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(1)
    kernel = NeuralKernel(5, 16, 2)
    x, z = (torch.rand(n, 5, dtype=torch.float64, generator=generator) for n in (12, 6))
    kernel.fit_scale(x)
    y = torch.rand(12, dtype=torch.float64, generator=generator)
    sigma, mean, unit = 0.3, 0.4, 0.2
    ours = Posterior.of(kernel, x, y, sigma, mean, unit)
    features = {n: (gradients(kernel, t) / math.sqrt(kernel.scale)).numpy() for n, t in (("x", x), ("z", z))}
    reference = GaussianProcessRegressor(DotProduct(sigma_0=0, sigma_0_bounds="fixed"), alpha=sigma**2, optimizer=None)
    reference.fit(features["x"], ((y - mean) / unit).numpy())
    expected, deviation = reference.predict(features["z"], return_std=True)
    np.testing.assert_allclose(ours.mu(z).numpy(), mean + unit * expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.var(z).numpy(), deviation**2, rtol=1e-6, atol=1e-9)


def test_the_gradient_of_the_mean_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    kernel = NeuralKernel(4)
    x, y = torch.rand(8, 4, dtype=torch.float64, generator=generator), torch.rand(8, dtype=torch.float64)
    kernel.fit_scale(x)
    model = Posterior.of(kernel, x, y, 0.1)
    z = torch.rand(4, dtype=torch.float64, generator=generator).requires_grad_(True)
    [slope] = torch.autograd.grad(model.mu(z[None]).sum(), z)
    step = 1e-6
    for i in range(4):
        up, down = z.detach().clone(), z.detach().clone()
        up[i] += step
        down[i] -= step
        expected = float((model.mu(up[None]) - model.mu(down[None]))[0]) / (2 * step)
        assert float(slope[i]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_equal_candidates_and_no_noise_do_not_break_the_posterior() -> None:
    kernel = NeuralKernel(3)
    x = torch.ones(4, 3, dtype=torch.float64)
    model = Posterior.of(kernel, x, torch.full((4,), 0.5, dtype=torch.float64), 0.0)
    assert float(model.mu(x[:1])[0]) == pytest.approx(0.5, abs=1e-3)
    assert float(model.var(x[:1])[0]) >= 0.0


def test_normalising_takes_dimensions_without_spread_or_with_nan_out() -> None:
    vectors = np.array([[1.0, 5.0, np.nan, -2.0], [3.0, 5.0, 1.0, 2.0], [2.0, 5.0, 0.0, 0.0]])
    assert normalised(vectors).tolist() == [[0, 0, 0, 0], [1, 0, 0, 1], [0.5, 0, 0, 0.5]]


# the search ---------------------------------------------------------------------------------------------------


def hill(n: int, seed: int = 0) -> tuple[np.ndarray, dict[str, float]]:
    """Embeddings on a plane, and shares of right answers that rise towards one corner."""
    at = np.random.default_rng(seed).random((n, 2))
    height = 0.95 - 0.6 * np.sqrt(((at - [0.9, 0.1]) ** 2).sum(axis=1))
    return at, {p.text: float(h) for p, h in zip(prompts(n), height, strict=True)}


def run(seed: int, limit: int = 800, n: int = 150, settings: ZopoSettings | None = None) -> tuple[SearchResult, Scorer]:
    vectors, shares = hill(n, seed)
    scorer = Scorer(Landscape(shares), SearchJournal(), LABELS, limit=limit)
    return zopo(prompts(n), vectors, scorer, rows(200), settings or ZopoSettings(rows=40, end_share=0.0), seed), scorer


def test_on_a_smooth_landscape_zopo_finds_better_prompts_than_random_search_at_the_same_budget() -> None:
    gains = []
    for seed in range(8):
        found, scorer = run(seed)
        _, shares = hill(150, seed)
        other = Scorer(Landscape(shares), SearchJournal(), LABELS, limit=800)
        yardstick = random_search(prompts(150), other, rows(200), RandomSettings(40), seed)
        assert scorer.spent.scorings <= 800
        assert len({e.prompt.id for e in found.evaluated}) == len(found.evaluated) == 20
        gains.append(shares[found.prompt.text] - shares[yardstick.prompt.text])
    assert np.mean(gains) > 0.01
    assert sum(g >= 0 for g in gains) >= 6


def test_the_same_seed_gives_the_same_search_and_another_seed_another() -> None:
    assert run(1)[0] == run(1)[0]
    assert [e.prompt.id for e in run(1)[0].evaluated] != [e.prompt.id for e in run(2)[0].evaluated]


def test_the_race_at_the_end_reads_more_rows_and_keeps_to_the_budget() -> None:
    found, scorer = run(4, limit=2000, settings=ZopoSettings(rows=40, end_share=0.4))
    assert found.rows > 40
    assert scorer.spent.scorings <= 2000
    assert len({e.prompt.id for e in found.evaluated if e.rows == 40}) == 30


def test_a_budget_beyond_all_candidates_goes_to_the_race() -> None:
    found, scorer = run(4, n=20, limit=2000, settings=ZopoSettings(rows=40))
    assert len({e.prompt.id for e in found.evaluated if e.rows == 40}) == 20
    assert found.rows > 40
    assert 800 < scorer.spent.scorings <= 2000
    alone, _ = run(4, n=1, limit=41, settings=ZopoSettings(rows=40))
    assert (len(alone.evaluated), alone.rows) == (1, 40)


def test_a_perfect_score_ends_the_search() -> None:
    vectors, _ = hill(40)
    engine = Landscape({}, rest=1.0)
    found = zopo(
        prompts(40), vectors, Scorer(engine, SearchJournal(), LABELS, limit=4000), rows(50), ZopoSettings(rows=50)
    )
    assert found.score == 1.0
    assert len(found.evaluated) == 1


def test_all_candidates_are_evaluated_where_the_budget_allows_it_whatever_the_embeddings() -> None:
    same = np.zeros((9, 3))
    scorer = Scorer(Landscape({}), SearchJournal(), LABELS)
    found = zopo(prompts(9), same, scorer, rows(30), ZopoSettings(rows=30))
    assert len({e.prompt.id for e in found.evaluated}) == 9
    assert found.score == max(e.score for e in found.evaluated)


def test_a_doubtful_neighbourhood_is_explored() -> None:
    """With every variance above the limit the search evaluates neighbours of the best in blocks."""
    sure, _ = run(3, settings=ZopoSettings(rows=40, end_share=0.0, uncertain=1e9))
    unsure, _ = run(3, settings=ZopoSettings(rows=40, end_share=0.0, uncertain=0.0, uncertain_times=1, explore=4))
    assert [e.prompt.id for e in sure.evaluated[:5]] == [e.prompt.id for e in unsure.evaluated[:5]]
    assert [e.prompt.id for e in sure.evaluated] != [e.prompt.id for e in unsure.evaluated]


def test_a_budget_that_pays_for_no_candidate_is_refused() -> None:
    with pytest.raises(UserError, match="--budget = 10 does not pay for one prompt on 40 rows"):
        run(0, limit=10)


def test_a_killed_search_goes_on_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_module, "BATCH", 16)
    vectors, shares = hill(60)

    def search(engine: Landscape, folder: Path) -> SearchResult:
        scorer = Scorer(engine, FolderJournal(Store.open(folder)), LABELS, limit=400)
        return zopo(prompts(60), vectors, scorer, rows(100), ZopoSettings(rows=20), seed=5)

    whole = search(Landscape(shares), tmp_path / "whole")
    killed, resumed = Landscape(shares, dies_after=13), Landscape(shares)
    with pytest.raises(KeyboardInterrupt):
        search(killed, tmp_path / "killed")
    assert search(resumed, tmp_path / "killed") == whole
    assert killed.calls
    assert len(killed.calls + resumed.calls) == len({*killed.calls, *resumed.calls}) == 400


def test_as_published_it_evaluates_165_candidates_and_ends_without_a_race() -> None:
    """Of them 40 at random, then those that the climb leads to; the first 40 depend on the seed alone."""
    published = AS_PUBLISHED["zopo"]
    assert isinstance(published, ZopoSettings)
    found, scorer = run(1, limit=165 * 50, n=200, settings=published)
    assert len(found.evaluated) == 165
    assert {e.rows for e in found.evaluated} == {50}
    assert scorer.spent.scorings == 165 * 50
    assert found.score == max(e.score for e in found.evaluated)
    fast, _ = run(1, limit=165 * 50, n=200, settings=replace(published, lr=0.1))
    first = [[e.prompt.id for e in one.evaluated[:40]] for one in (found, fast)]
    assert first[0] == first[1]
    assert [e.prompt.id for e in found.evaluated] != [e.prompt.id for e in fast.evaluated]


def test_with_raw_scores_and_kernel_the_surrogate_is_the_papers() -> None:
    """Mean 0 before any score, noise of 0.01, and the kernel's own scale."""
    from sweeps.prompt_search.zopo import ZopoSearch

    vectors, shares = hill(60)
    published = AS_PUBLISHED["zopo"]
    assert isinstance(published, ZopoSettings)
    one = ZopoSearch(prompts(60), vectors, Scorer(Landscape(shares), SearchJournal(), LABELS), rows(80), published, 0)
    assert one.kernel.scale == 1.0
    for i in range(5):
        one._evaluate(i)
    model = one._model(one.z[7])
    assert (model.mean, model.unit) == (0.0, 1.0)
    y = torch.tensor([one.scored[i] for i in range(5)], dtype=torch.float64)
    near = torch.argsort((one.z[:5] - one.z[7]).norm(dim=1), stable=True)
    x = one.z[:5][near]
    wanted = torch.linalg.solve(one.kernel(x, x) + 1e-4 * torch.eye(5, dtype=torch.float64), y[near])
    np.testing.assert_allclose(model.alpha.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-8)


def test_random_search_may_end_with_the_same_race() -> None:
    _, shares = hill(100, 2)
    scorer = Scorer(Landscape(shares), SearchJournal(), LABELS, limit=2000)
    found = random_search(prompts(100), scorer, rows(200), RandomSettings(20, end_share=0.25), 3)
    assert scorer.spent.scorings <= 2000
    assert {e.rows for e in found.evaluated} >= {20, 40}
    assert found.rows > 20
    assert sum(e.rows == 20 for e in found.evaluated) == 75
