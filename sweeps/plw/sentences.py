"""What the analysis of a prompt-loss-weight study shows, in sentences: one for each data set, and notes for the
reader."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from sweeps.display.text import interval, percent
from sweeps.plw.analysis import ALPHA, DataSet, PlwAnalysis, TurningWeight, turning_weight
from sweeps.plw.models import LINEAR, SQUARE


def shape(analysis: PlwAnalysis, data: DataSet) -> str:
    """The effect that least squares show after Holm's correction: ``none``, ``rises``, ``falls``, ``peaks``,
    ``dips``."""
    square, linear = (analysis.test("ols", data.name, term) for term in (SQUARE, LINEAR))
    if square.reject and math.isfinite(turning_weight(analysis, "ols", data.turned).weight):
        return "peaks" if data.turned.beta[data.turned.index(SQUARE)] < 0 else "dips"
    if square.reject or linear.reject:
        ends = analysis.rank.forward(np.array([analysis.weights[0], analysis.weights[-1]]))
        return "rises" if data.turned.change(float(ends[0]), float(ends[1])).value > 0 else "falls"
    return "none"


def agrees(analysis: PlwAnalysis, data: DataSet) -> bool | None:
    """Whether the mixed model finds an effect of the weight, too, after Holm's correction over the data sets; None
    where there is no mixed model or no p-value."""
    p = analysis.joint_holm("mixed", data)
    return None if math.isnan(p) else p < ALPHA


def sentence(analysis: PlwAnalysis, data: DataSet) -> str:
    """What the analysis shows for one data set, in words."""
    found, second = shape(analysis, data), agrees(analysis, data)
    low, top = analysis.weights[0], analysis.weights[-1]
    after = " after Holm" if len(analysis.data_sets) > 1 else ""
    mixed = f"{_p('p', analysis.joint_holm('mixed', data))}{after}"
    if found == "none":
        said = f"{data.name}: no effect of the prompt loss weight is shown ({_p('p', data.ols.joint())} for the curve"
        said += ")" if second is None else f"; mixed model {mixed})"
        if second:
            return f"{said}. The two disagree, so this is undecided: more seeds would help. {_change(analysis, data)}"
        return f"{said}. This does not prove that there is none: {_change(analysis, data, start='')}"
    turn = turning_weight(analysis, "ols", data.turned)
    if found in ("peaks", "dips"):
        side = "best" if found == "peaks" else "worst"
        where = f"the score {found} over the weight, {side} near {turn.weight:.2g}{_where(turn)}"
    else:
        where = f"the score {found} with the weight from {low:g} to {top:g}"
    claim = f"{data.name}: {where}; {_change(analysis, data, start='', to=turn.weight)}"
    if second is False:
        return (
            f"{claim} But with models, seeds and fine-tunes as random effects {mixed}, so "
            "this is undecided: what looks like an effect may be chance in a few fine-tunes."
        )
    if second is None:
        return f"{claim} One fine-tune for each weight and one benchmark: there is no mixed model to check this with."
    return claim


def _change(analysis: PlwAnalysis, data: DataSet, start: str = "Fitted: ", to: float = math.nan) -> str:
    """The fitted change of the score from the lowest weight to the highest, or to ``to``, with its interval."""
    end = analysis.weights[-1] if math.isnan(to) else to
    a, b = (float(v) for v in analysis.rank.forward(np.array([analysis.weights[0], end])))
    gap = data.turned.change(a, b)
    bounds = interval(gap.low, gap.high, signed=True)
    known = f" (95 % interval {bounds})" if bounds else ""
    return (
        f"{start}from weight {analysis.weights[0]:g} to {end:.2g} the score changes by "
        f"{percent(gap.value, signed=True)} points{known}."
    )


def _where(turn: TurningWeight) -> str:
    if not turn.turning.bounded:
        return " (the data give it no bounds)"
    return f" (95 % interval {turn.fieller.low:.2g} to {turn.fieller.high:.2g})"


def _p(name: str, value: float) -> str:
    return f"{name} unknown" if math.isnan(value) else f"{name} < 0.001" if value < 0.001 else f"{name} = {value:.3f}"


def reader_notes(analysis: PlwAnalysis) -> list[str]:
    """What a reader must know about the data beside the numbers."""
    table, said = analysis.scores.table, [*analysis.scores.notes]
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
