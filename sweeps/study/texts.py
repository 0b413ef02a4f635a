"""Where a study wants a text, so that a plain scalar there is taken as it stands in the file: 007, ``false``, 1e3."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from sweeps.study.data_schema import PoolSection, SourceSection, SplitSection
from sweeps.study.problems import flat
from sweeps.study.study import Study
from sweeps.study.yaml_values import Path

_WRITTEN_AS_TEXT = (SourceSection, PoolSection, SplitSection)  # a path or a file may stand for the whole section


def text_at(path: Path) -> bool:
    """Whether only a text can stand at ``path``: a name, a label or its word, a column, a file, an id."""
    return text_wanted(Study, tuple(0 if isinstance(part, int) else part for part in path))  # items are alike


@functools.lru_cache(maxsize=4096)
def text_wanted(schema: type[BaseModel], path: Path) -> bool:
    """The same for any schema: whether every scalar that may stand at ``path`` is a text."""
    if schema is Study and path[:2] == ("pools", "train") and path[2:3] and path[2] in PoolSection.model_fields:
        path = ("pools", "dev", *path[2:])  # one train pool without a name
    places: list[Any] = [schema]
    for part in path:
        places = [inner for place in places for branch in flat(place) for inner in _inside(branch, part)]
    kinds = {kind for place in places for branch in flat(place) for kind in _kinds(branch)}
    return kinds == {str}


def _inside(branch: Any, part: str | int) -> Iterator[Any]:
    """What may stand at the key or index ``part`` of a value of the type ``branch``."""
    origin, inner = typing.get_origin(branch), typing.get_args(branch)
    if isinstance(branch, type) and issubclass(branch, BaseModel):
        if part in branch.model_fields and "low" not in branch.model_fields:
            yield branch.model_fields[str(part)].annotation
    elif origin is dict:
        yield inner[1]  # by name; labels may also be a list
    elif origin in (tuple, list):
        yield branch if part == "choice" else inner[0]
    elif branch is Any:
        yield Any


def _kinds(branch: Any) -> Iterator[Any]:
    """The types of the scalars that may stand for a value of the type ``branch``; one value may stand for a list."""
    if typing.get_origin(branch) is typing.Literal:
        yield from {type(value) for value in typing.get_args(branch)}
    elif typing.get_origin(branch) in (tuple, list):
        for inner in flat(typing.get_args(branch)[0]):
            yield from _kinds(inner)
    elif branch is Any or branch in _WRITTEN_AS_TEXT:
        yield str  # Any: `where` names cells by their text
    elif isinstance(branch, type) and branch is not type(None) and not issubclass(branch, BaseModel):
        yield branch
