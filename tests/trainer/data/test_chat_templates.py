"""Chat templates of real models: the ids are those of transformers' own chat template call.

The templates are third-party files beside the checkout, each with a small tokenizer that knows its special tokens.
"""
# ruff: noqa: RUF001 - DeepSeek's tokens hold wide bars

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from checkout import SHARED
from small_tokenizers import byte_level, llama_like
from tokenizers import AddedToken

from sweeps.checks.lengths import WritingLimits
from sweeps.checks.preflight import check_formats
from trainer.data.render import Renderer
from trainer.data.rows import Row
from trainer.data.texts import RenderError
from trainer.data.wording import Prompt
from trainer.trial import Task, Template

FOLDER = SHARED / "templates"
ENDS = {  # of the models' tokenizers: bos, eos
    "smollm2": ("<|im_start|>", "<|im_end|>"),
    "chatml": (None, "<|im_end|>"),
    "qwen_25": (None, "<|im_end|>"),
    "qwen3": (None, "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "gemma": ("<bos>", "<eos>"),
    "gemma3": ("<bos>", "<end_of_turn>"),
    "gemma4": ("<bos>", "<turn|>"),
    "mistral_v1": ("<s>", "</s>"),
    "mistral_v2v3": ("<s>", "</s>"),
    "mistral_v3_tekken": ("<s>", "</s>"),
    "phi_3": ("<s>", "<|end|>"),
    "phi_35": ("<s>", "<|end|>"),
    "deepseek_v2": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "deepseek_v3": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "cohere": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    "alpaca": ("<s>", "</s>"),
    "metharme": (None, "<|endoftext|>"),
}
NO_SYSTEM_ROLE = {"gemma"}
THINKING = {"qwen3", "gemma4"}  # which read enable_thinking
# The finished answer does not begin with the question's text: Gemma 4 closes a thought in the question and writes none
# in a finished answer; Mistral shows the system text only where the user speaks last.
ANSWER_ELSEWHERE = {
    ("gemma4", ""),
    ("gemma4", "Be short."),
    ("mistral_v2v3", "Be short."),
    ("mistral_v3_tekken", "Be short."),
}
TASK = Task(labels=("no", "yes", "perhaps not"), max_length=10_000)
ROWS = [Row("r1", {"text": "a good day"}, "yes"), Row("r2", {"text": "12 bad ones,\nin two lines"}, "perhaps not")]
PROMPT = Prompt("p1", "Is it {{ text }}?")
SPECIAL = re.compile(r"<\|[^|>\s'\"]+\|>|<｜[^｜\s]+｜>|<(?:start|end)_of_turn>|<\|?turn\|?>|<\|?channel\|?>|</?think>")


def tokenizer_for(name: str, make: Any) -> Any:
    text = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = copy.deepcopy(make())
    bos, eos = ENDS[name]
    names = sorted({*SPECIAL.findall(text), *(t for t in (bos, eos) if t)})
    tokens = [AddedToken(n, special=True, normalized=False) for n in names]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.bos_token, tokenizer.eos_token = bos, eos
    tokenizer.chat_template = text
    return tokenizer


def messages(template: Template, text: str) -> list[dict[str, str]]:
    """Said again, independently of the renderer."""
    if template.system and template.system_role == "user":
        return [{"role": "user", "content": template.system + "\n\n" + text}]
    return [
        *([{"role": "system", "content": template.system}] if template.system else []),
        {"role": "user", "content": text},
    ]


def modes(name: str) -> list[Template]:
    thinking: list[tuple[tuple[str, bool], ...]] = [()]
    if name in THINKING:
        thinking = [(("enable_thinking", False),), (("enable_thinking", True),)]
    roles = ["user"] if name in NO_SYSTEM_ROLE else ["system", "user"]
    systems: list[tuple[str, Any]] = [("", "system"), *(("Be short.", role) for role in roles)]
    return [
        Template("c", True, system, system_role=role, options=options)
        for system, role in systems
        for options in thinking
    ]


@pytest.mark.skipif(not FOLDER.is_dir(), reason="shared/templates is not there")
@pytest.mark.parametrize("make", [byte_level, llama_like])
@pytest.mark.parametrize("name", list(ENDS))
def test_ids_are_those_of_the_chat_template_call(name: str, make: Any) -> None:
    """CASES M0, M6."""
    tokenizer = tokenizer_for(name, make)
    for template in modes(name):
        renderer = Renderer(tokenizer, template, TASK)
        pairs = [(PROMPT, row) for row in ROWS]
        elsewhere = (name, template.system if template.system_role == "system" else "") in ANSWER_ELSEWHERE
        for row, example, request in zip(ROWS, renderer.examples(pairs), renderer.requests(pairs), strict=True):
            asked = messages(template, f"Is it {row.fields['text']}?")
            call = lambda m, **more: tokenizer.apply_chat_template(m, **dict(template.options), **more)["input_ids"]  # noqa: B023, E731
            question = call(asked, add_generation_prompt=True)
            assert request.context.tolist() == question
            right = request.options[TASK.labels.index(row.label)].tolist()
            assert example.ids.tolist() == [*question, *right, renderer.stop_id]
            whole = call([*asked, {"role": "assistant", "content": row.label}])
            begins = whole[: len(question)] == question
            assert begins or elsewhere or renderer.anchored
            if begins:
                assert whole[: len(example.ids)] == example.ids.tolist()
            if elsewhere:
                assert tokenizer.decode(right, clean_up_tokenization_spaces=False).strip() == row.label


@pytest.mark.skipif(not FOLDER.is_dir(), reason="shared/templates is not there")
@pytest.mark.parametrize("name", list(ENDS))
def test_every_template_passes_the_check_in_each_mode(name: str) -> None:
    tokenizer = tokenizer_for(name, byte_level)
    rows = dict.fromkeys(("train", "dev", "test"), ROWS * 2)
    pools = {
        "train.one": [PROMPT],
        "dev": [Prompt("d", "So, is it {{ text }}?")],
        "test": [Prompt("t", "Well: {{ text }}")],
    }
    for template in modes(name):
        report = check_formats([template], TASK, rows, pools, tokenizer, WritingLimits(thought=50))
        errors = [str(f) for f in report.errors if "templates." in str(f)]
        assert errors == []


@pytest.mark.skipif(not FOLDER.is_dir(), reason="shared/templates is not there")
def test_a_template_without_a_system_role_says_what_to_do() -> None:
    with pytest.raises(RenderError, match=r"System role not supported.*system_role: user"):
        Renderer(tokenizer_for("gemma", byte_level), Template("c", True, "Be short."), TASK)
