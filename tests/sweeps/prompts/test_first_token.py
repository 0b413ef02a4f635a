"""The log-probabilities of a first token, in the forms in which servers send them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sweeps.prompts.first_token import FirstToken, first_token

YES, NO = math.log(0.75), math.log(0.25)
FOUND = FirstToken("no", (("yes", pytest.approx(0.75)), ("no", pytest.approx(0.25))))


def test_of_chat_completions() -> None:
    top = [{"token": "no", "logprob": NO}, {"token": "yes", "logprob": YES, "bytes": None}]
    value = {"content": [{"token": "no", "logprob": NO, "top_logprobs": top}, {"token": "later"}]}
    assert first_token(value) == FOUND


def test_of_completions() -> None:
    value = {"tokens": ["no", "."], "token_logprobs": [NO, 0.0], "top_logprobs": [{"no": NO, "yes": YES}, {}]}
    assert first_token(value) == FOUND


def test_bytes_say_what_a_token_is_where_they_are_a_text() -> None:
    def top(token: str, data: list[int]) -> dict[str, Any]:
        return {"token": token, "bytes": data, "logprob": YES}

    listed = [top("Ġé", [32, 195, 169]), top("Ã", [195]), top("x", [999])]
    found = first_token({"content": [{**listed[0], "top_logprobs": listed}]})
    assert found is not None
    assert found.text == " é"
    assert [text for text, _ in found.top] == [" é", "Ã", "x"]


@pytest.mark.parametrize(
    "value",
    [
        None, [], "x", 5, {}, {"content": []}, {"content": None}, {"content": [{}]}, {"content": "text"},
        {"content": [{"token": "a", "top_logprobs": []}]},
        {"content": [{"token": "a", "top_logprobs": [{"token": "a", "logprob": None}]}]},
        {"content": [{"token": "a", "top_logprobs": [{"token": "a", "logprob": 3}]}]},
        {"content": [{"token": "a", "top_logprobs": [{"token": "a", "logprob": float("nan")}]}]},
        {"tokens": ["a"], "top_logprobs": None}, {"tokens": ["a"], "top_logprobs": [None]},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_read_is_nothing(value: Any) -> None:
    assert first_token(value) is None
