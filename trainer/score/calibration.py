"""The extra requests that two decision rules compare with: pmi scores each label without row and prompt, contextual
scores the prompt around an input without content. They go through the same renderer and scorer as all requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trainer.data.render import Renderer, Request
from trainer.data.rows import Row
from trainer.data.wording import Prompt

CONTENT_FREE = ("N/A", "", "[MASK]")  # Zhao et al. 2021, as their code has them


@dataclass(frozen=True)
class Baseline:
    """``requests`` to score beside n others, each once; ``index`` [n] or [n, c] says whose they are."""

    requests: list[Request]
    index: np.ndarray

    def expand(self, logprobs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """n arrays [k] or [c, k], as ``decide`` takes them, from the log-probabilities of ``requests``."""
        return [np.stack([logprobs[j] for j in i]) if self.index.ndim == 2 else logprobs[int(i)] for i in self.index]


def baseline_for(rule: str, renderer: Renderer, pairs: Sequence[tuple[Prompt, Row]]) -> Baseline | None:
    """What the decision ``rule`` compares with; None for a rule that needs no extra requests."""
    build = {"pmi": _unconditional, "contextual": _content_free}.get(rule)
    return build(renderer, pairs) if build else None


def _unconditional(renderer: Renderer, pairs: Sequence[tuple[Prompt, Row]]) -> Baseline:
    """Each pair's answers after the template's system text and marker alone: one request in all where the task has
    labels, one per set of options where rows bring their own. A chat, and a template without system text and
    marker, cannot be empty: the prompt is then "N/A"."""
    template = renderer.template
    premise = "" if not template.chat and (template.marker.strip() or template.system.strip()) else "N/A"
    prompt = Prompt("unconditional", premise)
    return _baseline(renderer, [[((row.options,), prompt, row)] for _, row in pairs], single=True)


def _content_free(renderer: Renderer, pairs: Sequence[tuple[Prompt, Row]]) -> Baseline:
    """Each pair's prompt with all of the row's fields replaced by each of ``CONTENT_FREE``: three requests per
    prompt, or per prompt and set of options where rows bring their own."""
    wanted = [
        [
            ((prompt.id, row.options, value), prompt, replace(row, fields=dict.fromkeys(row.fields, value)))
            for value in CONTENT_FREE
        ]
        for prompt, row in pairs
    ]
    return _baseline(renderer, wanted, single=False)


def _baseline(renderer: Renderer, wanted: Sequence[Sequence[tuple[Any, Prompt, Row]]], single: bool) -> Baseline:
    """One request per distinct key (the first entry), in order of appearance."""
    places: dict[Any, int] = {}
    pairs: list[tuple[Prompt, Row]] = []
    index = np.zeros((len(wanted), max((len(w) for w in wanted), default=1)), dtype=np.int64)
    for i, group in enumerate(wanted):
        for c, (key, prompt, row) in enumerate(group):
            if key not in places:
                places[key] = len(pairs)
                pairs.append((prompt, row))
            index[i, c] = places[key]
    return Baseline(renderer.requests(pairs), index[:, 0] if single else index)
