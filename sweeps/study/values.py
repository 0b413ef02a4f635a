"""The types of a study's values: strict scalars, and axes, each a value, a list or a range.

Scalars are strict (``true`` is no number, ``"8"`` is no number either): a value that is silently converted to another
type is a mistake that is found too late.
"""

from __future__ import annotations

import math
import sys
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    model_serializer,
    model_validator,
)

from sweeps.study.problems import Problem, Problems, raise_any
from trainer.errors import LONGEST_NAME, nearest


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value  # 1e3 is a whole number


def _in_range(value: Any) -> Any:
    """A whole number beyond a float's range, as infinite as the same number with a point is."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > sys.float_info.max:
        return math.inf if value > 0 else -math.inf
    return value


def _day(value: Any) -> Any:
    """YAML reads 2024-07-26 as a date."""
    text = value.isoformat() if type(value) is date else value
    try:
        return text if date.fromisoformat(text).isoformat() == text else date.fromisoformat("")
    except (TypeError, ValueError):
        raise Problems("is no day, such as 2024-07-26") from None


def as_name(value: Any) -> Any:
    """The values 0 and 1 of the data may be label names. YAML's true and false are not: which text was meant?"""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def at_most(bound: float, reason: str) -> AfterValidator:
    """An upper bound, and what lies above it: ``must be at most 10,000,000: …``."""

    def check(value: Any) -> Any:
        if value > bound:
            raise Problems(f"must be at most {bound:,}: {reason}")
        return value

    return AfterValidator(check)


def at_most_items(bound: int, what: str) -> AfterValidator:
    """An upper bound of a list's or a mapping's length."""

    def check(value: Any) -> Any:
        if len(value) > bound:
            raise Problems([Problem((), f"has {len(value):,} {what}; at most {bound:,} are allowed", bare=True)])
        return value

    return AfterValidator(check)


def _simple_name(name: str) -> str:
    if not name.strip():
        raise Problems("is an empty name. Give it a letter or more")
    if len(name) > LONGEST_NAME:
        raise Problems(f"has {len(name):,} characters; a name has at most {LONGEST_NAME}, because tables show it")
    if name != name.strip() or not name.isprintable():
        raise Problems("is a name with spaces around it, a line break or a control character. Leave them out")
    return name


def _short_enough(path: str) -> str:
    longest = max(len(part.encode(errors="replace")) for part in path.split("/"))
    if longest > MOST_NAME_BYTES or len(path.encode(errors="replace")) > MOST_PATH_BYTES:
        raise Problems(
            f"is no path: a file's name has at most {MOST_NAME_BYTES} bytes, "
            f"a path with its folders {MOST_PATH_BYTES:,}"
        )
    return path


MOST_NAME_BYTES, MOST_PATH_BYTES = 255, 4095  # Linux's
MOST = 10**9  # of any count that has no bound of its own: more rows, prompts or steps than a study can go through
LARGEST = 3.4e38  # a number of the study becomes a float32 in training
MOST_VALUES = 10_000  # of one axis or list

Text = Annotated[str, Strict()]
Day = Annotated[str, Strict(), BeforeValidator(_day)]
Name = Annotated[str, BeforeValidator(as_name)]
KeyName = Annotated[str, AfterValidator(_simple_name)]  # a name that the study gives: of a template, a pool, an arm
PathText = Annotated[Text, AfterValidator(_short_enough)]  # a file, a folder, or a name on the hub
Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict(), BeforeValidator(_whole)]
OneOrMore = Annotated[Whole, Field(ge=1)]  # for counts whose own upper bound stands in the schema
Number = Annotated[
    float,
    BeforeValidator(_in_range),
    Strict(),
    Field(allow_inf_nan=False),
    at_most(LARGEST, "it must fit a float32, in which adapters are trained"),
]
Count = Annotated[OneOrMore, at_most(MOST, "no study has so many")]
LARGEST_SEED = 2**32 - 1
Seed = Annotated[Whole, Field(ge=0), at_most(LARGEST_SEED, "the random generators that it starts take 32 bits")]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
T = TypeVar("T")

