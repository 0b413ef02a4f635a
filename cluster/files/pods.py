"""Checks of the pods of a KubeRay manifest: the head's, and those of the worker groups."""

from __future__ import annotations

import re
from typing import Any

from cluster.files import start_checks as start
from cluster.files.capacity import NodeGroup
from cluster.files.finding import FileFindings
from cluster.files.key_path import KeyPath, leaves, list_at, mapping_at, value_at
from cluster.files.machines import gpu_memory
from trainer.errors import nearest

SPOT = ("gke-spot", "gke-preemptible", "capacityType", "karpenter.sh/capacity-type", "spot")  # labels of spot nodes


def containers_of(group: dict[str, Any]) -> list[dict[str, Any]]:
    return [c for c in list_at(group, "template", "spec", "containers") if isinstance(c, dict)]


def check_pod(findings: FileFindings, key: KeyPath, group: dict[str, Any]) -> None:
    containers = containers_of(group)
    at: KeyPath = (*key, "template", "spec")
    if not containers:
        findings.error((*at, "containers"), "is missing", "Each group needs a container of Ray.")
        return
    if value_at(group, "template", "spec", "hostNetwork"):
        findings.warn((*at, "hostNetwork"), "opens Ray's ports on the node itself", "Leave it out.")
    for i, container in enumerate(containers):
        where: KeyPath = (*at, "containers", i)
        if container.get("image"):
            start.check_image(findings, (*where, "image"), str(container["image"]))
        else:
            findings.error((*where, "image"), "is missing")
        for j, port in enumerate(list_at(container, "ports")):
            if value_at(port, "hostPort"):
                findings.warn((*where, "ports", j, "hostPort"), "opens the port on the node itself", "Leave it out.")
        limits, requests = mapping_at(container, "resources", "limits"), mapping_at(container, "resources", "requests")
        if i == 0 and not limits and not requests:
            findings.error(
                (*where, "resources"), "is missing: Ray takes its CPUs and GPUs from the limits", "Write limits."
            )
        for name in (n for n in {*limits, *requests} if "gpu" in n):
            for side, values in (("limits", limits), ("requests", requests)):
                if name in values and not re.fullmatch(r"\d+", str(values[name])):
                    findings.error(
                        (*where, "resources", side, name),
                        "can never be placed: Kubernetes gives out whole GPUs (Ray divides them among trials)",
                        'Write "1".',
                        values[name],
                    )
            if name in requests and str(requests[name]) != str(limits.get(name)):
                findings.error(
                    (*where, "resources", name), "must be the same in limits and requests", "GPUs are not shared."
                )
    params = mapping_at(group, "rayStartParams")
    for name, value in params.items():
        if not isinstance(value, str):
            findings.error((*key, "rayStartParams", name), "must be text", f'Write "{value}".', value)
    gpus = str(params.get("num-gpus", ""))
    if gpus and not re.fullmatch(r"\d+", gpus):
        findings.error(
            (*key, "rayStartParams", "num-gpus"),
            "can never fill a GPU: Ray counts whole ones on a node",
            'Write "1".',
            gpus,
        )


def check_head(findings: FileFindings, key: KeyPath, head: dict[str, Any]) -> None:
    if value_at(head, "rayStartParams", "num-cpus") not in ("0", 0):
        findings.warn(
            (*key, "rayStartParams", "num-cpus"),
            "lets trials run on the head: one that uses up its memory ends the whole cluster",
            'Write num-cpus: "0".',
        )
    if _on_spot(head):
        findings.warn(
            (*key, "template", "spec"),
            "puts the head on a spot node: if that is lost, the run ends",
            "Keep it on demand.",
        )
    for place in ("serviceType", "headService"):
        kind = head.get(place) if place == "serviceType" else value_at(head, "headService", "spec", "type")
        if kind in ("LoadBalancer", "NodePort"):
            findings.warn(
                (*key, place),
                "opens the cluster's ports to the outside",
                "Write ClusterIP, and use kubectl port-forward.",
                kind,
            )
        elif place == "serviceType" and kind not in (None, "ClusterIP"):
            findings.error(
                (*key, place),
                f"is not known.{nearest(str(kind), ['ClusterIP', 'NodePort', 'LoadBalancer'])}",
                value=kind,
            )
    if head.get("enableIngress"):
        findings.warn((*key, "enableIngress"), "opens the dashboard to the outside", "Use kubectl port-forward.")


