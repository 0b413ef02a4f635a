"""In which keys two resolved studies differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sweeps.study.load import resolved
from sweeps.study.study import Study

_NO_RESULT = ("name", "resources")  # sections that say what the study is called and where it runs
_PATHS = ("path", "file", "prefer")  # last parts of keys that name files, whose content decides


@dataclass(frozen=True)
class Difference:
    key: str  # axes.lora.r
    here: str
    there: str  # "-" where a study lacks the key, or has null there


def study_differences(here: Study, there: Study) -> list[Difference]:
    """Keys with other values, in the order of the study, those of paths last. What changes no result, as ``name`` and
    ``resources``, is left out. A section that only one of the two has is one line."""
    found = [d for d in _differences(resolved(here), resolved(there)) if d.key.split(".")[0] not in _NO_RESULT]
    return sorted(found, key=lambda d: d.key.rpartition(".")[2] in _PATHS)


def _differences(here: Any, there: Any, at: str = "") -> Iterator[Difference]:
    if isinstance(here, dict) and isinstance(there, dict):
        for key in here | there:
            yield from _differences(here.get(key), there.get(key), f"{at}.{key}" if at else str(key))
    elif here != there:
        yield Difference(at, _text(here), _text(there))


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
