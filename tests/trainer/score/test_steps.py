"""The probabilities along a generated answer are those that the model gave while it generated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_llama import make_llama
from transformers import AutoModelForCausalLM

from trainer.data.render import Request
from trainer.model.slots import SlotModel
from trainer.score.generation import generate
from trainer.score.steps import answer_steps


def request(ids: list[int]) -> Request:
    return Request("r", "p", "", np.array(ids, dtype=np.int32), (np.zeros(1, dtype=np.int32),), (1,))


def test_each_step_is_what_transformers_gives(tmp_path: Path) -> None:
    make_llama().save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    model = SlotModel(AutoModelForCausalLM.from_pretrained(tmp_path), 1, 2, ("q_proj",)).eval()
    asked = [request([1, 5, 9, 7]), request([1, 8])]
    answers = generate(model, asked, [0, 0], [2], 3)
    found = answer_steps(model, asked, answers)
    assert [len(steps) for steps in found] == [len(a) for a in answers]
    for one, answer, steps in zip(asked, answers, found, strict=True):
        for k, step in enumerate(steps):
            ids = torch.tensor([[*one.context.tolist(), *answer[:k].tolist()]])
            with torch.no_grad():
                p = torch.softmax(plain(ids).logits[0, -1].double(), dim=-1).numpy()
            assert step.ids[0] == answer[k]
            assert step.p == pytest.approx(p[step.ids], abs=1e-6)
            assert list(step.p) == sorted(step.p, reverse=True)
