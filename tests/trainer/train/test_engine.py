"""The engine against peft and torch alone; slots against each trial on its own; resume; ZeRO stages."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import os
import socket
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkout import ROOT
from engine_steps import LORA, PLAN, assert_close, make_batch, train
from tiny_llama import make_llama

import trainer.train.engine as engine_module
from trainer.data.render import Request
from trainer.model.base import load_base
from trainer.score.logprobs import option_logprobs
from trainer.setup import Setup
from trainer.train.engine import Engine
from trainer.train.optimizer import learning_rate
from trainer.trial import Lora, Loss, Model, Optimization


def peft_reference(lora: Lora, plan: Optimization, loss: Loss, steps: int) -> dict[str, torch.Tensor]:
    """The same training with peft, torch.optim.AdamW and a plain loop, from the same initial adapter."""
    import peft

    start = Engine(make_llama(), Setup(max_r=lora.r, target_modules=lora.target_modules))
    start.place(0, lora, plan, seed=7)
    initial = start.slot_model.adapter(0, lora)
    start.close()
    config = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        target_modules=list(lora.target_modules),
        use_rslora=lora.rslora,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(make_llama(), config)
    peft.set_peft_model_state_dict(model, initial)
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=plan.lr, betas=(plan.beta1, plan.beta2), eps=plan.eps, weight_decay=plan.weight_decay
    )
    for t in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate(plan, t)
        batch = make_batch(t, plan.batch_size * plan.accumulation, loss)
        total = torch.zeros(())
        for s in batch:
            ids = torch.from_numpy(s.ids.astype(np.int64))[None]
            logits = model(input_ids=ids).logits[0, :-1]
            nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
            total = total + (nll * torch.from_numpy(s.weights[1:])).sum() / s.normalizer
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, plan.clip)
        optimizer.step()
    return {k: v.clone() for k, v in peft.get_peft_model_state_dict(model).items()}


@pytest.mark.parametrize(
    "loss", [Loss(), Loss(plw=0.1), Loss(plw=0.3, normalization="nonzero_count", template_tokens="plw")], ids=str
)
@pytest.mark.parametrize("lora", [LORA, Lora(r=3, alpha=5.0, rslora=True)], ids=["qvd", "all-rslora"])
def test_training_equals_peft_alone(loss: Loss, lora: Lora) -> None:
    targets = lora.target_modules
    if "all-linear" in targets:
        lora = dataclasses.replace(
            lora, target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        )
    engine = Engine(make_llama(), Setup(max_r=lora.r, target_modules=lora.target_modules))
    engine.place(0, lora, PLAN, seed=7)
    train(engine, 0, PLAN, loss, 0, 12)
    assert_close(engine.slot_model.adapter(0, lora), peft_reference(lora, PLAN, loss, 12))
    engine.close()


def test_many_micro_batches_equal_one() -> None:
    plan = dataclasses.replace(PLAN, batch_size=1, accumulation=8)
    adapters = []
    for budget in (10**6, 26):  # all 8 sequences at once; one at a time
        engine = Engine(make_llama(), Setup(max_r=4, target_modules=LORA.target_modules, token_budget=budget))
        engine.place(0, LORA, plan, seed=7)
        train(engine, 0, plan, Loss(plw=0.2), 0, 8)
        adapters.append(engine.slot_model.adapter(0, LORA))
        engine.close()
    assert_close(adapters[0], adapters[1], 1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("family", ["opt", "qwen2_moe", "deepseek_v3"])
def test_layers_that_get_their_tokens_in_another_shape_serve_each_slot_its_own(family: str, dropout: float) -> None:
    """[B L, H] and [B, 1, L, H], where most give [B, L, H]."""
    import transformers as hf

    common = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    experts = {"intermediate_size": 64, "moe_intermediate_size": 16, "num_key_value_heads": 4, "num_experts_per_tok": 2}
    latent = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
    groups = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0}
    config: Any = {
        "opt": lambda: hf.OPTConfig(ffn_dim=64, max_position_embeddings=64, word_embed_proj_dim=32, **common),
        "qwen2_moe": lambda: hf.Qwen2MoeConfig(shared_expert_intermediate_size=32, num_experts=4, **experts, **common),
        "deepseek_v3": lambda: hf.DeepseekV3Config(**groups, **latent, **experts, **common),
    }[family]()
    lora, found = Lora(r=4, dropout=dropout), []
    for slots in (1, 2):
        torch.manual_seed(0)
        engine = Engine(hf.AutoModelForCausalLM.from_config(config).eval(), Setup(slots=slots, max_r=4))
        for slot in range(slots):
            engine.place(slot, lora, PLAN, seed=slot)
        for t in range(3):
            engine.tick([x for slot in range(slots) for x in make_batch(t, 4, Loss(), slot, slot)])
        found.append(engine.slot_model.adapter(0, lora))
        engine.close()
    assert_close(found[1], found[0], 1e-4)


def test_a_model_without_sdpa_attention_trains_with_the_attention_it_has(tmp_path: Path) -> None:
    from transformers import GPTJConfig, GPTJForCausalLM

    config = GPTJConfig(vocab_size=256, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=8)
    GPTJForCausalLM(config).save_pretrained(tmp_path)
    base = load_base(Model(str(tmp_path), "fingerprint"), torch.device("cpu"))
    assert base.config._attn_implementation == "eager"
    engine = Engine(base, Setup(max_r=4))
    engine.place(0, Lora(r=4), dataclasses.replace(PLAN, warmup=0.0), seed=0)
    same = [engine.tick(make_batch(0, 6, Loss()))[0].completion_loss for _ in range(5)]
    assert same == sorted(same, reverse=True)
    engine.close()


def test_a_layer_that_gets_some_tokens_only_is_refused_by_name() -> None:
    """As an expert does, to which a router sends every other token."""
    base = make_llama()
    base.set_attn_implementation("eager")  # else up and gate go through one product
    engine = Engine(base, Setup(slots=2, max_r=4))
    layer = engine.slot_model.layers["model.layers.0.mlp.up_proj"]
    layer.register_forward_pre_hook(lambda module, args: (args[0].reshape(-1, args[0].shape[-1])[::2],))
    engine.place(0, Lora(r=4), PLAN, seed=0)
    engine.place(1, Lora(r=4), PLAN, seed=0)
    with pytest.raises(ValueError, match=r"layer model.layers.0.mlp.up_proj gets \d+ of \d+ tokens"):
        engine.tick([x for slot in (0, 1) for x in make_batch(0, 5, Loss(), slot)])
    engine.close()


def test_dropout_is_the_same_whatever_layers_other_trials_train() -> None:
    lora = Lora(r=4, dropout=0.2, target_modules=("v_proj",))
    found = []
    for targets in (("v_proj",), ("q_proj", "v_proj")):
        engine = Engine(make_llama(), Setup(max_r=4, target_modules=targets))
        engine.place(0, lora, PLAN, seed=7)
        train(engine, 0, PLAN, Loss(), 0, 4)
        found.append(engine.slot_model.adapter(0, lora))
        engine.close()
    assert_close(found[1], found[0], 1e-6)


@pytest.mark.parametrize(("zero", "offload"), [(0, False), (1, False), (2, False), (3, False), (2, True), (3, True)])
def test_memory_that_ends_between_two_micro_batches_changes_no_step(
    zero: int, offload: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(ends: bool) -> dict[str, torch.Tensor]:
        setup = Setup(max_r=4, target_modules=LORA.target_modules, zero=zero, offload=offload, token_budget=100)
        engine = Engine(make_llama(), setup)
        engine.place(0, LORA, PLAN, seed=7)
        train(engine, 0, PLAN, Loss(), 0, 2)
        calls, real = itertools.count(), engine_module.weighted_loss

        def second_breaks(*args: Any) -> Any:
            if next(calls) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(*args)

        with monkeypatch.context() as m:
            if ends:
                m.setattr(engine_module, "weighted_loss", second_breaks)
            train(engine, 0, PLAN, Loss(), 2, 5)
        assert engine.token_budget == (50 if ends else 100)
        found = engine.snapshot(0, LORA)
        engine.close()
        return found

    assert_close(trained(ends=True), trained(ends=False), 1e-5)


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_a_closed_engine_lets_go_of_its_base(zero: int) -> None:
    """Also once it has scored, which fills a cache of DeepSpeed's that holds the models of ZeRO 3."""
    bases = []
    for seed in (1, 2):
        base = make_llama()
        bases.append(weakref.ref(base))
        engine = Engine(base, Setup(max_r=4, target_modules=LORA.target_modules, zero=zero))
        engine.place(0, LORA, PLAN, seed)
        train(engine, 0, PLAN, Loss(), 0, 1)
        ids = np.arange(3, 12, dtype=np.int32)
        option = (np.array([5], np.int32), np.array([6], np.int32))
        option_logprobs(engine.slot_model, [Request("r", "p", "0", ids, option, (1, 1))] * 2, [0, 0])
        engine.close()
        del engine, base
        gc.collect()
    assert [base() for base in bases] == [None, None]


