"""Seeds as a random factor: coverage, type I error and the identities of the analysis of variance.

Cells are simulated with known components on the scale of chances, then drawn as right or wrong answers. Truth is by a
large simulation of the same model, which shares no code with what is tested.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.formula.api import ols

from sweeps.statistics import intervals as st
from sweeps.statistics import seeds as sd
from trainer.measure.grid import Floats


@dataclass(frozen=True)
class Effects:
    """Standard deviations, on the scale of chances."""

    mu: float = 0.75
    seed: float = 0.009
    prompt: float = 0.03
    own_prompt: float = 0.008  # of one configuration
    row: float = 0.2
    seed_prompt: float = 0.01
    seed_row: float = 0.02
    prompt_row: float = 0.03


def chances(x: Floats) -> Floats:
    return np.clip(x, 0.02, 0.98)


def truth(e: Effects, n: int = 2500) -> tuple[float, float]:
    """The mean, and the standard deviation between prompts of one fine-tune."""
    rng = np.random.default_rng(0)
    row, luck = rng.normal(0, e.row, n), math.hypot(e.prompt_row, e.seed_row)
    shift = rng.normal(0, math.hypot(e.prompt, e.own_prompt), n)
    one = chances(e.mu + (shift + rng.normal(0, e.seed_prompt, n))[:, None] + row + rng.normal(0, luck, (n, n)))
    any_seed = chances(e.mu + shift[:, None] + row + rng.normal(0, math.hypot(luck, e.seed, e.seed_prompt), (n, n)))
    return float(any_seed.mean()), float(one.mean(axis=1).std())


def draw(rng: np.random.Generator, e: Effects, seeds: list[int], p: int, r: int) -> list[Floats]:
    """The cells [S, P, R] of as many configurations as ``seeds``, with shared prompts and rows and equal settings."""
    prompt, row = rng.normal(0, e.prompt, (p, 1)), rng.normal(0, e.row, r)
    shared = e.mu + prompt + row + rng.normal(0, e.prompt_row, (p, r))
    found = []
    for s in seeds:
        x = shared + rng.normal(0, e.own_prompt, (p, 1)) + rng.normal(0, e.seed, (s, 1, 1))
        x = x + rng.normal(0, e.seed_prompt, (s, p, 1)) + rng.normal(0, e.seed_row, (s, 1, r))
        found.append((rng.random((s, p, r)) < chances(x)).astype(float))
    return found


def rates(e: Effects, s: int, p: int, r: int, times: int) -> tuple[float, float, float]:
    """Coverage of the mean and of the std over prompts, and how often equal configurations are told apart."""
    rng, (mean, std) = np.random.default_rng([s, p, r]), truth(e)
    hits = np.zeros(3)
    for _ in range(times):
        # with one seed, the variance between seeds is that of three others with three; with two, that of all eight
        found = draw(rng, e, {1: [1, 1, 3, 3, 3], 2: [2] * 8}.get(s, [s, s]), p, r)
        of_study = sd.pooled([sd.seed_variance(cells) for cells in found])
        one = sd.mean_test(found[:1], of_study)[0]
        spread = sd.prompt_spread(found[0]).of_one
        hits += (
            one.low <= mean <= one.high,
            spread.low <= std <= spread.high,
            sd.mean_test(found[:2], of_study)[1] < 0.05,
        )
    covers, of_std, rejects = hits / times
    return float(covers), float(of_std), float(rejects)


@pytest.mark.parametrize("s", [1, 2, 3, 5])
def test_intervals_cover_and_equal_configurations_are_rarely_told_apart(s: int) -> None:
    covers, of_std, rejects = rates(Effects(), s, 12, 100, 150)
    assert covers > 0.88  # 150 runs have an error of .02
    assert of_std > 0.90
    assert rejects < 0.10


@pytest.mark.long
@pytest.mark.parametrize(("p", "r"), [(20, 200), (10, 500), (12, 100)])
@pytest.mark.parametrize("s", [1, 2, 3, 5])
def test_rates_in_full(s: int, p: int, r: int) -> None:
    covers, of_std, rejects = rates(Effects(), s, p, r, 1500)
    assert 0.925 < covers < 0.975
    assert 0.925 < of_std < 0.98
    assert 0.025 < rejects < 0.08  # 1,500 runs have an error of .006


def test_a_test_that_knows_nothing_of_seeds_would_tell_equal_configurations_apart() -> None:
    """What the seeds' variance is for: without it, more rows make the error larger."""
    rng, naive, ours = np.random.default_rng(3), 0, 0
    for _ in range(60):
        found = draw(rng, Effects(seed=0.02), [3, 3], 12, 400)
        ours += sd.mean_test(found, sd.NO_SEEDS)[1] < 0.05
        naive += st.difference(found[0][0], found[1][0])[1] < 0.05
    assert naive > 20
    assert ours < 10


@pytest.mark.long
@pytest.mark.parametrize(("r", "rejects"), [(100, 0.10), (1000, 0.36)])
def test_rates_of_a_test_that_knows_nothing_of_seeds(r: int, rejects: float) -> None:
    rng, times = np.random.default_rng(r), 400
    pairs = (draw(rng, Effects(), [1, 1], 20, r) for _ in range(times))
    found = sum(st.difference(one[0], other[0])[1] < 0.05 for one, other in pairs) / times
    assert found == pytest.approx(rejects, abs=0.06)


