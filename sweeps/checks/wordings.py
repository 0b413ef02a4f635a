"""Checks without a tokenizer: what prompts show of a row, prompts in two pools, the words of labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Literal

from sweeps.checks.findings import Finding, placeholder_names, split_of
from trainer.data.grammar import OPTIONS
from trainer.data.likeness import Likeness, near, normal_form
from trainer.data.pools import flaws, hidden_characters, shared_prompts
from trainer.data.rows import Row
from trainer.data.wording import Prompt, conditions, fill, placeholders
from trainer.errors import UserError, nearest
from trainer.trial import Task, Template

_IN_ONE_BRACE = r"(?<!\{)\{\s*%s\s*\}(?!\})"  # a field, as Python's str.format has it


def pool_findings(rows: Mapping[str, Sequence[Row]], pools: Mapping[str, Sequence[Prompt]]) -> Iterator[Finding]:
    known = placeholder_names(rows)
    users = Counter(name for prompts in pools.values() for p in prompts for name in placeholders(p))
    n_prompts = sum(map(len, pools.values()))
    fields = [n for n in known if n != OPTIONS]
    usual = {name for name in fields if 2 * users[name] > n_prompts}
    for pool, prompts in pools.items():
        split = rows.get(split_of(pool), [])
        for prompt in prompts:
            where = f'pools.{pool}: prompt "{prompt.id}"'
            for level, what, fix in [*flaws(prompt), *hidden_characters(prompt)]:
                yield Finding(_level(level), where, what, f"{fix[:1].upper()}{fix[1:]}")
            asked = placeholders(prompt)
            unknown = sorted(asked - set(known))
            bare = [name for name in known if re.search(_IN_ONE_BRACE % re.escape(name), prompt.text)]
            for name in bare:
                yield Finding(
                    "error",
                    where,
                    f"has {{{name}}} in single braces, which stands there as it is",
                    f"Placeholders have two: {{{{ {name} }}}}",
                )
            for name in unknown:
                yield Finding(
                    "error",
                    where,
                    f'placeholder "{name}" is no field of the rows.{nearest(name, known)}',
                    "Rename it, or add the column to task.fields",
                )
            if unknown or bare:
                continue  # check what it shows of the row when these are mended
            if not asked & set(fields):
                yield Finding(
                    "error",
                    where,
                    "shows nothing of the row: no field is used",
                    f"Put a placeholder into it, such as {{{{ {(fields or ['text'])[0]} }}}}",
                )
            else:
                for name in sorted(usual - asked):
                    yield Finding(
                        "error",
                        where,
                        f'leaves out the field "{name}", which most prompts use',
                        f"Add {{{{ {name} }}}}, or remove the prompt",
                    )
                yield from _fill_findings(where, prompt, split)
        twice = [ids for ids in _same_form(prompts).values() if len(ids) > 1]
        for ids in twice:
            yield Finding(
                "warning",
                f"pools.{pool}",
                f"prompts {', '.join(ids)} differ only in case, spaces or punctuation",
                "Keep one, or this wording counts more than the others",
            )
    for name, split in rows.items():
        own = [p for pool in pools if split_of(pool) == name for p in pools[pool]]
        leave_out = f"leave such rows out (task.rows.{name}.drop=[empty])"
        yield from empty_findings(f"task.rows.{name}", split, own, leave_out)
    groups = {pool: list(prompts) for pool, prompts in pools.items()}
    for shared in shared_prompts(groups):
        if split_of(shared.pools[0]) == split_of(shared.pools[1]):
            continue  # train pools may overlap: no trial trains on two
        (a, b), (i, j) = shared.pools, shared.ids
        how = "is also" if shared.exact else "differs only in case, spaces or punctuation from"
        yield Finding(
            "error",
            f'pools.{b}: prompt "{j}"',
            f'{how} prompt "{i}" of pools.{a}',
            "Remove one: a prompt that was used in training or selection cannot measure unseen prompts",
        )
    yield from _near_findings(pools)


def empty_findings(place: str, rows: Sequence[Row], prompts: Sequence[Prompt], leave_out: str) -> Iterator[Finding]:
    """Fields that are empty in some rows although prompts show them: one finding for each such set of fields.
    ``leave_out`` says how to do without such rows."""
    empty: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        blank = tuple(name for name, text in row.fields.items() if not text.strip())
        if blank:
            empty.setdefault(blank, []).append(row.id)
    asked = [(p, placeholders(p) & {OPTIONS, *(rows[0].fields if rows else ())}) for p in prompts]
    for blank, ids in empty.items():
        some = f'row "{ids[0]}"' + (f" and {len(ids) - 1} more" if len(ids) > 1 else "")
        silent = [p.id for p, names in asked if names and names <= set(blank)]
        shown = sorted({n for p, names in asked for n in names & set(blank) - conditions(p)})
        if silent:
            yield Finding(
                "error",
                place,
                f'{" and ".join(blank)} of {some} is empty, so prompt "{silent[0]}" shows nothing of the row',
                f"Fill it in the data, or {leave_out}",
            )
        elif shown:
            yield Finding(
                "warning",
                place,
                f"{' and '.join(shown)} of {some} is empty, and prompts show it",
                f"Fill it in the data, {leave_out}, or write the prompts for that: {{% if {shown[0]} %}}",
            )


def _near_findings(pools: Mapping[str, Sequence[Prompt]]) -> Iterator[Finding]:
    """One warning for every two pools of different splits that hold near duplicates (``trainer.data.likeness``)."""
    likeness = {prompt.text: Likeness.of(prompt.text) for prompts in pools.values() for prompt in prompts}
    for a, b in combinations(pools, 2):
        if split_of(a) == split_of(b):
            continue
        pairs = [
            (q.id, p.id)
            for q in pools[b]
            for p in pools[a]
            if likeness[p.text].tokens != likeness[q.text].tokens and near(likeness[p.text], likeness[q.text])
        ]
        count = len({q for q, _ in pairs})
        if pairs:
            what = f"{count} prompts are near duplicates" if count > 1 else "1 prompt is a near duplicate"
            some = ", ".join(f'"{q}" of "{p}"' for q, p in pairs[:3]) + (", …" if len(pairs) > 3 else "")
            yield Finding(
                "warning",
                f"pools.{b}",
                f"{what} of prompts of pools.{a}: {some}",
                "Change or remove them, or make the pools with `steadytune prompts split`: a score on a wording that "
                "is nearly known says little about unknown ones",
            )


def _fill_findings(where: str, prompt: Prompt, rows: Sequence[Row]) -> Iterator[Finding]:
    for row in rows[:1]:
        try:
            text = fill(prompt, row.fields, row.options).text
        except UserError as error:
            yield Finding("error", where, str(error), "Mend the wording")
            return
        if not text.strip():
            yield Finding("error", where, f'gives an empty text for row "{row.id}"', "Mend its conditions")


def _same_form(prompts: Sequence[Prompt]) -> dict[str, list[str]]:
    forms: dict[str, list[str]] = {}
    for prompt in prompts:
        forms.setdefault(normal_form(prompt.text), []).append(prompt.id)
    return forms


def _level(text: str) -> Literal["error", "warning"]:
    return "error" if text == "error" else "warning"


def word_findings(template: Template, task: Task, rows: Mapping[str, Sequence[Row]]) -> Iterator[Finding]:
    where = f"templates.{template.name}"
    if not task.labels:
        if template.words:
            yield Finding("error", f"{where}.words", "is given, but each row has its own options", "Remove it")
    elif len(set(task.labels)) != len(task.labels):
        yield Finding("error", "task.labels", "names a label twice", "Keep one")
    by_label = dict(template.words)
    for label, word in template.words if task.labels else ():
        at = f"{where}.words.{label}"
        if label not in task.labels:
            yield Finding("error", at, f'"{label}" is no label of the task.{nearest(label, task.labels)}', "Rename it")
        if not word.strip():
            yield Finding("error", at, f"the word {word!r} is empty", "Give the answer's text")
        other = next((o for o in task.labels if o != label and word.strip().casefold() == o.casefold()), None)
        if other is not None and by_label.get(other, other).strip().casefold() != other.casefold():
            yield Finding(
                "error",
                at,
                f'answers label "{label}" with {word!r}, the name of label "{other}"',
                "The words seem swapped: exchange them",
            )
    given = [word for label, word in template.words if label in task.labels]
    if len({word[:1].isspace() for word in given}) > 1:
        yield Finding(
            "warning",
            f"{where}.words",
            "some words begin with a space and some do not",
            "Begin all of them the same way: the space alone could tell them apart",
        )
    if template.chat and template.marker:
        from trainer.data.texts import PLAIN_MARKER

        if template.marker == PLAIN_MARKER:
            yield Finding(
                "warning",
                f"{where}.marker",
                f"{PLAIN_MARKER!r} is the plain default and is left out of a chat",
                'Write marker: "", or another marker to begin the answer with',
            )
