"""Checks of the pods of a KubeRay manifest: the head's, and the worker groups that come and go."""

from __future__ import annotations

import re
from typing import Any

from cluster.files import start_checks as start
from cluster.files.capacity import Nodes
from cluster.files.finding import Findings, Path, get, items, leaves, section
from cluster.files.machines import gpu_memory
from trainer.errors import nearest

SPOT = ("gke-spot", "gke-preemptible", "capacityType", "karpenter.sh/capacity-type", "spot")  # labels of spot nodes


def containers_of(group: dict[str, Any]) -> list[dict[str, Any]]:
    return [c for c in items(group, "template", "spec", "containers") if isinstance(c, dict)]


def check_pod(found: Findings, key: Path, group: dict[str, Any]) -> None:
    containers = containers_of(group)
    at: Path = (*key, "template", "spec")
    if not containers:
        found.error((*at, "containers"), "is missing", "Each group needs a container of Ray.")
        return
    if get(group, "template", "spec", "hostNetwork"):
        found.warn((*at, "hostNetwork"), "opens Ray's ports on the node itself", "Leave it out.")
    for i, container in enumerate(containers):
        where: Path = (*at, "containers", i)
        if container.get("image"):
            start.check_image(found, (*where, "image"), str(container["image"]))
        else:
            found.error((*where, "image"), "is missing")
        for j, port in enumerate(items(container, "ports")):
            if get(port, "hostPort"):
                found.warn((*where, "ports", j, "hostPort"), "opens the port on the node itself", "Leave it out.")
        limits, requests = section(container, "resources", "limits"), section(container, "resources", "requests")
        if i == 0 and not limits and not requests:
            found.error(
                (*where, "resources"), "is missing: Ray takes its CPUs and GPUs from the limits", "Write limits."
            )
        for name in (n for n in {*limits, *requests} if "gpu" in n):
            for side, values in (("limits", limits), ("requests", requests)):
                if name in values and not re.fullmatch(r"\d+", str(values[name])):
                    found.error(
                        (*where, "resources", side, name),
                        "can never be placed: Kubernetes gives out whole GPUs (Ray divides them among trials)",
                        'Write "1".',
                        values[name],
                    )
            if name in requests and str(requests[name]) != str(limits.get(name)):
                found.error(
                    (*where, "resources", name), "must be the same in limits and requests", "GPUs are not shared."
                )
    params = section(group, "rayStartParams")
    for name, value in params.items():
        if not isinstance(value, str):
            found.error((*key, "rayStartParams", name), "must be text", f'Write "{value}".', value)
    gpus = str(params.get("num-gpus", ""))
    if gpus and not re.fullmatch(r"\d+", gpus):
        found.error(
            (*key, "rayStartParams", "num-gpus"),
            "can never fill a GPU: Ray counts whole ones on a node",
            'Write "1".',
            gpus,
        )


def check_head(found: Findings, key: Path, head: dict[str, Any]) -> None:
    if get(head, "rayStartParams", "num-cpus") not in ("0", 0):
        found.warn(
            (*key, "rayStartParams", "num-cpus"),
            "lets the head do trials' work: one that eats its memory takes the whole cluster down",
            'Write num-cpus: "0".',
        )
    if _on_spot(head):
        found.warn(
            (*key, "template", "spec"), "puts the head on a spot node: losing it ends the run", "Keep it on demand."
        )
    for place in ("serviceType", "headService"):
        kind = head.get(place) if place == "serviceType" else get(head, "headService", "spec", "type")
        if kind in ("LoadBalancer", "NodePort"):
            found.warn(
                (*key, place),
                "opens the cluster's ports to the outside",
                "Write ClusterIP, and use kubectl port-forward.",
                kind,
            )
        elif place == "serviceType" and kind not in (None, "ClusterIP"):
            found.error(
                (*key, place),
                f"is not known.{nearest(str(kind), ['ClusterIP', 'NodePort', 'LoadBalancer'])}",
                value=kind,
            )
    if head.get("enableIngress"):
        found.warn((*key, "enableIngress"), "opens the dashboard to the outside", "Use kubectl port-forward.")


