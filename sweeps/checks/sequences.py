"""Checks of rendered sequences: boundaries, stop token, BOS, and whether the answers can be told apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sweeps.checks.findings import Finding
from trainer.data.rows import Row
from trainer.data.texts import THINKING
from trainer.data.wording import Prompt
from trainer.errors import UserError, nearest

if TYPE_CHECKING:
    from trainer.data.render import Renderer, Request


SHOWN_FAILURES = 3  # prompts that cannot be rendered of which each gets its own finding


def render_findings(renderer: Renderer, prompts: Sequence[Prompt], rows: Sequence[Row], where: str) -> list[Finding]:
    pairs = [(p, r) for p in prompts for r in rows]
    try:
        examples, requests = renderer.examples(pairs), renderer.requests(pairs)
    except UserError:
        return _first_failures(renderer, prompts, rows, where)
    found = [*_anchor_findings(renderer, where)]
    for (prompt, row), example, request in zip(pairs, examples, requests, strict=True):
        at = f'{where}, prompt "{prompt.id}", row "{row.id}"'
        n = len(request.context)
        answer = request.options[renderer.texts.right(row)]
        trained = example.ids[example.kinds == 2]
        if example.ids[:n].tolist() != request.context.tolist() or example.ids[n:-1].tolist() != answer.tolist():
            found.append(
                Finding(
                    "error",
                    at,
                    "training and scoring see different token ids",
                    "The tokenizer is not deterministic. Report this with its name",
                )
            )
        if len(trained) < 2 or trained[-1] != renderer.stop_id:
            found.append(
                Finding(
                    "error",
                    at,
                    "the answer's tokens and the stop token are not all trained (kinds end with "
                    f"{example.kinds[-4:].tolist()})",
                    "Give the label a word",
                )
            )
        found += _bos_findings(renderer, request, where)
        found += _distinct_findings(renderer, request, row, where)
    return list(dict.fromkeys(found))


def _first_failures(renderer: Renderer, prompts: Sequence[Prompt], rows: Sequence[Row], where: str) -> list[Finding]:
    """One finding per prompt that fails, the first few in full."""
    failures: list[str] = []
    for prompt in prompts:
        for row in rows:
            try:
                renderer.example(prompt, row)
                renderer.request(prompt, row)
            except UserError as error:
                failures.append(str(error))
                break
    found = [Finding("error", where, text, "Nothing was trained") for text in failures[:SHOWN_FAILURES]]
    if len(failures) > SHOWN_FAILURES:
        found.append(
            Finding(
                "error",
                where,
                f"{len(failures) - SHOWN_FAILURES} more prompts fail in the same way",
                "Mend the first ones and check again",
            )
        )
    return found


def _anchor_findings(renderer: Renderer, where: str) -> Iterator[Finding]:
    """Answers that do not continue the question's tokens. A chat template's ending is the model's own, and nothing to
    change; a marker's is the study's."""
    answers = renderer.anchored
    if answers and (not renderer.template.chat or renderer.texts.prefilled):
        yield Finding(
            "warning",
            f"templates.{renderer.template.name}.marker",
            f"its last character and the answer {answers[0]!r} would be one token in usual text; here they are two",
            f"End the marker without a space, and begin the word with one: {' ' + answers[0].strip()!r}",
        )


def _bos_findings(renderer: Renderer, request: Request, where: str) -> Iterator[Finding]:
    bos = renderer.tokenizer.bos_token_id
    if bos is None:
        return
    count, written = request.context.tolist().count(bos), renderer.written_ids.count(bos)
    name = renderer.tokenizer.bos_token
    if count > written:
        yield Finding(
            "error",
            where,
            f"the sequence has {count} beginning-of-sequence tokens ({name}), where the template writes {written}",
            f"Remove {name} from the system text, prompts and rows",
        )
    elif request.context[:2].tolist() == [bos, bos]:
        yield Finding(
            "warning",
            where,
            f"the chat template writes two beginning-of-sequence tokens ({name}) one after the other",
            "Check the model's own chat template",
        )
    elif not count and renderer.template.chat and renderer.tokenizer("a").input_ids[:1] == [bos]:
        yield Finding(
            "warning",
            where,
            f"the chat template does not begin with {name}, which this tokenizer otherwise adds",
            "Check the model's own chat template",
        )


def _distinct_findings(renderer: Renderer, request: Request, row: Row, where: str) -> Iterator[Finding]:
    """Labels are compared by their tokens without the stop token: labels with equal tokens always tie, and a label
    whose tokens begin another's always scores at least as high."""
    tokens = [tuple(o.tolist()) for o in request.options]
    names = list(renderer.task.labels) or [f"{i} ({text!r:.30})" for i, text in enumerate(renderer.texts.words(row))]
    level: Literal["error", "warning"] = (
        "error" if renderer.task.labels else "warning"
    )  # options of one row affect that row only
    # labels are the same for every prompt and row, so they are reported once for a template
    at = f"templates.{renderer.template.name}" if renderer.task.labels else f'{where}, row "{row.id}"'
    for i, a in enumerate(tokens):
        for j, b in enumerate(tokens):
            shown = renderer.token_texts(list(a))
            if i < j and a == b:
                yield Finding(
                    level,
                    at,
                    f"answers {names[i]} and {names[j]} have the same tokens {shown}",
                    "Give them different words",
                )
            elif len(a) < len(b) and b[: len(a)] == a:
                yield Finding(
                    level,
                    at,
                    f"the tokens of answer {names[i]}, {shown}, begin those of {names[j]}: the shorter one "
                    "would always score higher",
                    "Give words of which none is the beginning of another",
                )


