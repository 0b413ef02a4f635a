"""The three pools of a new study: the user's own wordings first, then the starter wordings of ``starters/``."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Literal

from sweeps.init.chats import escaped
from sweeps.init.examples import LETTERS, DataError
from sweeps.study.overlay import parse_yaml
from sweeps.trials.assets import SPLITS
from trainer.data.likeness import Likeness, near
from trainer.data.wording import OPTIONS, Prompt, placeholders
from trainer.errors import nearest

OWN = "own"  # begins the ids of a user's wordings that have none


def starter_pools(
    fields: Sequence[str], names: Sequence[str], options: int, about: str = ""
) -> dict[str, list[Prompt]]:
    """The starter wordings by split, about ``fields``: for classifying by ``names``, or with ``options`` above 0 for
    choosing among so many. ``about`` is the question that each of them begins with."""
    asked = _shown(fields)
    if options:
        kind: Literal["choose", "classify"] = "choose"
        shown = [f"{{{{ options[{i}] }}}}" for i in range(options)]
        letters = LETTERS[:options]
        parts = {
            "question": asked,
            "lettered": "\n".join(f"{letter}. {text}" for letter, text in zip(letters, shown, strict=True)),
            "parens": "\n".join(f"({letter}) {text}" for letter, text in zip(letters, shown, strict=True)),
            "inline": " ".join(f"{letter}) {text}" for letter, text in zip(letters, shown, strict=True)),
            "letters": _either(list(letters)),
        }
    else:
        kind = "classify"
        safe = [escaped(name) for name in names]
        parts = {
            "text": asked,
            "or": _either(safe),
            "commas": ("; " if any("," in name for name in safe) else ", ").join(safe),
            "bars": " | ".join(safe),
            "slashes": "/".join(safe),
            "quoted": _either([f'"{name}"' for name in safe]),
            "lines": "\n".join(f"- {name}" for name in safe),
        }
    first = f"{escaped(about.strip())}\n" if about.strip() else ""
    return {
        split: [Prompt(name, f"{first}{_filled(text, parts)}") for name, text in pool.items()]
        for split, pool in _starters(kind).items()
    }


@functools.cache
def _starters(kind: str) -> dict[str, dict[str, str]]:
    text = (files("sweeps.init") / "starters" / f"{kind}.yaml").read_text("utf-8")
    pools: dict[str, dict[str, str]] = parse_yaml(text, f"{kind}.yaml")
    return {split: pools[split] for split in SPLITS}


def _filled(text: str, parts: dict[str, str]) -> str:
    return re.sub(r"<(\w+)>", lambda slot: parts.get(slot.group(1), slot.group()), text)


def _shown(fields: Sequence[str]) -> str:
    """The row's content in a prompt: a single field by itself, several each on a line with its name."""
    if len(fields) == 1:
        return f"{{{{ {fields[0]} }}}}"
    return "\n".join(f"{name.replace('_', ' ').capitalize()}: {{{{ {name} }}}}" for name in fields)


def _either(names: Sequence[str]) -> str:
    return " or ".join([*([", ".join(names[:-1])] if names[:-1] else []), names[-1]])


def with_own(
    own: Sequence[Prompt], starters: dict[str, list[Prompt]], fields: Sequence[str]
) -> dict[str, list[Prompt]]:
    """The user's wordings at the head of the train pool, then the starters. A starter that is nearly a wording of the
    user's, or one of a later pool, is left out: with many labels, short starters are hardly more than these. Raises
    ``DataError`` for a wording that shows nothing of the row."""
    known = [*fields, OPTIONS]
    for prompt in own:
        used = placeholders(prompt)
        if unknown := sorted(used - set(known)):
            raise DataError(
                f'the wording "{prompt.id}" has the placeholder {{{{ {unknown[0]} }}}}, which is no field of the rows.'
                f"{nearest(unknown[0], known)}"
            )
        if not used & set(fields):
            raise DataError(
                f'the wording "{prompt.id}" shows nothing of the row: write {{{{ {fields[-1]} }}}} where the text goes'
            )
    taken = [Likeness.of(prompt.text) for prompt in own]
    ids = {prompt.id for prompt in own}
    kept: dict[str, list[Prompt]] = {}
    for split in reversed(SPLITS):
        likes = {p.id: Likeness.of(p.text) for p in starters[split] if p.id not in ids}
        kept[split] = [p for p in starters[split] if p.id in likes and not any(near(likes[p.id], one) for one in taken)]
        taken += [likes[p.id] for p in kept[split]]
    return {"train": [*own, *kept["train"]], "dev": kept["dev"], "test": kept["test"]}
