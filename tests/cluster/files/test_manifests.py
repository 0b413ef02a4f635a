"""Broken KubeRay manifests: what the CRD refuses, and what is legal there but wrong."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import crds as crds  # the fixture
from cluster_files import edited, findings

from cluster.files.check import check_text
from cluster.files.crd import CrdError, from_cluster, from_files
from cluster.files.render import CONFIGS

C = "spec/rayClusterSpec"
W = f"{C}/workerGroupSpecs"
POD = "template/spec/containers/0"
SCHEMA = [  # what the CRD refuses
    (
        f"{C}/enableInTreeAutoscalin",
        True,
        r'enableInTreeAutoscalin is not a known key. Did you mean "enableInTreeAutoscaling"',
    ),
    (f"{C}/autoscalerOptions/version", "v3", r'version = "v3" is not known. Did you mean'),
    (f"{W}/1/maxReplicas", "8", r'maxReplicas = "8" must be of type integer'),
    (f"{W}/1/maxReplicas", ..., r"maxReplicas is missing"),
    (f"{W}/1/{POD}/resourcs", {}, r'resourcs is not a known key. Did you mean "resources"'),
    (f"{C}/authOptions/mode", "tokn", r'mode = "tokn" is not known. Did you mean "token"'),
    ("spec/entrypont", "x", r'entrypont is not a known key. Did you mean "entrypoint"'),
    (f"{C}/headGroupSpec/rayStartParams/num-cpus", 0, r"num-cpus = 0 must be of type string"),
]


@pytest.mark.parametrize(
    ("path", "value", "words"), SCHEMA, ids=[c[2].split(" ")[0] + str(i) for i, c in enumerate(SCHEMA)]
)
def test_manifests_that_the_crd_refuses(path: str, value: Any, words: str, crds: dict[Any, Any]) -> None:
    found = findings(edited("kuberay-job.yaml", path, value), "job.yaml", None, crds)
    assert any(f.level == "error" and re.search(words, str(f)) for f in found), [str(f) for f in found]


KUBE: list[tuple[str, str, Any, str, str]] = [
    ("no token", f"{C}/authOptions", ..., "warning", r"does not turn token authentication on"),
    ("the token off", f"{C}/authOptions/mode", "disabled", "warning", r"does not turn token authentication on"),
    ("a Ray without tokens", f"{C}/rayVersion", "2.40.0", "error", r"has no token authentication"),
    ("another Ray", f"{C}/rayVersion", "2.55.0", "warning", r'"2.55.0" is another Ray'),
    ("another Ray in a pod", f"{W}/1/{POD}/image", "rayproject/ray:2.55.0", "warning", r'"2.55.0" is another Ray'),
    (
        "an open service",
        f"{C}/headGroupSpec/serviceType",
        "LoadBalancer",
        "warning",
        r"opens the cluster's ports to the outside",
    ),
    ("an ingress", f"{C}/headGroupSpec/enableIngress", True, "warning", r"opens the dashboard to the outside"),
    (
        "a fraction of a GPU",
        f"{W}/1/{POD}/resources/limits/nvidia.com~gpu",
        "0.5",
        "error",
        r"never be placed: Kubernetes gives out whole GPUs",
    ),
    ("a fraction for Ray", f"{W}/1/rayStartParams", {"num-gpus": "0.5"}, "error", r"can never fill a GPU"),
    ("a fraction above one for the driver", "spec/entrypointNumGpus", 1.5, "error", r"can never be placed"),
    ("a GPU for the driver", "spec/entrypointNumGpus", 1, "warning", r"keeps a GPU for the driver"),
    (
        "limits that are no requests",
        f"{W}/1/{POD}/resources/requests/nvidia.com~gpu",
        "2",
        "error",
        r"must be the same in limits and requests",
    ),
    ("pods that restart", f"{W}/1/template/spec/restartPolicy", "Always", "warning", r"is not Never"),
    ("the old autoscaler", f"{C}/autoscalerOptions/version", "v1", "warning", r"is not v2"),
    ("no autoscaler", f"{C}/enableInTreeAutoscaling", False, "warning", r"the number of pods stays"),
    ("no idle timeout", f"{C}/autoscalerOptions/idleTimeoutSeconds", ..., "warning", r"idleTimeoutSeconds is missing"),
    ("a head that works", f"{C}/headGroupSpec/rayStartParams", {}, "warning", r"lets trials run on the head"),
    (
        "a head on spot",
        f"{C}/headGroupSpec/template/spec/nodeSelector",
        {"cloud.google.com/gke-spot": "true"},
        "warning",
        r"puts the head on a spot node",
    ),
    ("min above max", f"{W}/1/minReplicas", 99, "error", r"is more than maxReplicas"),
    ("pods that never go", f"{W}/1/minReplicas", 1, "warning", r"keeps pods running"),
    ("one name twice", f"{W}/1/groupName", "cpu", "error", r"is used twice"),
    ("a cluster that stays", "spec/shutdownAfterJobFinishes", False, "warning", r"the cluster stays"),
    ("packages at every start", "spec/runtimeEnvYAML", "pip: [torch]", "warning", r"unpinned"),
    ("a run folder in the pod", "spec/entrypoint", "steadytune run x.yaml --out /tmp/run", "warning", r"own disk"),
    ("no run folder", "spec/entrypoint", "steadytune run x.yaml", "warning", r"does not say where the run folder is"),
    ("a misspelt mode", "spec/submissionMode", "HttpMode", "error", r'Did you mean "HTTPMode"'),
    ("the node's network", f"{W}/1/template/spec/hostNetwork", True, "warning", r"opens Ray's ports on the node"),
    (
        "a token in the file",
        f"{W}/1/{POD}/env",
        [{"name": "RAY_AUTH_TOKEN", "value": "0123456789abcdef"}],
        "warning",
        r"token in plain text",
    ),
]


@pytest.mark.parametrize(("path", "value", "level", "words"), [c[1:] for c in KUBE], ids=[c[0] for c in KUBE])
def test_manifests_that_are_legal_but_wrong(path: str, value: Any, level: str, words: str) -> None:
    found = findings(edited_kube(path, value), "job.yaml")
    assert any(f.level == level and re.search(words, str(f)) for f in found), [str(f) for f in found]
    assert not any("0123456789abcdef" in str(f) for f in found), "a secret is not repeated"


def edited_kube(path: str, value: Any) -> str:
    """``~`` stands for a slash within a key."""
    documents = list(yaml.safe_load_all((CONFIGS / "kuberay-job.yaml").read_text()))
    *parents, last = [p.replace("~", "/") for p in path.split("/")]
    if "nvidia.com/gpu" in last:
        last = "nvidia.com/gpu"
    target: Any = documents[0]
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else target[part]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return yaml.safe_dump_all(documents, sort_keys=False)


def test_a_manifest_without_a_network_policy() -> None:
    text = (CONFIGS / "kuberay-cluster.yaml").read_text().split("\n---\n")[0]
    [found] = findings(text, "c.yaml")
    assert "has no network policy" in str(found)


def test_a_token_from_a_secret_of_ones_own_is_a_token() -> None:
    documents = list(yaml.safe_load_all((CONFIGS / "kuberay-cluster.yaml").read_text()))
    spec = documents[0]["spec"]
    del spec["authOptions"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        secret = {"secretKeyRef": {"name": "mine", "key": "auth_token"}}
        group["template"]["spec"]["containers"][0]["env"] = [
            {"name": "RAY_AUTH_MODE", "value": "token"},
            {"name": "RAY_AUTH_TOKEN", "valueFrom": secret},
        ]
    assert findings(yaml.safe_dump_all(documents), "c.yaml") == []


def test_a_shared_disk_in_every_pod_is_shared_storage() -> None:
    documents = list(yaml.safe_load_all((CONFIGS / "kuberay-cluster.yaml").read_text()))
    spec = documents[0]["spec"]
    documents[0]["metadata"]["annotations"]["steadytune/run-folder"] = "/runs/a"
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        group["template"]["spec"]["volumes"] = [{"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}]
        group["template"]["spec"]["containers"][0]["volumeMounts"] = [{"name": "runs", "mountPath": "/runs"}]
    assert findings(yaml.safe_dump_all(documents), "c.yaml") == []
    del groups[2]["template"]["spec"]["volumes"]
    assert "own disk" in str(findings(yaml.safe_dump_all(documents), "c.yaml")[0])


def test_objects_beside_the_cluster_are_looked_at() -> None:
    text = (CONFIGS / "kuberay-cluster.yaml").read_text()
    service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {type: NodePort}\n"
    secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {auth_token: abc}\n"
    found = findings(text + service + secret, "c.yaml")
    assert [re.sub(r"\W+", " ", str(f))[:60] for f in found] != []
    assert any("opens the service to the outside" in str(f) for f in found)
    assert any("holds a secret in plain text" in str(f) for f in found)


def test_without_a_crd_own_keys_are_still_checked_and_the_gap_is_said() -> None:
    text = edited("kuberay-job.yaml", f"{C}/headGroupSpec/servicType", "ClusterIP")
    found = check_text(text, "job.yaml", None, {}).items
    assert any("servicType is not a known key" in str(f) and '"serviceType"' in str(f) for f in found)
    assert any(f.level == "note" and "--crd FILE" in f.fix for f in found)


def test_the_crd_of_the_cluster_is_asked_through_kubectl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path
) -> None:
    """A program in kubectl's place, which prints the CRDs as kubectl does."""
    files = sorted((shared / "schemas").glob("ray.io_ray*.yaml"))
    listed = {"items": [d for f in files for d in yaml.load_all(f.read_text(), Loader=yaml.CSafeLoader) if d]}
    (tmp_path / "crds.json").write_text(json.dumps(listed, default=str))
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\n[ "$1 $2" = "get crd" ] && cat {tmp_path}/crds.json\n')
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found, why = from_cluster(["RayJob"])
    assert why == ""
    assert ("ray.io/v1", "RayJob") in found
    kubectl.write_text("#!/bin/sh\necho 'error: no route to host' >&2; exit 1\n")
    assert from_cluster(["RayJob"]) == ({}, "kubectl says: error: no route to host")
    monkeypatch.setenv("PATH", "")
    assert from_cluster(["RayJob"]) == ({}, "kubectl is not installed")


def test_a_crd_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("kind: Pod\n")
    with pytest.raises(CrdError, match="no custom resource definition"):
        from_files([str(tmp_path / "x.yaml")])
    with pytest.raises(CrdError, match="does not exist"):
        from_files([str(tmp_path / "y.yaml")])
