"""The error a user can mend, and the nearest known name for one that is not known."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LONGEST_LINE = 2000  # of a message; what is wrong and the remedy need a few hundred characters
LONGEST_NAME = 100  # of a value or a name that a message repeats


class UserError(Exception):
    """The message says what is wrong, the value, where, and how to mend it; it is shown without a traceback. It is made
    printable, a line each, so that whatever a user's file holds cannot flood or rewrite the terminal."""

    user_error = True

    def __init__(self, *args: object):
        super().__init__(*(printable(a) if isinstance(a, str) else a for a in args))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it, so in notebooks: the message, and no traceback."""
        return [f"{type(self).__name__}: {self}"]


@contextmanager
def named(name: str) -> Iterator[None]:
    """The lines of a ``UserError`` within begin with ``name``, if there is one."""
    try:
        yield
    except UserError as error:
        if not name:
            raise
        raise UserError("\n".join(f"{name}: {line}" for line in str(error).split("\n"))) from error


def printable(message: str) -> str:
    """A message of one or more lines with control characters and halves of characters escaped (``\\x1b``,
    ``\\ud800``), long lines cut in the middle."""
    return "\n".join(short(line, LONGEST_LINE) for line in message.split("\n"))


def short(text: str, most: int = LONGEST_NAME) -> str:
    """``text`` as a message repeats it: on one line, escaped where it is not printable, at most ``most`` characters."""
    if len(text) > most:  # first, so that a text of a hundred MiB costs nothing
        text = text[: most * 2 // 3] + "…" + text[len(text) - most // 3 + 1 :]
    if text.isprintable():
        return text
    text = "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else _escaped(c) for c in text)
    return text if len(text) <= most else text[: most * 2 // 3] + "…" + text[len(text) - most // 3 + 1 :]


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class BaseModelError(UserError):
    """The base model is not what its files say, or not what can be trained on. Trying again gives the same."""


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
    return (f' Did you mean "{short(near)}"?' if near is not None else "") + listed(names)


def listed(known: Iterable[str]) -> str:
    """`` Known: x, y``, to follow a sentence that ends with a full stop."""
    names = list(dict.fromkeys(known))
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f" Known: {', '.join(map(short, names[:20]))}{more}" if names else " None is known"
