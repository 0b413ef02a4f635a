"""The interaction of crossed factors: against statsmodels, and on simulated studies whose truth is known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import special

from sweeps.statistics import interaction as ia
from sweeps.statistics.interaction import Crossing, analyse_interactions, crossing, permutation_p, sums_of_squares

Floats = np.ndarray[Any, np.dtype[np.float64]]
SHAPES = (((2, 2), 2), ((3, 3), 2), ((2, 3), 3), ((3, 3), 3))


def layout(values: Floats) -> Crossing:
    names = ("template", "lora", "plw", "pool")[: values.ndim - 1]
    return Crossing(
        names, tuple(tuple(f"{n}{i}" for i in range(k)) for n, k in zip(names, values.shape, strict=False)), values
    )


def study(
    rng: np.random.Generator, shape: tuple[int, ...], seeds: int, interaction: float = 0.0, heavy: bool = False
) -> Floats:
    """Main effects of random size, seeds that move all trials together, noise of variance 1 (Student's t with 4 degrees
    of freedom where ``heavy``), and an interaction with that standard deviation over the cells."""
    noise = rng.standard_t(4, (*shape, seeds)) / np.sqrt(2.0) if heavy else rng.standard_normal((*shape, seeds))
    y: Floats = noise + rng.standard_normal(seeds)
    for axis, size in enumerate(shape):
        effect = 3.0 * rng.random() * rng.standard_normal(size)
        y = y + effect.reshape([-1 if i == axis else 1 for i in range(y.ndim)])
    if interaction:
        cells = rng.standard_normal(shape)
        cells = cells - cells.mean(axis=0) - cells.mean(axis=1, keepdims=True) + cells.mean()
        y = y + (interaction * cells / np.sqrt((cells**2).mean()))[..., None]
    return y


def f_p(values: Floats) -> float:
    sums, df = sums_of_squares(values)
    f = sums[0, 1] / df[0, 1] / (sums["residual"] / df["residual"])
    return float(special.fdtrc(df[0, 1], df["residual"], f))


def rejected(n: int, shape: tuple[int, ...], seeds: int, permutations: int, **truth: Any) -> tuple[float, float]:
    """How often, of ``n`` simulated studies, the F test and the permutation test see an interaction at 5 %."""
    rng = np.random.default_rng([n, *shape, seeds])
    found = np.zeros(2)
    for _ in range(n):
        values = study(rng, shape, seeds, **truth)
        found[0] += f_p(values) < 0.05
        found[1] += bool(permutations) and permutation_p(values, (0, 1), permutations) <= 0.05
    return float(found[0] / n), float(found[1] / n)


# against a reference ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 2), (3, 2, 2, 3), (2, 2, 2, 2, 2)])
def test_sums_of_squares_equal_statsmodels(shape: tuple[int, ...]) -> None:
    import pandas as pd
    import statsmodels.formula.api as smf
    from statsmodels.stats.anova import anova_lm

    values = study(np.random.default_rng(3), shape[:-1], shape[-1], 0.7)
    names = "abcd"[: len(shape) - 1]
    rows = [
        {**{n: f"v{i}" for n, i in zip(names, at, strict=False)}, "s": f"s{at[-1]}", "y": values[at]}
        for at in itertools.product(*map(range, shape))
    ]
    table = anova_lm(smf.ols(f"y ~ {' * '.join(names)} + s", pd.DataFrame(rows)).fit(), typ=2)
    sums, df = sums_of_squares(values)
    for effect, found in sums.items():
        name = {"seed": "s", "residual": "Residual"}.get(effect) or ":".join(names[i] for i in effect)
        assert found == pytest.approx(table.loc[name, "sum_sq"], rel=1e-8), name
        assert df[effect] == table.loc[name, "df"]
    tests = {t.factors: t for t in analyse_interactions(layout(values)).tests}
    for i, j in itertools.combinations(range(len(names)), 2):
        test = tests[("template", "lora", "plw", "pool")[i], ("template", "lora", "plw", "pool")[j]]
        assert test.f == pytest.approx(table.loc[f"{names[i]}:{names[j]}", "F"], rel=1e-8)
        assert test.p == pytest.approx(table.loc[f"{names[i]}:{names[j]}", "PR(>F)"], rel=1e-6)


def test_pairs_are_corrected_together() -> None:
    from statsmodels.stats.multitest import multipletests

    tests = analyse_interactions(layout(study(np.random.default_rng(5), (2, 3, 2), 3, 0.5))).tests
    assert len(tests) == 3
    assert [t.p_holm for t in tests] == pytest.approx(multipletests([t.p for t in tests], method="holm")[1])


def test_a_permutation_p_is_the_share_of_all_deals() -> None:
    """With 2 x 2 cells and 2 seeds, all 40,320 orders of the residuals, by brute force."""
    values = study(np.random.default_rng(11), (2, 2), 2, 1.0)
    additive = values - np.array([[1, -1], [-1, 1]])[..., None] * (
        (values * np.array([[1, -1], [-1, 1]])[..., None]).mean()
    )
    residual = values - additive + (additive - (
        additive.mean(axis=(1, 2), keepdims=True) + additive.mean(axis=(0, 2), keepdims=True)
        + additive.mean(axis=(0, 1), keepdims=True) - 2 * additive.mean()
    ))  # fmt: skip
    orders = np.array(list(itertools.permutations(residual.ravel())))

    def f(y: Floats) -> Floats:
        y = y.reshape(-1, 2, 2, 2)
        sign = np.array([[1.0, -1.0], [-1.0, 1.0]])[..., None]
        ss = 8 * (y * sign).mean(axis=(1, 2, 3)) ** 2
        rest = y - y.mean(axis=(2, 3), keepdims=True) - y.mean(axis=(1, 3), keepdims=True)
        rest = rest - y.mean(axis=(1, 2), keepdims=True) + 2 * y.mean(axis=(1, 2, 3), keepdims=True)
        return np.asarray(ss / np.maximum((rest**2).sum(axis=(1, 2, 3)) - ss, 1e-12))

    exact = float((f(orders) >= f(residual.ravel())[0] * (1 - 1e-9)).mean())
    assert permutation_p(values, (0, 1), 20_000) == pytest.approx(exact, abs=0.015)


# simulated studies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy tails"])
@pytest.mark.parametrize(("shape", "seeds"), [((3, 3), 3), ((2, 2), 3)], ids=str)
def test_no_interaction_is_called_one_in_3_to_7_percent(shape: tuple[int, ...], seeds: int, heavy: bool) -> None:
    rate, _ = rejected(3000, shape, seeds, 0, heavy=heavy)
    assert 0.03 <= rate <= 0.07


def test_an_interaction_is_seen() -> None:
    """As large as one trial's luck, 3 x 3 with 3 seeds: power .97; half as large: .42 (2 x 2: .81 and .29)."""
    strong, _ = rejected(300, (3, 3), 3, 0, interaction=1.0)
    weak, _ = rejected(300, (3, 3), 3, 0, interaction=0.5)
    assert strong > 0.9
    assert 0.3 < weak < 0.55


