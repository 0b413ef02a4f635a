"""Label scores of a run's test rows: as its folder holds them, and as transformers and peft give them one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import tiny_run
import torch

from trainer.data.render import Renderer
from trainer.data.rows import load_questions
from trainer.data.tokenizer import load_tokenizer
from trainer.data.wording import Prompt
from trainer.store import Store
from trainer.trial import Trial


def requests(run: str, trial: Trial, prompt: str) -> list[Any]:
    """The test rows under one test prompt."""
    options = "choices" if not trial.task.labels else None
    asked = load_questions(tiny_run.data(run, "test.jsonl"), ["text"], options, "id")
    renderer = Renderer(load_tokenizer(trial.model), trial.template, trial.task)
    return renderer.requests([(Prompt(prompt, tiny_run.PROMPTS["test"][prompt]), row) for row in asked])


def stored(run: str, trial: Trial, prompt: str) -> np.ndarray:
    """Label log-probabilities [row, label] that the run folder holds for one test prompt."""
    found = Store.open(run).read_scores(trial.id, trial.optimization.steps, "test")
    assert found is not None
    rows = [r for r in found[0].to_pylist() if r["prompt_id"] == prompt]
    return np.array([r["label_logprobs"] for r in sorted(rows, key=lambda r: int(r["row_id"][1:]))])


def brute_force(model: Any, context: np.ndarray, option: np.ndarray) -> float:
    ids = torch.from_numpy(np.concatenate([context, option]).astype(np.int64))[None]
    with torch.no_grad():
        logprobs = torch.log_softmax(model(input_ids=ids).logits[0].double(), dim=-1)
    return float(sum(logprobs[len(context) + i - 1, token] for i, token in enumerate(option)))


def plain_scores(model: Any, asked: list[Any]) -> np.ndarray:
    """Label log-probabilities [row, label] of a model of transformers or peft, a forward pass each."""
    return np.array([[brute_force(model, r.context, o) for o in r.options] for r in asked])


@torch.no_grad()
def classified(model: Any, asked: list[Any]) -> np.ndarray:
    """The same of a model with a classification head."""
    logits = [model(input_ids=torch.from_numpy(r.context.astype(np.int64))[None]).logits[0] for r in asked]
    return torch.log_softmax(torch.stack(logits).double(), dim=-1).numpy()