def test_resume_is_exact() -> None:
    def engine() -> Engine:
        return Engine(make_llama(), Setup(slots=2, max_r=6, target_modules=("all-linear",)))

    lora, loss = Lora(r=4, alpha=8.0, dropout=0.2), Loss(plw=0.1)
    whole = engine()
    whole.place(1, lora, PLAN, seed=3)
    train(whole, 1, PLAN, loss, 0, 5)
    saved = whole.snapshot(1, lora)
    rest = train(whole, 1, PLAN, loss, 5, 10)
    other = engine()
    other.restore(0, lora, PLAN, 5, saved)
    assert train(other, 0, PLAN, loss, 5, 10) == rest
    a, b = whole.slot_model.adapter(1, lora), other.slot_model.adapter(0, lora)
    assert all(torch.equal(a[k], b[k]) for k in a)
    whole.close()
    other.close()


SPMD = """
import json, sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch
from engine_steps import *
from tiny_llama import make_llama
from trainer.setup import Setup
from trainer.train.engine import Engine
from trainer.trial import Loss
zero, out, start = int(sys.argv[1]), sys.argv[2], sys.argv[5]
offload, dtype = sys.argv[3] == "1", getattr(torch, sys.argv[4])
setup = Setup(max_r=4, target_modules=LORA.target_modules, zero=zero, offload=offload, token_budget=60)
engine = Engine(make_llama().to(dtype), setup)
losses, snap, first = [], None, 0
if start:
    first, before = 3, torch.load(start, weights_only=True)["snap"]
    engine.restore(0, LORA, PLAN, 3, before)
    assert_close(engine.snapshot(0, LORA), before, 1e-7)
    if zero < 3:  # the weights that score, not only the optimizer's copy
        found = engine.slot_model.adapter(0, LORA).items()
        adapter = {{n.removeprefix("base_model.model.").removesuffix(".weight"): v for n, v in found}}
        assert_close(adapter, {{n: before[n] for n in adapter}}, 1e-7)
else:
    engine.place(0, LORA, PLAN, seed=7)
for t in range(first, 6):
    if t == 3:
        snap = engine.snapshot(0, LORA)
    losses.append(engine.tick(make_batch(t, 6, Loss(plw=0.1)))[0].completion_loss)
final = engine.snapshot(0, LORA)
if engine.rank == 0:
    torch.save({{"losses": losses, "snap": snap, "final": final}}, out)
torch.distributed.barrier()
torch.distributed.destroy_process_group()  # else gloo's threads may be alive when the process ends, which aborts it
"""


