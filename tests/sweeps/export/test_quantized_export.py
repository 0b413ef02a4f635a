"""A trial on a quantised base: its export names the base, `predict` loads the same one, and peft alone agrees."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
import torch

from sweeps.export.export import export
from sweeps.export.predict import predict
from trainer.model.quantization import settings
from trainer.store import Store
from trainer.trial import Trial

pytest.importorskip("bitsandbytes")

X1 = tiny_run.PROMPTS["test"]["x1"]
AXES = {"lora": {"r": 2}, "lr": 1e-2, "steps": 6}
FINE = 1e-5  # of a probability


@pytest.fixture(scope="module", params=["nf4", "int8"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Trial, str]:
    """The run folder, its trial, and an export."""
    model = {"quantization": request.param}
    folder = tmp_path_factory.mktemp(request.param)
    uri, trials = tiny_run.make_run(folder, tiny_run.LABELLED, templates=tiny_run.PLAIN, axes=AXES, model=model)
    return uri, trials[0], export(uri, trials[0].id, str(folder / "out"))


def answers(folder: str, rows: str, out: Path) -> list[dict[str, Any]]:
    assert predict(folder, rows, str(out), prompt=X1) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def probabilities(logprobs: Any) -> np.ndarray:
    p = np.exp(np.asarray(logprobs, dtype=np.float64))
    return p / p.sum()  # type: ignore[no-any-return]


def test_predict_answers_as_the_run_did_and_says_on_which_base(
    run: tuple[str, Trial, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri, trial, folder = run
    got = answers(folder, tiny_run.data(uri, "test.jsonl"), tmp_path / "answers.jsonl")
    said = f'base model "{trial.model.path}" is quantised to {trial.model.quantization}, as it was in training'
    assert caplog.messages == [said]
    assert f"float32, linear layers in {trial.model.quantization}; prompt" in Path(uri, "report.html").read_text()
    found = Store.open(uri).read_scores(trial.id, trial.optimization.steps, "test")
    assert found is not None
    rows = sorted((r for r in found[0].to_pylist() if r["prompt_id"] == "x1"), key=lambda r: int(r["row_id"][1:]))
    for mine, theirs in zip(got, rows, strict=True):
        expected = probabilities(theirs["label_logprobs"])
        assert np.abs(np.array(list(mine["probabilities"].values())) - expected).max() < FINE


def test_the_models_card_has_the_code_with_which_peft_alone_agrees(run: tuple[str, Trial, str], tmp_path: Path) -> None:
    """In training mode, in which bitsandbytes rounds no further."""
    from transformers import AutoTokenizer

    uri, trial, folder = run
    page = Path(folder, "README.md").read_text()
    kind = trial.model.quantization
    assert (
        f"- Base model: `{trial.model.path}`, in float32, its linear layers quantised to {kind} by bitsandbytes" in page
    )
    assert "peft has read this adapter back on its base model" in page
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1].replace("FOLDER", folder), names)
    model = names["model"].train()
    layer = model.base_model.model.model.layers[0].mlp.up_proj.base_layer
    assert type(layer).__name__ == {"nf4": "Linear4bit", "int8": "Linear8bitLt"}[kind]
    for part in model.modules():  # nothing may drop out
        if isinstance(part, torch.nn.Dropout):
            part.eval()
    tokenizer = AutoTokenizer.from_pretrained(trial.model.path)
    got = answers(folder, tiny_run.data(uri, "test.jsonl"), tmp_path / "answers.jsonl")
    for record, row in list(zip(got, tiny_run.rows(16, 32), strict=True))[:4]:
        context, found = X1.replace("{{ text }}", row["text"]) + "\nAnswer:", []
        for word in (" no", " yes"):
            ids = tokenizer(context + word, return_tensors="pt").input_ids
            with torch.no_grad():
                found.append(float(torch.log_softmax(model(input_ids=ids).logits[0, -2], dim=-1)[ids[0, -1]]))
        assert np.abs(np.array(list(record["probabilities"].values())) - probabilities(found)).max() < FINE


def test_a_whole_base_would_answer_otherwise(run: tuple[str, Trial, str], tmp_path: Path) -> None:
    """So equal answers above say that the base was quantised."""
    uri, trial, folder = run
    rows = tiny_run.data(uri, "test.jsonl")
    got = answers(folder, rows, tmp_path / "answers.jsonl")
    about = json.loads(Path(folder, "template.json").read_text())
    assert about["trial"]["model"].pop("quantization") == trial.model.quantization
    whole = tmp_path / "whole"
    whole.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (whole / name).write_bytes(Path(folder, name).read_bytes())
    (whole / "template.json").write_text(json.dumps(about))
    other = answers(str(whole), rows, tmp_path / "others.jsonl")
    gaps = [abs(a["probabilities"]["yes"] - b["probabilities"]["yes"]) for a, b in zip(got, other, strict=True)]
    assert max(gaps) > 10 * FINE


def test_merged_into_the_whole_base_the_card_says_how_far_answers_move(
    run: tuple[str, Trial, str], tmp_path: Path
) -> None:
    """Held against `predict` with the adapter on its quantised base, over the dev rows."""
    uri, trial, folder = run
    merged = export(uri, trial.id, str(tmp_path / "merged"), merge=True)
    page, kind = Path(merged, "README.md").read_text(), trial.model.quantization
    rounding, moved = (float(x) for x in re.findall(r"differs by at most ([\d.e-]+) nats", page))
    assert rounding < FINE < moved
    assert f"with the trial as it was trained (base, in float32, quantised to {kind})" in page
    dev, out = tiny_run.data(uri, "dev.jsonl"), tmp_path / "answers.jsonl"
    trained, written = ([r["probabilities"]["yes"] for r in answers_by_default(f, dev, out)] for f in (folder, merged))
    gaps = np.abs(np.log(trained) - np.log(written))
    assert 0 < gaps.max() <= 2 * moved + FINE


def answers_by_default(folder: str, rows: str, out: Path) -> list[dict[str, Any]]:
    assert predict(folder, rows, str(out)) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_classifier_is_exported_too(tmp_path: Path) -> None:
    """Its head is trained, and so is not quantised by transformers either."""
    uri, trials = tiny_run.make_run(
        tmp_path, tiny_run.LABELLED, n_labels=2, axes=AXES, model={"head": "classifier", "quantization": "nf4"}
    )
    page = Path(export(uri, trials[0].id, str(tmp_path / "out")), "README.md").read_text()
    assert "peft has read this adapter back on its base model" in page
    chosen = ", ".join(f"{k}={v!r}" for k, v in settings(trials[0].model).items())
    assert f"quantization = BitsAndBytesConfig({chosen})" in page
    assert "num_labels=2, quantization_config=quantization)" in page