def chat_findings(renderer: Renderer, where: str) -> Iterator[Finding]:
    """``where`` is the template: its options that do nothing or are not said, a date that the chat template writes, a
    marker in front of a thought, and an answer that it writes in another way than it asks for one."""
    texts, day = renderer.texts, renderer.template.date
    if texts.is_dated:
        yield Finding(
            "warning",
            where,
            f"the chat template writes the date or the time, which here is always {day}, at midnight",
            f"Set {where}.date to another day if you like, and give the same date where the model is served",
        )
    elif day != type(renderer.template).date:
        yield Finding("warning", f"{where}.date", "has no effect: the chat template writes no date", "Remove it")
    known = texts.known_options()
    for name, _ in renderer.template.options:
        if name not in known:
            yield Finding(
                "error",
                f"{where}.options",
                f'"{name}" is nothing that the chat template reads.{nearest(name, sorted(known))}',
                "Remove it, or name one that it reads",
            )
    given = dict(renderer.template.options)
    for name in sorted({*THINKING} & known - set(given)):
        yield Finding(
            "error",
            f"{where}.options",
            f"the chat template can let the model think before it answers, and the study does not say whether ({name})",
            f"Add `options: {{{name}: false}}`, or true",
        )
    if texts.thought_end and texts.prefilled:
        on = [name for name, value in renderer.template.options if name in THINKING and value is True]
        off = f", or turn thinking off: options: {{{on[0]}: false}}" if on else ""
        yield Finding(
            "error",
            f"{where}.marker",
            f"begins the answer with {texts.prefilled!r}, and the model thinks before it answers: its thought would "
            "stand behind the marker",
            f"Remove the marker{off}",
        )
    if texts.lead is None:
        yield Finding(
            "warning",
            where,
            "the chat template writes a finished answer differently from a question and what follows it",
            "Training and scoring put the answer behind the question as a server makes it",
        )


def special_text_findings(tokenizer: Any, rows: Mapping[str, Sequence[Row]]) -> Iterator[Finding]:
    """``rows`` by their place, such as ``task.rows.train``."""
    special = [t for t in tokenizer.all_special_tokens if t]
    for place, some in rows.items():
        hit = [(r.id, t) for r in some for text in (*r.fields.values(), *r.options) for t in special if t in text]
        if hit:
            yield Finding(
                "warning",
                place,
                f'{len(hit)} texts contain a special token, such as {hit[0][1]} in row "{hit[0][0]}": the '
                "model would read it as one",
                "Remove it from the data",
            )
