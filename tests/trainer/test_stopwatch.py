"""What an answer costs by itself: arms of known lengths, on a clock that counts passes through the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from runner_trials import trial
from safetensors.torch import load_file
from small_tokenizers import byte_level
from tiny_llama import make_llama

from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.model.slots import SlotModel
from trainer.stopwatch import Stopwatch
from trainer.trial import Model, Scoring, Task, Template, Trial

NEW = 12  # tokens, at most


class Passes:
    """A clock that moves by one with each pass through the model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        forward = SlotModel.forward

        def counted(model: SlotModel, *args: Any, **more: Any) -> Any:
            self.now += 1.0
            return forward(model, *args, **more)

        monkeypatch.setattr(SlotModel, "forward", counted)

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Trial]:
    uri, trials = tiny_run.made("labels", tmp_path_factory)
    return uri, trials[-1]


def rows_of(uri: str) -> list[Row]:
    return [Row(r["id"], {"text": r["text"]}, "yes" if r["label"] else "no") for r in tiny_run.rows(8, 32)]


def length_alone(uri: str, adapter: str | None, trial: Trial, row: Row, prompt: Prompt) -> int:
    """New tokens of plain transformers, with the adapter by peft."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tiny_run.data(uri, "model")
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model = model if adapter is None else PeftModel.from_pretrained(model, adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    text = prompt.text.replace("{{ text }}", row.fields["text"]) + trial.template.marker
    ids = tokenizer(text, return_tensors="pt").input_ids
    made = model.generate(ids, max_new_tokens=NEW, do_sample=False, eos_token_id=tokenizer.eos_token_id)
    return int(made.shape[1] - ids.shape[1])


def test_two_arms_of_known_lengths_get_their_ratio(tuned: tuple[str, Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tuned one says its label and stops, the base model goes on to the limit."""
    uri, trial = tuned
    base = replace(trial, seed=99)
    adapter = Path(uri, "adapters", trial.id)
    tensors = {trial.id: load_file(adapter / "adapter_model.safetensors"), base.id: None}
    prompt, rows = Prompt("x1", tiny_run.PROMPTS["test"]["x1"]), rows_of(uri)
    short = {length_alone(uri, str(adapter), trial, row, prompt) for row in rows}
    long = {length_alone(uri, None, trial, row, prompt) for row in rows}
    assert len(short) == len(long) == 1, "every row takes an arm as long"
    assert max(short) < min(long)
    clock = Passes(monkeypatch)
    found = Stopwatch([trial, base], tensors, 4, NEW, clock).run([prompt], rows, 24)
    fast, slow = found[trial.id], found[base.id]
    assert (fast.new_tokens / fast.generated, slow.new_tokens / slow.generated) == (min(short), min(long))
    assert fast.generate_ms is not None
    assert slow.generate_ms is not None
    assert slow.generate_ms / fast.generate_ms == pytest.approx(min(long) / min(short), rel=0.1)
    assert fast.label_ms == slow.label_ms, "label scoring takes a pass, whatever an arm would say"
    assert (fast.answers, fast.generated, fast.unread) == (24, 24, 0)


def test_requests_are_answered_in_batches_of_the_stated_size(
    tuned: tuple[str, Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, trial = tuned
    sizes: list[int] = []
    import trainer.stopwatch as module

    real = module.generate_answers
    monkeypatch.setattr(
        module, "generate_answers", lambda m, requests, *a: sizes.append(len(requests)) or real(m, requests, *a)
    )
    Stopwatch([trial], {trial.id: None}, 4, 2).run([Prompt("x", "Is it {{ text }}")], rows_of(uri), 15)
    assert sizes == [4, 4, 1, 4, 1, 4, 1], "a batch that warms up, then three rounds of five answers"


def test_a_classifier_is_timed_by_its_labels_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    uri, trials = tiny_run.made("classifier", tmp_path_factory)
    tensors = load_file(Path(uri, "adapters", trials[0].id, "adapter_model.safetensors"))
    found = Stopwatch([trials[0]], {trials[0].id: tensors}, 8, 4).run(
        [Prompt("x", "Is it {{ text }}")], rows_of(uri), 6
    )
    assert found[trials[0].id].generate_ms is None
    assert (found[trials[0].id].label_ms or 0) > 0


def test_a_thought_is_part_of_the_time_of_either_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four more tokens of thought are four more passes for a batch, which has two answers."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
    )
    tokenizer.save_pretrained(tmp_path)
    make_llama(vocab=len(tokenizer), seed=1).save_pretrained(tmp_path)
    model, task = Model(str(tmp_path), "fingerprint"), Task(("no", "yes"), max_length=200)
    clock, found = Passes(monkeypatch), {}
    for limit in (2, 6):
        one = trial(
            model=model, task=task, template=Template("c", chat=True), scoring=Scoring(max_thought_tokens=limit)
        )
        watch = Stopwatch([one], {one.id: None}, 2, 3, clock)
        found[limit] = watch.run([Prompt("x", "Is it {{ text }}?")], [Row("r", {"text": "good"}, "yes")], 6)[one.id]
    assert found[6].label_seconds - found[2].label_seconds >= 4 * 3
    assert found[6].generate_seconds - found[2].generate_seconds == 4 * 3
    assert found[6].new_tokens == found[2].new_tokens
