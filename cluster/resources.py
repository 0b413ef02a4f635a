"""What a trial asks of Ray: its share of an accelerator, so that a host's slots fill exactly one."""

from __future__ import annotations

from typing import Any


def trial_share(slots: int, cpus: float, gpus: int) -> dict[str, Any]:
    """Ray task or actor options of one of ``slots`` trials on a host with ``cpus`` CPUs and ``gpus`` (0 or 1) GPUs."""
    share = {"num_cpus": _fraction(cpus, slots)}
    return {**share, "num_gpus": _fraction(gpus, slots)} if gpus else share


def tune_share(slots: int, cpus: float, gpus: int) -> dict[str, float]:
    """The same in Tune's words."""
    options = trial_share(slots, cpus, gpus)
    return {word: options[key] for word, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")) if key in options}


def _fraction(whole: float, parts: int) -> float:
    """Rounded down to Ray's resolution of 1/10,000, so that ``parts`` of it always fit."""
    return max(1, int(whole / parts * 10_000)) / 10_000
