"""What a balanced sample of cells says about the whole grid of prompts x rows: per prompt, mean, std, worst, quantiles.

Within a stratum (the rows of one label) a cell is ``prompt + row + residual``. Prompts are estimated by generalised
least squares with random rows, so that a prompt does not lose by having met hard rows; the variances come from the
analysis of variance of the incomplete grid (Henderson's method 3; Searle, Casella and McCulloch 1992, ch. 5). A
prompt's value is the mean over strata, each weighted by its rows. With strata, a prompt that leans towards one answer
shows no noise from the labels that it happened to meet.

The variance of these values is the whole grid's variance plus the sample's noise. The noise is known and is
subtracted. What is left estimates the std that the whole grid would show over its finite rows; it equals that std when
every cell is scored. ``GridEstimate.each`` has exactly this std. Unbiased values of the prompts would spread too
widely, and values shrunk until their mean squared error is smallest not widely enough; with either, the worst prompt
and the quantiles would be wrong (Louis 1984, "Estimating a population of parameter values", JASA 79). numpy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.measure.grid import Floats, Ints

Seen = NDArray[np.bool_]

THIN = 2  # cells of every prompt that a stratum needs; labels with fewer share one
SHRINK = 5.0  # weight, in cells, of the pooled variance in a prompt's own
EXACT = 1e-12  # of values between -1 and 1: a smaller variance is rounding
Z = 1.959964  # of a 95 % interval
# Ridge of the Rasch model. The method's source has 0.01 for both; these have the smallest error of worst prompt and
# quantiles on real grids with 10 % of their cells (as variances: prompts 0.5, a prompt's labels 1, rows 3).
RIDGE_PROMPT, RIDGE_LABEL, RIDGE_ROW = 2.0, 1.0, 0.3


@dataclass(frozen=True)
class StratumFit:
    """Prompts of one stratum. ``noise`` is the covariance of ``each``, the prompts taken as given."""

    each: Floats  # [P]
    noise: Floats  # [P, P]
    residual: Floats  # [P, R] what neither prompt nor row explains; 0 where not seen
    ms_residual: float
    var_rows: float
    df: int  # of ms_residual

    @property
    def mean_variance(self) -> float:
        """Of the mean of ``each`` about the mean of all rows that there could be; rows need not have met as many
        prompts."""
        return float(self.noise.mean())


@dataclass(frozen=True)
class GridEstimate:
    """Estimates of the whole grid. Errors are standard errors against the value that the whole grid would give: they
    cover the cells that were left out, and not new prompts or rows, which ``Objective.stderr`` covers."""

    each: Floats  # [P] per prompt, their std is ``std``
    noise: Floats  # [P] variance of a prompt's unbiased estimate about its value in the whole grid
    mean: float
    mean_error: float
    variance: float  # std squared; before it is cut at 0
    variance_error: float
    rows_variance: float  # of the mean, from the rows of the whole grid
    unbiased: Floats  # [P] per prompt; they spread by ``noise`` more than the whole grid's values
    rows_noise: float  # variance of a prompt's value in the whole grid, as its rows are finite
    df: int  # of the residual variance in which ``noise`` is measured

    @property
    def std(self) -> float:
        return math.sqrt(max(self.variance, 0.0))

    @property
    def std_interval(self) -> tuple[float, float]:
        """95 %, made on the variance, where the estimate is unbiased and nearly normal."""
        low, high = (self.variance + side * Z * self.variance_error for side in (-1, 1))
        return math.sqrt(max(low, 0.0)), math.sqrt(max(high, 0.0))

    @property
    def std_error(self) -> float:
        low, high = self.std_interval
        return (high - low) / (2 * Z)

    def value_error(self, std_weight: float) -> float:
        """Of ``mean - std_weight * std``. Where bad prompts are the noisy ones (as with accuracy), errors of mean and
        std go opposite ways."""
        p = len(self.each)
        joint = 2.0 * float(((self.each - self.each.mean()) * self.noise).sum()) / (p * max(p - 1, 1))
        joint /= 2.0 * max(self.std, self.std_error, 1e-9)
        var = self.mean_error**2 + (std_weight * self.std_error) ** 2 - 2.0 * std_weight * joint
        return math.sqrt(max(var, 0.0))


def estimate_grid(
    values: Floats, seen: Seen, label: Ints, n_rows: int, shape: Floats | None = None, lowest: float = 0.0
) -> GridEstimate:
    """From ``values`` [P, R] of the cells in ``seen``; ``label`` [R] are the rows' right answers, ``n_rows`` the rows
    of the whole grid. ``shape`` [P]: per-prompt values whose order and relative distances ``each`` takes over; none of
    ``each`` is below ``lowest`` or above 1."""
    p, r = seen.shape
    groups = strata(label, seen)
    fits = [fit_stratum(values[:, g], seen[:, g]) for g in groups]
    weight = np.array([len(g) / r for g in groups])
    whole = weight * n_rows  # rows of each stratum in the whole grid
    unbiased = sum((w * f.each for w, f in zip(weight, fits, strict=True)), np.zeros(p))
    centre = np.eye(p) - 1.0 / p
    noise = np.zeros(p)
    mean_variance = rows_variance = rows_noise = 0.0
    for w, f, g, n in zip(weight, fits, groups, whole, strict=True):
        apart = np.diag(centre @ f.noise @ centre) * p / max(p - 1, 1)
        noise += w**2 * np.maximum(apart - f.ms_residual / n, 0.0) * _own_share(f, seen[:, g])
        square = float(w) ** 2
        if f.ms_residual > 0:
            in_whole = f.ms_residual / (p * float(n)) + f.var_rows / float(n)
            mean_variance += square * max(f.mean_variance - in_whole, 0.0)
        else:  # each row's effect is known where it was met
            mean_variance += square * f.var_rows * max(1.0 / int(seen[:, g].any(axis=0).sum()) - 1.0 / float(n), 0.0)
        rows_variance += square * f.var_rows / float(n)
        rows_noise += square * f.ms_residual / float(n)
    mean = float(unbiased.mean())
    by_label = np.array([f.each.mean() for f in fits])
    rows_variance += float((weight * (by_label - mean) ** 2).sum()) / n_rows
    variance = _less(unbiased, float(noise.mean()))
    df = sum(f.df for f in fits)
    found = constrained(unbiased if shape is None else shape, mean, variance, lowest)
    return GridEstimate(
        found,
        noise,
        mean,
        math.sqrt(mean_variance),
        variance,
        _variance_error(unbiased, noise, df),
        rows_variance,
        unbiased,
        rows_noise,
        df,
    )


def fit_stratum(values: Floats, seen: Seen) -> StratumFit:
    """Prompts and variance components of one stratum [P, R]; every prompt has a cell in it. Where rows hardly meet
    two prompts they cannot be told from residuals, and count as such."""
    p = seen.shape[0]
    incidence = seen.astype(np.float64)
    y = np.where(seen, values, 0.0)
    by_prompt, by_row = seen.sum(axis=1).astype(float), seen.sum(axis=0)
    n, met = int(seen.sum()), by_row > 0
    row_sums, prompt_sums = y.sum(axis=0), y.sum(axis=1)
    inverse = np.where(met, 1.0 / np.maximum(by_row, 1), 0.0)
    information = np.diag(by_prompt) - (incidence * inverse) @ incidence.T
    right = prompt_sums - incidence @ (inverse * row_sums)
    rank = int(np.linalg.matrix_rank(information, hermitian=True))
    adjusted = float(right @ np.linalg.pinv(information, hermitian=True) @ right)
    of_rows, of_prompts = float((inverse * row_sums**2).sum()), float((prompt_sums**2 / by_prompt).sum())
    df = n - int(met.sum()) - rank
    if df >= max(p // 2, 1):
        ms_residual = max(float((y**2).sum()) - of_rows - adjusted, 0.0) / df
        extra = adjusted + of_rows - of_prompts - (int(met.sum()) + rank - p) * ms_residual
        var_rows = max(extra, 0.0) / max(n - p, 1)
    else:
        df = max(n - p, 1)
        ms_residual, var_rows = max(float((y**2).sum()) - of_prompts, 0.0) / df, 0.0
    if ms_residual < EXACT:  # rounding: prompts and rows explain every cell
        ms_residual = 0.0
    ratio = var_rows / ms_residual if ms_residual > 0 else (1e6 if var_rows > 0 else 0.0)
    pull = ratio / (1.0 + ratio * by_row)  # a row effect is this times the sum of what its cells lie off
    inner = np.linalg.inv(np.diag(by_prompt) - (incidence * pull) @ incidence.T)
    each = inner @ (prompt_sums - incidence @ (pull * row_sums))
    effect = pull * (row_sums - incidence.T @ each)
    residual = np.where(seen, y - each[:, None] - effect, 0.0)
    return StratumFit(each, ms_residual * inner, residual, ms_residual, var_rows, df)


def strata(label: Ints, seen: Seen) -> list[Ints]:
    """Places of the rows of each stratum: one per label, the rarest merged until every prompt has ``THIN`` cells."""
    groups: list[Ints] = []
    open_: list[Ints] = []
    values, counts = np.unique(label, return_counts=True)
    for k in np.argsort(counts, kind="stable"):
        open_.append(np.flatnonzero(label == values[k]))
        here = np.concatenate(open_)
        if seen[:, here].sum(axis=1).min() >= THIN:
            groups.append(here)
            open_ = []
    if open_:  # too few cells for a stratum of their own: they join the largest
        groups = [*groups[:-1], np.concatenate([*groups[-1:], *open_])]
    return groups


def constrained(values: Floats, mean: float, variance: float, lowest: float = 0.0) -> Floats:
    """``values`` [P] moved and stretched to ``mean`` and ``variance``, within [``lowest``, 1]."""
    spread = math.sqrt(_less(values, 0.0))
    scale = math.sqrt(max(variance, 0.0)) / spread if spread > 1e-12 else 0.0
    out: Floats = np.clip(mean + (values - values.mean()) * scale, lowest, 1.0)
    return out


def rasch(correct: Seen, seen: Seen, label: Ints, steps: int = 30) -> Floats:
    """[P] accuracy of every prompt, its unseen cells filled in by the model of Polo et al. 2024 (PromptEval):
    logit P(correct) = theta_i + beta_j with ridge, by Newton's method. Here theta is per prompt and stratum, the
    strata of one prompt alike a priori. Its values are bounded and bunch at the ceiling as the truth does; their mean
    is biased where rows have few cells, so ``estimate_grid`` takes only their shape."""
    groups = strata(label, seen)
    if len(groups) * seen.shape[0] > 500:  # a dense solve of that size a step
        groups = [np.arange(seen.shape[1])]
    p, s = seen.shape[0], len(groups)
    prior = np.linalg.inv(np.full((s, s), 1.0 / RIDGE_PROMPT) + np.eye(s) / RIDGE_LABEL)
    stratum = np.empty(seen.shape[1], np.int64)
    for k, g in enumerate(groups):
        stratum[g] = k
    share = np.array([correct[:, g][seen[:, g]].mean() for g in groups])
    share = np.clip(share, 0.01, 0.99)
    middle = np.log(share / (1.0 - share))
    theta, beta = np.tile(middle, (p, 1)), np.zeros(seen.shape[1])
    for _ in range(steps):
        chance = _sigmoid(theta[:, stratum] + beta)
        off = np.where(seen, correct - chance, 0.0)
        weight = np.where(seen, chance * (1.0 - chance), 0.0)
        slope_rows = off.sum(axis=0) - RIDGE_ROW * beta
        curve_rows = weight.sum(axis=0) + RIDGE_ROW
        slope = np.stack([off[:, g].sum(axis=1) for g in groups], axis=1) - (theta - middle) @ prior
        hessian = np.zeros((p, s, p, s))
        at = np.arange(p)
        hessian[at, :, at, :] = prior
        for k, g in enumerate(groups):
            w = weight[:, g]
            hessian[:, k, :, k] += np.diag(w.sum(axis=1)) - (w / curve_rows[g]) @ w.T
            slope[:, k] -= w @ (slope_rows[g] / curve_rows[g])
        step = np.linalg.solve(hessian.reshape(p * s, p * s), slope.ravel()).reshape(p, s)
        step_rows = (slope_rows - (weight * step[:, stratum]).sum(axis=0)) / curve_rows
        far = max(float(np.abs(step).max()), float(np.abs(step_rows).max()))
        scale = min(1.0, 3.0 / far) if far > 0 else 1.0  # a full step from afar can leave the region where it helps
        theta, beta = theta + scale * step, beta + scale * step_rows
        middle = theta.mean(axis=0)
        if far < 1e-4:
            break
    filled = np.where(seen, correct, _sigmoid(theta[:, stratum] + beta))
    found: Floats = filled.mean(axis=1)
    return found


def _sigmoid(x: Floats) -> Floats:
    y: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return y


def _less(values: Floats, noise: float) -> float:
    """Variance of ``values`` [P] (ddof 1) without that of their noise; may be negative."""
    return float(values.var(ddof=1)) - noise if len(values) > 1 else 0.0


def _own_share(f: StratumFit, seen: Seen) -> Floats:
    """[P] each prompt's residual variance over the stratum's, drawn towards 1; mean 1."""
    squares = (f.residual**2).sum(axis=1)
    usual = float(squares.sum() / seen.sum())
    if usual < EXACT:
        return np.ones(len(f.each))
    own = (squares + SHRINK * usual) / (seen.sum(axis=1) + SHRINK)
    out: Floats = own / own.mean()
    return out


def _variance_error(unbiased: Floats, noise: Floats, df: int) -> float:
    """Standard error of ``_less``, the prompts' values in the whole grid taken as given: from the noise alone, from
    noise times true distance, and from the doubt about the noise's size."""
    p = len(unbiased)
    if p < 2:
        return 0.0
    distance = np.maximum((unbiased - unbiased.mean()) ** 2 - noise, 0.0)
    both = 4.0 * float((distance * noise).sum()) / (p - 1) ** 2
    return math.sqrt(2.0 * float((noise**2).sum()) / (p - 1) ** 2 + both + 2.0 * float(noise.mean()) ** 2 / max(df, 1))
