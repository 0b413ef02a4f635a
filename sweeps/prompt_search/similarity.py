"""How far a perturbed text may be from its original: the two limits of BATprompt.

A character-level change passes where the Levenshtein similarity of the texts is above 0.6; a word- or sentence-level
one where the cosine of the texts' embeddings is above 0.8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

Embedder = Callable[[Sequence[str]], np.ndarray]  # texts -> float64 [n, d]
EDITS = 0.6  # the smallest Levenshtein similarity, exclusive
COSINE = 0.8  # the smallest cosine, exclusive


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n] cosines of the rows of ``a`` [n, d] and ``b`` [n, d] or [d]; 0 where a vector is zero or not finite."""
    size = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (a * b).sum(axis=-1) / size
    return np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)


@dataclass(frozen=True)
class Gate:
    """Decides which of several rewrites are close enough to their original."""

    embed: Embedder | None = None  # None: meanings cannot be compared, so ``by_meaning`` counts edits instead

    def by_letters(self, original: str, texts: Sequence[str]) -> list[bool]:
        return [Levenshtein.normalized_similarity(original, t) > EDITS for t in texts]

    def by_meaning(self, original: str, texts: Sequence[str]) -> list[bool]:
        if not texts:
            return []
        if self.embed is None:
            return self.by_letters(original, texts)
        vectors = self.embed([original, *texts])
        return [bool(x > COSINE) for x in cosine(vectors[1:], vectors[0])]
