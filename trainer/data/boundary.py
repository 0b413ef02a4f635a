"""Which tokens a word adds after a context, without tokenising the whole context again where that is provably safe.

Scoring asks for tokenize(context + word) once per label; done plainly, that is most of the tokenizer's work. Three
cuts are proven safe, and everything else takes the plain way:

1. Chat: the text from the last special token on. Special tokens are split off before anything else is done.
2. Byte-level BPE with one of the known splitting patterns (GPT-2, Llama 3, Qwen 2): a line break followed by an ASCII
   letter. No alternative of these patterns matches across it or looks past the letter, and none looks behind.
3. BPE over the whole text (Llama 2 style, no splitting): the last token t of the context. Merges are applied by rank,
   then position. Suppose tokenize(t + w) keeps the border between t and w. In context + w the first merge across
   either border of t would also be the first one in the context alone or in t + w alone, where it does not happen;
   so tokenize(context + w) = tokenize(context) + what w adds to t.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

_CASED = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KNOWN_PATTERNS = frozenset({_CASED % "", _CASED % "{1,3}"})  # Qwen 2, Llama 3; GPT-2's is built into ByteLevel
_SHORTEST_TAIL = 4  # characters: contractions such as 're look three ahead


class Boundary:
    """``added(context, last_id, word)`` for one tokenizer; ``backend`` is a ``tokenizers.Tokenizer``."""

    def __init__(self, backend: Any, chat_tail: str = ""):
        """``chat_tail``: the end of every chat context, from its last special token on; empty if there is none."""
        self.backend, self.chat_tail = backend, chat_tail
        tokens = backend.get_added_tokens_decoder()
        self._extra_ids = frozenset(tokens)
        self._extra = [t.content for t in tokens.values()]
        plain = not any(t.single_word for t in tokens.values())  # such a token depends on its neighbours
        first = [t for t in self._extra if t and chat_tail.startswith(t)]
        if not plain or any(t in other and t != other for t in first for other in self._extra):
            self.chat_tail = ""  # a longer token could hold the one that the tail begins with
        normal = all(not t.normalized for t in tokens.values())
        self._splits_known = plain and _splits_known(backend) and not any(_has_break(t) for t in self._extra)
        self._whole_text = plain and normal and _whole_text_bpe(backend)
        self._memo: dict[tuple[str, int, str], tuple[int, ...] | None] = {}
        self._joins: dict[str, bool] = {}  # (last character, first character) -> lies inside an added token
        self._holds: dict[str, bool] = {}  # word -> holds an added token

    def cut(self, context: str, last_id: int) -> tuple[str, int] | None:
        """What decides the tokens of the next word: (end of the context, -1), or ("", last token); None: all of it."""
        if self.chat_tail and context.endswith(self.chat_tail):
            return self.chat_tail, -1
        if self._splits_known:
            at = len(context) - _SHORTEST_TAIL
            while at > 0 and len(context) - at < 80:
                if context[at - 1] == "\n" and _letter(context[at]) and context[at:].isascii():
                    return context[at:], -1
                at -= 1
        if self._whole_text and last_id not in self._extra_ids and not self._byte_or_unknown(last_id):
            return "", last_id
        return None

    def added(self, context: str, cut: tuple[str, int], word: str) -> tuple[int, ...] | None:
        """Token ids that ``word`` adds; None where it changes the context's own tokens or that is not provable."""
        if cut[1] >= 0 and self._has_extra(word):
            return None
        pair = context[-1:] + word[:1]
        if pair not in self._joins:  # may an added token such as </s> arise across the border?
            self._joins[pair] = any(pair in t for t in self._extra)
        if self._joins[pair]:
            return None
        key = (*cut, word)
        if key not in self._memo:
            tail, last_id = cut
            if last_id < 0:
                before = self._encode(tail)
                after = self._encode(tail + word)
            else:
                before = [last_id]
                text = self.backend.id_to_token(last_id) + word.replace(" ", "▁")
                after = [t.id for t in self.backend.model.tokenize(text)]
            self._memo[key] = tuple(after[len(before) :]) if after[: len(before)] == before else None
        return self._memo[key]

    def _has_extra(self, word: str) -> bool:
        if word not in self._holds:
            self._holds[word] = any(t in word for t in self._extra)
        return self._holds[word]

    def _encode(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def _byte_or_unknown(self, token_id: int) -> bool:
        text = self.backend.id_to_token(token_id)
        return text is None or text == self.backend.model.unk_token or (text.startswith("<0x") and text.endswith(">"))


def _letter(c: str) -> bool:
    return c.isascii() and c.isalpha()


def _has_break(text: str) -> bool:
    return any(a == "\n" and _letter(b) for a, b in itertools.pairwise(text))


def _state(part: Any) -> dict[str, Any]:
    return {} if part is None else json.loads(part.__getstate__())


def _plain_bpe(backend: Any) -> bool:
    return type(backend.model).__name__ == "BPE" and not backend.model.dropout


def _splits_known(backend: Any) -> bool:
    if not _plain_bpe(backend) or _state(backend.normalizer).get("type") not in (None, "NFC"):
        return False
    outer = _state(backend.pre_tokenizer)
    steps = outer.get("pretokenizers", [outer]) if outer else []
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return False
    if len(steps) == 1:
        return bool(steps[0].get("use_regex", True))
    split = steps[0]
    known = (
        split.get("pattern", {}).get("Regex") in KNOWN_PATTERNS
        and split.get("behavior") == "Isolated"
        and not split.get("invert")
    )
    return len(steps) == 2 and split.get("type") == "Split" and known and not steps[1].get("use_regex", True)


def _whole_text_bpe(backend: Any) -> bool:
    model = backend.model
    if not _plain_bpe(backend) or backend.pre_tokenizer is not None or getattr(model, "ignore_merges", False):
        return False
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    outer = _state(backend.normalizer)
    steps = outer.get("normalizers", [outer]) if outer else []
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return bool(steps) and steps[-1] == spaces and all(s == {"type": "Prepend", "prepend": "▁"} for s in steps[:-1])
