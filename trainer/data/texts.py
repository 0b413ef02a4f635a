"""Prompt and row to text: what the model reads up to the answer, and the words that it may answer with.

Plain:  system, blank line, prompt, marker.
Chat:   the chat template up to the assistant's turn. A marker other than the plain default starts the answer (a
        prefill).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer.data.chat_date import pinned, random_part
from trainer.data.rows import Row
from trainer.data.wording import Prompt, fill
from trainer.errors import UserError, nearest
from trainer.trial import Task, Template

PLAIN_MARKER = next(f.default for f in dataclasses.fields(Template) if f.name == "marker")
_PROBE = "steadytune probe"  # stands for the prompt, or the answer, when a chat template is taken apart


class RenderError(UserError):
    """A template, prompt, row and tokenizer that do not go together."""


@dataclass(frozen=True)
class Context:
    """The text before the answer, and the character ranges of it that came from the row."""

    text: str
    spans: list[tuple[int, int]]


Pair = tuple[Prompt, Row]


class TextRenderer:
    """Texts for one tokenizer's chat template, one template and one task. Raises ``RenderError``.

    ``chat_tail`` is what every chat ends with, from the user's text on; empty for a plain template."""

    def __init__(self, tokenizer: Any, template: Template, task: Task):
        self.tokenizer, self.template, self.task = tokenizer, template, task
        self._pinned = self._pinned_date() if template.chat else {}
        self._words = dict(template.words)
        self._head, self.chat_tail = self._frame() if template.chat else ("", "")

    def contexts(self, pairs: Sequence[Pair]) -> list[Context]:
        filled = [fill(prompt, row.fields, row.options) for prompt, row in pairs]
        if self.template.chat:
            chats = self._chats([[*self._system(), {"role": "user", "content": f.text}] for f in filled])
            prefill = "" if self.template.marker == PLAIN_MARKER else self.template.marker
            return [
                self._placed(chat + prefill, f.text, f.spans, pair)
                for chat, f, pair in zip(chats, filled, pairs, strict=True)
            ]
        lead = f"{self.template.system}\n\n" if self.template.system else ""
        shift = len(lead)
        return [
            Context(lead + f.text + self.template.marker, [(a + shift, b + shift) for a, b in f.spans]) for f in filled
        ]

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

    def _system(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.template.system}] if self.template.system else []

    def _chats(self, conversations: list[list[dict[str, str]]], generation: bool = True) -> list[str]:
        try:
            return list(
                self.tokenizer.apply_chat_template(
                    conversations, add_generation_prompt=generation, tokenize=False, **self._pinned
                )
            )
        except Exception as error:  # templates raise what they like
            if not getattr(self.tokenizer, "chat_template", None):
                hint = "the tokenizer has no chat template. Use chat: false, or a model with a chat template"
            elif self.template.system:
                hint = (
                    f"the chat template refuses these messages ({error}). "
                    "It may know no system role: leave `system` empty and put its text into the prompts"
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

    def chat(self, messages: Sequence[dict[str, str]], generation: bool) -> str:
        """``messages`` as the chat template writes them, with or without the beginning of the next answer."""
        return self._chats([list(messages)], generation)[0]

    def after_answer(self) -> str:
        """What the chat template writes after the assistant's answer."""
        messages = [*self._system(), {"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
        return self._chats([messages], generation=False)[0].rpartition(_PROBE)[2]

    def _frame(self) -> tuple[str, str]:
        """What stands before and after the user's text when it is the probe."""
        chat = self._chats([[*self._system(), {"role": "user", "content": _PROBE}]])[0]
        head, found, tail = chat.rpartition(_PROBE)
        if not found:
            raise RenderError(
                f'template "{self.template.name}": the chat template does not show the user\'s text. Use chat: '
                "false, or another chat template"
            )
        return head, tail + ("" if self.template.marker == PLAIN_MARKER else self.template.marker)

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