def _on_spot(group: dict[str, Any]) -> bool:
    pairs = leaves(mapping_at(group, "template", "spec", "nodeSelector"))
    return any(
        any(s.lower() in str(path[-1]).lower() for s in SPOT) and str(value).lower() in ("true", "spot")
        for path, value in pairs
    )


def pod_groups(key: KeyPath, spec: dict[str, Any]) -> list[NodeGroup]:
    """The worker groups of a RayCluster's ``spec``, which stands at ``key``, that may have pods at all."""
    nodes = []
    for i, group in enumerate(g for g in list_at(spec, "workerGroupSpecs") if isinstance(g, dict)):
        count = group.get("maxReplicas", 0)
        if isinstance(count, int) and isinstance(group.get("minReplicas", 0), int) and count:
            nodes.append(_node(group, (*key, "workerGroupSpecs", i), count))
    return nodes


def check_groups(findings: FileFindings, key: KeyPath, spec: dict[str, Any]) -> None:
    options = mapping_at(spec, "autoscalerOptions")
    groups = [g for g in list_at(spec, "workerGroupSpecs") if isinstance(g, dict)]
    _autoscaler(findings, key, spec, options, groups)
    names = [g.get("groupName") for g in groups]
    for i, group in enumerate(groups):
        at: KeyPath = (*key, "workerGroupSpecs", i)
        low, high = group.get("minReplicas", 0), group.get("maxReplicas", 0)
        if names.count(group.get("groupName")) > 1:
            findings.error(
                (*at, "groupName"), "is used twice", "Each group needs its own name.", group.get("groupName")
            )
        if isinstance(low, int) and isinstance(high, int):
            if low > high:
                findings.error((*at, "minReplicas"), f"is more than maxReplicas = {high}", "Lower it.", low)
            elif low > 0:
                findings.warn((*at, "minReplicas"), "keeps pods running (and paid) while nothing runs", "Write 0.", low)


def _autoscaler(
    findings: FileFindings, key: KeyPath, spec: dict[str, Any], options: dict[str, Any], groups: list[dict[str, Any]]
) -> None:
    scales = spec.get("enableInTreeAutoscaling") is True
    if groups and not scales:
        findings.warn(
            (*key, "enableInTreeAutoscaling"),
            "is not true: the number of pods stays as it is",
            "Write enableInTreeAutoscaling: true.",
        )
    if scales:
        given = options.get("idleTimeoutSeconds")
        start.check_idle(
            findings, (*key, "autoscalerOptions", "idleTimeoutSeconds"), given, "KubeRay's default of 60 seconds"
        )
        if options.get("version") != "v2":
            findings.warn(
                (*key, "autoscalerOptions", "version"),
                "is not v2: version 1 ends idle pods less reliably and is no longer developed",
                "Write version: v2, and restartPolicy: Never in every pod.",
            )
        pods = [((*key, "headGroupSpec"), mapping_at(spec, "headGroupSpec"))]
        pods += [((*key, "workerGroupSpecs", i), g) for i, g in enumerate(groups)]
        for at, group in pods:
            policy = value_at(group, "template", "spec", "restartPolicy")
            if options.get("version") == "v2" and policy != "Never":
                findings.warn(
                    (*at, "template", "spec", "restartPolicy"),
                    "is not Never: autoscaler v2 takes a restarted pod for a new node",
                    "Write restartPolicy: Never.",
                )


def _node(group: dict[str, Any], key: KeyPath, count: int) -> NodeGroup:
    container = (containers_of(group) or [{}])[0]
    limits = mapping_at(container, "resources", "limits") or mapping_at(container, "resources", "requests")
    params = mapping_at(group, "rayStartParams")
    gpus = sum(_quantity(v) for k, v in limits.items() if k.endswith("/gpu"))
    cpus = _quantity(params.get("num-cpus", limits.get("cpu", 0)))
    name = str(group.get("groupName"))
    return NodeGroup(name, key, count, cpus, _quantity(params.get("num-gpus", gpus)), gpu_memory(name), _on_spot(group))


def _quantity(value: Any) -> float:
    """A number of CPUs or GPUs as Kubernetes writes it: 4, "4", "500m"."""
    text = str(value)
    try:
        return float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    except ValueError:
        return 0.0
