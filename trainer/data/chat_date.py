"""The date that a chat template shows, pinned: a template that writes today's date gives other token ids tomorrow.

transformers gives chat templates a function ``strftime_now``. Where a template names it, a macro of the same name is
laid over it, which writes the day of the template's ``date`` at midnight. The names of months and days are English, as
in Python without a locale.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Any

_DATED = re.compile(r"\bstrftime_now\b")
_RANDOM = re.compile(r"\|\s*(random)\b|\b(lipsum)\b")
# Jinja's trim_blocks, which transformers sets, takes the line break after the macro away again.
_MACRO = (
    "{% macro strftime_now(format) %}{% set pinned = namespace(text=format) %}{% for code, value in pinned_date %}"
    "{% set pinned.text = pinned.text | replace(code, value) %}{% endfor %}{{ pinned.text }}{% endmacro %}\n"
)
_CODES = "aAwdbBmyYHIMSpfjUWGuVcxX"  # of strftime; %z and %Z are empty where no time zone is known
_BARE = {"%-d": "day", "%-m": "month", "%-H": "hour", "%-M": "minute", "%-S": "second"}  # glibc: without the zero
_PERCENT = "\x00"  # stands for %% while the other codes are replaced


def is_dated(chat_template: str) -> bool:
    """Whether the text of a chat template asks for the date or the time."""
    return _DATED.search(chat_template) is not None


def random_part(chat_template: str) -> str | None:
    """What in a chat template gives another text in each call; None where nothing does."""
    found = _RANDOM.search(chat_template)
    return found[1] or found[2] if found else None


def pinned(chat_template: str, day: str) -> dict[str, Any]:
    """What ``apply_chat_template`` is given besides the messages, so that the date is ``day`` (YYYY-MM-DD). Nothing for
    a template without a date."""
    if not is_dated(chat_template):
        return {}
    at = datetime.combine(date.fromisoformat(day), datetime.min.time())
    values = {f"%{code}": at.strftime(f"%{code}") for code in _CODES}
    bare = {code: str(getattr(at, name)) for code, name in _BARE.items()}
    twelve = {"%-I": str(at.hour % 12 or 12), "%e": f"{at.day:2d}", "%F": day, "%T": at.strftime("%H:%M:%S")}
    whole = {"%%": _PERCENT, "%z": "", "%Z": "", **bare, **twelve, **values, _PERCENT: "%"}
    return {"chat_template": _MACRO + chat_template, "pinned_date": [[code, text] for code, text in whole.items()]}
