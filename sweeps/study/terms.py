"""Whether a text says a term of ``task.meaning``: a word, or the beginning of one, or several words."""

from __future__ import annotations

import re


def words_of(text: str, term: str) -> list[str]:
    """The words of ``text`` that begin with ``term``, without regard to case; ``_`` and punctuation end a word."""
    return re.findall(rf"(?<![^\W_]){re.escape(term)}[^\W_]*", text, re.IGNORECASE)


def mentions(text: str, term: str) -> bool:
    """Whether a word of ``text`` begins with ``term``."""
    return bool(words_of(text, term))
