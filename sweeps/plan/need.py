"""What a study needs of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweeps.study.overlay import StudyError
from sweeps.study.study import Study

if TYPE_CHECKING:
    from cluster.files.capacity import Need


def need_of(study: Study, gpu_bytes: float | None = None) -> Need:
    """What the study needs of a cluster. ``gpu_bytes``: memory of one GPU."""
    from cluster.files.capacity import Need
    from sweeps.plan.cost import count_trials

    r = study.resources
    return Need(study.name, count_trials(study), r.slots, r.cpus, r.gpus, r.workers, r.zero, r.offload, gpu_bytes)


def sized(study: Study, gpu: str | None, provider: str) -> tuple[Need, str]:
    """The need with an estimate of the GPU's memory, and a line on time. If the memory is not needed, because ``--gpu``
    names the GPU or no GPU has to be chosen, it is no error that the model cannot be read from here."""
    from sweeps.display.text import duration
    from sweeps.plan.cost import plan

    try:
        made = plan(study)
    except StudyError as error:
        if gpu is not None or not study.resources.gpus or provider in ("slurm", "local"):
            return need_of(study), ""
        raise StudyError(f"{error}\nName the GPU where the model cannot be read from here: --gpu l40s") from None
    r, m = study.resources, made.memory
    base = m.base * 0.1 if r.zero == 3 and r.offload else m.base  # offloaded, it comes in layer by layer
    need = need_of(study, (base + m.adapters + m.activations) if r.gpus else None)
    whole = duration(made.seconds)
    return need, f"about {whole} of one {'gang' if r.workers > 1 else 'host'} ({made.rate_source})"
