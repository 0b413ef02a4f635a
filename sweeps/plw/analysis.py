"""The analysis of a prompt-loss-weight study: each data set is fitted in three ways and tested, with a sentence each.

- ``ols``: the study's first version. Weights by rank, least squares, each data set by itself. Holm's correction is over
  all coefficients of all data sets without the intercepts (15 in the paper).
- ``beta``: its later version. Weights by power, beta regression on the logit scale. The paper has random effects;
  statsmodels has no beta mixed model, so the base model enters as a fixed effect.
- ``mixed``: the first version's formula with random intercepts for model, setting and seed, and for the fine-tune where
  several benchmarks score the same one. Least squares ignores both: it does not compare weights within a model, and it
  counts the benchmarks of one fine-tune as independent evidence.

An effect is claimed where least squares (after Holm) and the mixed model agree.
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
from sweeps.statistics.intervals import Estimate, holm
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


# sentences --------------------------------------------------------------------------------------------------------


def shape(analysis: PlwAnalysis, data: DataSet) -> str:
    """The effect by least squares after Holm's correction: ``none``, ``rises``, ``falls``, ``peaks`` or ``dips``."""
    square, linear = (analysis.test("ols", data.name, term) for term in (SQUARE, LINEAR))
    if square.reject and math.isfinite(turning_weight(analysis, "ols", data.ols).weight):
        return "peaks" if square.estimate < 0 else "dips"
    if square.reject or linear.reject:
        ends = analysis.rank.forward(np.array([analysis.weights[0], analysis.weights[-1]]))
        return "rises" if data.ols.change(float(ends[0]), float(ends[1])).value > 0 else "falls"
    return "none"


def agrees(data: DataSet) -> bool | None:
    """Whether the mixed model finds an effect of the weight, too; None where there is no mixed model or no p-value."""
    p = data.mixed.fit.joint() if data.mixed else math.nan
    return None if math.isnan(p) else p < ALPHA


def sentence(analysis: PlwAnalysis, data: DataSet) -> str:
    """What the analysis shows for one data set, in words."""
    found, second = shape(analysis, data), agrees(data)
    low, top = analysis.weights[0], analysis.weights[-1]
    if found == "none":
        said = f"{data.name}: no effect of the prompt loss weight is shown ({_p('p', data.ols.joint())} for the curve"
        said += f"; mixed model {_p('p', data.mixed.fit.joint())})" if second is not None and data.mixed else ")"
        if second:
            return f"{said}. The two disagree, so this is undecided: more seeds would help. {_change(analysis, data)}"
        return f"{said}. This does not prove that there is none: {_change(analysis, data, start='')}"
    turn = turning_weight(analysis, "ols", data.ols)
    if found in ("peaks", "dips"):
        side = "best" if found == "peaks" else "worst"
        where = f"the score {found} over the weight, {side} near {turn.weight:.2g}{_where(turn)}"
    else:
        where = f"the score {found} with the weight from {low:g} to {top:g}"
    claim = f"{data.name}: {where}; {_change(analysis, data, start='', to=turn.weight)}"
    if second is False:
        return (
            f"{claim} But with models, seeds and fine-tunes as random effects {_p('p', data.mixed.fit.joint())}, "  # type: ignore[union-attr]
            "so this is undecided: what looks like an effect may be chance in a few fine-tunes."
        )
    if second is None:
        return f"{claim} One fine-tune for each weight and one benchmark: there is no mixed model to check this with."
    return claim


def _change(analysis: PlwAnalysis, data: DataSet, start: str = "Fitted: ", to: float = math.nan) -> str:
    """The fitted change of the score from the lowest weight to the highest, or to ``to``, with its interval."""
    fit = data.mixed.fit if data.mixed and agrees(data) is not None else data.ols
    end = analysis.weights[-1] if math.isnan(to) else to
    a, b = (float(v) for v in analysis.rank.forward(np.array([analysis.weights[0], end])))
    gap = fit.change(a, b)
    interval = "" if math.isnan(gap.low) else f" (95 % interval {100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
    return (
        f"{start}from weight {analysis.weights[0]:g} to {end:.2g} the score changes by "
        f"{100 * gap.value:+.1f} points{interval}."
    )


def _where(turn: TurningWeight) -> str:
    if not turn.turning.bounded:
        return " (the data give it no bounds)"
    return f" (95 % interval {turn.fieller.low:.2g} to {turn.fieller.high:.2g})"


def _p(name: str, value: float) -> str:
    return f"{name} unknown" if math.isnan(value) else f"{name} < 0.001" if value < 0.001 else f"{name} = {value:.3f}"


def reader_notes(analysis: PlwAnalysis) -> list[str]:
    """What a reader must know about the data beside the numbers."""
    table, said = analysis.scores.table, []
    if analysis.scores.cut:
        said.append(
            f"{analysis.scores.cut} trials were cut by early stopping and are left out. They were cut because of their "
            "low scores, so the mean of the rest is too high for their weights: run the study with scheduler.name=none."
        )
    if analysis.scores.failed:
        said.append(f"{analysis.scores.failed} trials failed and are left out.")
    per_seed = len(set(table["seed"].to_pylist()))
    if per_seed == 1:
        said.append("There is one seed: how much a score changes when the same fine-tune is repeated is not measured.")
    uneven = _uneven(table)
    if uneven:
        said.append(
            f"Not all weights have the same benchmarks, models, settings and seeds ({uneven}): differences between "
            "weights may be differences between these."
        )
    said += [f"{d.name}, {name}: {fit.note}." for d in analysis.data_sets for name, fit in d.fits().items() if fit.note]
    said.append("The conclusions hold for these weights, models and benchmarks, at this learning rate and length.")
    return said


def _uneven(table: pa.Table) -> str:
    cells: dict[str, dict[float, set[tuple[str, ...]]]] = {}
    for row in table.to_pylist():
        key = (row["benchmark"], row["model"], row["setting"], str(row["seed"]))
        cells.setdefault(row["data_set"], {}).setdefault(row["weight"], set()).add(key)
    every = sorted({w for by in cells.values() for w in by})
    off = [n for n, by in cells.items() if len(by) < len(every) or len({frozenset(v) for v in by.values()}) > 1]
    return ", ".join(off)


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
    return _Curve(data.ols, x.mean(axis=0))


@dataclass(frozen=True)
class _Curve:
    fit: RegressionFit
    average: Floats

    def __call__(self, place: float) -> Estimate:
        row = self.average.copy()
        row[self.fit.index(LINEAR)], row[self.fit.index(SQUARE)] = place, place**2
        return self.fit.predicted(row)


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
