"""Adapters on bases that bitsandbytes has quantised, against peft on the same base as transformers loads it.

peft is kept in training mode: in eval mode bitsandbytes rounds further (``trainer.model.quantized_linear``). Nothing in
these models drops out.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from engine_steps import PLAN, make_batch
from slot_scores import some_requests
from tiny_llama import make_llama
from tiny_models import change_config, change_weights, model_in, save_tiny

from trainer.errors import BaseModelError, UserError
from trainer.model.architecture import check_architecture, check_layers
from trainer.model.base import load_base
from trainer.model.quantization import BYTES, settings
from trainer.model.quantized_linear import import_quietly
from trainer.model.slots import SlotModel
from trainer.score.logprobs import option_logprobs
from trainer.setup import Setup
from trainer.train.engine import Engine
from trainer.train.optimizer import learning_rate
from trainer.trial import Lora, Loss, Model, Optimization

pytest.importorskip("bitsandbytes")

KINDS = ("nf4", "int8")
CPU = torch.device("cpu")
LORAS = (Lora(r=4, alpha=8.0), Lora(r=2, alpha=8.0, target_modules=("q_proj", "down_proj")))
STEPS = 4
PACE = dataclasses.replace(PLAN, steps=STEPS, lr=1e-2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as large as trained ones are, so that rounding them matters."""
    base = make_llama()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return save_tiny(tmp_path_factory.mktemp("quantised") / "model", base)


def named(folder: Path, kind: Any, **more: Any) -> Model:
    return dataclasses.replace(model_in(folder), quantization=kind, **more)


def transformers_own(model: Model) -> Any:
    """The same base, without a line of ours but the settings."""
    quantization = transformers.BitsAndBytesConfig(**settings(model))
    return transformers.AutoModelForCausalLM.from_pretrained(
        model.path, dtype=torch.float32, quantization_config=quantization, device_map={"": "cpu"}
    ).train()


def peft_on(model: Model, lora: Lora, adapter: dict[str, torch.Tensor]) -> Any:
    import peft

    targets = "all-linear" if "all-linear" in lora.target_modules else list(lora.target_modules)
    config = peft.LoraConfig(r=lora.r, lora_alpha=int(lora.alpha), target_modules=targets, task_type="CAUSAL_LM")
    made = peft.get_peft_model(transformers_own(model), config)
    peft.set_peft_model_state_dict(made, adapter)
    return made.train()


def step_of_peft(model: Any, optimizer: Any, plan: Optimization, step: int, seed: int) -> float:
    """One step of a plain loop; the loss of the completions before it, in nats a token."""
    optimizer.param_groups[0]["lr"] = learning_rate(plan, step)
    total, nats, tokens = torch.zeros(()), 0.0, 0
    for s in make_batch(step, plan.batch_size, Loss(plw=0.1), seed=seed):
        ids = torch.from_numpy(s.ids.astype(np.int64))[None]
        logits = model(input_ids=ids).logits[0, :-1]
        nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        total = total + (nll * torch.from_numpy(s.weights[1:])).sum() / s.normalizer
        nats, tokens = nats + float(nll.detach()[-3:].sum()), tokens + 3
    optimizer.zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], plan.clip)
    optimizer.step()
    return nats / tokens


@torch.no_grad()
def sums_of_peft(model: Any, requests: Any) -> np.ndarray:
    """Log-probability of each option of each request, one forward each."""
    found = []
    for r in requests:
        for option in r.options:
            ids = torch.tensor([[*r.context.tolist(), *option.tolist()]])
            logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
            found.append(float(logprobs[len(r.context) - 1 : -1].gather(1, ids[0, len(r.context) :, None]).sum()))
    return np.array(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [1, 2])
