"""How far a perturbed text may be from its original: the two gates of BATprompt.

Character-level changes pass where the Levenshtein similarity is above 0.6; word- and sentence-level ones where the
cosine of the texts' embeddings is above 0.8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Embedder = Callable[[Sequence[str]], np.ndarray]  # texts -> float64 [n, d]
EDITS = 0.6
COSINE = 0.8


def distance(a: str, b: str) -> int:
    """Levenshtein distance over characters: insertions, deletions and substitutions."""
    if not a or not b:
        return max(len(a), len(b))
    other = np.array([ord(c) for c in b])
    places = np.arange(len(b) + 1)
    row = places.copy()
    for i, char in enumerate(a, 1):
        new = np.empty_like(row)
        new[0] = i
        new[1:] = np.minimum(row[1:] + 1, row[:-1] + (other != ord(char)))
        row = np.minimum.accumulate(new - places) + places  # insertions run along the row
    return int(row[-1])


def levenshtein(a: str, b: str) -> float:
    """1 - distance / the longer length; 1 for two empty texts."""
    longest = max(len(a), len(b))
    return 1.0 - distance(a, b) / longest if longest else 1.0


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n] of the rows of [n, d] and [n, d] or [d]; 0 where a vector is zero or not finite."""
    size = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (a * b).sum(axis=-1) / size
    return np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)


@dataclass(frozen=True)
class Gate:
    """Which of several rewrites stay close enough to their original."""

    edits: float = EDITS
    cosine: float = COSINE
    embed: Embedder | None = None  # None: meaning cannot be compared, and edits stand in for it

    def by_letters(self, original: str, texts: Sequence[str]) -> list[bool]:
        return [levenshtein(original, t) > self.edits for t in texts]

    def by_meaning(self, original: str, texts: Sequence[str]) -> list[bool]:
        if not texts:
            return []
        if self.embed is None:
            return self.by_letters(original, texts)
        vectors = self.embed([original, *texts])
        return [bool(x > self.cosine) for x in cosine(vectors[1:], vectors[0])]
