"""The regression models of the prompt-loss-weight study: how a prompt loss weight changes scores.

``score ~ weight + weight^2 + C(benchmark)`` is fitted for one data set in three ways: ordinary least squares (the
study's first version), beta regression on the logit scale (its later version), and a mixed model in which base model,
setting, seed and fine-tune are random. All three take plain arrays, which ``sweeps.plw.scores`` makes from run folders.

The turning point -b1 / (2 b2) gets two intervals. The delta method's is linear and always finite, so it is short where
the curve is flat and the data do not say where it turns. Fieller's set (Fieller 1954) holds every point at which the
fitted slope may be 0, and is unbounded where the curvature may be 0. The reports use Fieller's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sweeps.statistics.intervals import LEVEL, Estimate
from sweeps.study.weights import POWER, weight_of_power
from trainer.errors import UserError
from trainer.measure.grid import Floats

LINEAR, SQUARE = "weight", "weight^2"


# the scale of weights ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightScale:
    """Converts weights to places on the horizontal axis of a model, and back."""

    forward: Callable[[Floats], Floats]
    back: Callable[[float], float]  # NaN outside the weights studied


def rank_scale(weights: Sequence[float]) -> WeightScale:
    """The scale of the first version: ranks of the study's distinct weights, spread evenly over [-1, 1]. Between two
    weights places are interpolated linearly, so a turning point there is rough."""
    known = np.unique(np.asarray(weights, dtype=float))
    places = np.linspace(-1.0, 1.0, known.size)

    def back(place: float) -> float:
        return float(np.interp(place, places, known)) if abs(place) <= 1.0 + 1e-9 else math.nan

    return WeightScale(lambda w: np.interp(w, known, places), back)


def power_scale(weights: Sequence[float]) -> WeightScale:
    """The scale of the PLW paper's later version: weight^0.30103."""
    top = float(np.max(weights))

    def back(place: float) -> float:
        weight = weight_of_power(place) if place >= 0.0 else math.nan
        return weight if weight <= top * (1.0 + 1e-9) else math.nan

    return WeightScale(lambda w: np.asarray(w, dtype=float) ** POWER, back)


# fits ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RegressionFit:
    """Coefficients with their covariance."""

    terms: tuple[str, ...]
    beta: Floats  # [K]
    cov: Floats  # [K, K]
    df: float  # infinite where a normal distribution is used
    n: int  # scores
    note: str = ""  # for the reader, such as that the fit did not converge

    def index(self, term: str) -> int:
        return self.terms.index(term)

    def stderr(self, term: str) -> float:
        return math.sqrt(max(float(self.cov[self.index(term), self.index(term)]), 0.0))

    def p(self, term: str) -> float:
        """Two-sided p-value that the coefficient is 0; NaN without residual degrees of freedom."""
        se, value = self.stderr(term), abs(float(self.beta[self.index(term)]))
        if self.df < 1 or not math.isfinite(se):
            return math.nan
        if se == 0.0:
            return float(value == 0.0)
        return float(2.0 * stats.t.sf(value / se, self.df))

    def joint(self) -> float:
        """p-value that the weight has no effect, so that both its coefficients are 0: by an F test, or a chi-square
        test where df is infinite."""
        at = [self.index(LINEAR), self.index(SQUARE)]
        cov = self.cov[np.ix_(at, at)]
        if self.df < 1 or not np.isfinite(cov).all() or np.linalg.matrix_rank(cov) < 2:
            return math.nan
        wald = float(self.beta[at] @ np.linalg.solve(cov, self.beta[at])) / 2.0
        return float(stats.f.sf(wald, 2, self.df)) if math.isfinite(self.df) else float(stats.chi2.sf(2.0 * wald, 2))

    def change(self, start: float, end: float) -> Estimate:
        """The fitted score at the place ``end`` minus that at the place ``start``, with its interval."""
        along = np.zeros(len(self.terms))
        along[self.index(LINEAR)], along[self.index(SQUARE)] = end - start, end**2 - start**2
        return self._combined(along)

    def predicted(self, design: Floats) -> Estimate:
        """The fitted value of one row [K] of the design matrix, with its interval."""
        return self._combined(design)

    def _combined(self, along: Floats) -> Estimate:
        value, se = float(along @ self.beta), math.sqrt(max(float(along @ self.cov @ along), 0.0))
        half = self._quantile() * se
        return Estimate(value, value - half, value + half)

    def _quantile(self) -> float:
        return float(stats.t.ppf((1.0 + LEVEL) / 2.0, self.df)) if self.df >= 1 else math.nan


