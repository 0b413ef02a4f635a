"""Checks of a DeepSpeed configuration. Steadytune reads no such file: it makes its own configuration from
``resources.zero`` and ``resources.offload``. The shipped files show what it makes; others are compared with it."""

from __future__ import annotations

from typing import Any

from cluster.files.capacity import Need
from cluster.files.finding import FileFindings
from cluster.files.key_path import mapping_at, value_at
from trainer.errors import nearest

OURS = (
    "train_micro_batch_size_per_gpu gradient_accumulation_steps managed_gradient_accumulation gradient_clipping "
    "zero_optimization zero_allow_untested_optimizer zero_force_ds_cpu_optimizer steps_per_print _command"
)
ELSEWHERE = {  # keys of DeepSpeed -> the study's keys for the same thing
    "optimizer": "axes.lr and training.weight_decay (AdamW)",
    "scheduler": "training.schedule and training.warmup",
    "bf16": "model.dtype",
    "bfloat16": "model.dtype",
    "fp16": "model.dtype (bfloat16)",
    "train_batch_size": "training.batch_size and training.accumulation",
}
ZERO = (
    "stage contiguous_gradients reduce_scatter reduce_bucket_size allgather_partitions allgather_bucket_size "
    "overlap_comm offload_param offload_optimizer sub_group_size stage3_prefetch_bucket_size "
    "stage3_param_persistence_threshold stage3_max_live_parameters stage3_max_reuse_distance "
    "stage3_gather_16bit_weights_on_model_save round_robin_gradients zero_hpz_partition_size "
    "zero_quantized_weights zero_quantized_gradients"
)


def check_zero(findings: FileFindings, raw: dict[str, Any], need: Need | None) -> None:
    zero = mapping_at(raw, "zero_optimization")
    for key in raw:
        if key in ELSEWHERE:
            findings.warn(
                (key,), "has no effect: Steadytune makes the configuration itself", f"A study says {ELSEWHERE[key]}."
            )
        elif key not in OURS.split():
            findings.warn(
                (key,),
                f"is no key that Steadytune sets.{nearest(key, [*OURS.split(), *ELSEWHERE])}",
                "It reads no DeepSpeed file; set resources.zero and resources.offload in the study.",
            )
    for key in zero:
        if key not in ZERO.split():
            findings.error(("zero_optimization", key), f"is not a known key.{nearest(key, ZERO.split())}")
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3) or isinstance(stage, bool):
        findings.error(("zero_optimization", "stage"), "must be 0, 1, 2 or 3", value=stage)
        return
    if value_at(zero, "offload_param") and stage != 3:
        findings.error(
            ("zero_optimization", "offload_param"),
            f"needs stage 3, not {stage}",
            "Lower stages keep the weights whole.",
        )
    if value_at(zero, "offload_optimizer") and stage == 0:
        findings.error(("zero_optimization", "offload_optimizer"), "needs stage 1, 2 or 3")
    for part in ("offload_param", "offload_optimizer"):
        device = value_at(zero, part, "device")
        if device not in (None, "none", "cpu", "nvme"):
            findings.error(
                ("zero_optimization", part, "device"),
                f"is not known.{nearest(str(device), ['none', 'cpu', 'nvme'])}",
                value=device,
            )
    if raw.get("gradient_accumulation_steps", 1) != 1:
        findings.warn(
            ("gradient_accumulation_steps",),
            "is not 1: Steadytune forms the micro-batches itself and steps once a batch",
            "A study says training.accumulation.",
            raw["gradient_accumulation_steps"],
        )
    if need is not None:
        offload = bool(value_at(zero, "offload_optimizer") or value_at(zero, "offload_param"))
        if stage != need.zero or offload != need.offload:
            findings.warn(
                ("zero_optimization",),
                f"is stage {stage}{' with offload' if offload else ''}, and study {need.name} says resources.zero = "
                f"{need.zero}, resources.offload = {str(need.offload).lower()}: the study counts",
                f"Run it with resources.zero={stage} resources.offload={str(offload).lower()}.",
            )