def test_the_permutation_test_agrees_with_f() -> None:
    rng = np.random.default_rng(9)
    both = np.array([(f_p(y), permutation_p(y, (0, 1), 499)) for y in (study(rng, (3, 3), 3, 0.5) for _ in range(60))])
    assert np.abs(both[:, 0] - both[:, 1]).max() < 0.12
    assert np.corrcoef(both.T)[0, 1] > 0.97


@pytest.mark.long
@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy tails"])
@pytest.mark.parametrize(("shape", "seeds"), SHAPES, ids=str)
def test_type_one_error_of_both_tests_over_many_studies(shape: tuple[int, ...], seeds: int, heavy: bool) -> None:
    by_f, by_permutation = rejected(3000, shape, seeds, 399, heavy=heavy)
    least = 0.02 if heavy else 0.03  # outliers make both a little careful
    assert least <= by_f <= 0.07
    assert 0.02 <= by_permutation <= 0.07  # a little careful with 2 x 2 and 2 seeds, where residuals are few


# shares -----------------------------------------------------------------------------------------------------------


def true_shares(effects: Floats, seeds_std: float, noise: float) -> dict[str, float]:
    """Of a truth given as cell means [a, b]."""
    a, b = effects.mean(axis=1), effects.mean(axis=0)
    inter = effects - a[:, None] - b + effects.mean()
    parts = {"template": a.var(), "lora": b.var(), "interaction": (inter**2).mean(), "seed": seeds_std**2 + noise**2}
    return {k: float(v / sum(parts.values())) for k, v in parts.items()}


def covered(n: int, seeds: int, scale: float) -> tuple[dict[str, float], dict[str, float]]:
    """(how often each share's interval holds the truth, mean estimate less truth) over ``n`` studies of 3 x 3."""
    rng = np.random.default_rng([n, seeds])
    effects = scale * rng.standard_normal((3, 3)) + scale * np.array([[0.0], [1.0], [2.0]])
    truth = true_shares(effects, 0.5, 1.0)
    hits = dict.fromkeys(truth, 0.0)
    off = dict.fromkeys(truth, 0.0)
    for _ in range(n):
        y = effects[..., None] + 0.5 * rng.standard_normal(seeds) + rng.standard_normal((3, 3, seeds))
        sums, df = sums_of_squares(y)
        groups = {"template": [(sums[0,], 2)], "lora": [(sums[1,], 2)], "interaction": [(sums[0, 1], 4)]}
        block, residual = (sums["seed"], df["seed"]), (sums["residual"], df["residual"])
        for name, found in ia._shares(groups, block, residual, 9, y.size).items():
            hits[name] += (found.low <= truth[name] <= found.high) / n
            off[name] += (found.value - truth[name]) / n
    return hits, off


