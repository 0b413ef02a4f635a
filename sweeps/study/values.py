"""The types of a study's values: strict scalars, and axes, each a value, a list or a range.

Scalars are strict (``true`` is no number, ``"8"`` is no number either): a value that is silently converted to another
type is a mistake that is found too late.
"""

from __future__ import annotations

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
from trainer.errors import nearest


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value  # 1e3 is a whole number


def as_name(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) else value  # the values 0 and 1 of the data may be label names


Text = Annotated[str, Strict()]
Name = Annotated[str, BeforeValidator(as_name)]
Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict(), BeforeValidator(_whole)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Count = Annotated[Whole, Field(ge=1)]
Natural = Annotated[Whole, Field(ge=0)]
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


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    raise_any(Problem((i,), "is listed twice. Keep one") for i, v in enumerate(values) if v in values[:i])
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
            listed = Annotated[tuple[item, ...], Field(min_length=1), AfterValidator(_distinct), Tag("values")]
            drawn = Annotated[Range[item], Tag("range")]
            return Annotated[listed | drawn, Discriminator(_shape), BeforeValidator(_listed)]


Names = Annotated[tuple[Text, ...], AfterValidator(_distinct), BeforeValidator(_names)]
Flags = Annotated[tuple[Flag, ...], AfterValidator(_distinct), BeforeValidator(_names)]
Modules = Annotated[
    tuple[Annotated[tuple[Text, ...], Field(min_length=1)], ...], AfterValidator(_distinct), BeforeValidator(_modules)
]
