"""What a prompt loss weight does: axes, models and decisions, against statsmodels, published figures, known truths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plw_studies as simulated
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.multitest import multipletests

from sweeps.plw import analysis as a
from sweeps.plw import models as m
from sweeps.plw import sentences
from sweeps.plw.scores import PlwScores
from sweeps.statistics.intervals import holm
from sweeps.study.problems import Problems
from sweeps.study.weights import as_weights, weight_of_share
from trainer.errors import UserError

WEIGHTS = simulated.WEIGHTS


def frame(scores: PlwScores) -> pd.DataFrame:
    found = scores.table.to_pandas()
    found["w"] = m.rank_scale(WEIGHTS).forward(found["weight"].to_numpy())
    return found


# the axis ---------------------------------------------------------------------------------------------------------


def test_rank_axis_spreads_the_weights_evenly() -> None:
    axis = m.rank_scale(WEIGHTS)
    np.testing.assert_allclose(axis.forward(np.array(WEIGHTS)), [-1, -0.6, -0.2, 0.2, 0.6, 1], atol=1e-12)
    assert axis.back(0.2) == pytest.approx(0.1)
    assert axis.back(0.4) == pytest.approx(0.3), "linear between two weights"
    assert math.isnan(axis.back(1.2))


def test_power_axis_gives_the_published_places_and_optimum() -> None:
    axis = m.power_scale((0.0, 1.0))
    places = axis.forward(np.array([0.0, 0.01, 0.1, 1.0]))
    np.testing.assert_allclose(places, [0, 0.25, 0.5, 1], atol=1e-9)
    assert axis.back(0.652) == pytest.approx(0.2415, abs=5e-5)
    assert math.isnan(axis.back(-0.1))
    assert math.isnan(axis.back(1.1))
    logit = [-4.284 * (p - 0.652) ** 2 + 0.781 for p in (0.0, 1.0, 0.652)]  # the later version's curve
    np.testing.assert_allclose(1 / (1 + np.exp(-np.array(logit))), [0.261, 0.565, 0.686], atol=6e-4)


def test_shares_of_the_loss_are_those_of_the_short_data_set() -> None:
    ratio = 14.62 / (16.93 + 162.34)
    for weight, share in {1.0: 0.925, 0.5: 0.860, 0.242: 0.748, 0.1: 0.551, 0.05: 0.380, 0.01: 0.109, 0.0: 0.0}.items():
        found = weight / (weight + ratio)
        assert found == pytest.approx(share, abs=5e-4)
        assert weight_of_share(found, ratio) == pytest.approx(weight)


@pytest.mark.parametrize(
    ("written", "weights"),
    [
        ({"power": [0, 0.25, 0.5, 1]}, [0, 0.01, 0.1, 1]),
        ({"share": [0, 0.5, 0.75], "ratio": 0.5}, [0, 0.5, 1.5]),
        ({"share": 0.5, "ratio": 3.28}, [3.28]),
        ({"lambda": [0, 0.1]}, [0, 0.1]),
        ([0, 0.1], [0, 0.1]),
        ({"uniform": [0, 1]}, {"uniform": [0, 1]}),
    ],
)
def test_layouts_become_weights(written: Any, weights: Any) -> None:
    assert as_weights(written) == weights


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"share": [0, 0.5]}, "steadytune lengths"),
        ({"share": [0.5], "ratio": 0}, "ratio"),
        ({"share": [1.0], "ratio": 3}, "below 1"),
        ({"power": [-1]}, "numbers of 0 to"),
        ({"power": [True]}, "numbers of 0 to"),
        ({"power": [0.5], "ratio": 3}, "only share needs"),
        ({"powr": [0.5], "ratio": 3}, 'Did you mean "power"'),
        ({"power": [0.5], "lambda": [1]}, "one of lambda, power and share"),
    ],
)
def test_a_wrong_layout_is_told(written: Any, says: str) -> None:
    with pytest.raises(Problems) as error:
        as_weights(written)
    assert any(says in p.sentence for p in error.value.items)


# against statsmodels and the paper --------------------------------------------------------------------------------


def test_least_squares_equal_statsmodels() -> None:
    data = frame(simulated.study(simulated.peaked, 3))
    x, terms = m.design(data["w"].to_numpy(), list(data["benchmark"]))
    ours = m.ols(data["score"].to_numpy(), x, terms)
    theirs = smf.ols("score ~ I(w**2) + w + C(benchmark)", data).fit()
    names = {m.SQUARE: "I(w ** 2)", m.LINEAR: "w", "intercept": "Intercept"}
    for term in terms:
        name = names.get(term) or f"C(benchmark)[T.{term.removeprefix('benchmark ')}]"
        assert ours.beta[ours.index(term)] == pytest.approx(theirs.params[name], abs=1e-12)
        assert ours.stderr(term) == pytest.approx(theirs.bse[name])
        assert ours.p(term) == pytest.approx(theirs.pvalues[name])
    assert ours.joint() == pytest.approx(float(theirs.f_test("I(w ** 2) = 0, w = 0").pvalue))
    assert ours.df == theirs.df_resid == 42, "48 scores less 6 coefficients, as in the paper"


def test_holm_gives_the_papers_eleven_rejections_and_equals_statsmodels() -> None:
    published = [0.482, 0.768, 0.507, 0.588, 0.004, 0.002, *[0.0009] * 9]
    ours = holm(published)
    reject, theirs, _, _ = multipletests(published, 0.05, "holm")
    np.testing.assert_allclose(ours, theirs)
    assert sum(p < 0.05 for p in ours) == reject.sum() == 11
    assert all(p < 0.05 for p in ours[4:6]), "both coefficients of the short data set"


def test_mixed_model_equals_statsmodels() -> None:
    data = frame(simulated.study(simulated.peaked, 5, seeds=2, between=0.01))
    x, terms = m.design(data["w"].to_numpy(), list(data["benchmark"]))
    factors = {"model": list(data["model"]), "fine-tune": list(data["trial_id"])}
    ours = m.mixed_model(data["score"].to_numpy(), x, terms, factors)
    assert ours is not None
    vc = {"model": "0 + C(model)", "finetune": "0 + C(trial_id)"}
    theirs = smf.mixedlm(
        "I(100 * score) ~ I(w**2) + w + C(benchmark)", data, groups=np.ones(len(data)), vc_formula=vc, re_formula="0"
    ).fit(method=["lbfgs", "powell"])
    assert 100 * ours.fit.beta[ours.fit.index(m.SQUARE)] == pytest.approx(theirs.fe_params["I(w ** 2)"], rel=1e-6)
    assert 100 * ours.fit.stderr(m.LINEAR) == pytest.approx(theirs.bse["w"], rel=1e-3)
    spread = dict(zip(theirs.model.exog_vc.names, np.sqrt(theirs.vcomp), strict=True))
    assert 100 * ours.spread["fine-tune"] == pytest.approx(spread["finetune"], rel=1e-2)
    assert 100 * ours.residual == pytest.approx(math.sqrt(theirs.scale), rel=1e-3)


def test_beta_regression_finds_the_curve_it_was_drawn_from() -> None:
    rng = np.random.default_rng(0)
    places = np.tile(m.power_scale(WEIGHTS).forward(np.array(WEIGHTS)), 400)
    mean = 1 / (1 + np.exp(4.284 * (places - 0.652) ** 2 - 0.781))
    x, terms = m.design(places, ["a"] * places.size)
    fit = m.beta_regression(rng.beta(200 * mean, 200 * (1 - mean)), x, terms)
    assert fit.beta[fit.index(m.SQUARE)] == pytest.approx(-4.284, abs=0.1)
    turning = m.turning_point(fit)
    assert turning.kind == "maximum"
    assert turning.place == pytest.approx(0.652, abs=0.01)
    assert m.power_scale(WEIGHTS).back(turning.place) == pytest.approx(0.2415, abs=0.02)


def test_beta_regression_draws_certain_scores_in_and_says_so() -> None:
    x, terms = m.design(np.tile([-1.0, 0.0, 1.0], 10), ["a"] * 30)
    scores = np.clip(np.linspace(0.0, 1.0, 30), 0, 1)
    assert "were compressed" in m.beta_regression(scores, x, terms).note
    with pytest.raises(UserError, match="between 0 and 1"):
        m.beta_regression(scores + 0.5, x, terms)


# turning points ---------------------------------------------------------------------------------------------------


def test_intervals_of_the_turning_point_hold_the_truth_as_often_as_they_say() -> None:
    inside = {"delta": 0, "fieller": 0}
    rng = np.random.default_rng(1)
    x, terms = m.design(np.repeat(np.linspace(-1, 1, 6), 4), ["a"] * 24)
    mean = x @ np.array([0.5, -0.02, 0.008])  # turns at 0.2
    for _ in range(1000):
        turning = m.turning_point(m.ols(mean + 0.005 * rng.standard_normal(24), x, terms))
        inside["delta"] += turning.delta.low <= 0.2 <= turning.delta.high
        inside["fieller"] += turning.fieller.low <= 0.2 <= turning.fieller.high
    assert 930 <= inside["fieller"] <= 970, inside
    assert 900 <= inside["delta"] <= 980, inside


def turning_coverage(n: int) -> dict[str, float]:
    """How often Fieller's set holds the true turning point where fine-tunes differ by chance (1 point)."""
    hits = dict.fromkeys(("ols", "mixed"), 0)
    for seed in range(n):
        found = a.analyse_plw(simulated.study(simulated.peaked, seed, models=("m",), seeds=3, between=0.01))
        [data] = found.data_sets
        assert data.mixed is not None
        assert data.turned is data.mixed.fit
        for name, fit in (("ols", data.ols), ("mixed", data.mixed.fit)):
            set_ = m.turning_point(fit).fieller
            hits[name] += set_.low <= 0.2 <= set_.high
    return {name: hit / n for name, hit in hits.items()}


