"""The report's figure of parallel coordinates: each configuration that finished as a line over the axes that differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sweeps.display.parts import Figure
from sweeps.display.text import counted, metric_text, percent
from sweeps.display.vega_overviews import ParallelAxis, ParallelLine, parallel
from sweeps.report.evidence import DRAWN, Entry, Evidence
from sweeps.report.sections import MATTERED

LOGARITHMIC = 5.0  # numbers above 0 of which the largest is at least so many times the smallest are on a log scale
APART = 0.06  # of an axis's length: values that are nearer to each other are not both written
WITHOUT = "-"  # the value of an axis that a configuration does not have


@dataclass(frozen=True)
class AxisScale:
    """Of an axis: the place from 0 to 1 of each of its values."""

    places: dict[str, float]
    logarithmic: bool = False

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """The values at both ends, and of those between as many as can be written."""
        ordered = sorted((place, text) for text, place in self.places.items())
        kept = ordered[:1]
        for place, text in ordered[1:-1]:
            if place - kept[-1][0] >= APART and ordered[-1][0] - place >= APART:
                kept.append((place, text))
        return (*kept, *ordered[1:][-1:])


def scale_of(values: Sequence[str]) -> AxisScale:
    """Numbers lie where they are between the smallest and the largest, other values equally far from each other."""
    names = list(dict.fromkeys(values))
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        names.sort()
        return AxisScale({name: i / max(len(names) - 1, 1) for i, name in enumerate(names)})
    logarithmic = min(numbers) > 0 and max(numbers) >= LOGARITHMIC * min(numbers)
    at = [math.log(n) for n in numbers] if logarithmic else numbers
    low, span = min(at), max(at) - min(at)
    return AxisScale({name: (a - low) / span if span else 0.5 for name, a in zip(names, at, strict=True)}, logarithmic)


def evenly(every: Sequence[Entry], n: int) -> list[Entry]:
    """``n`` of them at equal distances, the first and the last among them: the best alone would often share the values
    that matter, and not show that they do."""
    if len(every) <= n:
        return list(every)
    return [every[round(i * (len(every) - 1) / (n - 1))] for i in range(n)]


def coordinates_figure(evidence: Evidence) -> Iterator[Figure]:
    """Nothing where fewer than two axes differ between the configurations that are drawn."""
    every = evidence.sound
    drawn = evenly(every, DRAWN)
    values = {axis: [e.axes.get(axis, WITHOUT) for e in drawn] for axis in evidence.differing}
    scales = {axis: scale_of(own) for axis, own in values.items() if len(set(own)) > 1}
    if len(scales) < 2:
        return
    metric, pool, unit = evidence.study.task.metric, evidence.pool, evidence.unit
    means = [e.number("mean") for e in drawn]
    low, high = min(means), max(means)
    name = f"mean {metric}"
    ends = ParallelAxis(name, tuple((at, percent(low + at * (high - low))) for at in (0.0, 0.5, 1.0)))
    lines = [
        ParallelLine(
            e.id,
            e.label,
            (*(scale.places[values[axis][i]] for axis, scale in scales.items()), (mean - low) / ((high - low) or 1.0)),
            metric_text(mean, metric),
            e is evidence.winner,
        )
        for i, (e, mean) in enumerate(zip(drawn, means, strict=True))
    ]
    logarithmic = [axis for axis, scale in scales.items() if scale.logarithmic]
    log = f" On a logarithmic scale: {', '.join(logarithmic)}." if logarithmic else ""
    colour = " The winner has a colour." if any(line.accent for line in lines) else ""
    which = (
        f"{len(drawn)} of the {len(every)} {unit}s that finished"
        if len(every) > len(drawn)
        else f"{counted(len(drawn), unit)} that finished"
    )
    spread = " They are spread evenly from the best to the last." if len(every) > len(drawn) else ""
    yield Figure(
        "coordinates",
        MATTERED,
        "The configurations over all axes",
        f"A line is one of {which} and don't give one label nearly always; none that was stopped. It meets each axis "
        f"at its value and ends at its mean over the {pool} prompts.{spread}{colour}{log}",
        parallel(
            [*(ParallelAxis(axis, scale.ticks) for axis, scale in scales.items()), ends],
            lines,
            f"Parallel coordinates of {which}: {', '.join(scales)} and the {name} over the {pool} prompts",
        ),
    )