@pytest.mark.long
def test_three_seeds_of_a_volatile_configuration_need_their_own_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    """It varies three times as much as seven others."""
    calm = Effects()
    volatile = replace(calm, seed=3 * calm.seed)
    (mean, _), rng, times = truth(volatile), np.random.default_rng(1), 600
    covers = dict.fromkeys((2, 3), 0)
    for _ in range(times):
        one = draw(rng, volatile, [3], 12, 200)[0]
        of_study = sd.pooled([sd.seed_variance(c) for c in [one, *draw(rng, calm, [3] * 7, 12, 200)]])
        for pooled in covers:
            monkeypatch.setattr(sd, "POOLED", pooled)
            found = sd.mean_test([one], of_study)[0]
            covers[pooled] += found.low <= mean <= found.high
    assert covers[2] / times > 0.92
    assert covers[3] / times == pytest.approx(0.89, abs=0.03)


def test_mean_squares_are_those_of_statsmodels() -> None:
    rng = np.random.default_rng(1)
    cells = rng.random((3, 4, 5))
    at = np.indices(cells.shape).reshape(3, -1)
    data = {name: list(map(str, one)) for name, one in zip("spr", at, strict=True)} | {"y": cells.ravel()}
    model = ols("y ~ C(s) + C(p) + C(r) + C(s):C(p) + C(s):C(r) + C(p):C(r)", data).fit()
    table = sm.stats.anova_lm(model)
    ms = sd.mean_squares(cells)
    found = [ms.seeds, ms.prompts, ms.seeds_prompts, ms.seeds_rows, ms.residual]
    assert found == pytest.approx([table["mean_sq"][n] for n in ("C(s)", "C(p)", "C(s):C(p)", "C(s):C(r)", "Residual")])


def test_one_seed_without_others_is_the_two_way_test() -> None:
    rng = np.random.default_rng(2)
    one, other = draw(rng, Effects(), [1, 1], 10, 80)
    drawn = st.replicate(one[0], st.resamples(10, 80), redraw=False)
    assert sd.mean_test([one], sd.NO_SEEDS) == st.mean_test(one[0], drawn)
    assert sd.mean_test([one, other], sd.NO_SEEDS) == st.difference(one[0], other[0])
    assert sd.prompt_spread(one).of_one == st.std_interval(one[0])


def test_three_seeds_use_their_own_variance_and_two_the_pooled_one() -> None:
    rng = np.random.default_rng(4)
    volatile, calm, few = draw(rng, Effects(seed=0.08), [4], 10, 80) + draw(rng, Effects(seed=0.0), [4, 2], 10, 80)
    of_study = sd.pooled([sd.seed_variance(cells) for cells in (volatile, calm, few)])
    assert sd.own_or_pooled(volatile, of_study) == sd.seed_variance(volatile)
    assert sd.own_or_pooled(few, of_study) == of_study
    assert of_study.of_mean.df == 3 + 3 + 1
    in_volatile, in_calm, in_few = (cells.mean(axis=(1, 2)).var(ddof=1) for cells in (volatile, calm, few))
    expected = (3 * in_volatile + 3 * in_calm + in_few) / 7
    assert of_study.of_mean.value == pytest.approx(expected)


def test_spread_over_prompts_has_two_meanings() -> None:
    """Fine-tunes that each like other prompts: their average has no spread, and each has one."""
    rng, effects = np.random.default_rng(5), Effects(prompt=0.0, own_prompt=0.0, seed_prompt=0.06)
    found = [sd.prompt_spread(draw(rng, effects, [5], 20, 400)[0]) for _ in range(10)]
    assert np.mean([spread.of_one.value for spread in found]) == pytest.approx(truth(effects)[1], rel=0.1)
    assert np.mean([spread.of_average for spread in found]) < 0.02


def test_a_seed_that_failed_is_found_by_the_spread_of_the_others() -> None:
    of_study = sd.Component(0.01**2, 6)
    assert sd.outliers(np.array([0.80, 0.81, 0.55]), of_study) == [2]
    assert sd.outliers(np.array([0.80, 0.81, 0.79]), of_study) == []
    assert sd.outliers(np.array([0.80, 0.55]), of_study) == []  # two seeds: which one failed?


def test_over_seeds_adds_the_luck_of_the_seed() -> None:
    each = [st.Estimate(0.6, 0.5, 0.65), st.Estimate(0.7, 0.6, 0.75)]
    alone = sd.over_seeds(each, sd.UNKNOWN)
    assert (alone.value, alone.low, alone.high) == pytest.approx((0.65, 0.55, 0.70))
    wider = sd.over_seeds(each, sd.Component(0.05**2, 10))
    luck = 2.2281388520 * 0.05 / math.sqrt(2)
    assert (wider.low, wider.high) == pytest.approx((0.65 - math.hypot(0.1, luck), 0.65 + math.hypot(0.05, luck)))