def spmd(
    tmp_path: Path, zero: int, world: int, offload: bool = False, dtype: str = "float32", start: Path | str = ""
) -> dict[str, Any]:
    """Train 6 steps in ``world`` processes; with ``start``, the last 3 of them from its snapshot."""
    out = tmp_path / f"z{zero}w{world}o{int(offload)}{dtype}{'r' if start else ''}.pt"
    script = tmp_path / "spmd.py"
    script.write_text(SPMD.format(root=str(ROOT), tests=str(ROOT / "tests" / "support")))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    procs = []
    for rank in range(world):
        env = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        procs.append(
            subprocess.Popen(
                [sys.executable, str(script), str(zero), str(out), str(int(offload)), dtype, str(start)],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    for p in procs:
        text, _ = p.communicate(timeout=240)
        assert p.returncode == 0, text.decode()[-3000:]
    return torch.load(out, weights_only=True)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """ZeRO 0, one worker, float32."""
    return spmd(tmp_path_factory.mktemp("plain"), 0, 1)


@pytest.mark.parametrize("zero", [0, *(pytest.param(z, marks=pytest.mark.long) for z in (1, 2)), 3])
def test_workers_and_zero_stages_agree(zero: int, plain: dict[str, Any], tmp_path: Path) -> None:
    """Two gloo workers give the adapter of one, and every ZeRO stage that of ZeRO 0, moments included."""
    one = plain if zero == 0 else spmd(tmp_path, zero, 1)
    two = spmd(tmp_path, zero, 2)
    for found, reference, rel in ((two, one, 1e-5), (one, plain, 2e-5)):  # DeepSpeed's clipping rounds by 7e-6
        assert found["losses"] == pytest.approx(reference["losses"], rel=1e-6)
        assert_close(found["final"], reference["final"], rel)
        assert_close(found["snap"], reference["snap"], rel)


@pytest.mark.parametrize(
    ("zero", "offload", "dtype"), [(2, True, "float32"), (3, True, "bfloat16"), (0, False, "bfloat16")]
)
def test_offload_and_bf16_train(zero: int, offload: bool, dtype: str, plain: dict[str, Any], tmp_path: Path) -> None:
    found = spmd(tmp_path, zero, 1, offload, dtype)
    assert found["losses"] == pytest.approx(plain["losses"], rel=1e-5 if dtype == "float32" else 2e-2)
    assert all(t.dtype == torch.float32 for t in found["final"].values())  # adapters stay in float32


@pytest.mark.parametrize(("before", "after"), [((2, 2), (3, 1)), pytest.param((3, 1), (1, 2), marks=pytest.mark.long)])
def test_a_checkpoint_resumes_at_another_zero_stage_and_world_size(
    before: tuple[int, int], after: tuple[int, int], tmp_path: Path
) -> None:
    """One format for all: DeepSpeed's own checkpoints of ZeRO 2 and 3 load only at the world size they were made at."""
    whole = spmd(tmp_path, *before)
    start = tmp_path / f"z{before[0]}w{before[1]}o0float32.pt"
    resumed = spmd(tmp_path, *after, start=start)
    assert resumed["losses"] == pytest.approx(whole["losses"][3:], rel=1e-6)
    assert_close(resumed["final"], whole["final"], 2e-5)