def _on_spot(group: dict[str, Any]) -> bool:
    pairs = leaves(section(group, "template", "spec", "nodeSelector"))
    return any(
        any(s.lower() in str(path[-1]).lower() for s in SPOT) and str(value).lower() in ("true", "spot")
        for path, value in pairs
    )


def check_groups(found: Findings, key: Path, spec: dict[str, Any]) -> list[Nodes]:
    """Returns the groups that may have pods at all."""
    nodes: list[Nodes] = []
    options = section(spec, "autoscalerOptions")
    groups = [g for g in items(spec, "workerGroupSpecs") if isinstance(g, dict)]
    _autoscaler(found, key, spec, options, groups)
    names = [g.get("groupName") for g in groups]
    for i, group in enumerate(groups):
        at: Path = (*key, "workerGroupSpecs", i)
        low, high = group.get("minReplicas", 0), group.get("maxReplicas", 0)
        if names.count(group.get("groupName")) > 1:
            found.error((*at, "groupName"), "is used twice", "Each group needs its own name.", group.get("groupName"))
        if isinstance(low, int) and isinstance(high, int):
            if low > high:
                found.error((*at, "minReplicas"), f"is more than maxReplicas = {high}", "Lower it.", low)
            elif low > 0:
                found.warn((*at, "minReplicas"), "keeps pods running (and paid) while nothing runs", "Write 0.", low)
            nodes.append(_node(group, at, high))
    return [n for n in nodes if n.count]


def _autoscaler(
    found: Findings, key: Path, spec: dict[str, Any], options: dict[str, Any], groups: list[dict[str, Any]]
) -> None:
    scales = spec.get("enableInTreeAutoscaling") is True
    if groups and not scales:
        found.warn(
            (*key, "enableInTreeAutoscaling"),
            "is not true: the number of pods stays as it is",
            "Write enableInTreeAutoscaling: true.",
        )
    if scales:
        given = options.get("idleTimeoutSeconds")
        start.check_idle(
            found, (*key, "autoscalerOptions", "idleTimeoutSeconds"), given, "KubeRay's default of 60 seconds"
        )
        if options.get("version") != "v2":
            found.warn(
                (*key, "autoscalerOptions", "version"),
                "is not v2: version 1 ends idle pods less surely and is no longer developed",
                "Write version: v2, and restartPolicy: Never in every pod.",
            )
        pods = [((*key, "headGroupSpec"), section(spec, "headGroupSpec"))]
        pods += [((*key, "workerGroupSpecs", i), g) for i, g in enumerate(groups)]
        for at, group in pods:
            policy = get(group, "template", "spec", "restartPolicy")
            if options.get("version") == "v2" and policy != "Never":
                found.warn(
                    (*at, "template", "spec", "restartPolicy"),
                    "is not Never: autoscaler v2 takes a restarted pod for a new node",
                    "Write restartPolicy: Never.",
                )


def _node(group: dict[str, Any], key: Path, count: int) -> Nodes:
    container = (containers_of(group) or [{}])[0]
    limits = section(container, "resources", "limits") or section(container, "resources", "requests")
    params = section(group, "rayStartParams")
    gpus = sum(_quantity(v) for k, v in limits.items() if k.endswith("/gpu"))
    cpus = _quantity(params.get("num-cpus", limits.get("cpu", 0)))
    name = str(group.get("groupName"))
    return Nodes(name, key, count, cpus, _quantity(params.get("num-gpus", gpus)), gpu_memory(name), _on_spot(group))


def _quantity(value: Any) -> float:
    """Kubernetes' amounts of CPUs and GPUs: 4, "4", "500m"."""
    text = str(value)
    try:
        return float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    except ValueError:
        return 0.0
