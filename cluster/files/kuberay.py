"""Checks of KubeRay manifests (RayCluster, RayJob, and what stands beside them) that no schema makes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cluster.files import start_checks as start
from cluster.files.capacity import Need, check_capacity
from cluster.files.finding import Findings, Path, get, items, section
from cluster.files.pods import check_groups, check_head, check_pod, containers_of
from trainer.errors import nearest

KINDS = ("RayCluster", "RayJob")
KEYS = {  # of ray.io/v1 as of KubeRay 1.7, for when no CRD is at hand
    "cluster": (
        "authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec "
        "headServiceAnnotations historyServerOptions managedBy networkPolicy rayVersion suspend tlsOptions "
        "upgradeStrategy workerGroupSpecs"
    ),
    "job": (
        "activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus "
        "entrypointNumGpus entrypointResources jobId managedBy metadata preRunningDeadlineSeconds rayClusterSpec "
        "runtimeEnvYAML shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend "
        "ttlSecondsAfterFinished"
    ),
    "autoscaler": (
        "args command env envFrom idleTimeoutSeconds image imagePullPolicy resources securityContext upscalingMode "
        "version volumeMounts"
    ),
    "head": "enableIngress headService ingressOptions labels rayStartParams resources serviceType template",
    "group": (
        "groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts priority rayStartParams replicas "
        "resources scaleStrategy suspend template"
    ),
}


def check_kuberay(found: Findings, documents: Sequence[dict[str, Any]], need: Need | None, schema: bool) -> None:
    """``schema``: whether the CRD has been checked, which knows the keys better than we do."""
    start.check_placeholders(found, list(documents))
    for document in documents:
        start.check_secrets(found, document)
        kind, spec = document.get("kind"), section(document, "spec")
        if kind in KINDS and str(document.get("apiVersion")) != "ray.io/v1":
            found.warn(
                ("apiVersion",), "is an old version of KubeRay's API", "Write ray.io/v1.", document.get("apiVersion")
            )
        if kind == "RayCluster":
            folder = get(document, "metadata", "annotations", "steadytune/run-folder")
            _cluster(found, ("spec",), spec, documents, need, schema)
            _storage(found, ("metadata", "annotations", "steadytune/run-folder"), folder, spec)
        elif kind == "RayJob":
            _job(found, spec, documents, need, schema)
        else:
            _beside(found, document)


def _job(
    found: Findings, spec: dict[str, Any], documents: Sequence[dict[str, Any]], need: Need | None, schema: bool
) -> None:
    key: Path = ("spec",)
    if not schema:
        _known(found, key, spec, "job")
    entry = spec.get("entrypoint")
    if not entry:
        found.error((*key, "entrypoint"), "is missing", "Write steadytune run STUDY --out s3://…")
    modes = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in modes:
        found.error((*key, "submissionMode"), f"is not known.{nearest(str(mode), modes)}", value=mode)
    gpus = spec.get("entrypointNumGpus") or 0
    if isinstance(gpus, int | float) and gpus > 1 and gpus != int(gpus):
        found.error(
            (*key, "entrypointNumGpus"),
            "can never be placed: Ray gives out fractions of one GPU, or whole GPUs",
            "Leave it out: the driver computes nothing.",
            gpus,
        )
    elif gpus:
        found.warn(
            (*key, "entrypointNumGpus"), "keeps a GPU for the driver, which computes nothing", "Leave it out.", gpus
        )
    if get(spec, "clusterSelector") is not None:
        return  # a cluster that another file describes
    if spec.get("shutdownAfterJobFinishes") is not True:
        found.warn(
            (*key, "shutdownAfterJobFinishes"),
            "is not true: the cluster stays, and is paid, when the study is done",
            "Write shutdownAfterJobFinishes: true.",
        )
    if re.search(r"^\s*(pip|conda|uv)\s*:", str(spec.get("runtimeEnvYAML") or ""), re.MULTILINE):
        found.warn(
            (*key, "runtimeEnvYAML"),
            "installs packages at every start, unpinned, and hangs where there is no network",
            "Put them into the image (ray_configs/Dockerfile).",
        )
    cluster = section(spec, "rayClusterSpec")
    if not cluster:
        found.error((*key, "rayClusterSpec"), "is missing", "Describe the cluster, or name one by clusterSelector.")
        return
    _cluster(found, (*key, "rayClusterSpec"), cluster, documents, need, schema)
    folder = re.search(r"--out[= ](\S+)", str(entry))
    _storage(found, (*key, "entrypoint"), folder[1] if folder else None, cluster)


def _cluster(
    found: Findings,
    key: Path,
    spec: dict[str, Any],
    documents: Sequence[dict[str, Any]],
    need: Need | None,
    schema: bool,
) -> None:
    if not schema:
        _known(found, key, spec, "cluster")
        _known(found, (*key, "autoscalerOptions"), section(spec, "autoscalerOptions"), "autoscaler")
        _known(found, (*key, "headGroupSpec"), section(spec, "headGroupSpec"), "head")
        for i, group in enumerate(items(spec, "workerGroupSpecs")):
            _known(found, (*key, "workerGroupSpecs", i), group, "group")
    version = spec.get("rayVersion")
    if version:
        start.check_ray_version(found, (*key, "rayVersion"), str(version))
    pods = [((*key, "headGroupSpec"), section(spec, "headGroupSpec"))]
    pods += [((*key, "workerGroupSpecs", i), g) for i, g in enumerate(items(spec, "workerGroupSpecs"))]
    _token(found, key, spec, pods)
    for at, group in pods:
        check_pod(found, at, group)
    check_head(found, (*key, "headGroupSpec"), section(spec, "headGroupSpec"))
    nodes = check_groups(found, key, spec)
    _network(found, key, spec, documents)
    if need is not None:
        check_capacity(found, nodes, need, sum(n.count for n in nodes), (*key, "workerGroupSpecs"))


def _known(found: Findings, key: Path, value: Any, kind: str) -> None:
    known = KEYS[kind].split()
    for name in value if isinstance(value, dict) else ():
        if name not in known:
            found.error((*key, str(name)), f"is not a known key.{nearest(str(name), known)}")


def _token(found: Findings, key: Path, spec: dict[str, Any], pods: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    options = spec.get("authOptions")
    given = [
        {e.get("name"): e for c in containers_of(group) for e in items(c, "env") if isinstance(e, dict)}
        for _, group in pods
    ]
    by_hand = all(
        get(e, "RAY_AUTH_MODE", "value") == "token" and get(e, "RAY_AUTH_TOKEN", "valueFrom") is not None for e in given
    )
    for (at, _), env in zip(pods, given, strict=True):
        if get(env, "RAY_AUTH_TOKEN", "value"):
            found.warn(
                at, "holds the token in plain text (RAY_AUTH_TOKEN)", "Use valueFrom: secretKeyRef, or authOptions."
            )
    if get(options, "mode") == "disabled" or (options is None and not by_hand):
        found.warn(
            (*key, "authOptions"),
            "does not turn token authentication on: every pod that reaches the cluster runs code on it",
            "Write authOptions: {mode: token}.",
        )
    version = re.match(r"(\d+)\.(\d+)", str(spec.get("rayVersion") or ""))
    if options is not None and version and (int(version[1]), int(version[2])) < start.TOKEN_SINCE:
        found.error(
            (*key, "rayVersion"), "has no token authentication", "It came with Ray 2.52.", spec.get("rayVersion")
        )
    elif options is not None and not version:
        found.error((*key, "rayVersion"), "is missing: KubeRay turns the token on by it", f"Write {start.local_ray()}.")


def _network(found: Findings, key: Path, spec: dict[str, Any], documents: Sequence[dict[str, Any]]) -> None:
    policies = [d for d in documents if d.get("kind") == "NetworkPolicy"]
    own = get(spec, "networkPolicy", "mode") in ("DenyAll", "DenyAllIngress")
    labels = section(spec, "headGroupSpec", "template", "metadata", "labels")
    meant = [section(p, "spec", "podSelector", "matchLabels") for p in policies]
    if not own and not any(all(labels.get(k) == v for k, v in m.items()) for m in meant):
        found.warn(
            key,
            "has no network policy: every pod of the Kubernetes cluster reaches Ray's ports and its dashboard",
            "Add a NetworkPolicy for its pods, as ray_configs/kuberay-cluster.yaml has.",
        )


def _beside(found: Findings, document: dict[str, Any]) -> None:
    kind = document.get("kind")
    if kind == "Service" and get(document, "spec", "type") in ("LoadBalancer", "NodePort"):
        found.warn(
            ("spec", "type"), "opens the service to the outside", "Write ClusterIP.", get(document, "spec", "type")
        )
    elif kind == "Ingress":
        found.warn(("kind",), "opens the cluster to the outside", "Use kubectl port-forward.", kind)
    elif kind == "Secret" and (document.get("data") or document.get("stringData")):
        found.warn(
            ("data",), "holds a secret in plain text", "Let KubeRay make it (authOptions), or kubectl create secret."
        )
    elif kind == "NetworkPolicy":
        for i, rule in enumerate(items(document, "spec", "ingress")):
            blocks = [get(f, "ipBlock", "cidr") for f in items(rule, "from")]
            if not get(rule, "from") or any(b in ("0.0.0.0/0", "::/0") for b in blocks):
                found.warn(("spec", "ingress", i), "lets everybody in", "Name pods or namespaces under from.")


def _storage(found: Findings, key: Path, folder: str | None, spec: dict[str, Any]) -> None:
    groups = [section(spec, "headGroupSpec"), *[g for g in items(spec, "workerGroupSpecs") if isinstance(g, dict)]]

    def mounted(path: str) -> bool:
        """A claim or network volume at the path in every pod."""
        for group in groups:
            volumes = items(group, "template", "spec", "volumes")
            shared = [v.get("name") for v in volumes if {"persistentVolumeClaim", "nfs", "csi"} & set(v)]
            mounts = [m for c in containers_of(group) for m in items(c, "volumeMounts") if m.get("name") in shared]
            if not any(path.startswith(str(m.get("mountPath", "?")).rstrip("/")) for m in mounts):
                return False
        return True

    start.check_run_folder(found, key, folder, 2 if len(groups) > 1 else 1, mounted)
