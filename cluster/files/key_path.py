"""The path of a value in nested YAML or JSON: written as text, and followed to the value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

KeyPath = tuple[str | int, ...]  # keys and list indices from the top: ("workers", 0)


def key_text(path: KeyPath) -> str:
    """``("a", 0, "b.c")`` as ``a[0].'b.c'``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (f"'{part}'" if "." in part else part)
    return text


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every scalar of a nested value, with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, (*path, str(key)))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, (*path, i))
    else:
        yield path, value


def value_at(value: Any, *path: str | int) -> Any:
    """The value at ``path``; None where there is none."""
    for part in path:
        if isinstance(part, int) and isinstance(value, list) and part < len(value):
            value = value[part]
        elif isinstance(part, str) and isinstance(value, Mapping):
            value = value.get(part)
        else:
            return None
    return value


def mapping_at(value: Any, *path: str | int) -> dict[str, Any]:
    """The mapping at ``path``; an empty one where there is none."""
    found = value_at(value, *path)
    return found if isinstance(found, dict) else {}


def list_at(value: Any, *path: str | int) -> list[Any]:
    """The list at ``path``; an empty one where there is none."""
    found = value_at(value, *path)
    return found if isinstance(found, list) else []
