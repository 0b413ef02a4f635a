"""A scoring engine whose answers are known: each prompt is right on a fixed share of the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from sweeps.prompt_search.scorer import Pair
from trainer.data.rows import Row
from trainer.data.wording import Prompt

LABELS = ("no", "yes")


def rows(n: int) -> list[Row]:
    return [Row(f"r{i}", {"text": f"message number {i} of many words"}, LABELS[i % 2]) for i in range(n)]


def prompts(n: int) -> list[Prompt]:
    return [Prompt(f"p{i:02}", f"Wording {i}: {{{{ text }}}}") for i in range(n)]


class Landscape:
    """``shares`` of right answers by wording (others ``rest``). Which rows are right is fixed by a hash; ``calls``
    keeps all pairs that were paid for. ``dies_after``: batches before KeyboardInterrupt."""

    context = "landscape"

    def __init__(self, shares: Mapping[str, float], rest: float = 0.5, dies_after: int | None = None):
        self.shares, self.rest, self.dies_after = shares, rest, dies_after
        self.calls: list[tuple[str, str]] = []
        self.batches = 0

    def load(self) -> None:
        pass

    def __call__(self, pairs: Sequence[Pair]) -> list[tuple[tuple[float, ...], int]]:
        if self.dies_after is not None and self.batches >= self.dies_after:
            raise KeyboardInterrupt
        self.batches += 1
        self.calls += [(p.text, r.fields["text"]) for p, r in pairs]
        return [(self._values(p, r), 10) for p, r in pairs]

    def _values(self, prompt: Prompt, row: Row) -> tuple[float, ...]:
        seed = hashlib.sha256(f"{prompt.text}|{row.fields['text']}".encode()).digest()
        right = int.from_bytes(seed[:4], "big") / 2**32 < self.shares.get(prompt.text, self.rest)
        margin = 1.0 if right else -1.0
        return (-margin, margin) if row.label == "yes" else (margin, -margin)
