"""The analysis of a prompt-loss-weight study: each data set is fitted in three ways and tested, with a sentence each.

- ``ols``: the study's first version. Weights by rank, least squares, each data set by itself. Holm's correction is over
  all coefficients of all data sets without the intercepts (15 in the paper).
- ``beta``: its later version. Weights by power, beta regression on the logit scale. The paper has random effects;
  statsmodels has no beta mixed model, so the base model enters as a fixed effect.
- ``mixed``: the first version's formula with random intercepts for model, setting and seed, and for the fine-tune where
  several benchmarks score the same one. Least squares ignores both: it does not compare weights within a model, and it
  counts the benchmarks of one fine-tune as independent evidence.

An effect is claimed where least squares and the mixed model agree, both after Holm's correction: all coefficients are
one family, and so are the mixed models of all data sets. Turning points are the mixed model's where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sweeps.plw import models as m
from sweeps.plw.models import LINEAR, SQUARE, MixedFit, RegressionFit, TurningPoint, WeightScale
from sweeps.plw.scores import PlwScores
from sweeps.statistics.intervals import SHARE, Estimate, holm
from trainer.errors import UserError
from trainer.measure.grid import Floats

ALPHA = 0.05
ANALYSES = ("ols", "beta", "mixed")
FEWEST = 3  # different weights that a curve needs


@dataclass(frozen=True)
class PlwTest:
    """One coefficient of one analysis of one data set."""

    analysis: str
    data_set: str
    term: str
    estimate: float  # in score units; for ``beta`` on the logit scale
    stderr: float
    p: float
    p_holm: float  # over all tests of the analysis
    n: int
    df: float

    @property
    def reject(self) -> bool:
        return self.p_holm < ALPHA


@dataclass(frozen=True)
class DataSet:
    """The fits of one data set."""

    name: str
    table: pa.Table
    ols: RegressionFit
    beta: RegressionFit | None  # None where scores leave [0, 1]
    mixed: MixedFit | None  # None where nothing varies at random: one model and setting, one seed, one benchmark

    def fits(self) -> dict[str, RegressionFit]:
        found = {"ols": self.ols, "beta": self.beta, "mixed": self.mixed.fit if self.mixed else None}
        return {name: fit for name, fit in found.items() if fit is not None}

    @property
    def turned(self) -> RegressionFit:
        """The fit that says where the curve turns and how far the score changes: the mixed model where there is one,
        since least squares take the luck of one fine-tune for as many witnesses as there are benchmarks. In simulated
        studies with luck of a point their intervals hold the turning point in .73, the mixed model's in .96."""
        return self.mixed.fit if self.mixed and math.isfinite(self.mixed.fit.joint()) else self.ols


@dataclass(frozen=True)
class PlwAnalysis:
    scores: PlwScores
    rank: WeightScale
    power: WeightScale
    weights: tuple[float, ...]
    data_sets: tuple[DataSet, ...]
    tests: tuple[PlwTest, ...]

    def scale(self, analysis: str) -> WeightScale:
        return self.power if analysis == "beta" else self.rank

    def joint_holm(self, analysis: str, data: DataSet) -> float:
        """The p-value that the weight has no effect on a data set, corrected for all data sets of the study; NaN where
        the analysis has none."""
        p = {d.name: fit.joint() for d in self.data_sets if (fit := d.fits().get(analysis)) is not None}
        known = {name: value for name, value in p.items() if math.isfinite(value)}
        return dict(zip(known, holm(list(known.values())), strict=True)).get(data.name, math.nan)

    def test(self, analysis: str, data_set: str, term: str) -> PlwTest:
        return next(t for t in self.tests if (t.analysis, t.data_set, t.term) == (analysis, data_set, term))


def analyse_plw(scores: PlwScores) -> PlwAnalysis:
    """Fit and test every data set. UserError where one has too few weights or scores."""
    table = scores.table
    weights = tuple(sorted(set(table["weight"].to_pylist())))
    if len(weights) < FEWEST:
        listed = ", ".join(f"{w:g}" for w in weights) or "none"
        left = scores.cut + scores.failed
        out = f" {left} trials that were cut early or failed are left out." if left else ""
        raise UserError(
            f"prompt loss weight: finished trials with test scores have {len(weights)} different weights ({listed}); "
            f"a curve needs {FEWEST} or more.{out} Add values to axes.plw, with scheduler.name=none"
        )
    rank, power = m.rank_scale(weights), m.power_scale(weights)
    names = sorted(set(table["data_set"].to_pylist()))
    found = tuple(_fit(name, table.filter(pc.equal(table["data_set"], name)), rank, power) for name in names)
    return PlwAnalysis(scores, rank, power, weights, found, _tests(found))


def _fit(name: str, table: pa.Table, rank: WeightScale, power: WeightScale) -> DataSet:
    column = {c: table[c].to_pylist() for c in table.column_names}
    y, weight = np.array(column["score"]), np.array(column["weight"])
    x, terms = m.design(rank.forward(weight), column["benchmark"])
    try:
        least = m.ols(y, x, terms)
    except UserError as error:
        raise UserError(f"prompt loss weight, data set {name}: {error}") from None
    units = [" ".join(p for p in pair if p) for pair in zip(column["model"], column["setting"], strict=True)]
    beta = None
    if y.min() >= 0.0 and y.max() <= 1.0:
        xp, terms_p = m.design(power.forward(weight), column["benchmark"], units)
        if np.linalg.matrix_rank(xp) == xp.shape[1] and len(y) > xp.shape[1] + 1:
            beta = m.beta_regression(y, xp, terms_p)
    several = len(set(column["benchmark"])) > 1
    factors: dict[str, Sequence[str]] = {
        "model": column["model"],
        "setting": column["setting"],
        "seed": [str(s) for s in column["seed"]],
        **({"fine-tune": column["trial_id"]} if several else {}),
    }
    return DataSet(name, table, least, beta, m.mixed_model(y, x, terms, factors))


