"""The candidates of a search: the prompts of a train pool, with or without rule-based rewrites of them.

Dev and test prompts are not read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

from sweeps.trials.assets import load_train_pools
from trainer.data.rewrites import RuleWriter
from trainer.data.wording import Prompt
from trainer.errors import UserError, nearest
from trainer.trial import digest

if TYPE_CHECKING:
    from sweeps.study.study import Study


def train_pool(study: Study, name: str | None = None) -> list[Prompt]:
    """The prompts of the train pool called ``name``, by default of the largest. Raises UserError."""
    given = study.pools.train
    if name is not None and name not in given:
        raise UserError(f'--pool = "{name}" is no train pool of the study.{nearest(name, given)}')
    pools = load_train_pools(study.pools, [name] if name is not None else list(given))
    return max(pools.values(), key=len)


def grown(prompts: Sequence[Prompt], n: int, answers: Sequence[str], seed: int = 0) -> list[Prompt]:
    """``prompts`` and rule-based rewrites of them, ``n`` in all, about equally many of each prompt; fewer where the
    rules find no more."""
    writer, found = RuleWriter(answers), {p.text: p for p in prompts}
    for turn in count():
        before = len(found)
        for prompt in prompts:
            for text in writer.paraphrase(prompt.text, 4, seed + turn):
                if len(found) < n and text not in found:
                    found[text] = Prompt(f"{prompt.id}-{digest(text)[:6]}", text)
        if len(found) >= n or len(found) == before:
            return list(found.values())[: max(n, len(prompts))]
    return []
