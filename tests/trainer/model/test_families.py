"""All of transformers' causal language models, tiny and random, against transformers and peft: each is equal, or
``check`` refuses it with the reason (CASES V7, V8, M4; the page is ``docs/models.md``)."""

from __future__ import annotations

import causal_families
import pytest
from causal_families import Outcome, model_types, outcome, table, written

# the kinds that people bring, and one of every way to be refused
TYPICAL = (
    "llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2", "gpt_neox", "opt", "phi3", "mixtral", "deepseek_v3",
    "falcon", "bloom", "mamba", "bert", "roberta",
)  # fmt: skip


def line(found: Outcome) -> str:
    return table([found]).splitlines()[-1]


@pytest.mark.parametrize("model_type", TYPICAL)
def test_a_typical_family_is_equal_or_refused(model_type: str) -> None:
    assert line(outcome(model_type)) == written()[model_type]


@pytest.mark.long
@pytest.mark.parametrize("model_type", model_types())
def test_every_family_is_equal_or_refused(model_type: str) -> None:
    assert line(outcome(model_type)) == written()[model_type], f"{causal_families.__file__} writes the page again"


def test_the_page_lists_every_family_of_transformers_and_no_other() -> None:
    assert sorted(written()) == model_types()


def test_an_adapter_that_differs_is_seen() -> None:
    """The comparison itself can fail."""
    from tiny_llama import make_llama

    from trainer.model.slots import SlotModel

    config = make_llama().config
    causal_families.compare(config, ("q_proj",))
    scale = SlotModel.configure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlotModel, "configure", lambda self, slot, lora: scale(self, 0, lora))
        with pytest.raises(AssertionError, match="logits differ by"):
            causal_families.compare(config, ("q_proj",))