def test_turning_points_are_the_mixed_models_because_least_squares_trust_one_fine_tunes_luck() -> None:
    found = turning_coverage(30)
    assert found["mixed"] >= 0.8, found
    assert found["ols"] < found["mixed"], found


@pytest.mark.long
def test_coverage_of_turning_points_with_luck_of_the_fine_tune() -> None:
    found = turning_coverage(400)
    print(found)
    assert found["mixed"] >= 0.92, found
    assert found["ols"] < 0.82, found


def test_a_flat_curve_bounds_no_turning_point() -> None:
    rng = np.random.default_rng(2)
    x, terms = m.design(np.repeat(np.linspace(-1, 1, 6), 4), ["a"] * 24)
    turning = m.turning_point(m.ols(0.5 + 0.02 * rng.standard_normal(24), x, terms))
    assert not turning.bounded
    assert turning.fieller.low == -math.inf


# known truths -----------------------------------------------------------------------------------------------------


def rates(truth: simulated.Truth, n: int, start: int = 0, **how: Any) -> dict[str, float]:
    """How often, of ``n`` simulated studies, each test of the weight has p < 0.05."""
    hits = dict.fromkeys(("square", "linear", "joint", "mixed"), 0)
    for seed in range(start, start + n):
        table = simulated.study(truth, seed, **how).table.to_pydict()
        y, places = np.array(table["score"]), m.rank_scale(WEIGHTS).forward(np.array(table["weight"]))
        x, terms = m.design(places, table["benchmark"])
        fit = m.ols(y, x, terms)
        hits["square"] += fit.p(m.SQUARE) < 0.05
        hits["linear"] += fit.p(m.LINEAR) < 0.05
        hits["joint"] += fit.joint() < 0.05
        if how.get("mixed", True) and how.get("between"):
            factors = {"model": table["model"], "seed": list(map(str, table["seed"])), "fine-tune": table["trial_id"]}
            mixed = m.mixed_model(y, x, terms, factors)
            assert mixed is not None
            hits["mixed"] += mixed.fit.joint() < 0.05
    return {name: hit / n for name, hit in hits.items()}


