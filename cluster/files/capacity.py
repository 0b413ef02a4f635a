"""What a study needs of a cluster, and whether the nodes that a file describes can give it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.files.finding import FileFindings
from cluster.files.key_path import KeyPath
from cluster.files.machines import SPARE
from cluster.resources import Resources


@dataclass(frozen=True)
class Need:
    """What a study needs of a cluster. ``cpus`` and ``gpus`` are those of one host, or of one worker of a gang."""

    name: str
    trials: int
    slots: int = 1
    cpus: float = 1.0
    gpus: int = 0
    workers: int = 1
    zero: int = 0
    offload: bool = False
    gpu_bytes: float | None = None  # memory that one GPU must have, if it was estimated

    @property
    def hosts(self) -> int:
        """Hosts (or workers of gangs) with which all trials run at once."""
        return self.trials * self.workers if self.workers > 1 else math.ceil(self.trials / self.slots)

    @property
    def share(self) -> dict[str, float]:
        """What one trial, or one worker of a gang, asks Ray for."""
        return Resources(self.slots, self.cpus, self.gpus, self.workers).share()

    @property
    def gpu_gib(self) -> float | None:
        return None if self.gpu_bytes is None else self.gpu_bytes / 2**30


@dataclass(frozen=True)
class NodeGroup:
    """One node type of a ``ray up`` file, worker group of KubeRay, or kind of node of a Slurm job."""

    name: str
    key: KeyPath  # where it stands in the file
    count: int  # nodes, at most
    cpus: float
    gpus: float
    gpu_gib: float | None = None
    spot: bool = False

    def places(self, need: Need) -> int:
        """How many trials (or workers of gangs) fit on one node."""
        share = need.share
        cpu = math.floor(self.cpus / share["CPU"] + 1e-6)
        return min(cpu, math.floor(self.gpus / share["GPU"] + 1e-6)) if need.gpus else cpu

    def full(self, need: Need) -> int:
        """How many would fit if CPUs were no limit."""
        return math.floor(self.gpus) * need.slots if need.gpus else self.places(need)


def places(nodes: Sequence[NodeGroup], need: Need, at_most: int) -> int:
    """How many trials (or workers) run at once on ``at_most`` nodes of these types."""
    left, total = at_most, 0
    for node in sorted(nodes, key=lambda n: -n.places(need)):
        used = min(left, node.count)
        total, left = total + used * node.places(need), left - used
    return total


def check_capacity(
    findings: FileFindings, nodes: Sequence[NodeGroup], need: Need, at_most: int, limit: KeyPath
) -> None:
    """Compare the nodes with the study. ``limit``: the key in the file that limits the number of nodes."""
    asked = " and ".join(f"{amount:g} {name}" for name, amount in sorted(need.share.items(), reverse=True))
    who = f"study {need.name}"
    if need.gpus and not any(n.gpus >= need.share["GPU"] for n in nodes):
        findings.error(
            limit[:1],
            f"no node has a GPU, and {who} has resources.gpus = 1: its trials ask for {asked} and can never be placed",
            "Add a node type with a GPU, or set resources.gpus=0.",
        )
        return
    fitting = [n for n in nodes if n.places(need)]
    if not fitting:
        findings.error(
            limit[:1],
            f"no node has room for a {'worker' if need.workers > 1 else 'trial'} of {who}, which asks for {asked}: it "
            "can never be placed",
            f"Take nodes with at least {need.share['CPU']:g} CPUs, or lower resources.cpus.",
        )
        return
    for node in fitting:
        _one_type(findings, node, need, who)
    if not need.gpus and all(n.gpus for n in fitting):
        findings.warn(
            fitting[0].key,
            f"has GPUs, and {who} uses none (resources.gpus = 0)",
            "Take a node type without GPUs, or set resources.gpus=1.",
        )
    total = places(fitting, need, at_most)
    if need.workers > 1:
        if total < need.workers:
            findings.error(
                limit,
                f"allows {total} workers at once; a trial of {who} is a gang of {need.workers} and can never be placed",
                "Allow more or larger nodes, or lower resources.workers.",
            )
            return
        total //= need.workers
    if total < need.trials:
        nodes_needed = math.ceil(need.hosts / max(1, max(n.places(need) // need.slots for n in fitting) or 1))
        findings.warn(
            limit,
            f"is below the need of {who}: {total} of its {need.trials} trials run at once, the others wait",
            f"To run all at once takes {nodes_needed} nodes. Fewer nodes take longer, and cost less at a time.",
        )


def _one_type(findings: FileFindings, node: NodeGroup, need: Need, who: str) -> None:
    if need.gpus and node.places(need) < node.full(need):
        findings.warn(
            node.key,
            f"has {node.cpus:g} CPUs for {node.gpus:g} GPU{'s' * (node.gpus != 1)}: {node.places(need)} of "
            f"{node.full(need)} slots of {who} fit (resources.cpus = {need.cpus:g} a host), so the GPU is not filled",
            f"Take nodes with {need.cpus * math.floor(node.gpus):g} CPUs, or lower resources.cpus.",
        )
    if need.gpus and need.gpu_gib is not None and node.gpu_gib is not None and need.gpu_gib > node.gpu_gib * SPARE:
        findings.warn(
            node.key,
            f"has GPUs of {node.gpu_gib:g} GiB, and {who} needs about {need.gpu_gib:.3g} GiB of one",
            "Take a larger GPU, fewer resources.slots, or resources.zero=3 with resources.workers.",
        )
    if node.spot and need.workers > 1:
        findings.warn(
            node.key,
            f"is spot, and {who} trains in gangs of {need.workers}: one lost node stops all workers of a gang",
            "Take on-demand nodes for gangs.",
        )
