"""SmolLM2-135M-Instruct (4-bit weights made dense) from `run` to `predict`, and peft alone on what was exported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from checkout import EMBEDDED, ROOT
from small_study import finish, start, write_study

from sweeps.export.export import export
from sweeps.export.predict import predict
from trainer.store import Store

ROWS = 12
# Largest difference of a probability. In bfloat16, rounding depends on what shares a batch (docs/models.md).
ALLOWED = {"float32": 1e-4, "bfloat16": 0.1}


@pytest.fixture(scope="module")
def base() -> Path:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from smollm2 import smollm2

    return smollm2()


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_run_export_predict_and_peft_agree(base: Path, tmp_path: Path, dtype: str) -> None:
    study = write_study(tmp_path, axes={"steps": 6, "plw": [0], "pool": ["many"]})
    changes = [f"model.path={base}", f"model.dtype={dtype}", "templates.chat.chat=true", "scheduler.name=none"]
    limits = [f"task.rows.{split}.limit={ROWS}" for split in ("dev", "test")]
    finish(start(study, tmp_path / "run", *changes, *limits, "pools.dev.limit=2", "pools.test.limit=2"))
    store = Store.open(str(tmp_path / "run"))
    [trial] = store.folders("scores")
    found = store.read_scores(trial, 6, "test")
    assert found is not None
    scored = {r["row_id"]: r["label_logprobs"] for r in found[0].to_pylist() if r["prompt_id"] == "e01"}
    wording = yaml.safe_load((EMBEDDED / "data" / "pools" / "test.yaml").read_text())["e01"]
    folder = export(str(tmp_path / "run"), trial, str(tmp_path / "out"))
    rows = tmp_path / "rows.jsonl"
    lines = [json.loads(line) for line in (EMBEDDED / "data" / "test.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["id"] in scored]  # a limit draws rows at random
    assert len(lines) == ROWS
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    predict(folder, str(rows), str(tmp_path / "answers.jsonl"), prompt=wording)
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    alone = through_peft(base, folder, dtype, [wording.replace("{{ text }}", line["text"]) for line in lines])
    gaps = []
    for answer, p in zip(answers, alone, strict=True):
        logs = np.array(scored[answer["id"]], dtype=np.float64)
        of_run = np.exp(logs - np.logaddexp.reduce(logs))
        of_predict = np.array(list(answer["probabilities"].values()))
        gaps.append((np.abs(of_run - of_predict).max(), np.abs(of_predict - p).max()))
    run_gap, peft_gap = np.max(gaps, axis=0)
    print(f"{dtype}: run and predict differ by {run_gap:.2g}, predict and peft by {peft_gap:.2g}")
    assert run_gap <= ALLOWED[dtype]
    assert peft_gap <= ALLOWED[dtype]


@torch.no_grad()
def through_peft(base: Path, folder: str, dtype: str, questions: list[str]) -> list[np.ndarray]:
    """Probabilities of "no" and "yes" from transformers and peft alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    model = PeftModel.from_pretrained(model, folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    words = [tokenizer(word, add_special_tokens=False).input_ids for word in ("no", "yes")]
    assert [len(w) for w in words] == [1, 1]
    found = []
    for question in questions:
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        logits = model(torch.tensor([ids])).logits[0, -1].float()
        found.append(torch.softmax(logits[[w[0] for w in words]], dim=0).numpy())
    return found
