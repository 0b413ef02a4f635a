"""Pools of prompts: reading them from files, comparing them, dividing them.

What one prompt's text may hold, and what it gives for a row, is in ``wording``.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.data.grammar import PromptError
from trainer.data.likeness import clusters, normal_form
from trainer.data.pool_files import read_entries
from trainer.data.wording import EXPRESSION, Prompt, check_wording
from trainer.errors import nearest
from trainer.trial import digest


def load_pool(path: str, only: Sequence[str] = ()) -> list[Prompt]:
    """The prompts of a file, in its order: ``.yaml`` (id: text, or a list), ``.txt`` (one per line), ``.jsonl``
    ({"id": …, "text": …}). Where there are no ids they come from the text itself, so that adding a prompt renames no
    other. Blank lines around a text are dropped. ``only`` keeps the named ids, in the order given."""
    prompts = [Prompt(e.id or _content_id(e.text), e.text) for e in read_entries(path)]
    _check_pool(prompts, path)
    return keep_only(prompts, only, path, "is no prompt of this file")


def keep_only(prompts: list[Prompt], only: Sequence[str], where: str, missing: str) -> list[Prompt]:
    """The prompts with the ids ``only``, in that order; all where it is empty. PromptError for an id that is not there:
    ``where`` and ``missing`` are parts of its message."""
    by_id = {p.id: p for p in prompts}
    for wanted in only:
        if wanted not in by_id:
            raise PromptError(f'{where}: only = "{wanted}" {missing}.{nearest(wanted, by_id)}')
    return [by_id[wanted] for wanted in dict.fromkeys(only)] if only else prompts


def fingerprint_prompts(prompts: Sequence[Prompt]) -> str:
    """Stands for the prompts' ids, texts and order in a trial's id."""
    return digest([[p.id, p.text] for p in prompts])


def split_pool(prompts: Sequence[Prompt], shares: Mapping[str, float], seed: int = 0) -> dict[str, list[Prompt]]:
    """Deal prompts into pools by ``shares``, each at least one, without near duplicates across (``likeness``): groups
    of them stay together. File order is kept.

    The same for the same prompts and seed, whatever their order in the file.
    """
    total = sum(shares.values())
    if not shares or total <= 0 or any(s < 0 for s in shares.values()):
        raise PromptError(
            f"pools.split = {dict(shares)}: shares must be positive, such as train: 0.6, dev: 0.2, test: 0.2"
        )
    names = [n for n, s in shares.items() if s > 0]
    by_id = sorted(prompts, key=lambda p: p.id)
    order = [[by_id[i] for i in group] for group in clusters([p.text for p in by_id])]
    if len(order) < len(names):
        raise PromptError(
            f"pools.split: {len(order)} different prompts cannot fill {len(names)} pools ({', '.join(names)}). "
            "Add prompts that differ in more than a word"
        )
    random.Random(seed).shuffle(order)
    place = {p.id: i for i, p in enumerate(prompts)}
    dealt: dict[str, list[Prompt]] = {n: [] for n in shares}
    room = dict(zip(names, _whole_shares([shares[n] / total for n in names], len(by_id)), strict=True))
    several = sorted((g for g in order if len(g) > 1), key=len, reverse=True)
    single = [g for g in order if len(g) == 1]
    for i, group in enumerate(several):  # where there is most room, unless every group left is needed to fill a pool
        empty = [n for n in names if not dealt[n]]
        only = empty if len(several) - i + len(single) <= len(empty) else names
        name = max(only, key=lambda n: room[n])
        dealt[name] += group
        room[name] -= len(group)
    for name, count in _fitted(room, len(single), [n for n in names if not dealt[n]]).items():
        dealt[name] += [p for group in single[:count] for p in group]
        single = single[count:]
    return {n: sorted(part, key=lambda p: place[p.id]) for n, part in dealt.items()}


def _fitted(room: Mapping[str, int], n: int, empty: Sequence[str]) -> dict[str, int]:
    """How many of ``n`` single prompts each pool gets: its ``room`` after the groups were dealt (negative where they
    took too much), and at least one for each of ``empty``."""
    counts = {name: max(left, 0) for name, left in room.items()}
    for name in empty:
        counts[name] = max(counts[name], 1)
    while sum(counts.values()) > n:
        able = [name for name, count in counts.items() if count > (name in empty)]
        counts[max(able, key=lambda name: counts[name])] -= 1
    return counts


def _whole_shares(shares: Sequence[float], n: int) -> list[int]:
    """``n`` things dealt by ``shares``: largest remainders, at least one each."""
    counts = [max(1, int(s * n)) for s in shares]
    while sum(counts) < n:
        i = max(range(len(counts)), key=lambda j: shares[j] * n - counts[j])
        counts[i] += 1
    while sum(counts) > n:
        i = max((j for j in range(len(counts)) if counts[j] > 1), key=lambda j: counts[j] - shares[j] * n)
        counts[i] -= 1
    return counts


@dataclass(frozen=True)
class SharedPrompt:
    """One wording found in two pools; ``exact`` is False where it only differs in case, spaces or punctuation."""

    pools: tuple[str, str]
    ids: tuple[str, str]
    exact: bool


def shared_prompts(pools: Mapping[str, Sequence[Prompt]]) -> list[SharedPrompt]:
    """Wordings that are in more than one of ``pools``, compared by ``normal_form``."""
    seen: dict[str, list[tuple[str, Prompt]]] = {}
    found: list[SharedPrompt] = []
    for pool, prompts in pools.items():
        for prompt in prompts:
            others = seen.setdefault(normal_form(prompt.text), [])
            found += [SharedPrompt((o, pool), (p.id, prompt.id), p.text == prompt.text) for o, p in others if o != pool]
            others.append((pool, prompt))
    return found


_GAP = re.compile(
    r"\[[^\W\d_][^\]\n{}]*\s[^\]\n{}]*\]|<(?:insert|your|describe|fill)\b[^>\n]*>|\b(?:TODO|XXX|FIXME)\b", re.IGNORECASE
)


# Control characters but tab and line ends, separators of lines and paragraphs, and the byte order mark.
_ODD = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff]|\r(?!\n)")


def flaws(prompt: Prompt) -> list[tuple[str, str, str]]:
    """(level, what is wrong, how to mend it) of a wording, apart from its placeholders.

    Backslashes and gaps were found in the published PAFT prompts.
    """
    found = []
    if re.search(r"\\[ntr]", prompt.text):
        found.append(
            (
                "error",
                "contains a backslash followed by n, t or r, which the model would read as two characters",
                "write a real line break (a | block in yaml)",
            )
        )
    gap = _GAP.search(EXPRESSION.sub(" ", prompt.text))
    if gap:
        found.append(
            ("warning", f"seems to have an unfilled gap: {gap.group(0)!r:.60}", "fill the gap, or remove the prompt")
        )
    return found


def hidden_characters(prompt: Prompt) -> list[tuple[str, str, str]]:
    """(level, what is wrong, how to mend it): characters that a model reads and that nobody sees."""
    odd = _ODD.search(prompt.text)
    if not odd:
        return []
    what = f"contains the character U+{ord(odd.group()):04X}, which is not seen and which the model would read"
    return [("warning", what, "remove it, unless it is meant")]


def _content_id(text: str) -> str:
    return "p" + hashlib.sha256(text.encode()).hexdigest()[:8]


def _check_pool(prompts: Sequence[Prompt], path: str) -> None:
    """Raises one ``PromptError`` that lists all that is wrong, a line each."""
    seen: dict[str, str] = {}
    wrong: list[str] = []
    for prompt in prompts:
        if not prompt.text.strip():
            wrong.append(f'{path}: prompt "{prompt.id}" is empty')
            continue
        if prompt.id in seen:
            why = "the same text stands there twice" if seen[prompt.id] == prompt.text else "ids must be unique"
            wrong.append(f'{path}: prompt id "{prompt.id}" occurs more than once: {why}')
        seen[prompt.id] = prompt.text
        try:
            check_wording(prompt.text)
        except PromptError as error:
            wrong.append(f'{path}: prompt "{prompt.id}": {error}')
    if wrong:
        raise PromptError("\n".join(wrong))
