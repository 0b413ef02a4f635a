"""Typos in a wording: adversarial wording without a model, the same for the same seed.

Each hit word gets one slip of the kinds of DeepWordBug (Gao et al. 2018, arXiv 1801.04354): a letter dropped, doubled,
swapped with the next one, or replaced by a key beside it. Only the wording changes: placeholders and other Jinja, and
with them the row's own text, stay as they are.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from trainer.data.wording import EXPRESSION, Prompt

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_WORD = re.compile(r"[^\W\d_]{4,}")  # shorter words are hardly ever mistyped, and easily become another word


def bare_words(text: str) -> list[str]:
    """The words of a wording, without placeholders and other Jinja."""
    return EXPRESSION.sub(" ", text).split()


def misspelt(prompt: Prompt, share: float, seed: int) -> Prompt:
    """``prompt`` with a typo in ``share`` of its words of four letters and more, at least one of them. The id stays."""
    covered = [m.span() for m in EXPRESSION.finditer(prompt.text)]
    words = [m for m in _WORD.finditer(prompt.text) if not any(a < m.end() and m.start() < b for a, b in covered)]
    if not words or share <= 0:
        return prompt
    return Prompt(prompt.id, changed(prompt.text, words, share, slip, random.Random(seed)))


def changed(
    text: str,
    words: Sequence[re.Match[str]],
    share: float,
    change: Callable[[str, random.Random], str],
    rng: random.Random,
) -> str:
    """``text`` with a change in ``share`` of these words of it, at least in one."""
    chosen = rng.sample(words, max(1, round(share * len(words))))
    for match in sorted(chosen, key=lambda m: -m.start()):  # from the end, so that places stay where they were
        text = text[: match.start()] + change(match.group(), rng) + text[match.end() :]
    return text


def slip(word: str, rng: random.Random) -> str:
    """``word`` with one typo, not in its first or last letter, where typos are rarest and easiest to see."""
    i = rng.randrange(1, len(word) - 1)
    kind = rng.choice(("drop", "double", "swap", "beside"))
    if kind == "swap" and i + 2 < len(word) and word[i] != word[i + 1]:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    near = beside(word[i].lower())
    if kind == "beside" and near:
        other = rng.choice(near)
        return word[:i] + (other.upper() if word[i].isupper() else other) + word[i + 1 :]
    return word[:i] + word[i] + word[i:] if kind == "double" else word[:i] + word[i + 1 :]


def beside(letter: str) -> str:
    """Keys around a key of a qwerty keyboard; none for other letters."""
    for n, row in enumerate(_ROWS):
        at = row.find(letter)
        if at >= 0:
            rows = _ROWS[max(0, n - 1) : n + 2]
            return "".join(c for r in rows for c in r[max(0, at - 1) : at + 2] if c != letter)
    return ""
