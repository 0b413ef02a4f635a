"""How often a row is answered rightly when it is asked in several wordings: the rival of training for robustness.

A row is asked in n of the P test prompts, and the answers become one: by the mean of the labels' probabilities, by the
same after batch calibration of each prompt (Zhou et al. 2023, as ``trainer.score.decide`` has it), or by a vote.
Everything comes from stored answers and label log-probabilities.

For 1 < n < P the value is the mean over fixed draws of n prompts (all sets where they are no more): a U-statistic. Its
interval for new prompts and new rows is the two-way one of pseudo-values, the jackknife's over prompts: what a row
gains where prompt p is among those asked. What the draws alone add to their spread is taken off. One wording has the
interval of the tables; where all prompts are asked there is one ensemble, and only rows are random.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from sweeps.statistics import intervals as st
from trainer.measure import metrics
from trainer.measure.grid import NO_ANSWER, Floats, Grid, Ints
from trainer.measure.registry import kind_of
from trainer.trial import digest

METHODS = ("probabilities", "calibrated", "vote")
SIZES = (2, 4, 8)  # between one wording and all of them
DRAWS = 200
_BLOCK = 8_000_000  # numbers [draws, rows, labels] in memory at once

Members = NDArray[np.bool_]  # [D, P] the prompts of each draw


@dataclass(frozen=True)
class Asked:
    """The metric of a configuration that is asked in ``wordings`` prompts."""

    wordings: int
    draws: int
    estimate: st.Estimate


def asked(grids: Sequence[Grid], method: str, metric: str, prior: Floats | None = None) -> list[Asked]:
    """The metric at every number of wordings, from one, averaged over ``grids``: a configuration's seeds, on the same
    prompts and rows. ``prior`` [K]: the labels' shares that calibration puts back, none for equal ones. Empty where the
    method has nothing to go by: label log-probabilities, except for a vote, which in turn ranks no rows. ValueError for
    a sample of a grid, in which a row has met a few of the prompts."""
    return Wordings(grids, prior).asked(method, metric)


class Wordings:
    """``asked`` of several methods and metrics, for which the grids are answered once."""

    def __init__(self, grids: Sequence[Grid], prior: Floats | None = None) -> None:
        if any(g.seen is not None for g in grids):
            raise ValueError("of a sample it is not known how a row is answered under all prompts")
        self._grids, self._prior = grids, prior
        self._shares: dict[str, list[Floats | None]] = {}  # by method; of each grid
        self._answers: dict[tuple[str, int], list[Ints]] = {}  # by method and number of wordings
        self._estimates: dict[tuple[str, int, bytes], st.Estimate] = {}  # by metric, wordings and answers

    def asked(self, method: str, metric: str) -> list[Asked]:
        grids = self._grids
        if kind_of(metric).ranks if method == "vote" else any(g.label_logprobs is None for g in grids):
            return []
        if method not in self._shares:
            self._shares[method] = [_shares(g, method, self._prior) for g in grids]
        prompts = grids[0].prompts
        p = len(prompts)
        sizes = (1, *(n for n in SIZES if n < p), *([p] if p > 1 else []))
        return [Asked(n, len(draws(prompts, n)), self._estimate(method, metric, draws(prompts, n), n)) for n in sizes]

    def _estimate(self, method: str, metric: str, members: Members, n: int) -> st.Estimate:
        if (method, n) not in self._answers:
            parts = zip(self._grids, self._shares[method], strict=True)
            self._answers[method, n] = [_answers(g, shares, members) for g, shares in parts]
        given = self._answers[method, n]
        ranks = kind_of(metric).ranks  # by more than the answers
        key = metric, n, b"".join(of_grid.tobytes() for of_grid in ([] if ranks else given))
        if ranks or key not in self._estimates:  # with one wording, two methods often answer alike
            answered = zip(self._grids, given, self._shares[method], strict=True)
            cells = np.mean([_cells(g, of_grid, shares, members, metric) for g, of_grid, shares in answered], axis=0)
            self._estimates[key] = _estimate(cells, members, self._grids[0], metric)
        return self._estimates[key]


def draws(prompts: Sequence[str], n: int) -> Members:
    """[D, P] sets of ``n`` prompts: all of them where there are at most ``DRAWS``, else so many at random. They depend
    on the prompts alone, so that all trials are asked in the same ones. Sets of one are in the prompts' order."""
    return _draws(tuple(prompts), n)


