"""Prompt and row to token ids: the only place where a tokenizer is called, for training and for scoring alike.

A context is the text up to the answer; a completion is the tokens an answer's word adds to it. Both come from
tokenising context + word, and the context's own tokens must come first in it: otherwise training and scoring would
see different ids, and that is an error here, not a silent loss of accuracy.

Plain:  system, blank line, prompt, marker | word, stop token.      The tokenizer's own first tokens (BOS) are added.
Chat:   the chat template up to the assistant's turn | word, stop.  The template brings its own BOS. A marker other
        than the plain default starts the answer (a prefill).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.boundary import Boundary
from trainer.data.kinds import COMPLETION, CONTENT, TEMPLATE
from trainer.data.rows import Row
from trainer.data.wording import Prompt, fill
from trainer.errors import UserError, nearest
from trainer.trial import Model, Task, Template

PLAIN_MARKER = next(f.default for f in dataclasses.fields(Template) if f.name == "marker")
_PROBE = "steadytune probe"  # stands for the prompt, or the answer, when a chat template is taken apart
_CHUNK = 4096  # texts per tokenizer call, to bound memory


class RenderError(UserError):
    """A template, prompt, row and tokenizer that do not go together."""


@dataclass(frozen=True)
class Example:
    """One training sequence of L tokens. ``kinds``: 0 template, 1 row content, 2 completion (stop token included).

    A token is content where at least half of its characters came from the row.
    """

    row_id: str
    prompt_id: str
    ids: NDArray[np.int32]  # [L]
    kinds: NDArray[np.int8]  # [L]


@dataclass(frozen=True)
class Request:
    """One row to score. ``options``: each label's (or option's) tokens, in order, without the stop token."""

    row_id: str
    prompt_id: str
    label: str  # the right label, or the right option's number as text
    context: NDArray[np.int32]  # [n]; the same ids as the start of the training sequence
    options: tuple[NDArray[np.int32], ...]  # [k_i] each
    option_bytes: tuple[int, ...]  # UTF-8 bytes of each answer, surrounding spaces not counted


@dataclass(frozen=True)
class Context:
    """The text before the answer, and the character ranges of it that came from the row."""

    text: str
    spans: list[tuple[int, int]]


Pair = tuple[Prompt, Row]


class Renderer:
    """Renders for one tokenizer, template and task. Raises ``RenderError``.

    ``stop_id`` is the token trained after the word; ``stop_ids`` are all at which generation should stop.
    """

    def __init__(self, tokenizer: Any, template: Template, task: Task):
        if not getattr(tokenizer, "is_fast", False):
            raise RenderError(
                f"tokenizer {_name(tokenizer)} has no fast version, which tells characters from tokens. "
                "Convert it to tokenizer.json"
            )
        self.tokenizer, self.template, self.task = tokenizer, template, task
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._added = dict(self._backend.get_added_tokens_decoder())  # id -> token; a copy, made once
        self._words = dict(template.words)
        self._head, tail = "", ""
        if template.chat:
            self._head, tail = self._frame()
        self.prefix: tuple[int, ...] = () if template.chat else self._added_in_front()
        self.stop_ids = self._find_stops()
        self.stop_id = self.stop_ids[0]
        self._boundary = Boundary(self._backend, self._from_last_special(tail))

    # one by one, and in batches -------------------------------------------------------------------------------

    def example(self, prompt: Prompt, row: Row) -> Example:
        return self.examples([(prompt, row)])[0]

    def request(self, prompt: Prompt, row: Row) -> Request:
        return self.requests([(prompt, row)])[0]

    def examples(self, pairs: Sequence[Pair]) -> list[Example]:
        found: list[Example] = []
        too_long: list[tuple[int, Pair]] = []
        for chunk in _chunks(pairs):
            contexts = self.contexts(chunk)
            encoded = self._backend.encode_batch([c.text for c in contexts], add_special_tokens=False)
            ids = [[*self.prefix, *e.ids] for e in encoded]
            words = [[self.words(row)[self.right(row)]] for _, row in chunk]
            for pair, context, code, front, (answer,) in zip(
                chunk, contexts, encoded, ids, self._answers(chunk, contexts, ids, words), strict=True
            ):
                full = np.array([*front, *answer, self.stop_id], dtype=np.int32)
                kinds = np.full(len(full), COMPLETION, dtype=np.int8)
                kinds[: len(self.prefix)] = TEMPLATE
                kinds[len(self.prefix) : len(front)] = _kinds(code.offsets, context)
                self._note_length(len(full), pair, too_long)
                found.append(Example(pair[1].id, pair[0].id, full, kinds))
        self._refuse_long(too_long, len(pairs))
        return found

    def requests(self, pairs: Sequence[Pair]) -> list[Request]:
        found: list[Request] = []
        too_long: list[tuple[int, Pair]] = []
        for chunk in _chunks(pairs):
            contexts = self.contexts(chunk)
            ids = [
                [*self.prefix, *e.ids]
                for e in self._backend.encode_batch_fast([c.text for c in contexts], add_special_tokens=False)
            ]
            words = [self.words(row) for _, row in chunk]
            for pair, front, texts, answers in zip(
                chunk, ids, words, self._answers(chunk, contexts, ids, words), strict=True
            ):
                # With the stop token, as in training: a row that can be trained on can be scored, and the reverse.
                self._note_length(len(front) + max(map(len, answers)) + 1, pair, too_long)
                options = tuple(np.array(a, dtype=np.int32) for a in answers)
                sizes = tuple(len(t.strip().encode()) for t in texts)
                found.append(
                    Request(pair[1].id, pair[0].id, pair[1].label, np.array(front, dtype=np.int32), options, sizes)
                )
        self._refuse_long(too_long, len(pairs))
        return found

    def lengths(self, pairs: Sequence[Pair]) -> list[int]:
        """Tokens each pair needs: context, longest answer, stop token. Checks no limit."""
        found: list[int] = []
        for chunk in _chunks(pairs):
            contexts = self.contexts(chunk)
            ids = [
                [*self.prefix, *e.ids]
                for e in self._backend.encode_batch_fast([c.text for c in contexts], add_special_tokens=False)
            ]
            answers = self._answers(chunk, contexts, ids, [self.words(row) for _, row in chunk])
            found += [len(i) + max(map(len, a)) + 1 for i, a in zip(ids, answers, strict=True)]
        return found

    def token_texts(self, ids: Sequence[int] | NDArray[np.int32] | Example) -> list[str]:
        """Each token as text, for display; joined they read as the sequence, but for characters split over tokens."""
        return [self._token_text(int(i)) for i in (ids.ids if isinstance(ids, Example) else ids)]

    # texts --------------------------------------------------------------------------------------------------------

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

        Given words are used as they are. A label or option that answers as itself gets one leading space in a plain
        template, unless it or the marker brings one.
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
                self.tokenizer.apply_chat_template(conversations, add_generation_prompt=generation, tokenize=False)
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
        """The chat text with ``spans`` moved to where the filled prompt stands in it. An empty one stands nowhere."""
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

    # tokens -------------------------------------------------------------------------------------------------------

    def _answers(
        self, pairs: Sequence[Pair], contexts: Sequence[Context], ids: Sequence[list[int]], words: Sequence[list[str]]
    ) -> list[list[Sequence[int]]]:
        """Token ids that each word adds to its context."""
        answers: list[list[Sequence[int]]] = []
        unproven: list[tuple[int, int]] = []
        for i, (context, front, texts) in enumerate(zip(contexts, ids, words, strict=True)):
            if len(front) <= len(self.prefix):
                raise RenderError(
                    f'template "{self.template.name}", prompt "{pairs[i][0].id}", row "{pairs[i][1].id}": the '
                    "prompt gives no tokens"
                )
            cut = self._boundary.cut(context.text, front[-1])
            row: list[Sequence[int]] = []
            for k, word in enumerate(texts):
                added = self._boundary.added(context.text, cut, word) if cut and word else None
                if added is None:
                    unproven.append((i, k))
                row.append(added or ())
            answers.append(row)
        if unproven:
            texts_ = [contexts[i].text + words[i][k] for i, k in unproven]
            for (i, k), code in zip(
                unproven, self._backend.encode_batch_fast(texts_, add_special_tokens=False), strict=True
            ):
                full, n = [*self.prefix, *code.ids], len(ids[i])
                if full[:n] != ids[i] or len(full) == n:
                    raise self._boundary_error(pairs[i], contexts[i].text, ids[i], words[i][k], full)
                answers[i][k] = full[n:]
        return answers

    def _boundary_error(self, pair: Pair, context: str, ids: list[int], word: str, full: list[int]) -> RenderError:
        place = f'template "{self.template.name}", prompt "{pair[0].id}", row "{pair[1].id}"'
        if len(full) == len(ids) and full == ids:
            return RenderError(f"{place}: the answer {word!r} gives no tokens. Give the label a word")
        same = next((i for i, (a, b) in enumerate(zip(ids, full, strict=False)) if a != b), min(len(ids), len(full)))
        start = max(0, same - 1)
        alone, joined = self.token_texts(ids[start:]), self.token_texts(full[start:])
        if context[-1:].isspace() and not context.endswith("\n"):
            fix = "End the marker without a space, and begin the label word with one"
        elif not word[:1].isspace():
            fix = f"Begin the label word with a space: {' ' + word!r}"
        else:
            fix = "Change the marker's last character or the word's first one"
        return RenderError(
            f"{place}: the answer {word!r} changes the tokens before it: … {alone} becomes … {joined}. {fix}"
        )

    def _added_in_front(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text (BOS). What it would append (EOS) is left to ``stop_id``."""
        with_, without = self.tokenizer("a").input_ids, self.tokenizer("a", add_special_tokens=False).input_ids
        at = next(i for i in range(len(with_)) if with_[i : i + len(without)] == without)
        return tuple(with_[:at])

    def _find_stops(self) -> tuple[int, ...]:
        stops = []
        if self.template.chat:
            messages = [*self._system(), {"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
            tail = self._chats([messages], generation=False)[0].rpartition(_PROBE)[2]
            special = set(self.tokenizer.all_special_ids) | {i for i, t in self._added.items() if t.special}
            stops = [i for i in self._backend.encode(tail, add_special_tokens=False).ids if i in special][:1]
        eos = self.tokenizer.eos_token_id
        stops += [eos] if eos is not None and eos not in stops else []
        if not stops:
            raise RenderError(
                f"tokenizer {_name(self.tokenizer)} has no end-of-sequence token, so no answer could end. Set "
                "eos_token in its tokenizer_config.json"
            )
        return tuple(stops)

    def _from_last_special(self, tail: str) -> str:
        places = [
            (tail.rfind(t.content), t.content)
            for t in self._added.values()
            if t.special and not t.normalized and t.content
        ]
        at = max((p for p, _ in places), default=-1)
        return tail[at:] if at >= 0 else ""

    def _token_text(self, token_id: int) -> str:
        token = self._backend.id_to_token(token_id)
        if token is None or token_id in self._added:
            return token or f"<{token_id}>"
        if "▁" in token:
            return str(token.replace("▁", " "))
        return str(self._backend.decode([token_id], skip_special_tokens=False)) if self._backend.decoder else str(token)

    def _note_length(self, length: int, pair: Pair, too_long: list[tuple[int, Pair]]) -> None:
        if length > self.task.max_length:
            too_long.append((length, pair))

    def _refuse_long(self, too_long: list[tuple[int, Pair]], n: int) -> None:
        """Nothing is ever cut off: a cut could take the answer or the question away."""
        if too_long:
            length, (prompt, row) = max(too_long, key=lambda t: t[0])
            raise RenderError(
                f'template "{self.template.name}": {len(too_long)} of {n} sequences are longer than '
                f"task.max_length = {self.task.max_length}. "
                f'The longest has {length} tokens (prompt "{prompt.id}", row "{row.id}"). Set '
                f"task.max_length={length}, or shorten the field in the prompt: {{{{ text[:500] }}}}"
            )


def load_tokenizer(model: Model) -> Any:
    """The model's fast tokenizer, with a padding token (EOS where it has none of its own)."""
    from transformers import AutoTokenizer  # slow to import

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as error:  # transformers raises many kinds
        detail = " ".join(str(error).split())[:300]
        raise RenderError(
            f'model.path = "{model.path}": no tokenizer can be loaded ({type(error).__name__}: {detail}). Give '
            "a folder with tokenizer.json, or a hub name"
        ) from error
    if not tokenizer.is_fast:
        raise RenderError(
            f'model.path = "{model.path}": the tokenizer has no fast version. Convert it to tokenizer.json'
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _kinds(offsets: Sequence[tuple[int, int]], context: Context) -> NDArray[np.int8]:
    """Kind per token of the context: content where row characters make up at least half of the token's."""
    inside = np.zeros(len(context.text) + 1, dtype=np.int32)
    for a, b in context.spans:
        inside[a + 1 : b + 1] = 1
    covered = np.cumsum(inside)  # row characters before each position
    ends = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    size = ends[:, 1] - ends[:, 0]
    share = covered[ends[:, 1]] - covered[ends[:, 0]]
    return np.where((size > 0) & (2 * share >= size), CONTENT, TEMPLATE).astype(np.int8)


def _chunks(pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    for start in range(0, len(pairs), _CHUNK):
        yield pairs[start : start + _CHUNK]


def _name(tokenizer: Any) -> str:
    return f'"{getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__}"'
