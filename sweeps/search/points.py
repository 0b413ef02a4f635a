"""Which points of the axes become trials: ``grid``, ``random`` or ``tpe``.

An axis is a list of choices or a ``Domain`` of numbers; a point gives each axis one value. The points of ``grid`` and
``random`` are known before the first trial starts; the same seed draws the same points, and no point comes twice.
``tpe`` chooses each point when a place for its trial is free (``sweeps/search/tpe.py``). Ray Tune writes what it is
given into names and logs, so it gets only ids and plain values: ``encode`` and ``decode`` translate. The study has
checked the axes (``sweeps/study``); this file imports neither Ray nor Optuna.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

MOST_DRAWS = 10_000  # draws without a new point after which the ranges are too narrow for so many


@dataclass(frozen=True)
class Domain:
    """The values between ``low`` and ``high``, both included. ``int`` gives whole numbers, all equally likely."""

    kind: Literal["loguniform", "uniform", "int"]
    low: float
    high: float

    def draw(self, rng: random.Random) -> float | int:
        if self.kind == "int":
            return rng.randint(int(self.low), int(self.high))
        if self.kind == "uniform":
            return rng.uniform(self.low, self.high)
        return min(self.high, max(self.low, math.exp(rng.uniform(math.log(self.low), math.log(self.high)))))


Values = Sequence[Any] | Domain
Axes = Mapping[str, Values]
Point = dict[str, Any]  # axis -> value


def combinations(axes: Axes) -> int | None:
    """The number of distinct points; None where an axis is continuous."""
    total = 1
    for values in axes.values():
        if not isinstance(values, Domain):
            total *= len(values)
        elif values.kind == "int":
            total *= int(values.high) - int(values.low) + 1
        else:
            return None
    return total


def grid_points(axes: Axes) -> list[Point]:
    """Every combination, the last axis turning fastest. No axis may be continuous."""
    total = combinations(axes)
    assert total is not None  # the study's own rule
    return [nth_point(axes, index) for index in range(total)]


def random_points(axes: Axes, trials: int, seed: int) -> list[Point]:
    """``trials`` distinct points, drawn uniformly (log-uniformly) and independently."""
    total = combinations(axes)
    if total is not None and trials > total:
        raise ValueError(f"search.trials = {trials} is more than the {total} distinct points of the axes. Lower it.")
    rng = random.Random(seed)
    if total is not None and trials * 2 > total:  # redrawing would take long near the end
        return [nth_point(axes, index) for index in rng.sample(range(total), trials)]
    points: dict[tuple[Any, ...], Point] = {}
    in_vain = 0
    while in_vain < MOST_DRAWS:
        point = draw_point(axes, rng)
        in_vain = in_vain + 1 if point_key(point) in points else 0
        points.setdefault(point_key(point), point)
        if len(points) == trials:
            return list(points.values())
    raise ValueError(f"search.trials = {trials} distinct points could not be drawn from the axes. Widen the ranges.")


def draw_point(axes: Axes, rng: random.Random) -> Point:
    return {
        name: values.draw(rng) if isinstance(values, Domain) else values[rng.randrange(len(values))]
        for name, values in axes.items()
    }


def nth_point(axes: Axes, index: int) -> Point:
    """Point number ``index`` of axes without a continuous one, the last axis turning fastest."""
    point: Point = {}
    for name, values in reversed(list(axes.items())):
        size = int(values.high) - int(values.low) + 1 if isinstance(values, Domain) else len(values)
        index, place = divmod(index, size)
        point[name] = int(values.low) + place if isinstance(values, Domain) else values[place]
    return {name: point[name] for name in axes}


def unseen_points(axes: Axes, seen: set[tuple[Any, ...]], rng: random.Random) -> Iterator[Point]:
    """Random points that are not in ``seen``; ends when there are none."""
    total = combinations(axes)
    if total is None:
        while True:
            yield draw_point(axes, rng)
    start = rng.randrange(total)
    for step in range(total):
        point = nth_point(axes, (start + step) % total)
        if point_key(point) not in seen:
            yield point


def point_key(point: Mapping[str, Any]) -> tuple[Any, ...]:
    """Equal for equal points, whatever the order of the axes."""
    return tuple((name, encode_value(point[name])) for name in sorted(point))


def encode_value(value: Any) -> Any:
    """A plain value stays; a tuple becomes one string: ("q_proj", "v_proj") -> "q_proj+v_proj"."""
    return "+".join(value) if isinstance(value, tuple) else value


def encode(point: Mapping[str, Any]) -> dict[str, Any]:
    """The point as Tune and Optuna see it."""
    return {name: encode_value(value) for name, value in point.items()}


def decode(config: Mapping[str, Any], axes: Axes) -> Point:
    """The point behind Tune's config; keys that are no axes are left out."""
    point: Point = {}
    for name, values in axes.items():
        value = config[name]
        if isinstance(values, Domain):
            point[name] = int(value) if values.kind == "int" else float(value)
        else:
            point[name] = next(choice for choice in values if encode_value(choice) == value)
    return point
