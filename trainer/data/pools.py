"""Pools of prompts: reading them from files, comparing them, dividing them.

What one prompt's text may hold, and what it gives for a row, is in ``wording``.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer.data.likeness import clusters, normal_form
from trainer.data.wording import EXPRESSION, Prompt, PromptError, check_wording
from trainer.errors import nearest
from trainer.trial import digest
from trainer.yaml_nodes import YamlFault, children, has_other_tag, keys_twice, read_nodes


def load_pool(path: str, only: Sequence[str] = ()) -> list[Prompt]:
    """The prompts of a file, in its order: ``.yaml`` (id: text, or a list), ``.txt`` (one per line), ``.jsonl``
    ({"id": …, "text": …}). Where there are no ids they come from the text itself, so that adding a prompt renames no
    other. Blank lines around a text are dropped. ``only`` keeps the named ids, in the order given."""
    file = Path(path)
    readers = {".yaml": _read_yaml, ".yml": _read_yaml, ".txt": _read_txt, ".jsonl": _read_jsonl}
    if file.suffix.lower() not in readers:
        raise PromptError(f'{path}: ending "{file.suffix}" is not known.{nearest(file.suffix, readers)}')
    try:
        content = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = sorted(p.name for p in file.parent.iterdir()) if file.parent.is_dir() else []
        raise PromptError(f"{path}: no such file.{nearest(file.name, beside[:30])}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{path}: cannot be read ({error}). Store it as UTF-8 text") from error
    prompts = [
        Prompt(i or _content_id(t), t)
        for i, t in ((i, t.strip("\r\n")) for i, t in readers[file.suffix.lower()](content, path))
    ]
    if not prompts:
        raise PromptError(f"{path}: holds no prompt")
    if wrong := _flaws_of(prompts, path):
        raise PromptError("\n".join(wrong))
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


def flaws(prompt: Prompt) -> list[tuple[str, str, str]]:
    """(level, what is wrong, how to mend it) of a wording, apart from its placeholders.

    Both were found in the published PAFT prompts.
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


def _content_id(text: str) -> str:
    return "p" + hashlib.sha256(text.encode()).hexdigest()[:8]


def _flaws_of(prompts: Sequence[Prompt], path: str) -> list[str]:
    """All that is wrong with ids and wordings, a line each."""
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
    return wrong


def _read_yaml(content: str, path: str) -> list[tuple[str, str]]:
    try:
        roots = read_nodes(content)  # ids and texts stay as written ("no", "1.0"), double ids are seen
    except YamlFault as fault:
        raise PromptError(f"{path}: {fault}. Quote texts that contain a colon, or use a | block") from None
    if len(roots) > 1:
        raise PromptError(f"{path}: holds several documents (---). Put all prompts into one")
    root = roots[0] if roots else None
    pairs: list[tuple[str, Any]]
    if isinstance(root, yaml.MappingNode):
        pairs = [(key.value if isinstance(key, yaml.ScalarNode) else "{…}", value) for key, value in root.value]
    elif isinstance(root, yaml.SequenceNode):
        pairs = [("", value) for value in root.value]
    else:
        raise PromptError(f"{path}: holds neither id: text pairs nor a list of texts")
    wrong = [f"{path}: {found}" for found in keys_twice(root)]
    wrong += [
        f"{path}: line {node.start_mark.line + 1}: the tag {node.tag} has no meaning here. Remove it"
        for node in children(root)
        if has_other_tag(node)
    ]
    wrong += [  # an unquoted {{ text }} is a yaml mapping, the commonest slip here
        f'{path}: line {value.start_mark.line + 1}: prompt "{key}" is no text. Quote it, or use a | '
        f"block ({{{{ … }}}} at the start needs quotes)"
        for key, value in pairs
        if not isinstance(value, yaml.ScalarNode)
    ]
    texts = [(key, value.value) for key, value in pairs if isinstance(value, yaml.ScalarNode)]
    if wrong:
        first = {key: text for key, text in reversed(texts) if key}
        raise PromptError("\n".join([*wrong, *_flaws_of([Prompt(*pair) for pair in reversed(first.items())], path)]))
    return texts


def _read_txt(content: str, path: str) -> list[tuple[str, str]]:
    return [("", line) for line in content.splitlines() if line.strip()]


def _read_jsonl(content: str, path: str) -> list[tuple[str, str]]:
    pairs, wrong = [], []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text = record["text"]
        except (ValueError, KeyError, TypeError):
            wrong.append(f'{path}: line {number} is not of the form {{"id": "p1", "text": "…"}}')
            continue
        if not isinstance(text, str):
            wrong.append(f"{path}: line {number}: text = {text!r:.40} is no text")
        pairs.append((str(record.get("id") or ""), text))
    if wrong:
        raise PromptError("\n".join(wrong))
    return pairs
