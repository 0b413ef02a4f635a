"""Adapters in the slots of one model answer as each does on a model of its own, thoughts included."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from small_tokenizers import byte_level
from tiny_llama import make_llama
from tokenizers import AddedToken

from trainer import trial as t
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.model.adapted_base import fill_slot, room_for
from trainer.model.slots import SlotModel
from trainer.predictor import Predictor, RowsAsked, load_predictors, predict_together
from trainer.score.thoughts import with_thoughts

THINKS = (
    "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n<think>\n{% endif %}"
)
PROMPT = Prompt("p", "Is it {{ text }}?")
ROWS = [Row(f"r{i}", {"text": text}, "") for i, text in enumerate(["good", "very bad indeed", "it"])]
LORAS = (t.Lora(2, 8.0, target_modules=("q_proj", "v_proj")), t.Lora(5, 30.0, target_modules=("all-linear",)))
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base model whose chat template lets it think."""
    at = tmp_path_factory.mktemp("base")
    tokenizer = copy.deepcopy(byte_level())
    tokens = [AddedToken(n, special=True, normalized=False) for n in ("<turn>", "<end>", "<think>", "</think>")]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.chat_template = THINKS
    tokenizer.save_pretrained(at)
    make_llama(vocab=len(tokenizer)).save_pretrained(at)
    return str(at)


def trial(folder: str, lora: t.Lora, template: t.Template, **scoring: Any) -> t.Trial:
    return t.Trial(
        model=t.Model(folder, "fingerprint"),
        task=t.Task(("no", "yes"), max_length=200),
        template=template,
        lora=lora,
        loss=t.Loss(),
        optimization=t.Optimization(),
        draw=t.Draw(),
        scoring=t.Scoring(**scoring),
        data=t.Data("a", "b", "c", "d", "e", "f"),
        pool="many",
    )


def tensors(lora: t.Lora, seed: int, vocab: int) -> Tensors:
    """An adapter that changes answers a lot."""
    shapes = SlotModel(make_llama(vocab=vocab), 1, lora.r, lora.target_modules).adapter(0, lora)
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(x.shape, generator=generator) * 0.2 for name, x in shapes.items()}


@pytest.mark.parametrize("scorer", ["labels", "generate"])
def test_each_thinks_and_answers_with_its_own_adapter(folder: str, scorer: str) -> None:
    template = t.Template("c", chat=True)
    trials = [trial(folder, lora, template, scorer=scorer, max_thought_tokens=6) for lora in LORAS]
    vocab = len(byte_level()) + 4
    adapters = [(one, tensors(one.lora, seed, vocab)) for seed, one in enumerate(trials)]
    alone = [Predictor(*adapter) for adapter in adapters]
    thoughts = []
    for one in alone:
        requests = one.renderer.requests([(PROMPT, row) for row in ROWS])
        made = with_thoughts(one.model, requests, [0] * len(ROWS), one.renderer, 6)
        thoughts.append([r.context[len(q.context) :].tolist() for q, r in zip(requests, made, strict=True)])
    assert thoughts[0] != thoughts[1]
    together = predict_together([RowsAsked(p, PROMPT, ROWS) for p in load_predictors(adapters)])
    for found, one in zip(together, alone, strict=True):
        for mine, theirs in zip(found, one.predict(PROMPT, ROWS), strict=True):
            assert (mine.index, mine.text) == (theirs.index, theirs.text)
            if scorer == "labels":
                assert mine.probabilities is not None
                assert theirs.probabilities is not None
                assert np.abs(mine.probabilities - theirs.probabilities).max() < 1e-5


def test_an_adapter_in_a_used_slot_leaves_nothing_of_the_one_before() -> None:
    """The second adapter has a smaller rank and fewer layers."""
    small, large = (trial("base", lora, t.Template("plain")) for lora in LORAS)
    model = room_for(make_llama(), [small, large])
    assert (model.n_slots, model.max_r) == (2, 5)
    first, second = tensors(large.lora, 1, 256), tensors(small.lora, 2, 256)
    for slot in (0, 1):
        fill_slot(model, slot, large, first)
    fill_slot(model, 1, small, second)
    for name, stacked in model.slot_parameters():
        whole = torch.zeros_like(stacked[1])
        own = second.get(f"base_model.model.{name}.weight")
        if own is not None:
            whole[: own.shape[0], : own.shape[1]] = own
        assert torch.equal(stacked[1], whole), name
        assert torch.equal(stacked[0], first[f"base_model.model.{name}.weight"]), name


def test_the_trial_whose_layers_the_base_lacks_is_named() -> None:
    fine, other = (
        trial("base", t.Lora(2, target_modules=(module,)), t.Template("plain")) for module in ("q_proj", "c_attn")
    )
    with pytest.raises(UserError, match=rf"the adapter of trial {other.id} does not fit .*c_attn"):
        room_for(make_llama(), [fine, other])