RANGES = ("uniform", "loguniform")


class Range(Section, Generic[T]):
    """Values drawn between two ends, both included. An axis of whole numbers draws whole numbers."""

    kind: Literal["uniform", "loguniform"]
    low: T
    high: T

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "kind" in value:
            return value
        for kind in value:
            if kind not in RANGES:
                raise Problems(f"is not known as a kind of axis.{nearest(kind, [*RANGES, 'choice'])}")
        if len(value) != 1 or not all(isinstance(v, list | tuple) and len(v) == 2 for v in value.values()):
            raise Problems("must be one range with two ends, such as {loguniform: [1e-4, 1e-2]}")
        [(kind, (low, high))] = value.items()
        return {"kind": kind, "low": low, "high": high}

    @model_validator(mode="after")
    def _ends(self) -> Range[T]:
        if not self.low < self.high:  # type: ignore[operator]
            raise Problems("must have its lower end first, below the upper one")
        if self.kind == "loguniform" and isinstance(self.low, int):
            raise Problems("must be uniform or a list, such as [4, 8, 16, 32]: this axis is of whole numbers")
        if self.kind == "loguniform" and not self.low > 0:  # type: ignore[operator]
            raise Problems("must begin above 0: a logarithm is taken. Use uniform, or list 0 as a value of its own")
        return self

    @model_serializer
    def _to_yaml(self) -> dict[str, list[Any]]:
        return {self.kind: [self.low, self.high]}


def _listed(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"choice"}:
        value = value["choice"]
    if value is None or (isinstance(value, list | tuple | dict) and not value):
        raise Problems("is empty. Give a value, a list of values, or leave the key out for its default")
    if isinstance(value, list | tuple) and len(value) > MOST_VALUES:
        raise Problems(f"has {len(value):,} values; at most {MOST_VALUES:,} are allowed")
    return value if isinstance(value, list | tuple | dict | Range) else [value]


def _names(value: Any) -> Any:
    if isinstance(value, dict) and set(value) != {"choice"}:
        raise Problems("must be one value or a list: a range is of numbers")
    return _listed(value)


def _modules(value: Any) -> Any:
    """``[q_proj, v_proj]`` is one choice of two modules; a list that holds a list is an axis of choices."""
    value = _names(value)
    if any(isinstance(v, list | tuple) for v in value):
        return [v if isinstance(v, list | tuple) else [v] for v in value]
    return [value]


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """``values`` (hashable) if each is there once. Raises ``Problems``."""
    first: dict[Any, int] = {}
    for i, value in enumerate(values):
        first.setdefault(value, i)
    raise_any(Problem((i,), "is listed twice. Keep one") for i, v in enumerate(values) if first[v] < i)
    return values


def _shape(value: Any) -> str:
    return "range" if isinstance(value, dict | Range) else "values"


if TYPE_CHECKING:
    Numbers = tuple[T, ...] | Range[T]
else:

    class Numbers:
        """``Numbers[Positive]``: a list of such numbers, or a range whose ends are such numbers. Written as a class
        because ``typing`` does not put the item into a pydantic generic (``Range[T]``) inside an alias."""

        def __class_getitem__(cls, item: Any) -> Any:
            listed = Annotated[tuple[item, ...], Field(min_length=1), AfterValidator(distinct), Tag("values")]
            drawn = Annotated[Range[item], Tag("range")]
            return Annotated[listed | drawn, Discriminator(_shape), BeforeValidator(_listed)]


Names = Annotated[tuple[Text, ...], AfterValidator(distinct), BeforeValidator(_names)]
Flags = Annotated[tuple[Flag, ...], AfterValidator(distinct), BeforeValidator(_names)]
Modules = Annotated[
    tuple[Annotated[tuple[Text, ...], Field(min_length=1)], ...], AfterValidator(distinct), BeforeValidator(_modules)
]
