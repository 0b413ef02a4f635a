"""Fractions, intervals, counts, durations, sizes and axis values as text."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from trainer.measure.registry import kind_of

SHORTEST_ID = 4  # characters of an id's beginning that are enough to name a trial
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")

HEAVY_TAILS = (
    "A few prompts lie far from the rest: with heavy tails intervals and p-values over prompts do not hold (the mean's "
    "interval covers in .69 to .93 instead of .95)."
)


def percent(fraction: float | None, signed: bool = False, digits: int = 1) -> str:
    """0.941 as ``94.1``; "-" where there is no value."""
    if fraction is None or not math.isfinite(fraction):
        return "-"
    return f"{100 * fraction:{'+' if signed else ''}.{digits}f}"


def metric_text(value: float | None, metric: str) -> str:
    """A value of ``metric`` in a sentence: ``94.1 %``, or 100 times a correlation, ``41.2``."""
    return percent(value) + metric_sign(metric)


def metric_sign(metric: str) -> str:
    """What stands behind the metric's values in a sentence."""
    return " %" if kind_of(metric).lowest >= 0 else ""


def metric_unit(metric: str) -> str:
    """What ``percent`` makes of the metric's values."""
    return "percent" if kind_of(metric).lowest >= 0 else "times 100"


def interval(low: float | None, high: float | None, signed: bool = False, digits: int = 1) -> str:
    """Two fractions as ``90.4 to 96.4``, in percent; "" where one is missing."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{percent(low, signed, digits)} to {percent(high, signed, digits)}"


def with_interval(value: float | None, low: float | None, high: float | None, signed: bool = False) -> str:
    """``94.0 (90.4 to 96.4)``, in percent."""
    bounds = interval(low, high, signed)
    return percent(value, signed) + (f" ({bounds})" if bounds else "")


def column_with_interval(row: Mapping[str, Any], name: str, signed: bool = False) -> str:
    """The column ``name`` of a table's row with its bounds ``<name>_low`` and ``<name>_high``."""
    return with_interval(row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high"), signed)


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
    """An axis value as text, as in tables/groups: numbers short, lists joined. A number of the study is shown as it is
    there; one that was drawn from a range has seventeen digits, of which four are shown."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else f"{value:.4g}"
    return ",".join(map(shown, value)) if isinstance(value, list | tuple) else str(value)


def unseen(n_prompts: int) -> str:
    """What no interval over ``n_prompts`` prompts knows of: 3/P is where (1 - share)^P is .05."""
    share = min(3.0 / n_prompts, 1.0)
    return (
        f"If some wordings are far worse than the rest, up to {percent(share, digits=0)} % of such wordings can go "
        f"unseen with {counted(n_prompts, 'prompt')} (3/P), and no interval includes them."
    )


def spreadsheet_text(text: str) -> str:
    """``text`` as a cell of a CSV file: with an apostrophe before it where a spreadsheet would take it for a formula.
    A label such as -1 stays as it is: a plain number does nothing. Source: OWASP, "CSV Injection"."""
    formula = text.startswith(("=", "+", "-", "@", "\t", "\r")) and not _NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


def spreadsheet_cell(value: Any) -> Any:
    """``value`` for a CSV file: a text as ``spreadsheet_text``, and anything else as it is."""
    return spreadsheet_text(value) if isinstance(value, str) else value


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """The beginnings of ids by which a reader tells them apart, all as long as it takes for that."""
    known = sorted(set(ids))
    length = SHORTEST_ID
    while len({name[:length] for name in known}) < len(known):
        length += 1
    return {name: name[:length] for name in known}


def counted(n: float, what: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{n:.0f} {what}{'' if n == 1 else 's'}"


def one_line(text: str) -> str:
    """``text`` as one line without control codes, since reasons and axis values may come from data."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text if c not in "\u202e\u202d")
