"""Every causal language model class of transformers, tiny and random, against transformers and peft.

``python tests/support/causal_families.py`` tries them all and writes the table of ``docs/models.md``.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkout import ROOT
from slot_scores import request

from trainer.errors import UserError
from trainer.model.adapters import lora_config
from trainer.model.architecture import quiet_transformers
from trainer.model.miniature import miniature
from trainer.model.rehearsal import rehearse
from trainer.model.routing import Batch
from trainer.model.slots import SlotModel
from trainer.model.targets import frozen_experts, matching_layers
from trainer.score.logprobs import option_logprobs
from trainer.trial import Lora

PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
LIMIT = 1e-5  # of the logits' size, in float32
LOOSER = {"gemma3n_text": 1e-4}  # of its activations all but a few are cut off, which magnifies rounding
LORA = Lora(r=3, alpha=6.0)
# values for what a config leaves open, so that its defaults alone build no model
OPEN: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_group": 1, "n_group": 1},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 4},
}


@dataclass(frozen=True)
class Outcome:
    """``said``: equal, refused, or not built; ``why``: the reason, and which layers are equal where not all are."""

    model_type: str
    said: str
    why: str = ""


def model_types() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def outcome(model_type: str) -> Outcome:
    """What ``check`` says of a model of this type; where it says nothing, all is compared, and AssertionError tells
    what differs."""
    from transformers import CONFIG_MAPPING

    with quiet_transformers():
        try:
            config = CONFIG_MAPPING[model_type](**OPEN.get(model_type, {}))
            base = miniature(config)
            ids = torch.tensor([[5, 6, 7]])
            base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        except Exception as error:  # whatever a config's defaults lead to
            return Outcome(model_type, "not built", f"{type(error).__name__}: {_short(error)}")
        return _tried(model_type, config, ("all-linear",))


def _tried(model_type: str, config: Any, targets: tuple[str, ...]) -> Outcome:
    """With other layers where check names them, or names one that cannot be among them."""
    first = reason = ""
    for _ in range(4):
        try:
            rehearse(config, targets)
            break
        except UserError as error:
            named = re.search(r"target_modules=\[(.*?)\]", str(error))
            without = re.search(r'layers without "(\w+)"', str(error))
            first, reason = first or _short(error), reason or _reason(str(error))
            if not (named or without):
                return Outcome(model_type, "refused", first)
            targets = tuple(named[1].split(", ") if named else _others(config, targets, without[1]))  # type: ignore[index]
    else:
        return Outcome(model_type, "refused", first)
    compare(config, targets, LOOSER.get(model_type, LIMIT))
    if reason:
        return Outcome(model_type, "equal", f"on {', '.join(targets)}; refused with all-linear: {reason}")
    experts = frozen_experts(miniature(config))
    return Outcome(model_type, "equal", "routed experts stay frozen" if experts else "")


def compare(config: Any, targets: tuple[str, ...], limit: float = LIMIT) -> None:
    """Logits and label scores of two slots with random adapters against peft on transformers' own model, which reads
    the adapters as a trial writes them. AssertionError where one differs."""
    loras = [Lora(LORA.r, LORA.alpha, target_modules=targets), Lora(2, 8.0, target_modules=targets, rslora=True)]
    model = SlotModel(miniature(config), 2, LORA.r, targets).eval()
    generator = torch.Generator().manual_seed(1)
    for slot, lora in enumerate(loras):
        model.place(slot, lora, seed=slot)
        with torch.no_grad():
            for layer in model.layers.values():
                layer.B[slot, :, : lora.r] = torch.randn(layer.B.shape[1], lora.r, generator=generator) * 0.1
    rows = [torch.randint(5, 120, (n,), generator=generator) for n in (11, 7)]
    asked = [request(np.random.default_rng(2), row.tolist(), [[9, 8], [11], [12, 13, 14]]) for row in rows]
    for slot, lora in enumerate(loras):
        peft_model = _peft(config, model, slot, lora)
        expected = [logits_of(peft_model, row) for row in rows]
        gap = max(float((a - b).abs().max()) for a, b in zip(_slot_logits(model, rows, slot), expected, strict=True))
        size = max(1.0, *(float(x.abs().max()) for x in expected))
        assert gap <= limit * size, f"logits differ by {gap:.3g} (they go up to {size:.3g})"
        found = option_logprobs(model, asked, [slot] * len(asked))
        for one, scores in zip(asked, found, strict=True):
            brute = [_brute_force(peft_model, one.context, option) for option in one.options]
            gap = float(np.abs(scores - brute).max())
            assert gap <= limit * size, f"label scores differ by {gap:.3g} (logits go up to {size:.3g})"


@torch.no_grad()
def logits_of(model: Any, row: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=row[None], attention_mask=torch.ones_like(row)[None], use_cache=False).logits
    return logits[0]


def _brute_force(model: Any, context: Any, option: Any) -> float:
    ids = torch.from_numpy(np.concatenate([context, option]).astype(np.int64))
    logprobs = torch.log_softmax(logits_of(model, ids).double(), dim=-1)
    return float(sum(logprobs[len(context) + i - 1, token] for i, token in enumerate(option)))


@torch.no_grad()
def _slot_logits(model: SlotModel, rows: list[torch.Tensor], slot: int) -> list[torch.Tensor]:
    found = []
    for row in rows:
        place = torch.arange(len(row))
        batch = Batch(row[None], torch.ones_like(row)[None], place[None], torch.tensor([slot]), place * 0, place)
        found.append(model(batch))
    return found


def _peft(config: Any, model: SlotModel, slot: int, lora: Lora) -> Any:
    from peft import PeftModel
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        save_file(
            {k: v.contiguous() for k, v in model.adapter(slot, lora).items()}, f"{folder}/adapter_model.safetensors"
        )
        Path(folder, "adapter_config.json").write_text(json.dumps(lora_config(lora, model.peft_targets(lora))))
        return PeftModel.from_pretrained(miniature(config), folder).eval()


def _others(config: Any, targets: tuple[str, ...], without: str) -> list[str]:
    layers = {n.rsplit(".", 1)[-1] for n in matching_layers(miniature(config), targets)}
    return sorted(layers - {without})


def _reason(message: str) -> str:
    if "reads its weights directly" in message:
        return "the model reads a layer's weights past its adapter"
    return "peft reads the others as expert weights" if "peft would not read" in message else "peft refuses them"


def _short(error: BaseException) -> str:
    """The first sentence, without what is measured and what to do."""
    text = " ".join(str(error).split())
    for cut in (" (", ": it reads", ". Give a", ". Take another", ". Name ", ". Set ", ". You can"):
        text = text.partition(cut)[0]
    return text[:200].replace("|", "/")


def table(outcomes: list[Outcome]) -> str:
    lines = ["| model type | outcome | |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| `{o.model_type}` | {o.said} | {o.why} |" for o in outcomes)])


def written() -> dict[str, str]:
    """Model type -> its line in the table of the page."""
    text = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    return {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}


def main() -> None:
    found = []
    for model_type in model_types():
        found.append(outcome(model_type))
        print(found[-1], file=sys.stderr, flush=True)
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(found)}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
