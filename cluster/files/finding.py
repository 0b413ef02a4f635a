"""What a check says of a cluster file: how serious it is, where, which value, and how to fix it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.files.key_path import KeyPath, key_text

Level = Literal["error", "warning", "note"]
PLACEHOLDER = "CHANGE-ME"  # what the shipped files hold where only the user knows the value


@dataclass(frozen=True)
class FileFinding:
    """``error``: the file cannot work. ``warning``: it is legal, but wrong for a sweep. ``note``: worth knowing."""

    level: Level
    where: str  # file: key = value
    what: str  # continues ``where``
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.where} {self.what}." + (f" {self.fix}" if self.fix else "")


@dataclass
class FileFindings:
    """The findings of one file."""

    file: str
    items: list[FileFinding] = field(default_factory=list)

    def error(self, key: KeyPath | str, what: str, fix: str = "", value: Any = ...) -> None:
        self._add("error", key, what, fix, value)

    def warn(self, key: KeyPath | str, what: str, fix: str = "", value: Any = ...) -> None:
        self._add("warning", key, what, fix, value)

    def note(self, key: KeyPath | str, what: str, fix: str = "", value: Any = ...) -> None:
        self._add("note", key, what, fix, value)

    def _add(self, level: Level, key: KeyPath | str, what: str, fix: str, value: Any) -> None:
        """``value`` is written after the key; leave it out where the key is missing, and for secrets."""
        name = key if isinstance(key, str) else key_text(key)
        where = f"{self.file}: {name}".rstrip(": ") + ("" if name else ":")
        finding = FileFinding(level, where + ("" if value is ... else f" = {_short_json(value)}"), what, fix)
        if finding not in self.items:
            self.items.append(finding)


def _short_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"
