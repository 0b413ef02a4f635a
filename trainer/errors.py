"""The error a user can mend, and the nearest known name for one that is not known."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """The message says what is wrong, the value, where, and how to mend it; it is shown without a traceback."""

    user_error = True


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` most likely means; None when none is near. One changed, missing, extra or swapped
    character always counts as near, so that one-letter names find their neighbour too."""
    from rapidfuzz.distance import OSA  # only when a name is wrong: every command imports this file
    from rapidfuzz.fuzz import ratio

    names = list(dict.fromkeys(known))
    for other_case in (k for k in names if k.lower() == name.lower() and k != name):
        return other_case
    near = [k for k in names if OSA.distance(name, k) == 1]
    near = near or [k for k in names if ratio(name, k) >= 60]
    near = near or [k for k in names if len(name) > 1 and name.lower() in k.lower()]
    return max(near, key=lambda k: ratio(name, k), default=None)


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean "x"? Known: x, y``, to follow a sentence that ends with a full stop."""
    names = list(dict.fromkeys(known))
    near = closest(name, names)
    return (f' Did you mean "{near}"?' if near is not None else "") + listed(names)


def listed(known: Iterable[str]) -> str:
    """`` Known: x, y``, to follow a sentence that ends with a full stop."""
    names = list(dict.fromkeys(known))
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f" Known: {', '.join(names[:20])}{more}" if names else " None is known"
