"""Greedy decoding through the slots gives what transformers' ``generate`` gives, and answers are read off the text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from slot_scores import LORAS, peft_alone, slotted, some_requests
from tiny_llama import make_llama

from trainer.model.slots import SlotModel
from trainer.score.generation import generate, generate_answers, parse
from trainer.trial import Lora


def by_transformers(model: Any, context: np.ndarray, new: int, stop: list[int]) -> list[int]:
    ids = torch.tensor(context[None].astype(np.int64))
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=stop,
        pad_token_id=0,
    )
    return list(out[0, len(context) :].tolist())


def frequent_stop(model: SlotModel, requests: list[Any], slots: list[int]) -> list[int]:
    """A token that ends some answers early, others late, and some not at all."""
    free = generate(model, requests, slots, [], 12)
    thirds = [int(ids[3]) for ids in free]
    return [max(set(thirds), key=thirds.count)]


@pytest.mark.parametrize("budget", [1, 200, 4096])
def test_generation_equals_transformers_without_adapters(budget: int) -> None:
    requests = some_requests("one token", 10)
    model = SlotModel(make_llama(), 1, 2, ["all-linear"]).eval()
    model.place(0, Lora(r=2), seed=0)  # B is zero
    stop = frequent_stop(model, requests, [0] * 10)
    got = [ids.tolist() for ids in generate(model, requests, [0] * 10, stop, 12, budget)]
    assert got == [by_transformers(make_llama(), r.context, 12, stop) for r in requests]
    assert len({len(ids) for ids in got}) > 1, "no answer stopped before another"
    assert all(len(ids) == 12 or ids[-1] in stop for ids in got)


def test_generation_equals_transformers_with_a_peft_adapter_per_slot() -> None:
    model, requests = slotted(make_llama()), some_requests("one token", 5)
    slots = [i % 3 for i in range(15)]
    mixed = [requests[i // 3] for i in range(15)]
    got = generate(model, mixed, slots, [2], 8)
    for slot, lora in enumerate(LORAS):
        alone = peft_alone(model, slot, lora)
        assert [got[i].tolist() for i in range(15) if slots[i] == slot] == [
            by_transformers(alone, r.context, 8, [2]) for r in requests
        ]
    assert len({tuple(ids.tolist()) for ids in got}) > 5, "the adapters do not differ"


def test_memory_that_does_not_suffice_halves_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = slotted(make_llama()), some_requests("one token", 8)
    expected = [ids.tolist() for ids in generate(model, requests, [0] * 8, [2], 4)]
    forward = SlotModel.forward

    def limited(self: SlotModel, batch: Any, cache: Any = None) -> Any:
        if batch.input_ids.numel() > 150:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, batch, cache)

    monkeypatch.setattr(SlotModel, "forward", limited)
    assert [ids.tolist() for ids in generate(model, requests, [0] * 8, [2], 4)] == expected


def test_answers_carry_text_option_and_length() -> None:
    model, requests = slotted(make_llama()), some_requests("one token", 4)
    tokens = [ids.tolist() for ids in generate(model, requests, [0] * 4, [2], 3)]
    first = " ".join(map(str, tokens[0]))
    found = generate_answers(
        model, requests, [0] * 4, [["nothing", first]] * 4, lambda ids: " ".join(map(str, ids)), [2], 3
    )
    assert [a.new_tokens for a in found] == [len(t) for t in tokens]
    assert (found[0].text, found[0].index) == (first, 1)


def test_a_nan_is_no_token_and_no_answer() -> None:
    """CASES B7: the highest of NaN logits is a token like any other to torch."""
    model, requests = slotted(make_llama()), some_requests("one token", 2)
    with torch.no_grad():
        model.base.lm_head.weight.fill_(torch.nan)
    found = generate_answers(model, requests, [0] * 2, [["no", "yes"]] * 2, lambda ids: "yes" * len(ids), [2], 3)
    assert [(a.index, a.new_tokens, a.nan) for a in found] == [(None, 1, True)] * 2


def test_a_classification_head_writes_no_text() -> None:
    with pytest.raises(ValueError, match=r'model\.head = "lm"'):
        generate(slotted(make_llama(), n_labels=2), some_requests("one token", 1), [0], [2], 4)


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        (" yes", [" no", " yes"], 1),
        ("Yes, because it is.", ["no", "yes"], 1),
        ('\n\n"YES"', ["no", "yes"], 1),
        ("**no**", ["no", "yes"], 0),
        ("not sexist at all", ["not", "not sexist"], 1),
        ("nothing", ["no", "yes"], None),
        ("no_one", ["no", "yes"], None),
        ("I say yes", ["no", "yes"], None),
        ("", ["no", "yes"], None),
        ("B. the sun", ["A", "B", "C"], 1),
        ("(C)", ["A", "B", "C"], 2),
        ("(b) moon", ["(a)", "(b)"], 1),
        ("a  plain\nstone.", ["a plain stone", "a star"], 0),
        ("是的。", ["不是", "是"], 1),
        ("3", ["1", "2", "3"], 2),
        ("30", ["1", "2", "3"], None),
        ("-1 is right", ["1", "-1"], 1),
        ("- yes", ["no", "yes"], 1),
    ],
)
def test_parse(text: str, words: list[str], expected: int | None) -> None:
    assert parse(text, words) == expected
