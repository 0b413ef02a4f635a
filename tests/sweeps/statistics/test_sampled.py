"""Intervals from a sample of the grid that cover new prompts and rows: simulated probit grids with known truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from sweeps.statistics import intervals as st
from sweeps.statistics import sampled
from trainer.measure import design
from trainer.measure.estimate import GridEstimate, Seen, estimate_grid, rasch
from trainer.measure.grid import Floats, Ints

Effects = tuple[float, float, float]  # mu, std of prompts and rows on the probit scale; noise has 1
GOOD, WIDE, ALIKE = (1.6, 0.2, 1.0), (1.4, 0.5, 1.0), (1.5, 0.0, 1.0)


def draw(rng: np.random.Generator, p: int, r: int, effects: Effects) -> Any:
    mu, prompt, row = effects
    latent = mu + prompt * rng.standard_normal((p, 1)) + row * rng.standard_normal((1, r))
    return latent + rng.standard_normal((p, r)) > 0


def truth(effects: Effects) -> tuple[float, float]:
    """Mean, and standard deviation of the prompts' true accuracies, by quadrature."""
    mu, prompt, row = effects
    x, w = np.polynomial.hermite_e.hermegauss(80)
    each = scipy.stats.norm.cdf((mu + prompt * x) / math.sqrt(1 + row**2))
    w = w / w.sum()
    mean = float((w * each).sum())
    return mean, math.sqrt(float((w * (each - mean) ** 2).sum()))


def cells_of(p: int, r: int, cells: int) -> tuple[Seen, Ints]:
    label = (np.arange(r) % 3 == 0).astype(int)
    ids = [f"p{i:02d}" for i in range(p)], [f"r{j:05d}" for j in range(r)]
    return design.staged(*ids, [str(k) for k in label], cells), label


def found_in(correct: Any, seen: Seen, label: Ints, shaped: bool = True) -> GridEstimate:
    """As the tables read a sample, which knows nothing of rows that it did not meet. Mean and std do not depend on the
    shape."""
    met = seen.any(axis=0)
    part, kept, shown = (correct & seen)[:, met], seen[:, met], label[met]
    return estimate_grid(
        part.astype(float), kept, shown, correct.shape[1], rasch(part, kept, shown) if shaped else None
    )


@pytest.mark.parametrize(
    ("p", "r", "cells", "effects"),
    [(20, 800, 2000, GOOD), (20, 4000, 2400, GOOD), (10, 1500, 1500, WIDE), (40, 500, 3000, ALIKE)],
)
def test_intervals_hold_new_prompts_and_rows(p: int, r: int, cells: int, effects: Effects) -> None:
    """Also where not every row was met, and where prompts do not differ."""
    rng, (seen, label), (mean, std) = np.random.default_rng([p, r]), cells_of(p, r, cells), truth(effects)
    hits, times = np.zeros(2), 300
    for _ in range(times):
        found = found_in(draw(rng, p, r, effects), seen, label, shaped=False)
        of_mean, of_std = sampled.mean_test(found, int(seen.any(axis=0).sum()))[0], sampled.std_interval(found)
        hits += of_mean.low <= mean <= of_mean.high, of_std.low <= std <= of_std.high
    assert np.all(hits / times >= 0.92), hits / times
    assert hits[0] / times <= 0.99, hits / times


def test_worst_prompt_and_shares_hold_those_of_other_prompts() -> None:
    """Truth: what as many other prompts on as many other rows give on average, and the share of all prompts. A few
    prompts are far worse than the rest: of whole grids the interval of the worst holds it in .77."""
    p, r, cells, effects, times = 20, 1000, 2500, WIDE, 200
    rng, (seen, label) = np.random.default_rng(8), cells_of(p, r, cells)
    others = np.array([draw(rng, p, r, effects).mean(axis=1) for _ in range(300)])
    worst, middle, above = others.min(axis=1).mean(), np.median(others, axis=1).mean(), (others > 0.85).mean()
    hits = np.zeros(3)
    for _ in range(times):
        found = found_in(draw(rng, p, r, effects), seen, label)
        drawn = sampled.replicate(found, 1)
        ordered = np.sort(drawn.stretched, axis=1)
        low = st.percentile(float(found.each.min()), ordered[:, 0])
        half = st.percentile(float(np.median(found.each)), st.quantile(ordered, 0.5))
        top = st.share_interval(found.each, drawn.per_prompt, 0.85, True)
        hits += low.low <= worst <= low.high, half.low <= middle <= half.high, top.low <= above <= top.high
    assert np.all(hits / times >= [0.8, 0.93, 0.93]), hits / times