def _tests(data_sets: Sequence[DataSet]) -> tuple[PlwTest, ...]:
    made: list[PlwTest] = []
    for analysis in ANALYSES:
        fits = [(d.name, d.fits()[analysis]) for d in data_sets if analysis in d.fits()]
        cells = [(name, fit, term) for name, fit in fits for term in fit.terms if term != "intercept"]
        p = [fit.p(term) for _, fit, term in cells]
        known = [i for i, value in enumerate(p) if math.isfinite(value)]
        adjusted = [math.nan] * len(p)
        for i, value in zip(known, holm([p[i] for i in known]), strict=True):
            adjusted[i] = value
        for i, (name, fit, term) in enumerate(cells):
            estimate = float(fit.beta[fit.index(term)])
            made.append(PlwTest(analysis, name, term, estimate, fit.stderr(term), p[i], adjusted[i], fit.n, fit.df))
    return tuple(made)


# turning points ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TurningWeight:
    """A turning point as a weight."""

    turning: TurningPoint
    weight: float  # NaN where the curve turns outside the weights studied
    delta: Estimate
    fieller: Estimate  # from the lowest to the highest weight where Fieller's set is no interval


def turning_weight(analysis: PlwAnalysis, name: str, fit: RegressionFit) -> TurningWeight:
    """The turning point of a fit as a weight. Its bounds are cut to the weights studied."""
    scale, turning = analysis.scale(name), m.turning_point(fit)
    ends = [float(v) for v in scale.forward(np.array([analysis.weights[0], analysis.weights[-1]]))]
    weight = scale.back(turning.place) if ends[0] <= turning.place <= ends[1] else math.nan

    def back(e: Estimate) -> Estimate:
        if e.low > ends[1] or e.high < ends[0]:
            return Estimate(weight, math.nan, math.nan)
        return Estimate(weight, scale.back(max(e.low, ends[0])), scale.back(min(e.high, ends[1])))

    return TurningWeight(turning, weight, back(turning.delta), back(turning.fieller))


# the figures' data ------------------------------------------------------------------------------------------------


def by_benchmark(analysis: PlwAnalysis) -> pa.Table:
    """The first figure's data: mean, lowest and highest score of each data set, benchmark and weight."""
    keys = ["data_set", "benchmark", "weight"]
    return _spread(analysis.scores.table, keys, analysis)


def aggregate(analysis: PlwAnalysis) -> pa.Table:
    """The second figure's data: each fine-tune's mean over benchmarks, by data set and weight, with the curve of
    ``ols`` for the average benchmark and its 95 % interval."""
    table = analysis.scores.table
    mean = table.group_by(["data_set", "weight", "trial_id"]).aggregate([("score", "mean")])
    mean = mean.rename_columns({"score_mean": "score"})
    found = _spread(mean, ["data_set", "weight"], analysis)
    fits = {d.name: fitted(d, analysis) for d in analysis.data_sets}
    curve = [fits[row["data_set"]](row["place"]) for row in found.to_pylist()]
    for name, values in {
        "fitted": [e.value for e in curve],
        "fitted_low": [e.low for e in curve],
        "fitted_high": [e.high for e in curve],
    }.items():
        found = found.append_column(name, pa.array(values, pa.float64()))
    return found


def fitted(data: DataSet, analysis: PlwAnalysis) -> _Curve:
    """A function from a place on the rank scale to the fitted score for the data set's mix of benchmarks."""
    column = data.table.to_pydict()
    x, _ = m.design(analysis.rank.forward(np.array(column["weight"])), column["benchmark"])
    return _Curve(data.ols, x.mean(axis=0), min(column["score"]) >= 0.0 and max(column["score"]) <= 1.0)


@dataclass(frozen=True)
class _Curve:
    fit: RegressionFit
    average: Floats
    shares: bool  # whether the scores are fractions of 1

    def __call__(self, place: float) -> Estimate:
        row = self.average.copy()
        row[self.fit.index(LINEAR)], row[self.fit.index(SQUARE)] = place, place**2
        found = self.fit.predicted(row)
        return SHARE.within(found) if self.shares else found


def _spread(table: pa.Table, keys: list[str], analysis: PlwAnalysis) -> pa.Table:
    found = table.group_by(keys).aggregate([("score", f) for f in ("mean", "min", "max", "count")])
    found = found.rename_columns(
        {f"score_{f}": n for f, n in {"mean": "mean", "min": "min", "max": "max", "count": "n"}.items()}
    )
    found = found.sort_by([(k, "ascending") for k in keys])
    places = analysis.rank.forward(np.array(found["weight"].to_pylist()))
    return found.select([*keys, "n", "mean", "min", "max"]).append_column("place", pa.array(places))


def random_parts(data: DataSet) -> Mapping[str, float]:
    """Factor or ``residual`` -> standard deviation in the mixed model; empty without one."""
    return {**data.mixed.spread, "residual": data.mixed.residual} if data.mixed else {}
