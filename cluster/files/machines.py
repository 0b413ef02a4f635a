"""The CPUs, GPUs and memory of the machine types that the shipped configs use. Providers' data, November 2026."""

from __future__ import annotations

from dataclasses import dataclass

GPU_MEMORY = {  # GiB that a process can use, as reported by the driver
    "l4": 22.3,
    "a10g": 22.3,
    "a100": 39.5,
    "l40s": 44.7,
    "a100-80": 79.2,
    "h100": 79.6,
    "h200": 140.4,
}
SPARE = 0.9  # share of a GPU's memory to plan with; the rest is for CUDA's context, fragments and errors of estimates


@dataclass(frozen=True)
class Machine:
    cpus: int
    gpu: str = ""  # a key of GPU_MEMORY
    gpus: int = 0


MACHINES = {
    "aws": {
        "m7i.xlarge": Machine(4),
        "m7i.2xlarge": Machine(8),
        "g5.xlarge": Machine(4, "a10g", 1),
        "g6.xlarge": Machine(4, "l4", 1),
        "g6.2xlarge": Machine(8, "l4", 1),
        "g6.12xlarge": Machine(48, "l4", 4),
        "g6e.xlarge": Machine(4, "l40s", 1),
        "g6e.2xlarge": Machine(8, "l40s", 1),
        "g6e.12xlarge": Machine(48, "l40s", 4),
        "p4d.24xlarge": Machine(96, "a100", 8),
        "p5.4xlarge": Machine(16, "h100", 1),
        "p5.48xlarge": Machine(192, "h100", 8),
    },
    "gcp": {
        "n2-standard-4": Machine(4),
        "n2-standard-8": Machine(8),
        "g2-standard-4": Machine(4, "l4", 1),
        "g2-standard-8": Machine(8, "l4", 1),
        "g2-standard-48": Machine(48, "l4", 4),
        "a2-highgpu-1g": Machine(12, "a100", 1),
        "a2-ultragpu-1g": Machine(12, "a100-80", 1),
        "a3-highgpu-1g": Machine(26, "h100", 1),
        "a3-highgpu-8g": Machine(208, "h100", 8),
    },
}


def gpu_memory(group: str) -> float | None:
    """GiB of one GPU of a node type or worker group that is named after its GPU: ``l40s``, ``h100-x8``."""
    return GPU_MEMORY.get(group.rsplit("-x", 1)[0])
