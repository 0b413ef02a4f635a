"""The smallest difference is found with a chance of 80 %: simulated scores of configurations with known variances."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from scipy import optimize

from sweeps.plan.variation import variation_of_grids
from sweeps.staged.compare import pseudo_values
from sweeps.statistics import intervals as st
from sweeps.statistics import seeds as sd
from sweeps.statistics.power import (
    DifferenceVariances,
    Variation,
    found_with_power,
    smallest_differences,
)
from trainer.measure.grid import Floats
from trainer.measure.metrics import two_way

# Variances of one fine-tune: what prompts and rows do to both configurations, and what is a configuration's own
COMMON_PROMPT, COMMON_ROW = 0.02**2, 0.2**2
OWN = DifferenceVariances(0.009**2, 0.015**2, 0.05**2, 0.008**2, 0.02**2, 0.1**2, 0.15**2)
NOISY = dataclasses.replace(OWN, prompt=0.01**2, row=0.01**2, seed_prompt=0.01**2, seed_row=0.02**2, residual=0.16)


def variation(own: DifferenceVariances) -> Variation:
    double = DifferenceVariances(*(2.0 * v for v in dataclasses.astuple(own)))
    return Variation(double, COMMON_PROMPT + own.prompt + own.seed_prompt, own.prompt_row + own.residual)


KNOWN = variation(OWN)


def scores(
    rng: np.random.Generator,
    s: int,
    p: int,
    r: int,
    more: float = 0.0,
    wider: float = 0.0,
    own: DifferenceVariances = OWN,
) -> list[Floats]:
    """[S, P, R] of two configurations. The second is better by ``more``, its std over prompts larger by ``wider``."""

    def normal(variance: float, *shape: int) -> Floats:
        return math.sqrt(variance) * rng.standard_normal(shape)

    common = normal(COMMON_PROMPT, p, 1)
    rows = normal(COMMON_ROW, 1, r)
    found = []
    for wide in (0.0, wider):
        prompts = common + normal(own.prompt, p, 1) + normal(own.seed_prompt, s, p, 1)
        prompts = prompts * (1.0 + wide / math.sqrt(variation(own).prompt))
        luck = normal(own.seed, s, 1, 1) * (s > 1)  # of one seed it is part of the fine-tune that is tested
        rest = luck + normal(own.row, 1, r) + normal(own.seed_row, s, 1, r)
        rest = rest + normal(own.prompt_row, p, r) + normal(own.residual, s, p, r)
        found.append(0.5 + rows + prompts + rest)
    found[1] += more
    return found


def rejected(test: Callable[[Floats, Floats], float], level: float, times: int, *size: int, **effect: Any) -> float:
    rng = np.random.default_rng([times, *size])
    return float(np.mean([test(*scores(rng, *size, **effect)) < level for _ in range(times)]))


def of_means(a: Floats, b: Floats) -> float:
    """The test of tables/robustness, where every configuration has one seed."""
    return st.difference(a[0], b[0])[1]


def of_stds(a: Floats, b: Floats) -> float:
    """Pitman and Morgan's."""
    x, y = a[0].mean(axis=1), b[0].mean(axis=1)
    return float(scipy.stats.pearsonr(x + y, x - y)[1])


def of_objectives(a: Floats, b: Floats) -> float:
    """As the stages compare two candidates, with std weight 1."""
    gap = pseudo_values(a[0], 1.0) - pseudo_values(b[0], 1.0)
    fit = two_way(gap)
    return float(2 * scipy.stats.t.sf(abs(fit.mean) / math.sqrt(fit.var_mean), fit.n_prompts - 1))


def of_settings(a: Floats, b: Floats) -> float:
    """The test of tables with several seeds; of two, the variance between seeds is pooled, here over these two."""
    return sd.mean_test([a, b], sd.pooled([sd.seed_variance(a), sd.seed_variance(b)]))[1]


CASES = [((1, 12, 60), OWN), ((1, 20, 30), NOISY), ((2, 12, 60), OWN), ((4, 10, 40), NOISY)]


@pytest.mark.parametrize(("size", "own"), CASES)
def test_the_smallest_difference_of_means_is_the_simulated_one_within_a_tenth(
    size: tuple[int, int, int], own: DifferenceVariances
) -> None:
    """A tenth less is found in fewer than 80 %, a tenth more in more; equal configurations differ in 5 % at most."""
    test, times = (of_means, 300) if size[0] == 1 else (of_settings, 800)
    smallest = smallest_differences(variation(own), *size, std_weight=1.0, configurations=2).mean
    assert rejected(test, 0.05, times, *size, own=own) < 0.08
    assert rejected(test, 0.05, times, *size, own=own, more=0.9 * smallest) < 0.8 + 0.01
    assert rejected(test, 0.05, times, *size, own=own, more=1.1 * smallest) > 0.8 - 0.01


