"""The resources that a trial asks Ray for: a slot's share of an accelerator, or those of a whole gang."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Resources:
    """The resources of one host: ``slots`` trials share ``cpus`` CPUs and ``gpus`` (0 or 1) GPUs. With ``workers`` > 1,
    one trial takes that many times the whole."""

    slots: int = 1
    cpus: float = 1.0
    gpus: int = 0
    workers: int = 1

    def share(self) -> dict[str, float]:
        """One trial's part, by Ray's names. Rounded down to the precision that Ray counts with, so that all slots
        fit."""
        parts = {"CPU": self.cpus / self.slots, "GPU": self.gpus / self.slots}
        return {name: max(1, int(part * 10_000)) / 10_000 for name, part in parts.items() if part}

    def lacking(self) -> str:
        """Why no trial can run on the cluster as it is now (no node is large enough, or there is too little for a whole
        gang); "" if one can. An autoscaler may still add what is missing."""
        import ray

        share, have = self.share(), ray.cluster_resources()
        asked = " and ".join(f"{amount:g} {name}" for name, amount in sorted(share.items()))
        known = f"(cluster: {', '.join(f'{have.get(name, 0):g} {name}' for name in sorted(share))})"
        if not any(all(n["Resources"].get(k, 0) >= v for k, v in share.items()) for n in ray.nodes() if n["Alive"]):
            return f"no node has {asked} {known}"
        if any(have.get(k, 0) < self.workers * v for k, v in share.items()):
            return f"no room for {self.workers} workers of {asked} {known}"
        return ""

    def for_tune(self) -> Any:
        from ray import tune

        if self.workers == 1:
            return self.share()
        return tune.PlacementGroupFactory([{}, *[self.share()] * self.workers])

    @contextmanager
    def for_tasks(self) -> Iterator[dict[str, Any]]:
        """Options for Ray tasks that do the work of a trial outside Tune. The tasks of gangs run one after another, in
        one placement group that lasts as long as the context."""
        share = self.share()
        if self.workers == 1:
            yield {"num_cpus": share.get("CPU", 0), "num_gpus": share.get("GPU", 0)}
            return
        from ray.util import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = placement_group([share] * self.workers)
        try:
            strategy = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
            yield {"num_cpus": 0, "scheduling_strategy": strategy}
        finally:
            remove_placement_group(group)
