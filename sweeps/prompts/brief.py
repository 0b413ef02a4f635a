"""The brief of a generation, from a TASK file or a study, and the requests for wordings that are made of it.

A TASK file is YAML::

    fields: [text]                   # columns of a row; every wording shows each of them
    labels: [no, yes]                # or options: COLUMN, where every row brings its own
    about: "Is the writer of the message unhappy?"
    terms: {one_of: [unhappy, upset, complain], never: [angry]}
    examples: prompts/human.yaml     # a pool; the few-shot strategy shows prompts of it
    language: en
    length: [8, 1200]                # characters of a wording without its placeholders

No row of the data is sent: a request holds the names of fields and labels, ``about``, the terms and the examples.
"""

from __future__ import annotations

import functools
import itertools
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from sweeps.study.overlay import parse_yaml
from sweeps.study.problems import Problems, problem_line, problems_of
from sweeps.study.texts import text_wanted
from sweeps.study.values import Count, Name, Section, Text
from trainer.errors import UserError, nearest
from trainer.files.yaml_nodes import MOST_CHARACTERS

if TYPE_CHECKING:
    from sweeps.study.study import Study
    from trainer.data.wording import Prompt

FEW_SHOT, ZERO_SHOT = "few-shot", "zero-shot"
STRATEGIES = (FEW_SHOT, ZERO_SHOT)  # as in PAFT: the first for quality, the second for diversity
SHOWN = 5  # examples in a few-shot request, drawn anew for each
LENGTH = (8, 1200)
Language = Literal["en", "de", "fr", "es", "it", "pt", "nl", "ru", "zh", "ja", "ko", "ar", "any"]
LANGUAGES: dict[str, str] = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese",
    "nl": "Dutch", "ru": "Russian", "zh": "Chinese", "ja": "Japanese", "ko": "Korean", "ar": "Arabic",
}  # fmt: skip
MANNERS = (  # asked for in zero-shot requests, in turn: without them a model repeats itself
    "as different people would ask it, without a common style",
    "short, in a few words each",
    "as polite and complete sentences",
    "as a form with labelled lines",
    "as a question that follows the text",
    "as an order that comes before the text",
    "casual, as in a chat",
    "as an examiner or an official would put it",
)


class Terms(Section):
    one_of: tuple[Text, ...] = ()  # every wording must contain one of them, so that it names the task
    never: tuple[Text, ...] = ()  # words that make it another task: "misogyny" where the task is sexism


def _names(value: Any) -> Any:
    return list(value.values()) if isinstance(value, dict) else value


def _ascending(length: tuple[int, int]) -> tuple[int, int]:
    if length[0] >= length[1]:
        raise Problems("must be two lengths, the smaller one first, such as [8, 1200]")
    return length


class TaskFile(Section):
    fields: Annotated[tuple[Text, ...], Field(min_length=1)] = Field(description="the columns that a wording shows")
    about: Text = Field(description="what the task asks, in a sentence or a definition")
    labels: Annotated[tuple[Name, ...], BeforeValidator(_names)] = ()
    options: Text | None = None
    terms: Terms = Terms()
    examples: Text | None = None
    language: Language = "en"
    length: Annotated[tuple[Count, Count], AfterValidator(_ascending)] = LENGTH


@dataclass(frozen=True)
class Brief:
    """What wordings are wanted. No wording may be a near duplicate of the ``known`` prompts."""

    fields: tuple[str, ...]
    about: str
    labels: tuple[str, ...] = ()
    options: bool = False
    one_of: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    examples: tuple[Prompt, ...] = ()
    known: tuple[Prompt, ...] = ()
    language: str = "en"
    length: tuple[int, int] = LENGTH
    vague: bool = False  # ``about`` was made of a study's labels, since it does not say what its task asks


# reading --------------------------------------------------------------------------------------------------------


