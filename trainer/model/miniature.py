"""A tiny model of the same kind as a base model: the same class and switches, a few thousand random weights.

What depends on a model's kind and not on its weights can be tried on it in a fraction of a second, before the real
weights are read: whether later tokens reach earlier logits, whether our slots change nothing, whether peft reads an
adapter back.
"""

from __future__ import annotations

import re
from typing import Any

import torch

VOCABULARY = 128
_LIMITS: tuple[tuple[str, int], ...] = (
    ("vocab_size decoder_vocab_size unpadded_vocab_size vocab_size_per_layer_input pronunciation_vocab_size "
     "shape_vocab_size encoder_hash_byte_group_vocab ngram_vocab_size_base", VOCABULARY),
    ("hidden_size n_embd d_model emb_dim embedding_dim word_embed_proj_dim attention_hidden_size embedding_size "
     "input_embedding_size output_embedding_size lru_width model_dim", 32),
    ("intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner ffn_hidden_size dim_ff dff "
     "feed_forward_size moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size "
     "shared_experts_intermediate_size intermediate_size_mlp dense_intermediate_size expert_ffn_hidden_size "
     "moe_shared_expert_intermediate_size router_hidden_size", 48),
    ("num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads attention_heads "
     "num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads", 4),
    ("head_dim kv_channels dim_head d_head swa_head_dim v_head_dim qk_nope_head_dim qk_rope_head_dim rotary_dim "
     "index_head_dim linear_key_head_dim linear_value_head_dim swa_v_head_dim linear_head_dim global_head_dim "
     "attention_head_size mamba_d_head mamba_head_dim mamba_headdim attention_head_dim", 8),
    ("num_experts n_routed_experts num_local_experts moe_num_experts linear_num_key_heads linear_num_value_heads "
     "linear_num_heads index_n_heads zero_expert_num", 4),
    ("kv_lora_rank q_lora_rank o_lora_rank mamba_d_state state_size ssm_state_size hidden_size_per_layer_input "
     "hc_lowrank gated_norm_rank laurel_rank adapter_rank", 16),
    ("num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts moe_top_k top_k", 2),
    ("n_group n_groups topk_group num_expert_group mamba_n_groups mamba_ngroups first_k_dense_replace "
     "num_dense_layers moe_layer_start_index num_nextn_predict_layers", 1),
    ("max_position_embeddings n_positions n_ctx max_seq_len model_max_length context_length", 64),
)  # fmt: skip
_LIMIT = {name: limit for names, limit in _LIMITS for name in names.split()}
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers",
           "num_decoder_layers", "num_encoder_layers", "num_blocks")  # fmt: skip
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_global_key_value_heads")
_TOKEN = re.compile(r"(token_id|token_index|_id|pad_index|bos_index|eos_index|unk_index|mask_index)$")
MOST_LAYERS = 12  # of the tiny model, where its layers are of several kinds


def miniature(config: Any) -> Any:
    """A model with random float32 weights, from a config like ``config`` (transformers' own) but tiny. Raises what
    transformers and torch raise where the config cannot be made so small."""
    from transformers import AutoModelForCausalLM

    small = type(config).from_dict(tiny_config(config.to_dict()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base: Any = AutoModelForCausalLM.from_config(small, dtype=torch.float32)
        for parameter in base.parameters():  # some start at zero, which would hide that they are used
            if parameter.dtype == torch.float32 and parameter.numel() and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return base.eval()


def tiny_config(about: dict[str, Any]) -> dict[str, Any]:
    """The config ``about`` with small sizes; what is not a size stays."""
    found: dict[str, Any] = {}
    layers = _layers(about)
    for key, value in about.items():
        if isinstance(value, dict):
            by_layer = value and all(str(k).isdigit() for k in value)
            if by_layer:
                value = {k: v for k, v in value.items() if int(k) < layers}
            elif "config" in key or key in ("encoder", "decoder"):
                value = tiny_config(value)
        elif key in _LAYERS and isinstance(value, int):
            value = min(value, layers)
        elif key in _KV_HEADS and isinstance(value, int):
            value = _kv_heads(about, key, value)
        elif key in _LIMIT and isinstance(value, int) and not isinstance(value, bool):
            value = min(value, _LIMIT[key])
        elif key in _LIMIT and isinstance(value, list):
            value = [min(v, _LIMIT[key]) if isinstance(v, int) else v for v in value]
        elif key in ("initializer_range", "init_std") and isinstance(value, float):
            value = 0.1  # with the usual 0.02 so few numbers add up to next to nothing
        elif _TOKEN.search(key):
            value = _token(value)
        if isinstance(value, list) and len(value) == _deep(about) and len(value) > layers:
            value = value[:layers]
        found[key] = value
    _consistent(found)
    return found


def _deep(about: dict[str, Any]) -> int:
    return next((about[k] for k in _LAYERS if isinstance(about.get(k), int)), 0)


def _layers(about: dict[str, Any]) -> int:
    """Two layers, or as many as hold each kind of layer once."""
    kinds = [v for k, v in about.items() if isinstance(v, list) and len(v) == _deep(about) and k.endswith("types")]
    most = 2
    for column in kinds:
        most = max(most, *(column.index(kind) + 1 for kind in dict.fromkeys(column)))
    return min(most, MOST_LAYERS, max(2, _deep(about)))


def _kv_heads(about: dict[str, Any], key: str, value: int) -> int:
    heads = next((about[k] for k in ("num_attention_heads", "n_head", "num_heads") if isinstance(about.get(k), int)), 0)
    return min(value, 4 if value == heads else 2)


def _token(value: Any) -> Any:
    if isinstance(value, list):
        return [_token(v) for v in value]
    return 2 if isinstance(value, int) and not isinstance(value, bool) and value >= VOCABULARY else value


def _consistent(small: dict[str, Any]) -> None:
    """Sizes that are products of others."""
    hidden = small.get("hidden_size", 32)
    expand = small.get("mamba_expand", small.get("expand", 2))
    for heads, width in (
        ("mamba_n_heads", "mamba_d_head"), ("mamba_num_heads", "mamba_head_dim"), ("n_mamba_heads", "mamba_headdim"),
    ):  # fmt: skip
        if isinstance(small.get(heads), int) and isinstance(small.get(width), int):
            small[heads] = int(expand * hidden) // small[width]
    if "num_kv_shared_layers" in small:  # so few layers are not of the kinds that share
        small["num_kv_shared_layers"] = 0
    if isinstance(small.get("qk_nope_head_dim"), int) and isinstance(small.get("qk_rope_head_dim"), int):
        for key in ("qk_head_dim", "swa_head_dim"):
            if key in small:
                small[key] = small["qk_nope_head_dim"] + small["qk_rope_head_dim"]
    if "mamba_d_ssm" in small:
        small["mamba_d_ssm"] = small["mamba_n_heads"] * small["mamba_d_head"]
    if small.get("model_type") == "mamba2":
        small["num_heads"] = int(expand * hidden) // small["head_dim"]
