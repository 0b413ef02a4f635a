"""What a check of a cluster file says: how bad, where, what the value is, and how to mend it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["error", "warning", "note"]
Path = tuple[str | int, ...]  # of a value in a file: ("workers", 0) is written workers[0]
PLACEHOLDER = "CHANGE-ME"  # what the shipped files hold where only the user knows the value


@dataclass(frozen=True)
class Finding:
    """``error``: cannot work. ``warning``: legal, but wrong. ``note``: to know."""

    level: Level
    where: str  # file: key = value
    what: str  # continues ``where``
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.where} {self.what}." + (f" {self.fix}" if self.fix else "")


@dataclass
class Findings:
    """The findings of one file."""

    file: str
    items: list[Finding] = field(default_factory=list)

    def error(self, key: Path | str, what: str, fix: str = "", value: Any = ...) -> None:
        self._add("error", key, what, fix, value)

    def warn(self, key: Path | str, what: str, fix: str = "", value: Any = ...) -> None:
        self._add("warning", key, what, fix, value)

    def note(self, key: Path | str, what: str, fix: str = "", value: Any = ...) -> None:
        self._add("note", key, what, fix, value)

    def _add(self, level: Level, key: Path | str, what: str, fix: str, value: Any) -> None:
        """``value``: shown after the key; left out for what is missing, and for secrets."""
        name = key if isinstance(key, str) else dotted(key)
        where = f"{self.file}: {name}".rstrip(": ") + ("" if name else ":")
        found = Finding(level, where + ("" if value is ... else f" = {shown(value)}"), what, fix)
        if found not in self.items:
            self.items.append(found)

    @property
    def errors(self) -> list[Finding]:
        return [f for f in self.items if f.level == "error"]


def dotted(path: Path) -> str:
    """``("a", 0, "b.c")`` as ``a[0].'b.c'``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (f"'{part}'" if "." in part else part)
    return text


def shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every scalar of a nested value, with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, (*path, str(key)))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, (*path, i))
    else:
        yield path, value


def get(value: Any, *path: str | int) -> Any:
    """The value at ``path``; None where there is none."""
    for part in path:
        if isinstance(part, int) and isinstance(value, list) and part < len(value):
            value = value[part]
        elif isinstance(part, str) and isinstance(value, Mapping):
            value = value.get(part)
        else:
            return None
    return value


def section(value: Any, *path: str | int) -> dict[str, Any]:
    """The mapping at ``path``; an empty one where there is none."""
    found = get(value, *path)
    return found if isinstance(found, dict) else {}


def items(value: Any, *path: str | int) -> list[Any]:
    """The list at ``path``; an empty one where there is none."""
    found = get(value, *path)
    return found if isinstance(found, list) else []