def test_least_squares_reject_nothing_at_the_nominal_rate() -> None:
    found = rates(simulated.nothing, 2000, models=("m",))
    assert all(0.03 <= found[name] <= 0.07 for name in ("square", "linear", "joint")), found


def test_least_squares_lose_power_to_the_pairing_that_they_ignore() -> None:
    """Two models that differ by 3 points: the difference goes into the residual, so hardly anything is rejected."""
    found = rates(simulated.nothing, 500)
    assert all(found[name] < 0.03 for name in ("square", "linear", "joint")), found


def test_a_line_and_a_parabola_are_found() -> None:
    line = rates(simulated.rising, 300, models=("m",))
    assert line["linear"] > 0.95, line
    assert 0.03 <= line["square"] <= 0.08, line
    curve = rates(simulated.peaked, 300, models=("m",))
    assert curve["square"] > 0.8, curve  # 2 points of curvature under noise of 1 point, 24 scores


def test_the_mixed_model_keeps_the_rate_where_fine_tunes_have_luck() -> None:
    """Fine-tunes differ by 1 point from repeat to repeat: their benchmarks are no independent evidence."""
    found = rates(simulated.nothing, 120, seeds=3, between=0.01)
    assert 0.02 <= found["mixed"] <= 0.09, found
    assert found["joint"] > 0.07, "least squares take one fine-tune's benchmarks for so many witnesses"
    assert rates(simulated.peaked, 30, seeds=3, between=0.01)["mixed"] > 0.5


