"""Checks of KubeRay manifests (RayCluster, RayJob and the objects beside them) beyond what the schema can check."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cluster.files import start_checks as start
from cluster.files.capacity import Need, check_capacity
from cluster.files.finding import FileFindings
from cluster.files.key_path import KeyPath, list_at, mapping_at, value_at
from cluster.files.pods import check_groups, check_head, check_pod, containers_of, pod_groups
from trainer.errors import nearest

KINDS = ("RayCluster", "RayJob")
KEYS = {  # of ray.io/v1 in KubeRay 1.7, for use without a CRD
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


def check_kuberay(findings: FileFindings, documents: Sequence[dict[str, Any]], need: Need | None, schema: bool) -> None:
    """``schema``: whether the manifests were checked against the CRD, which then decides on unknown keys."""
    start.check_placeholders(findings, list(documents))
    for document in documents:
        start.check_secrets(findings, document)
        kind, spec = document.get("kind"), mapping_at(document, "spec")
        if kind in KINDS and str(document.get("apiVersion")) != "ray.io/v1":
            findings.warn(
                ("apiVersion",), "is an old version of KubeRay's API", "Write ray.io/v1.", document.get("apiVersion")
            )
        if kind == "RayCluster":
            folder = value_at(document, "metadata", "annotations", "steadytune/run-folder")
            _cluster(findings, ("spec",), spec, documents, need, schema)
            _storage(findings, ("metadata", "annotations", "steadytune/run-folder"), folder, spec)
        elif kind == "RayJob":
            _job(findings, spec, documents, need, schema)
        else:
            _beside(findings, document)


def _job(
    findings: FileFindings, spec: dict[str, Any], documents: Sequence[dict[str, Any]], need: Need | None, schema: bool
) -> None:
    key: KeyPath = ("spec",)
    if not schema:
        _known(findings, key, spec, "job")
    entry = spec.get("entrypoint")
    if not entry:
        findings.error((*key, "entrypoint"), "is missing", "Write steadytune run STUDY --out s3://…")
    modes = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in modes:
        findings.error((*key, "submissionMode"), f"is not known.{nearest(str(mode), modes)}", value=mode)
    gpus = spec.get("entrypointNumGpus") or 0
    if isinstance(gpus, int | float) and gpus > 1 and gpus != int(gpus):
        findings.error(
            (*key, "entrypointNumGpus"),
            "can never be placed: Ray gives out fractions of one GPU, or whole GPUs",
            "Leave it out: the driver computes nothing.",
            gpus,
        )
    elif gpus:
        findings.warn(
            (*key, "entrypointNumGpus"), "keeps a GPU for the driver, which computes nothing", "Leave it out.", gpus
        )
    if value_at(spec, "clusterSelector") is not None:
        return  # the cluster is described in another file
    if spec.get("shutdownAfterJobFinishes") is not True:
        findings.warn(
            (*key, "shutdownAfterJobFinishes"),
            "is not true: the cluster stays, and costs money, after the study has ended",
            "Write shutdownAfterJobFinishes: true.",
        )
    if re.search(r"^\s*(pip|conda|uv)\s*:", str(spec.get("runtimeEnvYAML") or ""), re.MULTILINE):
        findings.warn(
            (*key, "runtimeEnvYAML"),
            "installs packages at every start, unpinned, and hangs where there is no network",
            "Put them into the image (ray_configs/Dockerfile).",
        )
    cluster = mapping_at(spec, "rayClusterSpec")
    if not cluster:
        findings.error((*key, "rayClusterSpec"), "is missing", "Describe the cluster, or name one by clusterSelector.")
        return
    _cluster(findings, (*key, "rayClusterSpec"), cluster, documents, need, schema)
    folder = re.search(r"--out[= ](\S+)", str(entry))
    _storage(findings, (*key, "entrypoint"), folder[1] if folder else None, cluster)


def _cluster(
    findings: FileFindings,
    key: KeyPath,
    spec: dict[str, Any],
    documents: Sequence[dict[str, Any]],
    need: Need | None,
    schema: bool,
) -> None:
    if not schema:
        _known(findings, key, spec, "cluster")
        _known(findings, (*key, "autoscalerOptions"), mapping_at(spec, "autoscalerOptions"), "autoscaler")
        _known(findings, (*key, "headGroupSpec"), mapping_at(spec, "headGroupSpec"), "head")
        for i, group in enumerate(list_at(spec, "workerGroupSpecs")):
            _known(findings, (*key, "workerGroupSpecs", i), group, "group")
    version = spec.get("rayVersion")
    if version:
        start.check_ray_version(findings, (*key, "rayVersion"), str(version))
    pods = [((*key, "headGroupSpec"), mapping_at(spec, "headGroupSpec"))]
    pods += [((*key, "workerGroupSpecs", i), g) for i, g in enumerate(list_at(spec, "workerGroupSpecs"))]
    _token(findings, key, spec, pods)
    for at, group in pods:
        check_pod(findings, at, group)
    check_head(findings, (*key, "headGroupSpec"), mapping_at(spec, "headGroupSpec"))
    check_groups(findings, key, spec)
    _network(findings, key, spec, documents)
    if need is not None:
        nodes = pod_groups(key, spec)
        check_capacity(findings, nodes, need, sum(n.count for n in nodes), (*key, "workerGroupSpecs"))


def _known(findings: FileFindings, key: KeyPath, value: Any, kind: str) -> None:
    known = KEYS[kind].split()
    for name in value if isinstance(value, dict) else ():
        if name not in known:
            findings.error((*key, str(name)), f"is not a known key.{nearest(str(name), known)}")


def _token(
    findings: FileFindings, key: KeyPath, spec: dict[str, Any], pods: Sequence[tuple[KeyPath, dict[str, Any]]]
) -> None:
    options = spec.get("authOptions")
    given = [
        {e.get("name"): e for c in containers_of(group) for e in list_at(c, "env") if isinstance(e, dict)}
        for _, group in pods
    ]
    by_hand = all(
        value_at(e, "RAY_AUTH_MODE", "value") == "token" and value_at(e, "RAY_AUTH_TOKEN", "valueFrom") is not None
        for e in given
    )
    for (at, _), env in zip(pods, given, strict=True):
        if value_at(env, "RAY_AUTH_TOKEN", "value"):
            findings.warn(
                at, "holds the token in plain text (RAY_AUTH_TOKEN)", "Use valueFrom: secretKeyRef, or authOptions."
            )
    if value_at(options, "mode") == "disabled" or (options is None and not by_hand):
        findings.warn(
            (*key, "authOptions"),
            "does not turn token authentication on: every pod that reaches the cluster runs code on it",
            "Write authOptions: {mode: token}.",
        )
    version = re.match(r"(\d+)\.(\d+)", str(spec.get("rayVersion") or ""))
    if options is not None and version and (int(version[1]), int(version[2])) < start.TOKEN_SINCE:
        findings.error(
            (*key, "rayVersion"), "has no token authentication", "It came with Ray 2.52.", spec.get("rayVersion")
        )
    elif options is not None and not version:
        findings.error(
            (*key, "rayVersion"),
            "is missing: without it KubeRay does not turn the token on",
            f"Write {start.local_ray()}.",
        )


def _network(findings: FileFindings, key: KeyPath, spec: dict[str, Any], documents: Sequence[dict[str, Any]]) -> None:
    policies = [d for d in documents if d.get("kind") == "NetworkPolicy"]
    own = value_at(spec, "networkPolicy", "mode") in ("DenyAll", "DenyAllIngress")
    labels = mapping_at(spec, "headGroupSpec", "template", "metadata", "labels")
    meant = [mapping_at(p, "spec", "podSelector", "matchLabels") for p in policies]
    if not own and not any(all(labels.get(k) == v for k, v in m.items()) for m in meant):
        findings.warn(
            key,
            "has no network policy: every pod of the Kubernetes cluster reaches Ray's ports and its dashboard",
            "Add a NetworkPolicy for its pods, as ray_configs/kuberay-cluster.yaml has.",
        )


def _beside(findings: FileFindings, document: dict[str, Any]) -> None:
    kind = document.get("kind")
    if kind == "Service" and value_at(document, "spec", "type") in ("LoadBalancer", "NodePort"):
        findings.warn(
            ("spec", "type"), "opens the service to the outside", "Write ClusterIP.", value_at(document, "spec", "type")
        )
    elif kind == "Ingress":
        findings.warn(("kind",), "opens the cluster to the outside", "Use kubectl port-forward.", kind)
    elif kind == "Secret" and (document.get("data") or document.get("stringData")):
        findings.warn(
            ("data",), "holds a secret in plain text", "Let KubeRay make it (authOptions), or kubectl create secret."
        )
    elif kind == "NetworkPolicy":
        for i, rule in enumerate(list_at(document, "spec", "ingress")):
            blocks = [value_at(f, "ipBlock", "cidr") for f in list_at(rule, "from")]
            if not value_at(rule, "from") or any(b in ("0.0.0.0/0", "::/0") for b in blocks):
                findings.warn(("spec", "ingress", i), "lets everybody in", "Name pods or namespaces under from.")


def _storage(findings: FileFindings, key: KeyPath, folder: str | None, spec: dict[str, Any]) -> None:
    groups = [mapping_at(spec, "headGroupSpec"), *[g for g in list_at(spec, "workerGroupSpecs") if isinstance(g, dict)]]

    def mounted(path: str) -> bool:
        """Whether every pod mounts a volume claim or network volume at the path."""
        for group in groups:
            volumes = list_at(group, "template", "spec", "volumes")
            shared = [v.get("name") for v in volumes if {"persistentVolumeClaim", "nfs", "csi"} & set(v)]
            mounts = [m for c in containers_of(group) for m in list_at(c, "volumeMounts") if m.get("name") in shared]
            if not any(path.startswith(str(m.get("mountPath", "?")).rstrip("/")) for m in mounts):
                return False
        return True

    start.check_run_folder(findings, key, folder, 2 if len(groups) > 1 else 1, mounted)
