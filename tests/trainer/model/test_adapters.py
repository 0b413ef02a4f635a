"""The configuration beside an adapter is what peft itself would have written, its defaults apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest

from trainer import trial as t
from trainer.model.adapters import adapter_config, peft_targets

LAYERS = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"]


def trial(lora: t.Lora, head: Any = "lm", revision: str | None = None) -> t.Trial:
    return t.Trial(
        model=t.Model("org/model", "fingerprint", revision=revision, head=head),
        task=t.Task(("no", "yes"), max_length=40),
        template=t.Template("plain", words=(("no", " no"), ("yes", " yes"))),
        lora=lora,
        loss=t.Loss(0.1),
        optimization=t.Optimization(steps=1, lr=1e-3),
        draw=t.Draw(),
        scoring=t.Scoring(),
        data=t.Data("a", "b", "c", "d", "e", "f"),
        pool="many",
        seed=0,
    )


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (
            trial(t.Lora(4, 8.0)),
            {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "up_proj"]},
        ),
        (
            trial(t.Lora(16, 2.5, 0.1, ("v_proj", "q_proj"), rslora=True), "classifier", "main"),
            {
                "r": 16,
                "lora_alpha": 2.5,
                "lora_dropout": 0.1,
                "use_rslora": True,
                "task_type": "SEQ_CLS",
                "target_modules": ["q_proj", "v_proj"],
                "modules_to_save": ["score"],
                "revision": "main",
            },
        ),
    ],
)
def test_peft_reads_the_configuration_that_it_would_have_made(
    made: t.Trial, wanted: dict[str, Any], tmp_path: Path
) -> None:
    targets = peft_targets(
        made.lora, [n for n in LAYERS if "all-linear" in made.lora.target_modules or "up_proj" not in n], LAYERS
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter_config(made, targets)))
    theirs = peft.LoraConfig(base_model_name_or_path="org/model", inference_mode=True, **wanted)  # type: ignore[arg-type]
    assert peft.PeftConfig.from_pretrained(str(tmp_path)).to_dict() == theirs.to_dict()