@pytest.mark.long
def test_type_one_error_and_power_over_thousands_of_studies() -> None:
    """The rates that docs/plw.md states."""
    plain = rates(simulated.nothing, 10_000, models=("m",))
    assert all(0.04 <= plain[name] <= 0.06 for name in ("square", "linear", "joint")), plain
    null = rates(simulated.nothing, 2000, seeds=3, between=0.01)
    assert 0.03 <= null["mixed"] <= 0.07, null
    line, curve = (rates(truth, 500, seeds=3, between=0.01) for truth in (simulated.rising, simulated.peaked))
    print(f"plain {plain}\nnull {null}\nline {line}\ncurve {curve}")
    assert line["mixed"] > 0.95, line
    assert curve["mixed"] > 0.7, curve


# the whole analysis -----------------------------------------------------------------------------------------------


def test_the_papers_design_has_fifteen_tests() -> None:
    sets = [simulated.study(simulated.nothing, i, data_set=f"d{i}") for i in range(3)]
    found = a.analyse_plw(simulated.together(*sets))
    ols = [t for t in found.tests if t.analysis == "ols"]
    assert len(ols) == 15
    np.testing.assert_allclose([t.p_holm for t in ols], multipletests([t.p for t in ols], 0.05, "holm")[1])
    assert all(t.reject for t in ols if t.term.startswith("benchmark"))


def test_the_mixed_models_of_all_data_sets_are_one_family() -> None:
    """Among six data sets the luck of one must not be an effect: its p-value counts six times."""
    sets = [simulated.study(simulated.nothing, i, seeds=2, between=0.01, data_set=f"d{i}") for i in range(5)]
    found = a.analyse_plw(simulated.together(*sets))
    raw = [d.mixed.fit.joint() for d in found.data_sets if d.mixed]
    assert [found.joint_holm("mixed", d) for d in found.data_sets] == pytest.approx(multipletests(raw, 0.05, "holm")[1])
    assert all(found.joint_holm("mixed", d) > p for d, p in zip(found.data_sets, raw, strict=True) if p < 0.2)
    assert math.isnan(
        a.PlwAnalysis(found.scores, found.rank, found.power, found.weights, (), ()).joint_holm(
            "ols", found.data_sets[0]
        )
    )


def test_sentences_say_what_the_data_allow() -> None:
    sets = [
        simulated.study(truth, 1, seeds=3, data_set=name)
        for name, truth in {"flat": simulated.nothing, "line": simulated.rising, "peak": simulated.peaked}.items()
    ]
    found = a.analyse_plw(simulated.together(*sets))
    shapes = {d.name: sentences.shape(found, d) for d in found.data_sets}
    assert shapes == {"flat": "none", "line": "rises", "peak": "peaks"}
    said = {d.name: sentences.sentence(found, d) for d in found.data_sets}
    assert "no effect of the prompt loss weight is shown" in said["flat"]
    assert "does not prove that there is none" in said["flat"]
    assert "rises with the weight from 0 to 1" in said["line"]
    assert "best near 0.1" in said["peak"]
    place = a.turning_weight(found, "ols", found.data_sets[2].turned)
    assert place.fieller.low <= 0.1 <= place.fieller.high


def test_the_luck_of_a_few_fine_tunes_is_called_undecided() -> None:
    """Of the seeds at which least squares, after Holm, claim an effect that is not there, the mixed model objects."""
    claimed = objected = 0
    for seed in range(120):
        found = a.analyse_plw(simulated.study(simulated.nothing, seed, models=("m",), between=0.01))
        [data] = found.data_sets
        if sentences.shape(found, data) != "none":
            claimed += 1
            objected += "undecided" in sentences.sentence(found, data)
    assert claimed >= 5
    assert objected / claimed > 0.5, (claimed, objected)


def test_few_weights_are_refused_with_the_reason() -> None:
    scores = simulated.study(simulated.nothing, 0)
    table = scores.table.filter(np.array(scores.table["weight"].to_pylist()) < 0.02)
    with pytest.raises(UserError, match=r"2 different weights \(0, 0.01\); a curve needs 3 or more. 7 trials"):
        a.analyse_plw(PlwScores(table, cut=7))


def test_cut_trials_and_single_seeds_are_noticed() -> None:
    scores = simulated.study(simulated.nothing, 0)
    said = " ".join(sentences.reader_notes(a.analyse_plw(PlwScores(scores.table, cut=3, failed=1))))
    assert "3 trials were cut by early stopping" in said
    assert "1 trials failed" in said
    assert "There is one seed" in said
    keep = [i for i in range(scores.table.num_rows) if i != 5]
    assert "Not all weights have the same benchmarks" in " ".join(
        sentences.reader_notes(a.analyse_plw(PlwScores(scores.table.take(keep))))
    )
