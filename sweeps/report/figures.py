"""The report's figures. Here: the distribution over prompts, the learning curves, and the values of each axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from sweeps.display.colours import SERIES
from sweeps.display.parts import Figure
from sweeps.display.text import column_with_interval, counted, metric_unit
from sweeps.display.vega import Course, DrawnValues, courses, cumulative, distribution, heat
from sweeps.report import method
from sweeps.report.answers import answer_figures
from sweeps.report.coordinates import coordinates_figure
from sweeps.report.cost import cost_figures
from sweeps.report.evidence import Entry, Evidence, gather
from sweeps.report.heat_map import Prompts
from sweeps.report.sections import AXES, DISTRIBUTION, LEARNING
from sweeps.run_folder.reading import RunFolder
from sweeps.tables.robustness import Tables

_MOST_GROUPS = 8  # an axis of numbers with more values is shown in three parts of equal count


def figures_of_run(run: RunFolder, made: Tables | None = None) -> list[Figure]:
    """All figures of a run, with the map as a picture. ``made``: its tables, where those in the folder are older."""
    evidence = gather(run, made)
    prompts = {e.id: evidence.prompts(e) for e in evidence.entries}
    found = [map_figure(evidence, prompts), *figures(evidence, prompts)]
    return [figure for figure in found if figure.spec]


def figures(evidence: Evidence, prompts: Prompts) -> list[Figure]:
    """Those that have something to show, in the order of the page. ``prompts``: entry -> prompt id -> metric."""
    found = [
        *coordinates_figure(evidence),
        *_of_prompts(evidence, prompts),
        *answer_figures(evidence, prompts),
        *_of_training(evidence),
        *_of_axes(evidence),
        *cost_figures(evidence),
    ]
    return [figure for figure in found if figure.spec]


def map_figure(evidence: Evidence, prompts: Prompts) -> Figure:
    """The map of configurations and prompts as a picture; in the page it is a table."""
    metric = evidence.study.task.metric
    description = f"{metric} of the best {evidence.unit}s under each {evidence.pool} prompt"
    spec = heat(_samples(evidence, prompts), f"{metric}, {metric_unit(metric)}", description)
    return Figure("map", "", "", "", spec)


def _samples(evidence: Evidence, prompts: Prompts) -> list[DrawnValues]:
    return [
        DrawnValues(e.label, tuple(100 * v for v in own.values()), tuple(own), (e.id,) * len(own), e is evidence.winner)
        for e in evidence.drawn
        if (own := prompts[e.id])
    ]


def _of_prompts(evidence: Evidence, prompts: Prompts) -> Iterator[Figure]:
    study, drawn = evidence.study, method.drawn(evidence)
    metric, pool = study.task.metric, evidence.pool
    samples = _samples(evidence, prompts)
    axis = f"{metric} under one prompt, {metric_unit(metric)}"
    thresholds = [100 * t for t in study.tables.thresholds]
    dashed = f"; dashed: the threshold {' and '.join(f'{t:g} %' for t in thresholds)}" if thresholds else ""
    of = counted(len(samples), evidence.unit)
    yield Figure(
        "distribution",
        DISTRIBUTION,
        "",
        f"A tick is one {pool} prompt; point at it for its id. Box: the middle half; line in it: the median; thick "
        f"line: the mean{dashed}. {drawn}",
        distribution(samples, axis, f"{metric} of {of} under each {pool} prompt, one line each", thresholds),
    )
    coloured = f" The best {len(SERIES)} have a colour." if len(samples) > len(SERIES) else ""
    yield Figure(
        "cumulative",
        DISTRIBUTION,
        "The same as cumulative curves",
        f"The share of the {pool} prompts under which the {metric} is at most so high: the further to the right, the "
        f"better, and the steeper, the steadier.{coloured} {drawn}",
        cumulative(samples, axis, f"Cumulative curves of the {metric} over the {pool} prompts, for {of}"),
    )


def _of_training(evidence: Evidence) -> Iterator[Figure]:
    steps, drawn, metric = "optimizer steps", method.drawn(evidence), evidence.study.task.metric
    losses, objectives = [], []
    for e in evidence.drawn:
        at, loss = evidence.losses(e)
        rungs = tuple(float(rung) for rung in evidence.rungs[e.id])
        losses.append(Course(e.id, e.label, at, loss, marks=rungs if at else ()))
        scored = evidence.objectives(e)
        x, y = tuple(float(rung) for rung in scored), tuple(100 * o.value for o in scored.values())
        errors = tuple(100 * o.stderr for o in scored.values())
        cut = (e.reason or "stopped") if e.status == "stopped" else None
        objectives.append(Course(e.id, e.label, x, y, errors, x, cut))
    of = counted(len(evidence.drawn), evidence.unit)
    yield Figure(
        "loss",
        LEARNING,
        "Loss on the answer",
        "Mean loss of the answer's tokens over the training batches (nats), apart from the prompt's loss, so that "
        "trials with different prompt loss weights can be compared. Long curves are averaged in groups. Circles: "
        f"rungs of the best {len(SERIES)}. {drawn}",
        courses(losses, steps, "loss on the answer, nats", f"Loss on the answer over the training steps of {of}"),
    )
    yield Figure(
        "objective",
        LEARNING,
        "Objective at the rungs",
        f"Mean - {evidence.study.objective.std_weight:g} x standard deviation of the {metric} over the dev prompts; "
        f"bars: one standard error. A cross: it was stopped there. {drawn}",
        courses(objectives, steps, "objective, percent", f"Objective on the dev prompts at the rungs of {of}"),
    )


def _of_axes(evidence: Evidence) -> Iterator[Figure]:
    """Of every axis that varies: a line per value, a tick per configuration that is averaged there."""
    metric = evidence.study.task.metric
    title = f"mean {metric} of one {evidence.unit}, {metric_unit(metric)}"
    for axis in evidence.differing:
        samples = []
        for name, members in _by_value(evidence.sound, axis):
            label = f"{name} ({counted(len(members), evidence.unit)}{_average(evidence, axis, name)})"
            means, ids = tuple(100 * e.number("mean") for e in members), tuple(e.id for e in members)
            samples.append(DrawnValues(label, means, tuple(e.label for e in members), ids))
        if len(samples) > 1:
            description = f"Mean {metric} of each {evidence.unit} by its {axis}"
            yield Figure(f"axis-{axis}", AXES, axis, "", distribution(samples, title, description))


def _average(evidence: Evidence, axis: str, value: str) -> str:
    """The average of an axis value, from tables/groups."""
    row = evidence.averages.get((axis, value)) or {}
    if row.get("mean") is None:
        return ""
    return f"; average of {row['n_averaged']} finished {column_with_interval(row, 'mean')}"


def _by_value(entries: Sequence[Entry], axis: str) -> list[tuple[str, list[Entry]]]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.axes.get(axis, "-"), []).append(entry)
    if not all(_is_number(value) for value in groups):
        return sorted(groups.items())
    if len(groups) > _MOST_GROUPS:
        return _thirds(entries, axis)
    return sorted(groups.items(), key=lambda item: float(item[0]))


def _thirds(entries: Sequence[Entry], axis: str) -> list[tuple[str, list[Entry]]]:
    ordered = sorted(entries, key=lambda e: float(e.axes[axis]))
    ends = itertools.pairwise(len(ordered) * i // 3 for i in range(4))
    parts = [ordered[a:b] for a, b in ends]
    return [(f"{part[0].axes[axis]} to {part[-1].axes[axis]}", part) for part in parts]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
