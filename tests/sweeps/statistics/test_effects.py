"""Effects of axes against statsmodels on simulated studies with known effects."""

import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.anova import anova_lm

from sweeps.statistics.effects import pairings, shares

AXES = ("template", "r", "pool")
VALUES = {"template": ("plain", "chat"), "r": (4, 8, 16), "pool": ("one", "many")}
TRUE = {"chat": 0.05, 8: 0.02, 16: 0.01, "many": -0.03}


def study(seeds=1, prompts=12, interaction=0.0, keep=None, spread=0.01):
    """Design, frame of configurations and scores [C, S, P]."""
    rng = np.random.default_rng(4)
    design = [dict(zip(AXES, values, strict=True)) for values in itertools.product(*VALUES.values())]
    design = [design[i] for i in (range(len(design)) if keep is None else keep)]
    wording = rng.normal(0, 0.05, prompts)
    scores = np.empty((len(design), seeds, prompts))
    for i, one in enumerate(design):
        base = 0.7 + sum(TRUE.get(value, 0.0) for value in one.values())
        base += interaction * (one["template"] == "chat") * (one["pool"] == "many")
        for s in range(seeds):
            scores[i, s] = base + rng.normal(0, spread) + wording + rng.normal(0, 0.02, prompts)
    return design, scores


def fitted(design, scores):
    frame = pd.DataFrame(design)
    frame["y"] = scores.mean(axis=(1, 2))
    return smf.ols("y ~ C(template, Treatment('plain')) + C(r, Treatment(4)) + C(pool, Treatment('one'))", frame).fit()


def test_paired_effects_are_the_coefficients_of_a_fit_to_the_full_design():
    design, scores = study()
    fit, means = fitted(design, scores), scores.mean(axis=(1, 2))
    found = pairings(design, AXES)
    assert [(f.axis, f.value, f.other, len(f.pairs)) for f in found] == [
        ("template", "chat", "plain", 6), ("r", 8, 4, 4), ("r", 16, 4, 4), ("pool", "many", "one", 6),
    ]  # fmt: skip
    for one in found:
        effect = np.mean([means[a] - means[b] for a, b in one.pairs])
        coefficient = next(v for name, v in fit.params.items() if name.endswith(f"[T.{one.value}]"))
        assert effect == pytest.approx(coefficient, abs=1e-12)
        assert effect == pytest.approx(TRUE[one.value], abs=0.02)


def test_pairs_of_a_study_that_was_cut_differ_in_nothing_else():
    keep = [0, 1, 3, 4, 6, 9, 10]
    design, _ = study(keep=keep)
    for one in pairings(design, AXES):
        for a, b in one.pairs:
            assert (design[a][one.axis], design[b][one.axis]) == (one.value, one.other)
            assert all(design[a][axis] == design[b][axis] for axis in AXES if axis != one.axis)
    assert {one.axis for one in pairings(design, AXES)} == {"template", "r", "pool"}


def test_pairs_are_trained_for_as_long():
    design, _ = study()
    design = [{**one, "rung": 100 if one["pool"] == "one" else 50} for one in design]
    assert {one.axis for one in pairings(design, AXES, ["rung"])} == {"template", "r"}


@pytest.mark.parametrize("keep", [None, [0, 1, 2, 3, 4, 6, 7, 9, 11]])
def test_shares_are_statsmodels_sums_of_squares_averaged_over_all_orders(keep):
    design, scores = study(seeds=3, interaction=0.04, keep=keep)
    split = shares(scores, np.zeros_like(scores), design, AXES)
    frame = pd.DataFrame(design).assign(y=scores.mean(axis=(1, 2)))
    orders = list(itertools.permutations(AXES))
    tables = [anova_lm(smf.ols("y ~ " + " + ".join(f"C({a})" for a in o), frame).fit(), typ=1) for o in orders]
    sums = sum(table["sum_sq"] for table in tables) / len(tables) * 3 * 12
    assert split.axes == pytest.approx({axis: sums[f"C({axis})"] for axis in AXES})
    assert split.interactions == pytest.approx(sums["Residual"])
    assert split.total == pytest.approx(((scores - scores.mean()) ** 2).sum())


def test_seeds_prompts_and_rows_are_anova_s_two_and_the_noise():
    design, scores = study(seeds=3)
    frame = pd.DataFrame(
        [(i, f"{i}.{s}", p, scores[i, s, p]) for i, s, p in np.ndindex(scores.shape)], columns=["c", "s", "p", "y"]
    )
    table = anova_lm(smf.ols("y ~ C(s) + C(p)", frame).fit(), typ=1)["sum_sq"]
    split = shares(scores, np.full(scores.shape, 1e-4), design, AXES)
    between = sum(split.axes.values()) + split.interactions
    assert between + split.seeds == pytest.approx(table["C(s)"])
    assert split.prompts == pytest.approx(table["C(p)"])
    assert split.rows == pytest.approx(1e-4 * scores.size * 11 / 12)
    assert split.rows + split.rest == pytest.approx(table["Residual"])


def test_interactions_are_not_known_where_the_fit_has_a_coefficient_for_each_configuration():
    design = [{"lr": 1, "r": 4}, {"lr": 2, "r": 4}, {"lr": 1, "r": 8}]
    scores = np.array([0.1, 0.5, 0.2]).reshape(3, 1, 1)
    split = shares(scores, np.zeros_like(scores), design, ("lr", "r"))
    assert split.interactions is None
    assert split.total == pytest.approx(((scores - scores.mean()) ** 2).sum())
    assert shares(np.zeros((4, 1, 1)), np.zeros((4, 1, 1)), [*design, {"lr": 2, "r": 8}], ("lr", "r")).interactions == 0
