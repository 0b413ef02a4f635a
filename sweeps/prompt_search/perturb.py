"""Character-level changes of a row's text, as typing errors and forms cause them. The same seed gives the same text.

C1  typos: a letter is dropped, doubled, swapped with its neighbour, or replaced by a neighbouring key
C2  changed letters: letters are replaced by any others
C3  extra characters at the end
S1  a random handle at the end, as in posts: ``@q7RtZ0``

C1 and C2 change a ``share`` of the words, at least one word, each in one place.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable

from trainer.data.typos import beside, changed

_WORD = re.compile(r"[^\W\d_]{3,}")


def typos(text: str, rng: random.Random, share: float = 0.2) -> str:
    return _in_words(text, rng, share, _typo)


def change_letters(text: str, rng: random.Random, share: float = 0.2) -> str:
    return _in_words(text, rng, share, _other_letter)


def extra_characters(text: str, rng: random.Random, most: int = 5) -> str:
    return text + "".join(rng.choice(string.ascii_letters + string.punctuation) for _ in range(rng.randint(1, most)))


def handle(text: str, rng: random.Random, length: int = 6) -> str:
    return f"{text} @" + "".join(rng.choice(string.ascii_letters + string.digits) for _ in range(length))


PERTURBATIONS: dict[str, Callable[[str, random.Random], str]] = {
    "C1": typos,
    "C2": change_letters,
    "C3": extra_characters,
    "S1": handle,
}


def perturb(text: str, strategy: str, n: int, seed: int) -> list[str]:
    """``n`` changed texts, each from its own seed. C1 and C2 leave a text as it is that has no word of three letters or
    more."""
    act = PERTURBATIONS[strategy]
    return [act(text, random.Random(f"{strategy}|{seed}|{i}|{text}")) for i in range(n)]


def _in_words(text: str, rng: random.Random, share: float, change: Callable[[str, random.Random], str]) -> str:
    words = list(_WORD.finditer(text))
    return changed(text, words, share, change, rng) if words else text


def _typo(word: str, rng: random.Random) -> str:
    """Differs from ``trainer.data.typos.slip``: equal letters may be swapped, and a letter without neighbouring keys is
    replaced by any letter."""
    i = rng.randrange(1, len(word) - 1)  # not the first or last letter: those are rarely missed
    kind = rng.choice(("drop", "double", "swap", "beside"))
    if kind == "drop":
        return word[:i] + word[i + 1 :]
    if kind == "double":
        return word[:i] + word[i] + word[i:]
    if kind == "swap":
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return word[:i] + _cased(rng.choice(beside(word[i].lower()) or string.ascii_lowercase), word[i]) + word[i + 1 :]


def _other_letter(word: str, rng: random.Random) -> str:
    i = rng.randrange(len(word))
    others = [c for c in string.ascii_lowercase if c != word[i].lower()]
    return word[:i] + _cased(rng.choice(others), word[i]) + word[i + 1 :]


def _cased(letter: str, like: str) -> str:
    return letter.upper() if like.isupper() else letter
