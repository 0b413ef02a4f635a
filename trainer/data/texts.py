"""Prompt and row to text: what the model reads up to the answer, and the words that it may answer with.

Plain:  system, blank line, prompt, marker; then the word.
Chat:   what a server makes of the messages: the chat template up to the assistant's turn. Then the answer as the same
        template writes one: some put a space or a closed, empty thought before the word. A marker other than the plain
        default starts the answer (a prefill).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from trainer.data.chat_date import pinned, random_part
from trainer.data.rows import Row
from trainer.data.wording import Prompt, fill
from trainer.errors import UserError, nearest
from trainer.trial import Task, Template

PLAIN_MARKER = next(f.default for f in dataclasses.fields(Template) if f.name == "marker")
_PROBE, _ANSWER = "steadytune probe", "steadytune answer"  # stand for both when a chat template is taken apart


_GIVEN = {
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "raise_exception",
    "strftime_now",
    "namespace",
    "range",
}


THINKING = ("enable_thinking", "thinking")  # options of chat templates: Qwen 3 and Gemma 4, DeepSeek V3.1
_LAST_TAG = re.compile(r"<[^<>]+>\s*$")


def _opens(question_tail: str) -> bool:
    return question_tail.rfind("<think>") > question_tail.rfind("</think>")


class _GenerationTag(Extension):
    """``{% generation %}``, with which transformers lets a template mark what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja's own extensions have it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class RenderError(UserError):
    """A template, prompt, row and tokenizer that do not go together."""


@dataclass(frozen=True)
class Context:
    """The text before the answer, and the character ranges of it that came from the row."""

    text: str
    spans: list[tuple[int, int]]


Pair = tuple[Prompt, Row]


def answer_words(template: Template, task: Task) -> list[str]:
    """What the model answers for each label of the task, without spaces; empty where each row has its own options."""
    words = dict(template.words)
    return [words.get(label, label).strip() for label in task.labels]


