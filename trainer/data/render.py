"""Prompt and row to token ids: the only place where a tokenizer is called, for training and for scoring alike.

A context is the tokens of the question alone, as a server makes them; a completion is the tokens that an answer adds to
it. Where the tokens of question + answer begin with the question's, the rest is the answer. Where they do not (the
question ends with a space that the answer's first token would take in), the answer is tokenised behind a neutral
anchor, and refused if the tokens of both together do not read as the text. So a model that is served meets the ids that
it was trained and scored with.

The texts are those of ``trainer.data.texts``. A plain context begins with the tokenizer's own first tokens (BOS); a
chat template writes its own. In training the answer's word is followed by the stop token.
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
from trainer.data.texts import Context, Pair, RenderError, TextRenderer
from trainer.data.wording import Prompt
from trainer.trial import Task, Template

_CHUNK = 4096  # texts per tokenizer call, to bound memory


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
    words: tuple[str, ...] = ()  # the answers' words, where a thought will stand before them


class Renderer:
    """Renders for one tokenizer, template and task. Raises ``RenderError``.

    ``stop_id`` is the token trained after the word; ``stop_ids`` are all at which generation should stop;
    ``written_ids`` are the tokens of a question with stand-ins for the texts; ``anchored`` are the answers that would
    change the question's last tokens, and are tokenised on their own. ``thought_end`` are the tokens that close a
    thought, empty where the model writes none before its answer, and ``closing_tag`` those of it without white space.
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
        rows = getattr(tokenizer, "embedding_rows", None)
        self._rows = rows if rows is not None and rows < len(tokenizer) else None  # None: the model knows every token
        self._added = dict(self._backend.get_added_tokens_decoder())  # id -> token; a copy, made once
        self._anchored: dict[tuple[int, str], list[int]] = {}  # (question's last token, answer) -> the answer's tokens
        self.texts = TextRenderer(tokenizer, template, task)
        self.prefix: tuple[int, ...] = () if template.chat else self._added_in_front()
        self.stop_ids = self._find_stops()
        self.stop_id = self.stop_ids[0]
        self.written_ids = [
            *self.prefix,
            *self._backend.encode(self.texts.template_text(), add_special_tokens=False).ids,
        ]
        self.thought_end = self._encode(self.texts.thought_end)
        self.closing_tag = self._encode(self.texts.thought_end.strip())
        self._boundary = Boundary(self._backend, self._from_last_special(self.texts.chat_tail))

    @property
    def anchored(self) -> list[str]:
        return list(dict.fromkeys(answer for (_, answer), added in self._anchored.items() if added))

    # one by one, and in batches -------------------------------------------------------------------------------

    def example(self, prompt: Prompt, row: Row) -> Example:
        return self.examples([(prompt, row)])[0]

    def request(self, prompt: Prompt, row: Row) -> Request:
        return self.requests([(prompt, row)])[0]

    def examples(self, pairs: Sequence[Pair]) -> list[Example]:
        found: list[Example] = []
        too_long: list[tuple[int, Pair]] = []
        for chunk in _chunks(pairs):
            contexts = self.texts.contexts(chunk)
            encoded = self._backend.encode_batch([c.text for c in contexts], add_special_tokens=False)
            ids = [[*self.prefix, *e.ids] for e in encoded]
            words = [[self.texts.answers(row)[self.texts.right(row)]] for _, row in chunk]
            for pair, context, code, front, (answer,) in zip(
                chunk, contexts, encoded, ids, self._answers(chunk, contexts, ids, words), strict=True
            ):
                full = np.array([*front, *answer, self.stop_id], dtype=np.int32)
                self._refuse_unknown(full.tolist(), pair)
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
            contexts = self.texts.contexts(chunk)
            ids = [
                [*self.prefix, *e.ids]
                for e in self._backend.encode_batch_fast([c.text for c in contexts], add_special_tokens=False)
            ]
            answer_texts = [self.texts.answers(row) for _, row in chunk]
            words = [self.texts.words(row) for _, row in chunk]
            for pair, front, texts, answers in zip(
                chunk, ids, words, self._answers(chunk, contexts, ids, answer_texts), strict=True
            ):
                for answer in answers:
                    self._refuse_unknown([*front, *answer], pair)
                # With the stop token, as in training: a row that can be trained on can be scored, and the reverse.
                self._note_length(len(front) + max(map(len, answers)) + 1, pair, too_long)
                options = tuple(np.array(a, dtype=np.int32) for a in answers)
                sizes = tuple(len(t.strip().encode()) for t in texts)
                context = np.array(front, dtype=np.int32)
                later = tuple(self.texts.shown_words(pair[1])) if self.thought_end else ()
                found.append(Request(pair[1].id, pair[0].id, pair[1].label, context, options, sizes, later))
        self._refuse_long(too_long, len(pairs))
        return found

    def lengths(self, pairs: Sequence[Pair]) -> list[int]:
        """Tokens each pair needs: context, longest answer, stop token. Checks no limit."""
        found: list[int] = []
        for chunk in _chunks(pairs):
            contexts = self.texts.contexts(chunk)
            ids = [
                [*self.prefix, *e.ids]
                for e in self._backend.encode_batch_fast([c.text for c in contexts], add_special_tokens=False)
            ]
            answers = self._answers(chunk, contexts, ids, [self.texts.answers(row) for _, row in chunk])
            for pair, front, options in zip(chunk, ids, answers, strict=True):
                self._refuse_unknown([*front, *(i for answer in options for i in answer)], pair)
            found += [len(i) + max(map(len, a)) + 1 for i, a in zip(ids, answers, strict=True)]
        return found

    def behind(self, request: Request, thought: Sequence[int]) -> Request:
        """``request`` with ``thought`` at the end of its context, and its answers' words behind it."""
        words = tuple(np.array(a, dtype=np.int32) for a in map(self._after_thought, request.words))
        context = np.concatenate([request.context, np.array(thought, dtype=np.int32)])
        return dataclasses.replace(request, context=context, options=words)

    def _after_thought(self, word: str) -> list[int]:
        before, both = list(self.thought_end), self._encode(self.texts.thought_end + word)
        ids = both[len(before) :] if both[: len(before)] == before else self._behind_anchor(before, word)
        if not ids:
            raise RenderError(
                f'template "{self.template.name}": the answer {word!r} cannot follow a thought. Change its first '
                "character"
            )
        return ids

    def token_texts(self, ids: Sequence[int] | NDArray[np.int32] | Example) -> list[str]:
        """Each token as text, for display; joined they read as the sequence, but for characters split over tokens."""
        return [self._token_text(int(i)) for i in (ids.ids if isinstance(ids, Example) else ids)]

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
                rest = full[n:] if full[:n] == ids[i] else self._behind_anchor(ids[i], words[i][k])
                if not rest:
                    raise self._boundary_error(pairs[i], contexts[i].text, ids[i], words[i][k], full)
                answers[i][k] = rest
        return answers

    def _behind_anchor(self, question: list[int], answer: str) -> list[int]:
        """The answer's tokens where they would change the question's last ones: those that it has behind a text that no
        token joins with it. Empty where question and answer in tokens do not read as they do in text."""
        key = (question[-1], answer)
        if key not in self._anchored:
            self._anchored[key] = next(self._anchored_ids(question[-1], answer), [])
        return self._anchored[key]

    def _anchored_ids(self, last: int, answer: str) -> Iterator[list[int]]:
        whole = [t.content for t in self._added.values() if t.special and t.content and not (t.normalized or t.rstrip)]
        for anchor in (*whole[-1:], "\n"):
            before = self._backend.encode(anchor, add_special_tokens=False).ids
            both = self._backend.encode(anchor + answer, add_special_tokens=False).ids
            added = both[len(before) :]
            reads = self._decode([last, *added]) == self._decode([last]) + answer
            if both[: len(before)] == before and added and reads:
                yield added

    def _encode(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

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
            special = set(self.tokenizer.all_special_ids) | {i for i, t in self._added.items() if t.special}
            stops = [i for i in self._backend.encode(self.texts.end, add_special_tokens=False).ids if i in special][:1]
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

    def _refuse_unknown(self, ids: Sequence[int], pair: Pair) -> None:
        """A token for which the embedding has no row is an IndexError on a CPU, and ends a GPU's process."""
        if self._rows is None or max(ids) < self._rows:
            return
        unknown = max(ids)
        raise RenderError(
            f'template "{self.template.name}", prompt "{pair[0].id}", row "{pair[1].id}": the token '
            f"{self._token_text(unknown)!r} has the id {unknown}, but the model's embedding has {self._rows} rows "
            f"(ids to {self._rows - 1}). Use the tokenizer that belongs to this model, or a template and texts without "
            "that token"
        )

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
