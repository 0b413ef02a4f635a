"""The candidates of a search: the prompts of a train pool, with or without rule-based rewrites of them.

Dev and test prompts are not read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

from sweeps.prompt_search.rule_writer import RuleWriter
from trainer.data.pools import load_pool, split_pool
from trainer.data.wording import Prompt, PromptError, check_wording, placeholders
from trainer.errors import UserError, nearest
from trainer.trial import digest

if TYPE_CHECKING:
    from sweeps.study.schema import Study


def train_pool(study: Study, name: str | None = None) -> list[Prompt]:
    """The prompts of the train pool called ``name``, by default of the largest. Raises UserError."""
    given = study.pools.train
    if name is not None and name not in given:
        raise UserError(f'--pool = "{name}" is no train pool of the study.{nearest(name, given)}')
    pools = {n: _read(study, n) for n in ([name] if name is not None else given)}
    return max(pools.values(), key=len)


def _read(study: Study, name: str) -> list[Prompt]:
    pool, split = study.pools.train[name], study.pools.split
    try:
        if split is None:
            assert pool.file is not None  # the study schema demands it without pools.split
            prompts = load_pool(pool.file, pool.only)
        else:  # the whole file is divided into shares; only the train share is used
            shares = {"train": split.train, "dev": split.dev, "test": split.test}
            dealt = split_pool(load_pool(split.file), shares, split.seed)
            prompts = [p for p in dealt["train"] if not pool.only or p.id in pool.only]
    except UserError as error:
        raise UserError(f"pools.train.{name}: {error}") from error
    return prompts[: pool.limit]


def grown(prompts: Sequence[Prompt], n: int, answers: Sequence[str], seed: int = 0) -> list[Prompt]:
    """``prompts`` and rule-based rewrites of them, ``n`` in all, about equally many of each prompt; fewer where the
    rules find no more. Rewrites that lose a placeholder are left out."""
    writer, found = RuleWriter(answers), {p.text: p for p in prompts}
    for turn in count():
        before = len(found)
        for prompt in prompts:
            for text in writer.paraphrase(prompt.text, 4, seed + turn):
                if len(found) < n and text not in found and _sound(text, prompt):
                    found[text] = Prompt(f"{prompt.id}-{digest(text)[:6]}", text)
        if len(found) >= n or len(found) == before:
            return list(found.values())[: max(n, len(prompts))]
    return []


def _sound(text: str, source: Prompt) -> bool:
    try:
        check_wording(text)
        return placeholders(Prompt("new", text)) == placeholders(source)
    except PromptError:
        return False