@pytest.mark.parametrize("comparisons", [1, 5])
@pytest.mark.parametrize(("size", "own"), CASES[:2])
def test_the_smallest_differences_of_stds_and_objectives_are_the_simulated_ones_within_a_tenth(
    size: tuple[int, int, int], own: DifferenceVariances, comparisons: int
) -> None:
    level = 0.05 / comparisons
    found = smallest_differences(variation(own), *size, std_weight=1.0, configurations=6, comparisons=comparisons)
    for test, effect, smallest in ((of_stds, "wider", found.std), (of_objectives, "more", found.objective)):
        low, high = (rejected(test, level, 1000, *size, own=own, **{effect: k * smallest}) for k in (0.9, 1.1))
        assert low < 0.8 + 0.01
        assert high > 0.8 - 0.01


def test_one_mean_square_gives_the_noncentral_t() -> None:
    alone = DifferenceVariances(0.0, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0)
    for prompts in (3, 10, 30):
        found = smallest_differences(Variation(alone, 0.01, 0.1), 1, prompts, 50, 1.0, 2, comparisons=4).mean
        exact = found_with_power(prompts - 1, 0.05 / 4) * math.sqrt(0.01 / prompts)
        assert found == pytest.approx(exact, rel=0.02)


def test_stds_of_several_seeds_vary_as_much_as_is_reckoned() -> None:
    """Of many prompts, where the logarithm of a ratio is normal."""
    rng = np.random.default_rng(5)
    for s in (1, 2, 4):
        ratios = []
        for _ in range(300):
            a, b = scores(rng, s, 100, 20)
            ratios.append(math.log(a.mean(axis=2).std(axis=1).mean() / b.mean(axis=2).std(axis=1).mean()))
        assert np.var(ratios) * 99 == pytest.approx(KNOWN.std_spread(s, 20), rel=0.2)


def test_two_degrees_of_freedom_are_not_many() -> None:
    """Against scipy's noncentral t, and the usual sum of two quantiles, which is 14 % and 5 % too small."""
    for df, level in ((1, 0.05), (2, 0.05), (9, 0.01), (1e4, 0.05)):
        critical = scipy.stats.t.ppf(1 - level / 2, df)
        exact = optimize.brentq(lambda nc: scipy.stats.nct.sf(critical, df, nc) - 0.8, 1.0, 50.0)  # noqa: B023
        assert found_with_power(df, level) == pytest.approx(exact, rel=1e-4)
    usual = [scipy.stats.t.ppf(0.975, df) + scipy.stats.t.ppf(0.8, df) for df in (1, 2)]
    assert [round(1 - u / found_with_power(df, 0.05), 2) for df, u in zip((1, 2), usual, strict=True)] == [0.14, 0.05]


def test_little_data_say_nothing_rather_than_something() -> None:
    one = smallest_differences(KNOWN, 1, 1, 1, std_weight=1.0, configurations=2)
    assert (one.mean, one.std, one.objective) == (math.inf,) * 3
    two = smallest_differences(KNOWN, 1, 2, 50, std_weight=1.0, configurations=2)
    assert two.mean < math.inf == two.std
    assert smallest_differences(KNOWN, 1, 2, 50, std_weight=0.0, configurations=2).objective == two.mean


def test_more_of_anything_lowers_the_smallest_difference_and_more_comparisons_raise_it() -> None:
    now = smallest_differences(KNOWN, 2, 10, 100, 1.0, 4, 3)
    for more in ((3, 10, 100, 1.0, 4, 3), (2, 20, 100, 1.0, 4, 3), (2, 10, 200, 1.0, 4, 3), (2, 10, 100, 1.0, 4, 1)):
        for name in ("mean", "std", "objective"):
            assert getattr(smallest_differences(KNOWN, *more), name) < getattr(now, name)
    assert KNOWN.row_noise(10) > KNOWN.row_noise(1000)


def test_variances_are_found_again_in_recorded_grids() -> None:
    """On average over runs of 2 configurations with 3 seeds; with one seed, seeds' parts are in the others."""
    rng = np.random.default_rng(3)
    several, single = [], []
    for _ in range(60):
        grids = [list(g) for g in scores(rng, 3, 20, 100)]
        several.append(_numbers(variation_of_grids(grids)))
        single.append(_numbers(variation_of_grids([g[:1] for g in grids])))
    known, merged = _numbers(KNOWN), KNOWN.difference
    assert np.mean(several, axis=0) == pytest.approx(known, rel=0.2, abs=6e-5)
    alone = DifferenceVariances(
        0.0,
        merged.prompt + merged.seed_prompt,
        merged.row + merged.seed_row,
        0.0,
        0.0,
        merged.prompt_row + merged.residual,
        0.0,
    )
    assert np.mean(single, axis=0) == pytest.approx(_numbers(dataclasses.replace(KNOWN, difference=alone)), rel=0.2)


def _numbers(found: Variation) -> list[float]:
    return [*dataclasses.astuple(found.difference), found.prompt, found.residual]
