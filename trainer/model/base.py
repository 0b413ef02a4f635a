"""Loading the frozen base model."""

from __future__ import annotations

from typing import Any

import torch

from trainer.model.device import join_workers
from trainer.trial import Model


def load_base(model: Model, device: torch.device, zero: int = 0) -> torch.nn.Module:
    """The frozen causal LM in its dtype, from safetensors only. With ZeRO 3 each worker keeps only its shard of it,
    from the moment of loading: that is for models that fit no single accelerator."""
    from transformers import AutoModelForCausalLM

    if zero == 3:
        join_workers(device)
        from transformers.integrations import HfDeepSpeedConfig

        sharded = HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}})  # noqa: F841
        # transformers shards while it loads for as long as this object lives

    base: Any = AutoModelForCausalLM.from_pretrained(
        model.path,
        revision=model.revision,
        dtype=getattr(torch, model.dtype),
        trust_remote_code=model.trust_remote_code,
        use_safetensors=True,
    )
    return base.eval() if zero == 3 else base.to(device).eval()