def test_a_sample_of_nearly_all_cells_gives_the_intervals_of_the_whole_grid() -> None:
    p, r = 20, 400
    rng, (seen, label) = np.random.default_rng(3), cells_of(p, r, p * r - 20)
    correct = draw(rng, p, r, GOOD)
    found, cells = found_in(correct, seen, label), correct.astype(float)
    drawn = st.replicate(cells, st.resamples(p, r, 1))
    of_sample, of_whole = sampled.mean_test(found, r)[0], st.mean_test(cells, drawn)[0]
    assert of_sample.value == pytest.approx(of_whole.value, abs=1e-3)
    assert of_sample.high - of_sample.low == pytest.approx(of_whole.high - of_whole.low, rel=0.25)
    assert sampled.std_interval(found).value == pytest.approx(st.std_interval(cells).value, abs=2e-3)
    own, whole = sampled.replicate(found, 1), drawn
    assert own.per_prompt.min(axis=1).mean() == pytest.approx(whole.per_prompt.min(axis=1).mean(), abs=6e-3)
    assert own.per_prompt.std(axis=1, ddof=1).mean() == pytest.approx(
        whole.per_prompt.std(axis=1, ddof=1).mean(), rel=0.12
    )


def test_paired_differences_reject_equal_trials_as_often_as_they_should() -> None:
    """Two trials that differ by noise alone, on the same cells; and a third that is better by three points."""
    p, r, times = 20, 600, 300
    rng, (seen, label) = np.random.default_rng(5), cells_of(p, r, 2000)
    false = hits = 0
    for _ in range(times):
        one, other = draw_pair(rng, p, r)
        gap: Floats = np.where(seen, one.astype(float) - other, 0.0)
        false += sampled.mean_test(estimate_grid(gap, seen, label, r), r, bounded=False)[1] < 0.05
        better = one | (rng.random((p, r)) < 0.3)
        gap = np.where(seen, better.astype(float) - one, 0.0)
        estimate, p_value = sampled.mean_test(estimate_grid(gap, seen, label, r), r, bounded=False)
        hits += estimate.low > 0 and p_value < 0.05
    assert 0.02 <= false / times <= 0.085, false / times
    assert hits == times


def draw_pair(rng: np.random.Generator, p: int, r: int) -> tuple[Any, Any]:
    """The same hard rows for both; each has its own way with prompts."""
    rows = 1.5 + rng.standard_normal((1, r))
    one, other = (rows + 0.2 * rng.standard_normal((p, 1)) + rng.standard_normal((p, r)) > 0 for _ in range(2))
    return one, other


def test_where_nothing_varies_the_interval_is_that_of_the_rows() -> None:
    seen, label = cells_of(20, 500, 1000)
    estimate, p_value = sampled.mean_test(found_in(np.ones((20, 500), bool), seen, label), 500)
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(0.025 ** (1 / 500), abs=1e-9)
    assert p_value == 0.0


def test_intervals_are_cut_to_the_limits_of_the_metric() -> None:
    """Of a correlation: below 0, differences up to 2, a std up to 1; where nothing varies, of the rarest label."""
    limits, (seen, label) = st.limits_of("matthews_corrcoef"), cells_of(20, 500, 1000)
    rng = np.random.default_rng(2)
    values: Floats = np.where(seen, -0.9 + 0.2 * rng.standard_normal((20, 500)), 0.0)
    found = estimate_grid(values, seen, label, 500, lowest=-1.0)
    estimate, p_value = sampled.mean_test(found, 500, limits=limits)
    assert -1.0 <= estimate.low < estimate.value < estimate.high < -0.8
    assert p_value < 0.001
    assert sampled.mean_test(found, 500)[0] == st.Estimate(0.0, 0.0, 0.0)
    gap, _ = sampled.mean_test(estimate_grid(2 * values, seen, label, 500), 500, bounded=False, limits=limits)
    assert -2.0 < gap.low < gap.value < gap.high < -1.5
    halves = np.where(np.arange(20)[:, None] % 2 == 0, 1.0, -1.0)
    apart = estimate_grid(np.where(seen, halves, 0.0), seen, label, 500, lowest=-1.0)
    assert sampled.std_interval(apart, limits).high == 1.0
    assert sampled.std_interval(apart).high == 0.5
    alike = estimate_grid(np.where(seen, 1.0, 0.0), seen, label, 500)
    low = sampled.mean_test(alike, 500, limits=limits, least_rows=10)[0].low
    assert low == pytest.approx(1.0 - 2.0 * (1.0 - 0.025 ** (1 / 10)))


def test_of_one_prompt_the_interval_is_that_of_new_rows() -> None:
    """3,000 of 20,000 rows, each met once: as of a binomial share, and against the truth in 95 of 100."""
    r, times, rng = 20_000, 200, np.random.default_rng(6)
    seen, label = cells_of(1, r, 3000)
    assert seen.sum() == 3000
    hits = 0
    for _ in range(times):
        found = found_in(rng.random((1, r)) < 0.9, seen, label, shaped=False)
        estimate, _ = sampled.mean_test(found, 3000)
        hits += estimate.low <= 0.9 <= estimate.high
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 * math.sqrt(0.09 / 3000), rel=0.1)
    assert found.mean_error == pytest.approx(math.sqrt(0.09 / 3000 - 0.09 / r), rel=0.1)
    assert 0.91 <= hits / times <= 0.99
