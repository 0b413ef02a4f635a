"""The error a user can mend, and the nearest known name for one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The message says what is wrong, the value, where, and how to mend it; it is shown without a traceback."""

    user_error = True


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` most likely means; None when none is near. One changed, missing or extra
    character always counts as near, so that one-letter names find their neighbour too."""
    names = list(dict.fromkeys(known))
    for exact in (k for k in names if k.lower() == name.lower() and k != name):
        return exact
    near = [k for k in names if _one_edit(name, k)] or difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    near = near or [k for k in names if len(name) > 1 and name.lower() in k.lower()]
    return max(near, key=lambda k: difflib.SequenceMatcher(None, name, k).ratio(), default=None)


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


def _one_edit(a: str, b: str) -> bool:
    """Whether one insertion, deletion, substitution or swap of neighbours turns ``a`` into ``b``."""
    if abs(len(a) - len(b)) > 1 or a == b:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest_a, rest_b = a[start:], b[start:]
    swapped = rest_a[:2] == rest_b[:2][::-1] and rest_a[2:] == rest_b[2:] and len(rest_a) >= 2
    return rest_a[1:] == rest_b[1:] or rest_a[1:] == rest_b or rest_a == rest_b[1:] or swapped
