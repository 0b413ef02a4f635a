"""A base model is refused for what its files say, before weights are read (CASES V2, V7, V8, M2 to M5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from small_tokenizers import WORDS
from tiny_models import change_config, change_weights, header_of, model_in, save_tiny

from sweeps.trials.base_model import fingerprint_model
from trainer.errors import UserError
from trainer.model.architecture import check_architecture, check_layers
from trainer.model.slots import SlotModel
from trainer.model.targets import matching_layers
from trainer.model.weights import check_folder
from trainer.trial import Model

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


def refusal(folder: Path, targets: tuple[str, ...] = ("all-linear",)) -> str:
    def check() -> None:
        check_architecture(model_in(folder))
        check_layers(model_in(folder), targets)

    with pytest.raises(UserError) as error:
        check()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_sound_model_passes(folder: Path) -> None:
    check_architecture(model_in(folder))
    assert check_layers(model_in(folder), ["all-linear"]) == []


def test_missing_renamed_added_and_misshapen_weights_are_named(folder: Path) -> None:
    """CASES V2."""
    change_weights(folder, lambda t: t.update({"model.layers.0.mlp.upp.weight": t.pop(UP)}))
    assert f"its weights lack {UP}, which would be random. They hold model.layers.0.mlp.upp.weight" in refusal(folder)
    change_weights(folder, lambda t: t.pop("model.layers.0.mlp.upp.weight"))
    assert f"its weights lack {UP}, which would be random. Give config" in refusal(folder)
    save_tiny(folder)
    change_weights(folder, lambda t: t.update({"score.weight": torch.zeros(2, 32)}))
    assert "its weights hold score.weight, for which a model of this config.json has no place" in refusal(folder)
    save_tiny(folder)
    change_weights(folder, lambda t: t.update({UP: torch.zeros(63, 32)}))
    assert f"{UP} is [63, 32] in its weights and [64, 32] by its config.json" in refusal(folder)


def test_what_transformers_renames_itself_is_no_misfit(tmp_path: Path) -> None:
    """Experts that older checkpoints hold one by one, tied and shared weights, rotary tables of old checkpoints."""
    config = transformers.MixtralConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    folder = save_tiny(tmp_path / "mixtral", transformers.MixtralForCausalLM(config))
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert any("experts.3.w1.weight" in name for name in file.keys())  # noqa: SIM118
    check_architecture(model_in(folder))
    warned = check_layers(model_in(folder), ["q_proj", "v_proj"])
    assert len(warned) == 1
    assert (
        "its routed experts (model.layers.mlp.experts.gate_up_proj, model.layers.mlp.experts.down_proj; " in warned[0]
    )
    tied = transformers.GPTNeoXConfig(vocab_size=24, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                      num_attention_heads=4, tie_word_embeddings=True)  # fmt: skip
    folder = save_tiny(tmp_path / "neox", transformers.GPTNeoXForCausalLM(tied))
    change_weights(folder, lambda t: t.update({"gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.zeros(4)}))
    check_architecture(model_in(folder))


@pytest.mark.parametrize(
    ("key", "about", "shown"),
    [
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "quantization_config: gptq, 4 bits"),
        ("quantization_config", {"quant_method": "awq"}, "quantization_config: awq"),
        ("quantization_config", {"quant_method": "fp8"}, "quantization_config: fp8"),
        ("quantization_config", {"quant_method": "mxfp4"}, "quantization_config: mxfp4"),
        ("quantization_config", {"bits": 4}, "quantization_config: of an unnamed kind, 4 bits"),
        ("compression_config", {"quant_method": "compressed-tensors"}, "compression_config: compressed-tensors"),
    ],
)
def test_quantised_checkpoints_are_refused_by_their_config(
    folder: Path, key: str, about: dict[str, Any], shown: str
) -> None:
    """CASES M2."""
    change_config(folder, **{key: about})
    output = refusal(folder)
    assert (
        f"is quantised ({shown}). Adapters are trained on float32 or bfloat16 weights, or on what bitsandbytes makes "
        "of them: give the model that it was made from, and set model.quantization=nf4 if memory is short" in output
    )


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("model.layers.0.mlp.up_proj.qweight", torch.int32),
        (UP, torch.int8),
        (UP, torch.float8_e4m3fn),
        (f"{UP}_scale_inv", torch.float32),
    ],
)
def test_quantised_tensors_are_refused_where_the_config_says_nothing(
    folder: Path, name: str, dtype: torch.dtype
) -> None:
    """CASES M2."""
    change_weights(folder, lambda t: t.update({name: torch.zeros(4, 4).to(dtype)}))
    assert f"is quantised ({name} is " in refusal(folder)


def test_an_adapter_in_the_models_folder_is_refused(folder: Path) -> None:
    """CASES M3: beside the base's weights, and alone; by ``check``, ``plan`` and ``predict --base`` alike, which all
    begin with the fingerprint."""
    (folder / "adapter_config.json").write_text("{}")
    expected = "has a peft adapter (adapter_config.json) beside its weights"
    assert expected in refusal(folder)
    with pytest.raises(UserError, match="beside its weights: training would start on another model"):
        fingerprint_model(str(folder))
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"and no weights of its own.*Merge it first"):
        fingerprint_model(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 2**31}, "config.json says hidden_size = 2147483648, and its weights have "),
        (
            {"num_hidden_layers": 10**7},
            "config.json says num_hidden_layers = 10000000, and its weights have 21 tensors",
        ),
        ({"num_hidden_layers": 1e12}, "config.json says num_hidden_layers = 1000000000000, and"),
        ({"num_hidden_layers": -3}, "config.json says num_hidden_layers = -3, and a size cannot be negative"),
        ({"vocab_size": 5}, "[24, 32] in its weights and [5, 32] by its config.json"),
        ({"hidden_size": 48}, "and 20 more do not fit"),
        ({"num_hidden_layers": 3}, "its weights lack model.layers.2."),
        ({"num_hidden_layers": 1}, "its weights hold model.layers.1."),
        ({"num_attention_heads": 0}, "cannot be"),
        ({"hidden_size": "big"}, "cannot be"),
        ({"rope_parameters": 3}, "cannot be"),
        ({"model_type": 7}, "cannot be"),
    ],
)
def test_sizes_that_the_weights_do_not_have(folder: Path, changes: dict[str, Any], message: str) -> None:
    """CASES M5: told from the header, before anything is built."""
    change_config(folder, **changes)
    assert message in refusal(folder)


WHOLE = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    "content",
    [
        b"", b"junk", b"version https://git-lfs.github.com/spec/v1\n", header_of(b"{}", 2**63), header_of(b"{}", 50),
        header_of(b"[]"), header_of(b"\xff\xfe"), header_of(WHOLE), header_of(WHOLE) + b"1234",
        header_of(WHOLE.replace(b"8]", b"4000000000]")) + b"12345678",
        header_of(WHOLE.replace(b"[2]", b"[99999999999,99999999999]")) + b"12345678",
        header_of(WHOLE.replace(b"F32", b"X99")) + b"12345678", header_of(b"[" * 100_000),
    ],
)  # fmt: skip
def test_cut_and_junk_weights(folder: Path, content: bytes) -> None:
    """CASES M5."""
    (folder / "model.safetensors").write_bytes(content)
    assert "model.safetensors: is not a whole safetensors file (" in refusal(folder)


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_config_that_is_none(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    assert "its config.json " in refusal(folder)


def test_an_index_that_leaves_the_folder_or_names_what_is_absent(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = folder / "model.safetensors.index.json"
    assert "has no weights that transformers finds" in refusal(folder)
    for content, message in (
        ({"weight_map": {"a": "../part.safetensors"}}, "its files are not in this folder"),
        ({"weight_map": {"a": 5}}, "is not an index of weights"),
        ({"weight_map": [1]}, "is not an index of weights"),
        ({"weight_map": {"a": "other.safetensors"}}, "lacks other.safetensors, which its index names"),
    ):
        index.write_text(json.dumps(content))
        assert message in refusal(folder)
    index.write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}))
    check_architecture(model_in(folder))


def test_a_hub_model_whose_weights_are_not_downloaded_is_left_to_the_hosts(folder: Path) -> None:
    """Of its snapshot there may be the config alone, or some of the shards."""
    hub = Model("org/name", "fingerprint")
    assert len(check_folder(hub, folder)) == 21
    (folder / "model.safetensors").unlink()
    assert check_folder(hub, folder) == {}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "other.safetensors"}}))
    assert check_folder(hub, folder) == {}
    change_config(folder, quantization_config={"quant_method": "awq"})
    with pytest.raises(UserError, match=r'model\.path = "org/name" is quantised'):
        check_folder(hub, folder)


def encoder(kind: str, **more: Any) -> Any:
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=80, pad_token_id=0, bos_token_id=1, eos_token_id=2, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("bert", {}, "in this BertLMHeadModel later tokens move earlier outputs"),
        ("roberta", {}, "in this RobertaForCausalLM later tokens move earlier outputs"),
        (
            "roberta",
            {"is_decoder": True},
            "this RobertaForCausalLM gives other outputs under steadytune than in transf",
        ),
    ],
)
def test_encoders_are_refused_by_check_and_at_load(
    tmp_path: Path, kind: str, more: dict[str, Any], message: str
) -> None:
    """CASES V7: without is_decoder they read in both directions; with it, RoBERTa counts positions from elsewhere."""
    base = encoder(kind, **more)
    assert message in refusal(save_tiny(tmp_path / kind, base))
    with pytest.raises(UserError) as error:
        SlotModel(base, 1, 2, ("all-linear",))
    assert message in str(error.value)


def gemma_with_eyes() -> Any:
    n = len(WORDS)
    text = {"vocab_size": n + 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 80,
            "sliding_window": 64, "query_pre_attn_scalar": 8}  # fmt: skip
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    tokens = {"boi_token_index": n + 1, "eoi_token_index": n + 2, "image_token_index": n + 3}
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens)
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def test_the_vision_tower_of_a_larger_model_gets_no_adapter(tmp_path: Path) -> None:
    """CASES M4: sizes come from the text part; names that also fit the tower are written out for peft."""
    from trainer.trial import Lora

    base = gemma_with_eyes()
    folder = save_tiny(tmp_path / "gemma", base)
    check_architecture(model_in(folder))
    check_layers(model_in(folder), ["all-linear"])
    names = matching_layers(base, ["q_proj"])
    assert names == [f"model.language_model.layers.{i}.self_attn.q_proj" for i in range(2)]
    model = SlotModel(base, 1, 2, ["all-linear"], n_labels=2)
    assert len(model.layers) == 14
    assert not any("vision" in n or "projector" in n for n in model.layers)
    assert model.peft_targets(Lora()) == sorted(model.layers)


def test_adapters_that_peft_would_not_read_back_are_refused(tmp_path: Path) -> None:
    """CASES V8: the dense first layer and the shared experts of a DeepSeek V3."""
    from trainer.model.miniature import miniature

    base = miniature(transformers.DeepseekV3Config())
    folder = save_tiny(tmp_path / "deepseek", base)
    check_architecture(model_in(folder))
    output = refusal(folder)
    assert "peft would not read the adapters of 8 of the 16 layers " in output
    assert ".mlp.gate_proj. Set axes.lora.target_modules=[kv_a_proj_with_mqa, kv_b_proj, o_proj, q_a_proj" in output
    given = output.partition("target_modules=[")[2].partition("]")[0].split(", ")
    assert "model.layers.mlp.experts.gate_up_proj" in check_layers(model_in(folder), given)[0]
