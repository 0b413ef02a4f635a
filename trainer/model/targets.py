"""Which layers of a model carry adapters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def matching_names(names: Iterable[str], target_modules: Sequence[str] | Iterable[str]) -> list[str]:
    """Layers that peft would take for ``target_modules``: the name itself or its last parts."""
    targets = list(target_modules)
    if "all-linear" in targets:
        return list(names)
    return [n for n in names if any(n == t or n.endswith("." + t) for t in targets)]