@functools.lru_cache(maxsize=16)
def _draws(prompts: tuple[str, ...], n: int) -> Members:
    p = len(prompts)
    if math.comb(p, n) <= DRAWS or n == 1:
        sets: Sequence[Sequence[int]] = list(itertools.combinations(range(p), n))
    else:
        rng = np.random.default_rng([n, int(digest(list(prompts))[:8], 16)])
        sets = [rng.choice(p, n, replace=False).tolist() for _ in range(DRAWS)]
    members = np.zeros((len(sets), p), bool)
    members[np.arange(len(sets))[:, None], np.array(sets)] = True
    members.flags.writeable = False
    return members


def answers(grid: Grid, method: str, members: Members, prior: Floats | None = None) -> Ints:
    """[D, R] the answer to each row by the prompts of each draw; NO_ANSWER where no log-probability says one."""
    return _answers(grid, _shares(grid, method, prior), members)


def _answers(grid: Grid, shares: Floats | None, members: Members) -> Ints:
    """``answers`` by the averages of ``shares`` [P, R, K], or, without, by a vote."""
    k = len(grid.labels)
    found = np.empty((len(members), len(grid.rows)), np.int64)
    for part in _blocks(len(members), len(grid.rows) * k):
        found[part] = _vote(grid, members[part]) if shares is None else _highest(_average(shares, members[part]))
    return found


def _shares(grid: Grid, method: str, prior: Floats | None) -> Floats | None:
    """[P, R, K] the labels' probabilities, which sum to 1; NaN where a log-probability is NaN or none is finite. None
    for a vote, which needs none."""
    if method == "vote":
        return None
    logprobs = grid.label_logprobs
    assert logprobs is not None
    with np.errstate(invalid="ignore", divide="ignore"):
        if method == "calibrated":
            whole = ~np.isnan(logprobs).any(axis=2, keepdims=True)
            logprobs = logprobs - np.mean(logprobs, axis=1, keepdims=True, where=whole)
            logprobs = logprobs if prior is None else logprobs + np.log(prior / prior.sum())
        found: Floats = special.softmax(logprobs, axis=2)
    return found


def _average(values: Floats, members: Members) -> Floats:
    """[D, R, K] means of ``values`` [P, R, K] over the prompts of each draw."""
    p, r, k = values.shape
    weights = members / members.sum(axis=1, keepdims=True)
    if np.isfinite(values).all():
        return (weights @ values.reshape(p, r * k)).reshape(len(members), r, k)
    return np.stack([values[one].mean(axis=0) for one in members])  # 0 x NaN is NaN: leave other prompts out


def _highest(values: Floats) -> Ints:
    """[D, R] the label with the highest value, the first of equal ones; NO_ANSWER where a value is NaN or the highest
    one is infinite."""
    of_label = np.ascontiguousarray(np.moveaxis(values, 2, 0))  # several times faster than argmax along a short axis
    most, found = of_label[0].copy(), np.zeros(of_label.shape[1:], np.int64)
    for label, own in enumerate(of_label[1:], 1):
        np.putmask(found, own > most, label)
        np.maximum(most, own, out=most)  # NaN stays NaN
    np.putmask(found, ~np.isfinite(most), NO_ANSWER)
    return found