class TextRenderer:
    """Texts for one tokenizer's chat template, one template and one task. Raises ``RenderError``.

    ``chat_tail`` is what every chat ends with, from the user's text on, ``lead`` what the chat template writes between
    the question and the answer's word, ``end`` what it writes after the word, ``prefilled`` the beginning of the answer
    that the marker gives, and ``thought_end`` what closes a thought that the model writes before it answers. All are
    empty for a plain template. ``lead`` is None where the chat template writes a finished answer in a way that does not
    begin with the question: then the word follows the question at once."""

    def __init__(self, tokenizer: Any, template: Template, task: Task):
        self.tokenizer, self.template, self.task = tokenizer, template, task
        self._pinned = self._pinned_date() if template.chat else {}
        self._words = dict(template.words)
        self._shown_words: dict[str, str] = {}  # word -> as the chat template shows it
        self.prefilled = template.marker if template.chat and template.marker != PLAIN_MARKER else ""
        self._head, question_tail = self._frame() if template.chat else ("", "")
        self.lead, self.end = self._finished(question_tail) if template.chat else ("", "")
        self.thought_end = self._thought_end(question_tail) if template.chat else ""
        if self.thought_end and self.lead is None and _opens(question_tail):
            self.lead = self.thought_end  # training closes the thought that the question opens
        self.chat_tail = question_tail + self._before_prefill()

    def contexts(self, pairs: Sequence[Pair]) -> list[Context]:
        filled = [fill(prompt, row.fields, row.options) for prompt, row in pairs]
        if self.template.chat:
            chats = self._chats([_question(self.template, f.text) for f in filled])
            return [
                self._placed(chat + self._before_prefill(), f.text, f.spans, pair)
                for chat, f, pair in zip(chats, filled, pairs, strict=True)
            ]
        lead = f"{self.template.system}\n\n" if self.template.system else ""
        shift = len(lead)
        return [
            Context(lead + f.text + self.template.marker, [(a + shift, b + shift) for a, b in f.spans]) for f in filled
        ]

    def messages(self, prompt: Prompt, row: Row) -> list[dict[str, str]]:
        """The messages of which a server makes a chat's context, but for a prefilled answer."""
        return _question(self.template, fill(prompt, row.fields, row.options).text)

    def answers(self, row: Row) -> list[str]:
        """What follows the context for each of ``words``: the word, and before it what the chat template writes
        there, where no prefill holds that already."""
        before = "" if self.prefilled else self.lead or ""
        return [before + word for word in self.shown_words(row)]

    def shown_words(self, row: Row) -> list[str]:
        """``words`` as the chat template shows them."""
        return [self._shown(word) if self.template.chat else word for word in self.words(row)]

    def words(self, row: Row) -> list[str]:
        """The text of each answer, in the order of the task's labels or of the row's options.

        The template's own words are used as they are. A label without one, or an option, is its own word; in a plain
        template it gets a leading space, unless it or the marker brings one.
        """
        if self.task.labels:
            return [self._words[name] if name in self._words else self._spaced(name) for name in self.task.labels]
        if not row.options:
            raise RenderError(
                f'row "{row.id}" has no options and the task has no labels. Give task.labels, or task.options'
            )
        return [self._spaced(o) for o in row.options]

    def right(self, row: Row) -> int:
        """Position of the row's own answer among ``words``."""
        if not self.task.labels:
            return int(row.label)
        if row.label not in self.task.labels:
            raise RenderError(
                f'row "{row.id}": label "{row.label}" is no label of the task.{nearest(row.label, self.task.labels)}'
            )
        return self.task.labels.index(row.label)

    def _spaced(self, text: str) -> str:
        bare = self.template.chat or text[:1].isspace() or self.template.marker[-1:].isspace()
        return text if bare else " " + text

    def _chats(
        self,
        conversations: list[list[dict[str, str]]],
        generation: bool = True,
        options: tuple[tuple[str, Any], ...] | None = None,
    ) -> list[str]:
        given = dict(self.template.options if options is None else options)
        try:
            return list(
                self.tokenizer.apply_chat_template(
                    conversations, add_generation_prompt=generation, tokenize=False, **{**given, **self._pinned}
                )
            )
        except Exception as error:  # templates raise what they like
            if not getattr(self.tokenizer, "chat_template", None):
                hint = "the tokenizer has no chat template. Use chat: false, or a model with a chat template"
            elif self.template.system:
                hint = (
                    f"the chat template refuses these messages ({error}). "
                    "It may know no system role: put the system text before the user's text with system_role: user"
                )
            else:
                hint = f"the chat template refuses these messages ({error})"
            raise RenderError(f'template "{self.template.name}": {hint}') from error

    @property
    def is_dated(self) -> bool:
        """Whether the chat template writes the date, which is then the template's own."""
        return bool(self._pinned)

    def _pinned_date(self) -> dict[str, Any]:
        try:
            text = self.tokenizer.get_chat_template()
        except Exception:  # there is none, or several without a default: told when the first chat is rendered
            return {}
        drawn = random_part(text)
        if drawn:
            raise RenderError(
                f'template "{self.template.name}": the chat template uses "{drawn}", which gives another text each '
                "time. Use chat: false, or another chat template"
            )
        try:
            return pinned(text, self.template.date)
        except (TypeError, ValueError):
            raise RenderError(
                f'template "{self.template.name}": date = {self.template.date!r:.40} is no day, such as 2024-07-26'
            ) from None

    def known_options(self) -> set[str]:
        """What the chat template reads beyond what transformers itself gives it."""
        env = jinja2.Environment(extensions=["jinja2.ext.loopcontrols", _GenerationTag])
        tree = env.parse(self.tokenizer.get_chat_template())
        names = list(tree.find_all(nodes.Name))
        made = {n.name for n in names if n.ctx != "load"} | {m.name for m in tree.find_all(nodes.Macro)} | {"loop"}
        defined = [t.node for t in tree.find_all(nodes.Test) if t.name == "defined"]
        asked = {n.name for n in defined if isinstance(n, nodes.Name)}  # some templates give such a name a default
        return (({n.name for n in names} - made) | asked) - _GIVEN - set(self.tokenizer.special_tokens_map)

    def template_text(self) -> str:
        """A question with stand-ins for the system's and the user's text: what the chat template itself writes. Empty
        for a plain template."""
        if not self.template.chat:
            return ""
        bare = dataclasses.replace(self.template, system=_PROBE if self.template.system else "")
        return self._chats([_question(bare, _PROBE)])[0]

    def _finished(self, question_tail: str) -> tuple[str | None, str]:
        """What the chat template writes before and after the word of a finished answer.

        Compared from the user's text on: some templates show the system text only while the last message is the
        user's (Mistral)."""
        messages = [*_question(self.template, _PROBE), {"role": "assistant", "content": _ANSWER}]
        before, found, end = self._chats([messages], generation=False)[0].rpartition(_ANSWER)
        if not found:  # a template for one question only
            return None, ""
        _, _, between = before.rpartition(_PROBE)
        return (between[len(question_tail) :] if between.startswith(question_tail) else None), end

    def _thought_end(self, question_tail: str) -> str:
        """What closes the thought that the model writes before its answer; empty where it writes none.

        With the option that turns thinking off, templates close an empty thought in the question: its last tag is the
        ending. A question that opens a thought in any case is of DeepSeek R1's kind."""
        given = dict(self.template.options)
        if any(given.get(name) is True for name in THINKING):
            off = tuple((name, False if name in THINKING else value) for name, value in self.template.options)
            silent = self._chats([_question(self.template, _PROBE)], options=off)[0].rpartition(_PROBE)[2]
            closing = _LAST_TAG.search(silent[len(question_tail) :]) if silent.startswith(question_tail) else None
            return closing.group() if closing else ""
        return "</think>\n\n" if _opens(question_tail) else ""

    def _before_prefill(self) -> str:
        """What follows the question where the marker starts the answer: what the template writes before it, and it."""
        return (self.lead or "") + self.prefilled if self.prefilled else ""

    def _shown(self, word: str) -> str:
        """``word`` as the chat template shows it: some strip the spaces around it."""
        bare = word.strip()
        if not bare or bare == word or self.prefilled or self.lead is None:
            return word
        if word not in self._shown_words:
            messages = [*_question(self.template, _PROBE), {"role": "assistant", "content": word}]
            written = self._chats([messages], generation=False)[0]
            self._shown_words[word] = word if written.endswith(word + self.end) else bare
        return self._shown_words[word]

    def _frame(self) -> tuple[str, str]:
        """What stands before and after the user's text when it is the probe."""
        chat = self._chats([_question(self.template, _PROBE)])[0]
        head, found, tail = chat.rpartition(_PROBE)
        if not found:
            raise RenderError(
                f'template "{self.template.name}": the chat template does not show the user\'s text. Use chat: '
                "false, or another chat template"
            )
        return head, tail

    def _placed(self, chat: str, text: str, spans: list[tuple[int, int]], pair: Pair) -> Context:
        """The chat text with ``spans`` moved to where the filled prompt stands in it. An empty prompt has no spans."""
        if not text.strip():
            return Context(chat, [])
        at = len(self._head)
        for candidate in (text, text.strip()):
            cut = len(text) - len(text.lstrip()) if candidate != text else 0
            start = at if chat.startswith(self._head) and chat.startswith(candidate, at) else chat.rfind(candidate)
            if start >= 0 and candidate:
                moved = [(max(a - cut, 0) + start, min(b - cut, len(candidate)) + start) for a, b in spans]
                return Context(chat, [(a, b) for a, b in moved if a < b])
        raise RenderError(
            f'template "{self.template.name}", prompt "{pair[0].id}", row "{pair[1].id}": the chat template '
            "changes the prompt's text, so the row's "
            "part of it cannot be found. Use chat: false, or a chat template that shows the text as it is"
        )


def _question(template: Template, text: str) -> list[dict[str, str]]:
    """The messages before the answer."""
    system = template.system
    if system and template.system_role == "user":
        return [{"role": "user", "content": f"{system}\n\n{text}"}]
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": text}]
