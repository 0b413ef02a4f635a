"""Refuse prompts and templates that ask for something else than the task.

"Is this misogyny?" asks for less than "Is this sexist?", and the labels of the data answer the second question. Such a
wording can win or lose for the wrong reason, so it is refused. It may be a task of its own: a study with its own
``task.meaning`` and labels. The study gives the words that name its task (``terms``) and those that name other tasks
(``other``); every prompt, system text, marker and label word is searched for them. A word matches if it begins with a
term, without regard to case; ``_`` and punctuation end a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from sweeps.checks.findings import Finding
from sweeps.study.data_schema import Meaning
from sweeps.study.terms import mentions, words_of
from trainer.data.wording import EXPRESSION, Prompt
from trainer.trial import Template

# answers that have no meaning of their own: only the prompt says what is asked
NEUTRAL = frozenset(
    [*"0123456789abcdefnty", "yes", "no", "true", "false", "positive", "negative", "correct", "incorrect"]
)


SHOWN = 5  # ids of prompts beside a word


def meaning_findings(
    meaning: Meaning, templates: Sequence[Template], pools: Mapping[str, Sequence[Prompt]], labels: Sequence[str]
) -> Iterator[Finding]:
    """Every prompt, template and label word that asks for something else, or does not name the task."""
    for template in templates:
        yield from _template_findings(meaning, template, labels)
    said = {term for term in meaning.terms for text in _texts(pools) if mentions(text, term)}
    for term in meaning.terms if any(pools.values()) else ():
        if term not in said:
            yield Finding(
                "warning" if said else "error",
                "task.meaning.terms",
                f'no prompt has a word that begins with "{term}"',
                "Mend the term, or the prompts; a term is the beginning of a word",
            )
    for pool, prompts in pools.items():
        for prompt in prompts:
            where, text = f'pools.{pool}: prompt "{prompt.id}"', EXPRESSION.sub(" ", prompt.text)
            yield from _other_task(meaning, where, text)
            if said and not any(mentions(text, term) for term in meaning.terms):
                yield Finding(
                    "error",
                    where,
                    f"names none of the task's terms ({', '.join(meaning.terms)}): it asks something else or nothing",
                    "Name the task in it, remove it, or add its word to task.meaning.terms if that means the same",
                )


def _texts(pools: Mapping[str, Sequence[Prompt]]) -> list[str]:
    """Every prompt without its placeholders."""
    return [EXPRESSION.sub(" ", prompt.text) for prompts in pools.values() for prompt in prompts]


def _template_findings(meaning: Meaning, template: Template, labels: Sequence[str]) -> Iterator[Finding]:
    where = f"templates.{template.name}"
    for key, text in (("system", template.system), ("marker", template.marker)):
        yield from _other_task(meaning, f"{where}.{key}", text)
    if template.system.strip() and meaning.terms and not any(mentions(template.system, t) for t in meaning.terms):
        yield Finding(
            "warning",
            f"{where}.system",
            f'"{template.system}" contains none of the task\'s terms ({", ".join(meaning.terms)})',
            "This is fine if it only sets the tone. If it asks for another task, make that a study of its own",
        )
    for label, word in template.words:
        at = f"{where}.words.{label}"
        other = list(_other_task(meaning, at, word))
        yield from other
        if not other and meaning.terms and not _is_answer_word(word, label, meaning, labels):
            yield Finding(
                "error",
                at,
                f'answers "{label}" with "{word.strip()}", which is neither the label, nor yes or no, nor one of the '
                f"task's terms ({', '.join(meaning.terms)})",
                "Use the label itself, or add the word to task.meaning.terms if it means the same",
            )


def _other_task(meaning: Meaning, where: str, text: str) -> Iterator[Finding]:
    for task, terms in meaning.other.items():
        matches = [word for term in terms for word in words_of(text, term)]
        if matches:
            yield Finding(
                "error",
                where,
                f'contains "{matches[0]}", which asks for {task} and not: {meaning.about.strip().rstrip(".?")}',
                f"The labels do not answer that. Change the wording, or make {task} a study with its own labels",
            )


def _is_answer_word(word: str, label: str, meaning: Meaning, labels: Sequence[str]) -> bool:
    plain = " ".join(re.findall(r"\w+", word.casefold()))
    named = {" ".join(re.findall(r"\w+", name.casefold())) for name in (label, *labels)}
    return not plain or plain in NEUTRAL or plain in named or any(mentions(word, term) for term in meaning.terms)


def matched_words(meaning: Meaning, pools: Mapping[str, Sequence[Prompt]]) -> Iterator[str]:
    """A line for each pool: the words of its prompts that begin with one of the task's terms, and who says them."""
    for pool, prompts in pools.items():
        said: dict[str, list[str]] = {}
        for prompt in prompts:
            text = EXPRESSION.sub(" ", prompt.text)
            words = {word.casefold() for term in meaning.terms for word in words_of(text, term)}
            for word in sorted(words):
                said.setdefault(word, []).append(prompt.id)
        shown = "; ".join(f'"{word}" in {_some(ids)}' for word, ids in sorted(said.items()))
        if shown:
            yield f"pools.{pool}: names the task by {shown}"


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more
