"""A model that thinks before it answers: the thought is what transformers generates, and the answer follows it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from small_tokenizers import byte_level
from tiny_llama import make_llama
from tokenizers import AddedToken

from trainer.data.render import Renderer
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.model.slots import SlotModel
from trainer.score.logprobs import label_logprobs
from trainer.score.thoughts import with_thoughts
from trainer.trial import Lora, Task, Template

TURN = (
    "{% for m in messages %}<turn>{{ m.role }}\n{{ CONTENT }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\nTHOUGHT{% endif %}"
)
# Qwen 3's kind: the model opens the thought itself, and thinking can be turned off. R1's: the question opens it always.
SILENT = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
OWN = TURN.replace("CONTENT", "m.content").replace("THOUGHT", SILENT)
OPENED = TURN.replace("CONTENT", "m.content.split('</think>')[-1]").replace("THOUGHT", "<think>\n")
TASK = Task(labels=("no", "yes"), max_length=200)
ROWS = [Row(f"r{i}", {"text": text}, "yes") for i, text in enumerate(["good", "very bad indeed", "it"])]
PROMPT = Prompt("p", "Is it {{ text }}?")


def renderer_for(chat_template: str, options: tuple[tuple[str, bool], ...] = (), tags: bool = True) -> Renderer:
    tokenizer = copy.deepcopy(byte_level())
    names = ["<turn>", "<end>", *(["<think>", "</think>"] if tags else [])]
    tokens = [AddedToken(n, special=True, normalized=False) for n in names]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.chat_template = chat_template
    return Renderer(tokenizer, Template("c", chat=True, options=options), TASK)


def by_transformers(base: Any, context: np.ndarray, new: int, stop: list[int]) -> list[int]:
    ids = torch.tensor(context[None].astype(np.int64))
    mask = torch.ones_like(ids)
    out = base.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=stop, pad_token_id=0
    )
    return list(out[0, len(context) :].tolist())


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize(("chat_template", "options"), [(OWN, (("enable_thinking", True),)), (OPENED, ())])
def test_the_answer_is_scored_behind_the_models_own_thought(chat_template: str, options: Any, tags: bool) -> None:
    renderer = renderer_for(chat_template, options, tags)
    vocabulary = len(renderer.tokenizer)
    model = SlotModel(make_llama(vocab=vocabulary), 1, 2, ["all-linear"]).eval()
    model.place(0, Lora(r=2), seed=0)  # B is zero: the base's own answers
    base = make_llama(vocab=vocabulary)
    asked = renderer.requests([(PROMPT, row) for row in ROWS])
    closing = renderer.tokenizer("</think>\n\n", add_special_tokens=False).input_ids
    found = with_thoughts(model, asked, [0] * 3, renderer, 6)
    for before, after in zip(asked, found, strict=True):
        thought = by_transformers(base, before.context, 6, list(renderer.stop_ids))
        thought = thought[:-1] if thought[-1] in renderer.stop_ids else thought
        assert after.context.tolist() == [*before.context, *thought, *closing]
        texts = [renderer.tokenizer.decode(o) for o in after.options]
        assert texts == ["no", "yes"]
    for request, logprobs in zip(found, label_logprobs(model, found, [0] * 3), strict=True):
        for option, value in zip(request.options, logprobs, strict=True):
            ids = torch.tensor([[*request.context, *option]])
            with torch.no_grad():
                all_logprobs = base(ids).logits[0].double().log_softmax(-1)
            at = len(request.context)
            expected = sum(float(all_logprobs[at + k - 1, token]) for k, token in enumerate(option.tolist()))
            assert value == pytest.approx(expected, abs=1e-4)


def test_a_thought_ends_at_its_closing_tag() -> None:
    """With a base that always writes the tag after two tokens: what follows the tag is no part of the thought."""
    renderer = renderer_for(OWN, (("enable_thinking", True),))
    tag = renderer.tokenizer.convert_tokens_to_ids("</think>")
    written = iter([5, 6, tag, 7, 8])

    class Scripted(torch.nn.Module):  # stands for a model whose words are known
        n_labels = 0

        def __init__(self) -> None:
            super().__init__()
            self.base = make_llama()

        def forward(self, batch: Any, cache: Any) -> torch.Tensor:
            logits = torch.zeros(1, len(renderer.tokenizer))
            logits[0, next(written)] = 1
            return logits

    (asked,) = renderer.requests([(PROMPT, ROWS[0])])
    (found,) = with_thoughts(Scripted(), [asked], [0], renderer, 5)  # type: ignore[arg-type]
    assert found.context.tolist() == [*asked.context, 5, 6, *renderer.thought_end]


def test_without_thinking_the_closed_thought_is_part_of_the_question() -> None:
    renderer = renderer_for(OWN, (("enable_thinking", False),))
    example = renderer.example(PROMPT, ROWS[0])
    assert renderer.thought_end == []
    assert renderer.tokenizer.decode(example.ids).endswith("<think>\n\n</think>\n\nyes<end>")


def test_training_closes_a_thought_that_the_question_opens() -> None:
    example = renderer_for(OPENED).example(PROMPT, ROWS[0])
    assert renderer_for(OPENED).tokenizer.decode(example.ids).endswith("assistant\n<think>\n</think>\n\nyes<end>")