def test_losses_and_label_scores_are_those_of_peft_on_the_same_base(folder: Path, kind: str, slots: int) -> None:
    """Scores are taken between the steps, as at rungs: bitsandbytes packs layers anew when it is first asked without
    gradients, and gives none from then on."""
    model, requests = named(folder, kind), some_requests("several tokens", 6)
    engine = Engine(load_base(model, CPU), Setup(slots=slots, max_r=4))
    theirs = []
    for slot, lora in enumerate(LORAS[:slots]):
        engine.place(slot, lora, PACE, seed=slot)
        theirs.append(peft_on(model, lora, engine.slot_model.adapter(slot, lora)))
    optimizers = [
        torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=PACE.lr, weight_decay=PACE.weight_decay)
        for m in theirs
    ]
    gaps, moved = [], []
    for step in range(STEPS):
        asked = [(slot, r) for slot in range(slots) for r in requests]
        got = np.concatenate(option_logprobs(engine.slot_model, [r for _, r in asked], [s for s, _ in asked]))
        expected = np.concatenate([sums_of_peft(m, requests) for m in theirs])
        gaps.append(np.abs(got - expected).max())
        moved.append(got)
        batch = [s for slot in range(slots) for s in make_batch(step, PACE.batch_size, Loss(plw=0.1), slot, slot)]
        logs = engine.tick(batch)
        for slot in range(slots):
            loss = step_of_peft(theirs[slot], optimizers[slot], PACE, step, slot)
            gaps.append(abs(logs[slot].completion_loss - loss))
    engine.close()
    assert max(gaps) < 1e-4, gaps
    assert np.abs(moved[-1] - moved[0]).max() > 0.1, "the adapters have learnt nothing that scores could show"


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_base_is_another_model_than_the_whole_one(folder: Path, kind: str) -> None:
    requests = some_requests("one token", 6)
    scores = [
        np.concatenate(option_logprobs(SlotModel(load_base(m, CPU), 1, 2, ()).eval(), requests, [0] * len(requests)))
        for m in (model_in(folder), named(folder, kind))
    ]
    assert np.abs(scores[0] - scores[1]).max() > 0.002


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_weights_that_it_computes_with(folder: Path, kind: str) -> None:
    """Of the input of a layer, after it was asked without gradients; in float32 and bfloat16."""
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 2e-2)):
        layer = load_base(named(folder, kind, dtype=dtype), CPU).model.layers[0].mlp.up_proj  # type: ignore[union-attr]
        exact = getattr(torch, dtype)
        with torch.no_grad():
            weight = layer(torch.eye(layer.in_features, dtype=exact)).T
            assert float((weight - layer(torch.eye(layer.in_features, dtype=exact)).T).abs().max()) == 0
        x = torch.randn(5, layer.in_features, dtype=exact, requires_grad=True)
        out = layer(x)
        grad = torch.randn_like(out)
        out.backward(grad)
        assert x.grad is not None
        torch.testing.assert_close(x.grad, grad @ weight, atol=tolerance * float(grad.norm()), rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_takes_the_memory_that_a_plan_counts(folder: Path, kind: str) -> None:
    base: Any = load_base(named(folder, kind), CPU)
    held = numbers = 0
    for layer in (m for m in base.modules() if type(m).__name__ in ("Linear4bit", "Linear8bitLt")):
        numbers += layer.in_features * layer.out_features
        held += layer.weight.nbytes
        if kind == "nf4":
            state = layer.weight.quant_state
            held += state.absmax.nbytes + state.state2.absmax.nbytes
    rows = numbers / 64  # of int8 each has a scale, which plans leave out
    assert numbers == 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
    assert held == pytest.approx(BYTES[kind] * numbers, abs=rows)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_the_file_of_whole_weights_is_let_go(folder: Path, tmp_path: Path) -> None:
    """A single view into it, such as the embeddings, would keep all of it in memory."""
    own = shutil.copytree(folder, tmp_path / "own")
    held = load_base(named(own, "nf4"), CPU)
    assert str(own) not in Path("/proc/self/maps").read_text()
    del held


@pytest.mark.parametrize("zero", [1, 2])
def test_zero_1_and_2_train_on_it(folder: Path, zero: int) -> None:
    found = []
    for stage in (0, zero):
        engine = Engine(load_base(named(folder, "nf4"), CPU), Setup(max_r=4, zero=stage))
        engine.place(0, LORAS[0], PACE, seed=0)
        found.append([engine.tick(make_batch(t, 4, Loss()))[0].completion_loss for t in range(3)])
        engine.close()
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_zero_3_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"is quantised, and resources.zero = 3 shards whole weights only"):
        load_base(named(folder, "nf4"), CPU, zero=3)


