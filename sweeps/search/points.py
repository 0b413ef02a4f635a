"""Which points of the axes become trials: ``grid``, ``random`` or ``tpe``.

An axis is a list of choices or a ``Domain`` of numbers; a point gives each axis one value. The points of ``grid`` and
``random`` are drawn up front, the same for the same seed, none twice. ``tpe`` draws each point when a place for
it is free (``sweeps/search/tpe.py``). Only ids and plain numbers go to Ray Tune, since Tune writes them into
names and logs: ``encode`` and ``decode`` translate. This file imports neither Ray nor Optuna.
"""

from __future__ import annotations

import difflib
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

METHODS = ("grid", "random", "tpe")
KINDS = ("loguniform", "uniform", "int")
MOST_DRAWS = 10_000  # redraws of one point before the axes count as too narrow


@dataclass(frozen=True)
class Domain:
    """Values between ``low`` and ``high``, both included. ``int`` gives whole numbers, all equally likely."""

    kind: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f'axes: kind = "{self.kind}" is not known.{_nearest(self.kind, KINDS)}')
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"axes: {self.kind} from {self.low} to {self.high}: give two numbers, the lower first.")
        if self.kind == "loguniform" and self.low <= 0:
            raise ValueError(f"axes: loguniform from {self.low}: give a lower end above 0, or use uniform.")
        if self.kind == "int" and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise ValueError(f"axes: int from {self.low} to {self.high}: give whole numbers, or use uniform.")

    def draw(self, rng: random.Random) -> float | int:
        if self.kind == "int":
            return rng.randint(int(self.low), int(self.high))
        if self.kind == "uniform":
            return rng.uniform(self.low, self.high)
        return min(self.high, max(self.low, math.exp(rng.uniform(math.log(self.low), math.log(self.high)))))


Values = Sequence[Any] | Domain
Axes = Mapping[str, Values]
Point = dict[str, Any]  # axis -> value


def check_axes(axes: Axes) -> None:
    """Every axis has a value, none twice, and a name that Tune leaves as it is."""
    for name, values in axes.items():
        if "/" in name:
            raise ValueError(f'axes: "{name}" holds a "/", which Tune reads as nesting. Use another name.')
        if isinstance(values, Domain):
            continue
        if not values:
            raise ValueError(f"axes.{name} is empty. Give at least one value.")
        keys = [encode_value(value) for value in values]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                twice, first = values[place], values[keys.index(key)]
                raise ValueError(f"axes.{name} holds {twice!r} twice (as {first!r}). Remove one.")


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
    """Every combination, the last axis turning fastest."""
    check_axes(axes)
    lists: list[Sequence[Any]] = []
    for name, values in axes.items():
        if isinstance(values, Domain):
            raise ValueError(
                f"axes.{name} is a range ({values.kind}), which a grid cannot cover. "
                'Give a list of values, or set search.method to "random" or "tpe".'
            )
        lists.append(values)
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*lists)]


def random_points(axes: Axes, trials: int, seed: int) -> list[Point]:
    """``trials`` distinct points, drawn uniformly (log-uniformly) and independently."""
    check_axes(axes)
    if trials < 1:
        raise ValueError(f"search.trials = {trials} is too small. Give 1 or more.")
    total = combinations(axes)
    if total is not None and trials > total:
        raise ValueError(f"search.trials = {trials} is more than the {total} distinct points of the axes. Lower it.")
    rng = random.Random(seed)
    if total is not None and trials * 2 > total:  # redrawing would take long near the end
        return [nth_point(axes, index) for index in rng.sample(range(total), trials)]
    points: dict[tuple[Any, ...], Point] = {}
    for _ in range(trials * MOST_DRAWS):
        point = draw_point(axes, rng)
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
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return "+".join(str(encode_value(item)) for item in value)
    raise ValueError(f"axes: {value!r} is neither a number, a text nor a list of these.")


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
            continue
        known = {encode_value(choice): choice for choice in values}
        if value not in known:
            raise ValueError(f"axes.{name} = {value!r} is not known.{_nearest(str(value), [str(k) for k in known])}")
        point[name] = known[value]
    return point


def fixed_points(method: str, axes: Axes, trials: int | None, seed: int) -> list[Point]:
    """The points of ``grid`` or ``random``. ``trials`` belongs to ``random``; a grid has as many as it has."""
    if method == "random":
        if trials is None:
            raise ValueError('search.trials is missing. "random" needs the number of trials.')
        return random_points(axes, trials, seed)
    if method != "grid":
        raise ValueError(f'search.method = "{method}" is not known here.{_nearest(method, METHODS)}')
    points = grid_points(axes)
    if trials not in (None, len(points)):
        raise ValueError(
            f'search.trials = {trials}, but the grid has {len(points)} points. Leave it out, or use "random".'
        )
    return points


def _nearest(value: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(value, known, n=1)
    hint = f' Did you mean "{close[0]}"?' if close else ""
    return f"{hint} Known: {', '.join(known)}"
