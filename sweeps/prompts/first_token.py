"""The log-probabilities of an answer's first token, in the forms in which OpenAI-compatible servers send them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FirstToken:
    """``text`` is the token that the server took; ``top`` are the tokens that it names as the most probable ones, as
    (text, probability), the most probable one first. Two tokens may have the same text."""

    text: str
    top: tuple[tuple[str, float], ...]


def first_token(logprobs: Any) -> FirstToken | None:
    """What the ``logprobs`` of a choice say of the first token; None where they say nothing that can be read. Chat
    completions list tokens under ``content``; completions have the lists ``tokens`` and ``top_logprobs``, of which the
    latter holds a mapping for each token."""
    try:
        if content := logprobs.get("content"):
            taken = content[0]
            top = [(_text(t), _probability(t["logprob"])) for t in taken["top_logprobs"]]
            return _made(_text(taken), top)
        if logprobs.get("tokens") and logprobs.get("top_logprobs"):
            top = [(str(t), _probability(p)) for t, p in logprobs["top_logprobs"][0].items()]
            return _made(str(logprobs["tokens"][0]), top)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None
    return None


def _made(text: str, top: list[tuple[str, float]]) -> FirstToken | None:
    return FirstToken(text, tuple(sorted(top, key=lambda t: -t[1]))) if top else None


def _text(token: Any) -> str:
    """A token's text; of its bytes where they are a text, since some servers spell a space in their own way."""
    given = token.get("bytes")
    if isinstance(given, list) and given:
        try:
            return bytes(given).decode()
        except (ValueError, TypeError):  # a part of a character
            pass
    return str(token["token"])


def _probability(logprob: Any) -> float:
    found = math.exp(float(logprob))
    if not 0 <= found <= 1 + 1e-6:
        raise ValueError(logprob)
    return found