def read_brief(
    path: str,
    out: str,
    about: str | None = None,
    examples: str | None = None,
    apart: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Brief:
    """The brief of the TASK file or study at ``path``, with ``overrides`` laid over a study. ``known`` gets the prompts
    of its own pools and of the pools in ``apart``, without those of ``out``, the pool to be written. Raises
    UserError."""
    from trainer.data.pools import load_pool

    brief = _of_file(path, out, overrides)
    if about is not None:
        brief = replace(brief, about=about, vague=False)
    if examples is not None:
        brief = replace(brief, examples=tuple(load_pool(examples)))
    if not brief.about.strip():
        raise UserError(f"{path}: about is empty. Say in a sentence what the task asks")
    others = tuple(p for file in apart for p in load_pool(file))
    known = {p.text: p for p in (*brief.known, *brief.examples, *others)}
    return replace(brief, known=tuple(known.values()))


def _of_file(path: str, out: str, overrides: Sequence[str]) -> Brief:
    try:
        with open(path, encoding="utf-8-sig") as f:
            value = parse_yaml(f.read(MOST_CHARACTERS + 1), path, functools.partial(text_wanted, TaskFile))
    except FileNotFoundError:
        folder = os.path.dirname(path) or "."
        beside = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        raise UserError(f"{path}: no such file.{nearest(os.path.basename(path), beside)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Give a TASK file or a study, as UTF-8 text") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: is neither a TASK file nor a study: it must be a mapping of keys such as fields")
    if "task" in value or "model" in value:
        from sweeps.study.load import load_study

        return _of_study(load_study(path, overrides, files=False), out)
    return _of_task_file(path, value)


def _of_task_file(path: str, value: dict[str, Any]) -> Brief:
    from trainer.data.pools import load_pool

    try:
        task = TaskFile.model_validate(value)
    except ValidationError as error:
        found = [problem_line(p, path, value, value, []) for p in problems_of(error, TaskFile)]
        raise UserError("\n".join(dict.fromkeys(found))) from None
    examples: tuple[Prompt, ...] = ()
    if task.examples is not None:
        examples = tuple(load_pool(os.path.join(os.path.dirname(os.path.abspath(path)), task.examples)))
    return Brief(
        task.fields, task.about, task.labels, task.options is not None, task.terms.one_of, task.terms.never, examples,
        (), task.language, task.length,
    )  # fmt: skip


def _of_study(study: Study, out: str) -> Brief:
    """The task of a study. The examples are the prompts of its train pools; the prompts of all its pools are known."""
    from trainer.data.pools import load_pool, split_pool

    def read(file: str | None, only: Sequence[str] = ()) -> list[Prompt]:
        there = file is not None and os.path.exists(file) and os.path.abspath(file) != os.path.abspath(out)
        return load_pool(file, only) if there and file is not None else []

    pools, task = study.pools, study.task
    if (cut := pools.split) is not None:
        known = read(cut.file)
        examples = split_pool(known, {"train": cut.train, "dev": cut.dev, "test": cut.test}, cut.seed) if known else {}
        shown = examples.get("train", [])
    else:
        shown = [p for pool in pools.train.values() for p in read(pool.file, pool.only)]
        scored = [pool for pool in (pools.dev, pools.test) if pool is not None]
        known = shown + [p for pool in scored for p in read(pool.file, pool.only)]
    meaning = task.meaning
    answer = f"answer with one of: {', '.join(task.names)}" if task.names else "choose one of the row's options"
    about = f"Read the {' and the '.join(task.fields)}, and {answer}." if meaning is None else meaning.about
    one_of, never = ((), ()) if meaning is None else (meaning.terms, tuple(itertools.chain(*meaning.other.values())))
    shown = list({p.text: p for p in shown}.values())
    return Brief(
        task.fields,
        about,
        task.names,
        task.options is not None,
        one_of,
        never,
        tuple(shown),
        tuple(known),
        vague=meaning is None,
    )


def check_strategies(brief: Brief, strategies: Sequence[str], path: str) -> None:
    """Raises UserError where few-shot has no examples to show, or zero-shot no description of the task."""
    for name in strategies:
        if name not in STRATEGIES:
            raise UserError(f'--strategy = "{name}" is not known.{nearest(name, STRATEGIES)}')
    if FEW_SHOT in strategies and not brief.examples:
        raise UserError(
            f"{path}: few-shot needs wordings to show. Give a pool of a few with --examples FILE (in a TASK file: "
            f"`examples`), or only --strategy {ZERO_SHOT}"
        )
    if ZERO_SHOT in strategies and brief.vague:
        raise UserError(
            f"{path}: the study does not say what its task asks, and {ZERO_SHOT} shows nothing else. Say it in a "
            f'sentence, as task.meaning.about or with --about "Is it good?", or use only --strategy {FEW_SHOT}'
        )


# asking ---------------------------------------------------------------------------------------------------------

Messages = list[dict[str, str]]


def messages(brief: Brief, strategy: str, request: int, n: int, seed: int) -> Messages:
    """The chat messages that ask for ``n`` wordings. ``request`` counts from 0. Depends on the arguments alone."""
    holders = ", ".join(f"{{{{ {name} }}}}" for name in brief.fields)
    parts = [f"The task: {brief.about.strip()}"]
    if brief.labels:
        parts.append(f"The answer is one of: {', '.join(brief.labels)}.")
    if brief.options:
        parts.append(
            "The answer is one of the options that come with each item; {{ options|join(', ') }} stands for their list."
        )
    if strategy == FEW_SHOT:
        draw = random.Random(f"{seed} {request}").sample(brief.examples, min(SHOWN, len(brief.examples)))
        shown = "\n".join(f"{i}. {_quoted(p.text)}" for i, p in enumerate(draw, 1))
        parts.append(f"Wordings of the instruction that people have written:\n{shown}")
        parts.append(f"Write {n} further wordings of the same instruction, as good as these and not copies of them.")
    else:
        parts.append(f"Write {n} wordings of an instruction for this task, {MANNERS[request % len(MANNERS)]}.")
    low, high = brief.length
    rules = [
        f"Each contains every one of these placeholders, exactly as written: {holders}. No other placeholder.",
        "A placeholder is replaced by an item later. Make up no item and give no answer.",
        "All ask for the same thing. They differ in words, order and form, not in a word or two.",
        f"Each has {low} to {high} characters.",
    ]
    if brief.language != "any":
        rules.append(f"Write {LANGUAGES[brief.language]}.")
    if brief.one_of:
        rules.append(f"Each uses a word that begins with one of: {', '.join(brief.one_of)}.")
    if brief.never:
        rules.append(f"Words that begin so would make it another task and do not occur: {', '.join(brief.never)}.")
    parts.append("\n".join(f"- {rule}" for rule in rules))
    parts.append(f"Answer with a JSON array of {n} strings and nothing else.")
    system = "You write instructions for a language model. Many people ask the same thing in their own words."
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n\n".join(parts)}]


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)
