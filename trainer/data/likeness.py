"""Which wordings are nearly the same: what a pool should hold once, and what two pools should not share.

Two wordings are near duplicates where the larger of two similarities reaches ``NEAR``, both over tokens (words in lower
case without punctuation, placeholders, single characters of scripts that are written without spaces):

- edit similarity, 1 - Levenshtein distance / the longer length: a word changed, left out or put in;
- Jaccard similarity of the sets of neighbouring pairs of tokens: the same sentences in another order.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

NEAR = 0.8  # one word in five changed; a wording of five tokens with one other word is still the same wording
_EPS = 1e-9  # 1 - 1/5 is a little less than 0.8
_UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai, Lao, Khmer, Kana, Han
_TOKEN = re.compile(rf"\{{\{{.*?\}}\}}|[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def normal_form(text: str) -> str:
    """Lower case, one space between words, no punctuation; placeholders stay."""
    text = re.sub(r"\{\{\s*(.*?)\s*\}\}", r" {{\1}} ", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(re.sub(r"[^\w{}]+", " ", text).split())


@dataclass(frozen=True)
class Likeness:
    """A wording as it is compared with others."""

    tokens: tuple[str, ...]
    pairs: frozenset[tuple[str, str]] = field(init=False)
    counts: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", frozenset(zip(self.tokens, self.tokens[1:], strict=False)))
        object.__setattr__(self, "counts", Counter(self.tokens))

    @classmethod
    def of(cls, text: str) -> Likeness:
        return cls(tuple(_TOKEN.findall(normal_form(text))))


def similarity(a: Likeness, b: Likeness) -> float:
    """Between 0 and 1; 1 for wordings of one normal form."""
    longest = max(len(a.tokens), len(b.tokens))
    edit = 1.0 - _distance(a.tokens, b.tokens, longest) / longest if longest else 1.0
    return max(edit, _jaccard(a, b))


def near(a: Likeness, b: Likeness, threshold: float = NEAR) -> bool:
    """Whether ``similarity`` reaches ``threshold``, without counting edits where it cannot."""
    if a.tokens == b.tokens or _jaccard(a, b) >= threshold - _EPS:
        return True
    longest = max(len(a.tokens), len(b.tokens))
    most = int((1.0 - threshold) * longest + _EPS)  # edits that still make a near duplicate
    if abs(len(a.tokens) - len(b.tokens)) > most:
        return False
    small, large = (a, b) if len(a.counts) <= len(b.counts) else (b, a)
    common = sum(min(n, large.counts[token]) for token, n in small.counts.items() if token in large.counts)
    return longest - common <= most and _distance(a.tokens, b.tokens, most) <= most


def clusters(texts: Sequence[str], threshold: float = NEAR) -> list[list[int]]:
    """Positions of ``texts`` in groups, in order of their first: near duplicates, and near duplicates of those, are in
    one group, so that no two groups hold a pair of near duplicates."""
    parts = [Likeness.of(text) for text in texts]
    root = list(range(len(parts)))

    def top(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for j, one in enumerate(parts):
        for i in range(j):
            a, b = top(i), top(j)
            if a != b and near(parts[i], one, threshold):
                root[max(a, b)] = min(a, b)
    found: dict[int, list[int]] = {}
    for i in range(len(parts)):
        found.setdefault(top(i), []).append(i)
    return list(found.values())


def _jaccard(a: Likeness, b: Likeness) -> float:
    either = len(a.pairs | b.pairs)
    return len(a.pairs & b.pairs) / either if either else 0.0


def _distance(a: Sequence[str], b: Sequence[str], most: int) -> int:
    """Levenshtein distance over tokens; any number above ``most`` where it is larger. Only the band of cells that a
    path of ``most`` edits can reach is computed."""
    far = most + 1
    above: list[int] = [j if j <= most else far for j in range(len(b) + 1)]
    for i, token in enumerate(a, 1):
        low, high = max(1, i - most), min(len(b), i + most)
        row = [far] * (len(b) + 1)
        row[0] = i if i <= most else far
        for j in range(low, high + 1):
            row[j] = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (token != b[j - 1]), far)
        above = row
    return above[len(b)]