def design(places: Floats, benchmarks: Sequence[str], fixed: Sequence[str] = ()) -> tuple[Floats, tuple[str, ...]]:
    """The design matrix: columns 1, weight^2 and weight, then one per benchmark and one per value of ``fixed``, without
    the first of each."""
    columns = [np.ones(len(places)), places**2, places]
    terms = ["intercept", SQUARE, LINEAR]
    for kind, values in (("benchmark", benchmarks), ("model", fixed)):
        known = np.array(values)
        for name in sorted(set(values))[1:]:
            columns.append((known == name).astype(float))
            terms.append(f"{kind} {name}")
    return np.column_stack(columns), tuple(terms)


def ols(scores: Floats, x: Floats, terms: tuple[str, ...]) -> RegressionFit:
    """Ordinary least squares of ``scores`` [N] on ``x`` [N, K]. UserError where the scores do not determine the
    coefficients."""
    n, k = x.shape
    if n < k or np.linalg.matrix_rank(x) < k:
        raise UserError(
            f"{n} scores do not determine {k} coefficients ({', '.join(terms)}). The curve needs at least three "
            "different weights, each with scores on the same benchmarks"
        )
    q, r = np.linalg.qr(x)
    beta = np.linalg.solve(r, q.T @ scores)
    left = scores - x @ beta
    df = n - k
    inverse = np.linalg.inv(r)
    variance = float(left @ left) / df if df else math.nan
    return RegressionFit(terms, beta, inverse @ inverse.T * variance, df, n)


def beta_regression(scores: Floats, x: Floats, terms: tuple[str, ...]) -> RegressionFit:
    """Beta regression of ``scores`` in [0, 1] with a logit link and one precision (Ferrari and Cribari-Neto 2004);
    p-values are of a normal distribution. Where a score is 0 or 1, all scores are compressed by (y (N - 1) + 0.5) / N
    (Smithson and Verkuilen 2006), and the note says so. UserError where scores are outside [0, 1]."""
    from statsmodels.othermod.betareg import BetaModel

    n, k = x.shape
    if scores.min() < 0.0 or scores.max() > 1.0:
        raise UserError(
            f"scores from {scores.min():g} to {scores.max():g}: beta regression needs fractions between 0 and 1"
        )
    note = ""
    if scores.min() == 0.0 or scores.max() == 1.0:
        scores = (scores * (n - 1) + 0.5) / n
        note = "scores were compressed, since some are 0 or 1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = BetaModel(scores, x).fit(disp=0, maxiter=500)
            beta, cov = np.asarray(found.params)[:k], np.asarray(found.cov_params())[:k, :k]
            converged = bool(found.mle_retvals["converged"])
        except (ValueError, np.linalg.LinAlgError):
            beta, cov, converged = np.full(k, math.nan), np.full((k, k), math.nan), False
    if not converged or not np.isfinite(cov).all() or (np.diag(cov) <= 0).any():
        note = "; ".join(p for p in (note, "the fit did not converge, so it says nothing") if p)
        cov = np.full((k, k), math.nan)
    return RegressionFit(terms, beta, cov, math.inf, n, note)


@dataclass(frozen=True)
class MixedFit:
    """A mixed model: its fixed effects, and the standard deviations of the random intercepts and of the residual."""

    fit: RegressionFit
    spread: Mapping[str, float]  # factor -> standard deviation, in score units
    residual: float


