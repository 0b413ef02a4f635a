"""The connection to Ray and the hosts of a study."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cluster.environment import credentials
from sweeps.study.overlay import is_local
from sweeps.study.schema import ResourcesSection
from sweeps.study.study import Study
from sweeps.study.values import Range
from sweeps.trials.from_points import target_modules, varied_axes
from sweeps.trials.load_content import Content
from trainer.setup import Setup
from trainer.store import Store

FAILURES = 2  # a trial is tried again this often before it counts as failed
LOSSES = 8  # so many lost processes and nodes between two rungs are no failure of the trial


@contextmanager
def on_ray(study: Study, store: Store) -> Iterator[None]:
    """Connects to the cluster that ``study`` runs on, with its run folder in ``store``. Raises ``UserError`` if there
    is none, or if it can never run the study."""
    quiet()
    from cluster.connect import connected

    path = study.model.path
    needed = credentials([store.uri, path], hub=not is_local(path) and "://" not in path)
    with connected(study.resources.cpus, study.resources.gpus, needed):
        yield


def prepare() -> None:
    """Look for what would keep Ray from starting, before the study is checked, which takes longer. Raises UserError."""
    from cluster.connect import prepare as prepare_connection

    prepare_connection()


def what_begins() -> str:
    """What ``on_ray`` does, which takes seconds."""
    from cluster.address import is_local as starts_here

    return "starting Ray on this machine" if starts_here() else "joining the Ray cluster"


def quiet() -> None:
    """Turn off files and messages of Ray Tune. To be called before Ray is imported."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # trial records are in the run folder
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the command; the next start continues
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1e9")  # Tune's state of the sweep is never read again
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    for noisy in ("ray.tune", "ray.air", "ray.train"):
        logging.getLogger(noisy).setLevel(logging.ERROR)  # it warns about the result files that are switched off above


def start_fleet(study: Study, content: Content, store: Store, trials: int = 0) -> Any:
    """The hosts of a study, on the cluster that is connected. ``trials``: how many there will be; 0 if not known."""
    import ray

    from cluster.hosting.hosts import Fleet
    from cluster.resources import Resources

    machines = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    cores = {"cpus": host_cores(study.resources, trials, machines)}
    study = study.model_copy(update={"resources": study.resources.model_copy(update=cores)})
    res = study.resources
    share = Resources(res.slots, res.cpus, res.gpus, res.workers)
    return Fleet.start(content.model, setup_of(study), content.assets, store, share)


def host_cores(res: ResourcesSection, trials: int, machines: Sequence[float]) -> float:
    """The CPU cores of a host, which are its threads as well. What the study gives holds. Where it gives nothing and
    has fewer trials than the smallest machine has cores, each trial gets a host of its own and the cores are shared out
    among them: with one core a host, the others would stand idle while these trials train."""
    least = min((cores for cores in machines if cores >= 1), default=0.0)  # a cluster's head may have none to give
    if "cpus" in res.model_fields_set or res.gpus or res.workers > 1 or not trials:
        return res.cpus
    return max(res.cpus, float(least // trials))


def setup_of(study: Study) -> Setup:
    """The settings of the engine, large enough for every value of the axes."""
    r = study.axes.lora.r
    res = study.resources
    return Setup(
        slots=res.slots,
        max_r=int(r.high if isinstance(r, Range) else max(r)),
        target_modules=target_modules(study),
        n_labels=len(study.task.names) if study.model.head == "classifier" else 0,
        zero=res.zero,
        offload=res.offload,
        checkpointing=study.training.checkpointing,
        threads=max(1, int(res.cpus)) if not res.gpus else 0,
        std_weight=study.objective.std_weight,
        study=study.name,
        varied_axes=varied_axes(study),
    )
