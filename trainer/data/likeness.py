"""Which wordings are nearly the same. A pool should hold such a wording once, and two pools should not share one.

Two wordings are near duplicates where the larger of two similarities reaches ``NEAR``, both over tokens (words in lower
case without punctuation, placeholders, single characters of scripts that are written without spaces):

- edit similarity, 1 - Levenshtein distance / the longer length: a word changed, left out or put in;
- Jaccard similarity of the sets of neighbouring pairs of tokens: the same sentences in another order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from rapidfuzz.distance import Levenshtein

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", frozenset(zip(self.tokens, self.tokens[1:], strict=False)))

    @classmethod
    def of(cls, text: str) -> Likeness:
        return cls(tuple(_TOKEN.findall(normal_form(text))))


def similarity(a: Likeness, b: Likeness) -> float:
    """Between 0 and 1; 1 for wordings of one normal form."""
    edit = Levenshtein.normalized_similarity(a.tokens, b.tokens)
    return max(edit, _jaccard(a, b))


def near(a: Likeness, b: Likeness) -> bool:
    """Whether the two are near duplicates."""
    return similarity(a, b) >= NEAR - _EPS


def clusters(texts: Sequence[str]) -> list[list[int]]:
    """Positions of ``texts`` in groups, in the order of each group's first. Near duplicates, and near duplicates of
    those, are in one group, so that no two groups hold a pair of near duplicates."""
    parts = [Likeness.of(text) for text in texts]
    groups: list[list[int]] = []
    for i, one in enumerate(parts):
        touched = [g for g in groups if any(near(parts[j], one) for j in g)]
        groups = [g for g in groups if g not in touched] + [sorted([i, *(j for g in touched for j in g)])]
    return sorted(groups)


def _jaccard(a: Likeness, b: Likeness) -> float:
    either = len(a.pairs | b.pairs)
    return len(a.pairs & b.pairs) / either if either else 0.0