def test_shares_are_near_the_truth_and_their_intervals_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ia, "DRAWS", 400)
    hits, off = covered(60, 4, 1.0)
    assert min(hits.values()) > 0.85
    assert max(map(abs, off.values())) < 0.06


@pytest.mark.long
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_coverage_of_the_shares_intervals(seeds: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ia, "DRAWS", 600)
    hits, _ = covered(500, seeds, scale)
    assert min(hits.values()) > (0.90 if seeds > 2 else 0.85)  # 8 degrees of freedom for the noise


def seed_share_without_effects(n: int, seeds: int) -> tuple[float, float]:
    """(how often the seed's interval holds its true share, 1; the mean estimate) where nothing else matters."""
    rng, hits, value = np.random.default_rng([n, seeds]), 0, 0.0
    for _ in range(n):
        found = analyse_interactions(layout(rng.standard_normal((3, 3, seeds)))).shares[ia.SEED]
        hits += found.high == 1.0
        value += found.value / n
    return hits / n, value


def test_where_only_the_seed_matters_its_interval_reaches_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ia, "DRAWS", 200)
    monkeypatch.setattr(ia, "PERMUTATIONS", 9)
    holds, value = seed_share_without_effects(100, 3)
    assert holds >= 0.92
    assert value < 0.95, "its estimate is too small on average, which is why the draws alone do not reach 1"
    strong = np.random.default_rng(0).standard_normal((3, 3, 3)) + 9 * np.arange(3)[:, None, None]
    assert analyse_interactions(layout(strong)).shares[ia.SEED].high < 1.0


def test_shares_sum_to_one_and_name_every_part() -> None:
    found = analyse_interactions(layout(study(np.random.default_rng(2), (2, 3, 2), 3, 0.4))).shares
    assert list(found) == ["template", "lora", "plw", "interaction", "seed"]
    assert sum(e.value for e in found.values()) == pytest.approx(1.0)
    assert all(0 <= e.low <= e.value <= e.high <= 1 for e in found.values())


def test_a_study_without_noise_is_decided_by_its_effects() -> None:
    y = np.zeros((2, 2, 2)) + np.array([[0.0, 1.0], [1.0, 0.0]])[..., None]
    found = analyse_interactions(layout(y))
    assert found.tests[0].p == 0.0
    assert found.shares["interaction"].value == pytest.approx(1.0)
    assert found.flips("template", "lora")
    same = analyse_interactions(layout(np.zeros((2, 2, 2))))
    assert same.tests[0].p == 1.0
    assert all(e.value == 0.0 for e in same.shares.values())


# from rows --------------------------------------------------------------------------------------------------------


def rows_of(values: Floats) -> list[dict[str, Any]]:
    return [
        {"template": f"t{i}", "lora": f"L{j}", "pool": "many", "seed": s, "objective": float(values[i, j, s])}
        for i, j, s in itertools.product(*map(range, values.shape))
    ]


def test_rows_become_a_layout_and_factors_with_one_level_drop_out() -> None:
    values = study(np.random.default_rng(1), (2, 3), 3)
    made, left_out = crossing(rows_of(values), ("template", "lora", "pool"), "objective")
    assert made.factors == ("template", "lora")
    assert left_out == ()
    assert np.array_equal(made.values, values)


def test_a_seed_with_a_missing_result_is_left_out_whole() -> None:
    values = study(np.random.default_rng(1), (2, 2), 3)
    rows = rows_of(values)
    rows[1]["objective"] = None  # seed 1 of the first cell
    made, left_out = crossing(rows, ("template", "lora"), "objective")
    assert left_out == ("1",)
    assert np.array_equal(made.values, values[..., [0, 2]])
    rows[2]["objective"] = float("nan")
    with pytest.raises(ValueError, match="two or more seeds"):
        crossing(rows, ("template", "lora"), "objective")


def test_nothing_to_cross_is_an_error() -> None:
    with pytest.raises(ValueError, match="no factor has two values"):
        crossing([{"template": "t", "seed": s, "objective": 1.0} for s in (0, 1)], ("template",), "objective")
