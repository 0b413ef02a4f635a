"""The writers of new wordings for BATprompt: an interface, and the writer that asks a language model.

(``trainer.data.rewrites.RuleWriter`` is the writer that needs no model.) A ``Generator`` is any function from a request
to texts.
``ModelWriter`` sends BATprompt's requests to a generator, reads the texts in its reply, and keeps each reply in the
journal, so that a search that is continued asks nothing twice.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sweeps.prompt_search.journal import SearchJournal, WriterReply
from sweeps.prompt_search.scorer import Spent
from trainer.trial import digest

Generator = Callable[[str], list[str]]

STRATEGIES = {
    "C1": "Make a few typing errors in it: letters dropped, doubled, swapped or hit beside.",
    "C2": "Change single letters in a few of its words.",
    "C3": "Add up to five characters without meaning at its end.",
    "S1": "Add a handle such as @q7RtZ0, made up anew each time, at its end.",
    "W1": "Replace some words by synonyms.",
    "W2": "Leave out words that are not needed to understand it.",
    "W3": "Add at most four neutral words that change nothing.",
    "S2": "Say the same in other words.",
    "S3": "Keep the words where you can and change the structure of the sentences.",
}


class Writer(Protocol):
    """``n`` is the number of texts wanted; a writer may give fewer. The same arguments give the same texts."""

    name: str

    def perturb(self, text: str, strategy: str, n: int, seed: int) -> list[str]: ...

    def guidance(self, pairs: Sequence[tuple[str, str]], seed: int) -> str: ...

    def improve(self, prompt: str, guidance: str, n: int, seed: int) -> list[str]: ...

    def paraphrase(self, prompt: str, n: int, seed: int) -> list[str]: ...


class ModelWriter:
    """``name`` identifies the model and its settings in the journal. Where the generator has an attribute ``tokens``
    that grows with each call, the budget report shows the tokens."""

    def __init__(self, generate: Generator, name: str, journal: SearchJournal, spent: Spent):
        self.generate, self.name, self.journal, self.spent = generate, name, journal, spent

    def perturb(self, text: str, strategy: str, n: int, seed: int) -> list[str]:
        return self._texts(
            f"Rewrite the text {n} times. {STRATEGIES[strategy]} Keep its meaning, so that a reader gives it the same "
            f"label, but make it harder for a language model.{_FORMAT}\n\nText:\n{text}",
            n,
            seed,
        )

    def guidance(self, pairs: Sequence[tuple[str, str]], seed: int) -> str:
        shown = "\n\n".join(f"Original: {a}\nPerturbed: {b}" for a, b in pairs)
        listed = self._ask(f"List how each perturbed text differs from its original.\n\n{shown}", seed)
        return self._ask(
            "Sum up in three sentences what these differences have in common, for somebody who writes an instruction "
            f"that must work in spite of them.\n\n{listed}",
            seed,
        ).strip()

    def improve(self, prompt: str, guidance: str, n: int, seed: int) -> list[str]:
        return self._texts(
            f"Inputs of the instruction below come with such changes: {guidance}\n\nWrite {n} better versions of the "
            f"instruction that still work then. {_KEEP}{_FORMAT}\n\nInstruction:\n{prompt}",
            n,
            seed,
        )

    def paraphrase(self, prompt: str, n: int, seed: int) -> list[str]:
        return self._texts(
            f"Write the instruction below in {n} other ways with the same meaning. {_KEEP}{_FORMAT}"
            f"\n\nInstruction:\n{prompt}",
            n,
            seed,
        )

    def _texts(self, request: str, n: int, seed: int) -> list[str]:
        return texts_of(self._ask(request, seed))[:n]

    def _ask(self, request: str, seed: int) -> str:
        """The generator's texts for one request, joined by line breaks."""
        key = digest([self.name, request, seed])
        if key not in self.journal.written:
            start, before = time.perf_counter(), getattr(self.generate, "tokens", None)
            texts = tuple(str(t) for t in self.generate(request))
            after = getattr(self.generate, "tokens", None)
            tokens = None if before is None or after is None else int(after - before)
            self.journal.add_written(key, WriterReply(texts, tokens, time.perf_counter() - start))
        reply = self.journal.written[key]
        self.spent.add_written(reply)
        return "\n".join(reply.texts)


_KEEP = "Keep everything in double or single braces, such as {{ text }}, exactly as it is."
_FORMAT = " Answer with a JSON list of strings and nothing else."
_BULLET = re.compile(r"^\s*(?:\d+[.):]|[-*•])\s+")


def texts_of(answer: str) -> list[str]:
    """The texts in a model's answer, each once and in order. If the answer holds JSON lists of strings, these are the
    texts; else every line is one, without its number, bullet or enclosing quotes."""
    found: list[str] = []
    decoder = json.JSONDecoder()
    at = answer.find("[")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(answer, at)
        except ValueError:
            value, end = None, at + 1
        if _is_texts(value):
            found += value
        at = answer.find("[", end)
    if not found:
        lines = (_BULLET.sub("", line).strip() for line in answer.splitlines())
        found = [line[1:-1] if len(line) > 1 and line[0] == line[-1] and line[0] in "\"'" else line for line in lines]
    return list(dict.fromkeys(t.strip() for t in found if t.strip()))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


class ChatGenerator:
    """A Generator that asks a chat model (``endpoints.Endpoint`` or ``local_writer.LocalModel``) and counts the tokens
    of its answers. ``seed`` is the search's."""

    def __init__(self, model: Any, seed: int = 0):
        self.model, self.seed, self.tokens = model, seed, 0

    def __call__(self, request: str) -> list[str]:
        answer = self.model.write([{"role": "user", "content": request}], self.seed)
        self.tokens += (answer.prompt_tokens or 0) + (answer.completion_tokens or 0)
        return [answer.text]
