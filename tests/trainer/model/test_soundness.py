"""What is measured on a base model when it is loaded (CASES V2, V7 and the issue's third point)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import make_llama
from tiny_models import change_weights, model_in, save_tiny

from trainer.errors import BaseModelError
from trainer.model.base import load_base
from trainer.model.slots import SlotModel

CPU = torch.device("cpu")


def test_weights_that_are_missing_or_left_over_stop_the_load(tmp_path: Path) -> None:
    """CASES V2: each host looks at transformers' own report."""
    folder = save_tiny(tmp_path / "model")
    load_base(model_in(folder), CPU)
    change_weights(folder, lambda t: t.update({"extra.weight": torch.zeros(2)}))
    with pytest.raises(BaseModelError, match=r"its weights hold extra\.weight"):
        load_base(model_in(folder), CPU)
    change_weights(folder, lambda t: (t.pop("extra.weight"), t.pop("model.norm.weight")))
    with pytest.raises(BaseModelError, match=r"its weights lack model\.norm\.weight, which would be random"):
        load_base(model_in(folder), CPU)
    change_weights(folder, lambda t: t.update({"model.norm.weight": torch.zeros(3)}))
    with pytest.raises(BaseModelError, match=r"model\.norm\.weight is \[3\] in its weights and \[32\]"):
        load_base(model_in(folder), CPU)


@pytest.mark.parametrize("n_labels", [0, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_give_nan_stop_the_load(value: float, n_labels: int) -> None:
    base = make_llama()
    with torch.no_grad():
        base.model.layers[1].mlp.up_proj.weight[0, 0] = value
    with pytest.raises(BaseModelError, match="gives outputs that are not finite"):
        SlotModel(base, 1, 2, ("all-linear",), n_labels)


@pytest.mark.parametrize("n_labels", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_that_changes_with_our_pass_stops_the_load(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, n_labels: int
) -> None:
    """Here rotary embedding by a wrong angle, in our fused pass alone."""
    import trainer.model.decoder as decoder

    SlotModel(make_llama().to(dtype), 2, 2, ("all-linear",), n_labels)
    right = decoder.split_rotate

    def wrong(x: Any, cos: Any, sin: Any, *rest: Any) -> Any:
        return right(x, cos, -sin, *rest)

    monkeypatch.setattr(decoder, "split_rotate", wrong)
    base = make_llama().to(dtype)
    with torch.no_grad():  # with the usual small weights, attention hardly depends on places
        for layer in base.model.layers:
            layer.self_attn.q_proj.weight.mul_(20)
            layer.self_attn.k_proj.weight.mul_(20)
    with pytest.raises(BaseModelError, match="gives other outputs under steadytune than in transformers"):
        SlotModel(base, 2, 2, ("all-linear",), n_labels)


def test_attention_in_both_directions_stops_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """CASES V7, in a class that is otherwise a language model's."""
    import transformers.models.llama.modeling_llama as llama

    def open_mask(inputs_embeds: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.zeros(1, 1, inputs_embeds.shape[1], inputs_embeds.shape[1])

    monkeypatch.setattr(llama, "create_causal_mask", open_mask)
    with pytest.raises(BaseModelError, match="in this LlamaForCausalLM later tokens move earlier outputs"):
        SlotModel(make_llama(), 1, 2, ())


def test_a_layer_whose_weights_are_read_past_it_is_refused() -> None:
    import transformers

    from trainer.errors import UserError
    from trainer.model.miniature import miniature

    base = miniature(transformers.MambaConfig())
    with pytest.raises(UserError, match=r"dt_proj: the model reads its weights directly.*layers without \"dt_proj\""):
        SlotModel(base, 1, 2, ("all-linear",))
    SlotModel(miniature(transformers.MambaConfig()), 1, 2, ("in_proj", "x_proj"))


def test_the_models_mode_and_gradients_are_left_alone() -> None:
    base = make_llama()
    base.train()
    model = SlotModel(base, 1, 2, ("all-linear",))
    assert base.training
    assert model.training
    assert all(p.grad is None for p in model.parameters())
