"""Numbers, durations, sizes and axis values as text."""

from __future__ import annotations

from typing import Any


def amount(n: float) -> str:
    """1234567 as ``1.23 million``."""
    for limit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if n >= limit:
            return f"{n / limit:.3g} {name}"
    return f"{n:,.0f}"


def duration(seconds: float) -> str:
    for limit, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * limit:
            return f"{seconds / limit:.3g} {name}"
    return f"{max(seconds, 1):.0f} seconds" if seconds >= 1.5 else "1 second"


def size(n: float) -> str:
    for limit, name in ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")):
        if n >= limit:
            return f"{n / limit:.3g} {name}"
    return f"{n:.0f} B"


def shown(value: Any) -> str:
    """An axis value as text, as in tables/groups: numbers short, lists joined."""
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(shown, value)) if isinstance(value, list | tuple) else str(value)


def counted(n: float, what: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{n:.0f} {what}{'' if n == 1 else 's'}"