# checkpoints that are quantised already ----------------------------------------------------------------------------


@pytest.fixture(params=KINDS)
def stored(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> tuple[str, Path]:
    """A folder into which transformers has written a quantised model."""
    base = transformers_own(named(folder, request.param))
    return request.param, save_tiny(tmp_path / "stored", base)


def test_a_checkpoint_of_bitsandbytes_is_loaded_as_it_is(stored: tuple[str, Path], folder: Path) -> None:
    kind, at = stored
    check_architecture(model_in(at))
    requests = some_requests("one token", 4)
    scores = [
        np.concatenate(option_logprobs(SlotModel(load_base(m, CPU), 1, 2, ()).eval(), requests, [0] * len(requests)))
        for m in (model_in(at), named(folder, kind))
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


def test_it_is_not_quantised_twice(stored: tuple[str, Path]) -> None:
    kind, at = stored
    with pytest.raises(BaseModelError, match=r"is quantised already \(bitsandbytes, [48] bits\). Remove model.quan"):
        check_architecture(named(at, kind))


def test_a_config_that_claims_it_of_whole_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    at = save_tiny(tmp_path / "model")
    change_config(at, quantization_config={"load_in_4bit": True})
    with pytest.raises(BaseModelError, match="bitsandbytes has stored its weights in 4 bits, and they have no scales"):
        check_architecture(model_in(at))


def test_a_stored_weight_that_is_missing_is_found_without_reading_weights(stored: tuple[str, Path]) -> None:
    _, at = stored
    gone = "model.layers.0.mlp.up_proj."
    change_weights(at, lambda t: [t.pop(n) for n in list(t) if n.startswith(gone)])  # type: ignore[arg-type]
    with pytest.raises(BaseModelError, match=r"its weights lack model.layers.0.mlp.up_proj.weight, which"):
        check_architecture(model_in(at))


# what cannot be quantised ------------------------------------------------------------------------------------------


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trainer.model.quantization as module

    real = importlib.util.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "bitsandbytes" else real(name))
    check_architecture(model_in(folder))
    with pytest.raises(
        UserError, match=r"\"nf4\" needs the package bitsandbytes: pip install 'steadytune\[quantized\]'"
    ):
        check_architecture(named(folder, "nf4"))


def test_bitsandbytes_finds_no_package_that_gets_code_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package in its place that looks for kernels as it does; afterwards kernels is there again."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    tries = "try:\n    import kernels\n    FOUND = True\nexcept ImportError:\n    FOUND = False\n"
    (tmp_path / "bitsandbytes.py").write_text(tries)
    (tmp_path / "kernels.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    import_quietly()
    assert sys.modules["bitsandbytes"].FOUND is False
    assert importlib.import_module("kernels").__file__ == str(tmp_path / "kernels.py")
    del sys.modules["kernels"]
    del sys.modules["bitsandbytes"]


def test_a_model_without_layers_to_quantise_is_refused(tmp_path: Path) -> None:
    """Falcon's are of a class of its own, which bitsandbytes passes over."""
    config = transformers.FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    transformers.FalconForCausalLM(config).save_pretrained(tmp_path)
    load_base(model_in(tmp_path), CPU)
    with pytest.raises(BaseModelError, match="this FalconForCausalLM has no layers that bitsandbytes quantises"):
        load_base(named(tmp_path, "nf4"), CPU)
    check_layers(model_in(tmp_path), ["query_key_value"])
    with pytest.raises(BaseModelError, match="this FalconForCausalLM has no layers that bitsandbytes quantises"):
        check_layers(named(tmp_path, "nf4"), ["query_key_value"])