def _vote(grid: Grid, members: Members) -> Ints:
    """[D, R] the answer that most prompts give. Ties go to the label with the higher mean log-probability over the
    draw's prompts; without log-probabilities to that of the prompts which a fixed order puts first."""
    given = (grid.predicted[:, :, None] == np.arange(len(grid.labels))).astype(np.float32)  # [P, R, K]
    p, r, k = given.shape
    counts = (members.astype(np.float32) @ given.reshape(p, r * k)).reshape(len(members), r, k)
    most = functools.reduce(np.maximum, np.moveaxis(counts, 2, 0))[:, :, None]
    if grid.label_logprobs is not None:
        # a label of log-probability -inf, or NaN, is still one of the tied
        second = np.nan_to_num(_average(grid.label_logprobs, members), nan=-1e300, neginf=-np.finfo(float).max)
    else:
        order = np.random.default_rng([p]).permuted(np.tile(0.5 ** np.arange(1, p + 1), (len(members), 1)), axis=1)
        second = ((members * order) @ given.reshape(p, r * k)).reshape(counts.shape)
    found = _highest(np.where(counts == most, second, -np.inf))
    np.putmask(found, most[:, :, 0] == 0, NO_ANSWER)
    return found


def _cells(grid: Grid, given: Ints, shares: Floats | None, members: Members, metric: str) -> Floats:
    """[D, R] the metric's cells where the draws are the prompts, which gave the answers ``given`` [D, R]."""
    names, logprobs = tuple(map(str, range(len(members)))), None
    if kind_of(metric).ranks:
        assert shares is not None
        with np.errstate(divide="ignore"):
            logprobs = np.log(_average(shares, members))
    made = replace(grid, prompts=names, predicted=given, correct=given == grid.label, label_logprobs=logprobs)
    return metrics.cells(made, metric)


def _estimate(cells: Floats, members: Members, grid: Grid, metric: str) -> st.Estimate:
    """The mean of ``cells`` [D, R] of the metric with its interval."""
    n, p = int(members[0].sum()), members.shape[1]
    limits, least_rows = st.limits_of(metric), metrics.least_rows(grid, metric)
    if n == p or float(np.ptp(cells)) == 0.0:  # one ensemble, or all of them alike: an exact bound over rows
        return st.mean_test(cells, None, limits=limits, least_rows=least_rows)[0]
    if n == 1:
        seed = st.seed_of(grid.prompts, grid.rows)  # as in the tables, whose interval this is
        drawn = st.replicate(cells, st.resamples(*cells.shape, seed), redraw=False)
        return st.mean_test(cells, drawn, limits=limits, least_rows=least_rows)[0]
    value = float(cells.mean())
    each, times = cells.mean(axis=1), members.sum(axis=0)
    with_prompt = (members.T / np.maximum(times, 1)[:, None]) @ cells  # [P, R]
    centre = cells.mean(axis=0)
    grow = n * (p - 1) / (p - n)
    fit = metrics.two_way(centre + grow * (with_prompt - centre))
    of_draws = grow**2 * float(_errors(each, grid.prompts, n).mean()) / p if len(members) < math.comb(p, n) else 0.0
    variance = max(fit.var_mean - of_draws, fit.var_mean - fit.var_prompts / p)
    half = math.sqrt(variance) * float(special.stdtrit(st.satterthwaite(fit), (1.0 + st.LEVEL) / 2.0))
    return limits.within(st.Estimate(value, value - half, value + half))


def _errors(each: Floats, prompts: tuple[str, ...], n: int) -> Floats:
    """[P] the squared error of the mean of ``each`` [D] over the draws that a prompt is in; 0 with fewer than two."""
    found = np.zeros(len(prompts))
    for some, within in _draws_of_prompts(prompts, n):
        found[some] = each[within].var(axis=1, ddof=1) / within.shape[1]
    return found


@functools.lru_cache(maxsize=16)
def _draws_of_prompts(prompts: tuple[str, ...], n: int) -> list[tuple[Ints, Ints]]:
    """Places of prompts that are in equally many draws, two or more, and the draws of each [prompts, draws]."""
    members = draws(prompts, n).T
    times = members.sum(axis=1)
    some = [np.flatnonzero(times == number) for number in range(2, int(times.max()) + 1)]
    return [(at, np.nonzero(members[at])[1].reshape(len(at), -1)) for at in some if at.size]


def _blocks(total: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(width, 1))
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))