def mixed_model(
    scores: Floats, x: Floats, terms: tuple[str, ...], factors: Mapping[str, Sequence[str]]
) -> MixedFit | None:
    """A mixed model by REML, with a crossed random intercept for every factor that differs from the residual: one with
    at least two values and fewer values than scores. None where there is no such factor. Fixed effects have a t
    distribution, whose degrees of freedom are those of least squares minus the factors' own. The spread of a factor
    with two or three values is known only roughly."""
    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

    n, k = x.shape
    used = {name: v for name, v in factors.items() if 1 < len(set(v)) < n}
    if not used or n <= k + 1:
        return None
    names, blocks = list(used), []
    for values in used.values():
        known = np.array(values)
        blocks.append(np.column_stack([(known == v).astype(float) for v in sorted(set(values))]))
    spec = VCSpec(names, [[[f"{v}" for v in sorted(set(used[name]))]] for name in names], [[b] for b in blocks])
    size = float(scores.std()) or 1.0  # the optimizer has absolute tolerances; accuracies differ by thousandths
    note = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = MixedLM(scores / size, x, groups=np.ones(n), exog_re=None, exog_vc=spec)
            found = model.fit(reml=True, method=["lbfgs", "powell"])
            beta, cov = np.asarray(found.fe_params) * size, np.asarray(found.cov_params())[:k, :k] * size**2
            spread = {name: math.sqrt(max(float(v), 0.0)) * size for name, v in zip(names, found.vcomp, strict=True)}
            residual, converged = math.sqrt(float(found.scale)) * size, bool(found.converged)
        except (ValueError, np.linalg.LinAlgError):
            return None
    at_zero = [name for name, value in spread.items() if value < 1e-3 * max(residual, 1e-12)]
    if at_zero:
        note = f"no spread found between {' and '.join(at_zero)} values"
    elif not converged or any("converge" in str(w.message).lower() for w in caught):
        note = "the estimate of the variances did not fully converge"
    return MixedFit(RegressionFit(terms, beta, cov, _freedom(x, blocks), n, note), spread, residual)


def _freedom(x: Floats, blocks: Sequence[Floats]) -> float:
    """Residual degrees of freedom when the random factors are counted as if they were fixed: the containment rule for
    effects that vary within all factors. Where the weight is constant within each value of a factor (a fine-tune has
    one weight), the number of that factor's values limits them instead."""
    n = len(x)
    everything = np.column_stack([x, *blocks])
    df = n - int(np.linalg.matrix_rank(everything))
    for block in blocks:
        if _lies_in(x[:, 2], block):
            own = np.column_stack([np.ones(n), x[:, 1], x[:, 2], *(b for b in blocks if b.shape[1] < block.shape[1])])
            df = min(df, block.shape[1] - int(np.linalg.matrix_rank(own)))
    return float(max(df, 1))


def _lies_in(column: Floats, block: Floats) -> bool:
    """Whether ``column`` is constant within each value of a factor; ``block`` has the factor's indicator columns."""
    mean = block @ ((block.T @ column) / np.maximum(block.sum(axis=0), 1.0))
    return bool(np.allclose(mean, column))


# the turning point -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TurningPoint:
    """The place at which the fitted parabola turns. Fieller's set is an interval only where ``bounded``."""

    kind: str  # maximum | minimum
    place: float
    delta: Estimate
    fieller: Estimate  # -inf to inf where it is not an interval
    bounded: bool


def turning_point(fit: RegressionFit) -> TurningPoint:
    """-b1 / (2 b2) with both intervals at ``LEVEL``."""
    i, j = fit.index(LINEAR), fit.index(SQUARE)
    b1, b2 = float(fit.beta[i]), float(fit.beta[j])
    v11, v12, v22 = float(fit.cov[i, i]), float(fit.cov[i, j]), float(fit.cov[j, j])
    kind = "maximum" if b2 < 0 else "minimum"
    if b2 == 0.0 or fit.df < 1:
        unknown = Estimate(math.nan, -math.inf, math.inf)
        return TurningPoint(kind, math.nan, unknown, unknown, False)
    t = float(stats.t.ppf((1.0 + LEVEL) / 2.0, fit.df))
    at = -b1 / (2.0 * b2)
    # gradient of at: (-1 / (2 b2), b1 / (2 b2^2))
    variance = (v11 + 4.0 * at * v12 + 4.0 * at**2 * v22) / (4.0 * b2**2)
    half = t * math.sqrt(max(variance, 0.0))
    delta = Estimate(at, at - half, at + half)
    # Fieller: places x at which the slope b1 + 2 b2 x may be 0: (b1 + 2 b2 x)^2 <= t^2 Var(b1 + 2 b2 x)
    a = 4.0 * (b2**2 - t**2 * v22)
    b = 4.0 * (b1 * b2 - t**2 * v12)
    c = b1**2 - t**2 * v11
    root = b**2 - 4.0 * a * c
    if not a > 0.0 or not root >= 0.0:
        return TurningPoint(kind, at, delta, Estimate(at, -math.inf, math.inf), False)
    low, high = ((-b + sign * math.sqrt(root)) / (2.0 * a) for sign in (-1.0, 1.0))
    return TurningPoint(kind, at, delta, Estimate(at, low, high), True)
