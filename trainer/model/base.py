"""Loading the frozen base model."""

from __future__ import annotations

from typing import Any

import torch

from trainer.errors import BaseModelError, UserError
from trainer.model.architecture import load_config, quiet_transformers, refuse_misfits
from trainer.model.device import device_lost, join_workers, out_of_memory
from trainer.model.quantized_linear import compute_exactly, copy_whole_weights, loading_options
from trainer.model.weights import one_line
from trainer.trial import Model


def load_base(model: Model, device: torch.device, zero: int = 0) -> torch.nn.Module:
    """The frozen causal LM in its dtype, or with its linear layers quantised, from safetensors only. With ZeRO 3 each
    worker keeps only its shard of it, from the moment of loading: that is for models that fit no single accelerator.
    Raises ``BaseModelError`` where its files are damaged, lack weights, or hold others."""
    from transformers import AutoModelForCausalLM

    if zero == 3:
        join_workers(device)
        from transformers.integrations import HfDeepSpeedConfig

        sharded = HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}})  # noqa: F841
        # transformers shards while it loads for as long as this object lives

    try:
        with quiet_transformers():
            options = loading_options(model, load_config(model), device, zero)
            found: Any = AutoModelForCausalLM.from_pretrained(
                model.path,
                revision=model.revision,
                dtype=getattr(torch, model.dtype),
                trust_remote_code=model.trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except UserError:
        raise
    except Exception as error:  # transformers and safetensors raise many kinds
        if out_of_memory(error) or device_lost(error):
            raise
        kind = UserError if isinstance(error, OSError) else BaseModelError  # a file may only be late
        raise kind(
            f'model.path = "{model.path}": its weights cannot be loaded ({type(error).__name__}: {one_line(error)}). '
            "Download the model again, or give another"
        ) from error
    base, report = found
    refuse_misfits(model, report)
    if options:
        compute_exactly(base, model)
        copy_whole_weights(base)
    return base.eval() if options or zero == 3 else base.to(device).eval()
