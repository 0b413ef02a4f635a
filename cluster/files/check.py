"""``steadytune cluster check``: recognise the kind of a cluster file, and find its mistakes before it costs money."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.files.capacity import Need
from cluster.files.crd import Kind, check_schema, from_cluster
from cluster.files.dockerfile import check_dockerfile
from cluster.files.finding import FileFindings
from cluster.files.kuberay import KINDS, check_kuberay
from cluster.files.ray_up import check_ray_up
from cluster.files.slurm import check_slurm
from cluster.files.yaml_text import YamlError, yaml_documents
from cluster.files.zero import check_zero
from trainer.errors import UserError, closest

KNOWN = "a `ray up` file, KubeRay manifests (RayCluster, RayJob), a Slurm script, a DeepSpeed JSON or a Dockerfile"


class CheckError(UserError):
    """A file that cannot be checked at all."""


def check_file(file: str, need: Need | None = None, crds: Mapping[Kind, Any] | None = None) -> FileFindings:
    """The findings for ``file``. ``need``: that of the study to run there. ``crds``: validators of KubeRay's kinds;
    None asks the cluster that kubectl is set up for. Raises CheckError if there is no such file."""
    path = Path(file)
    if not path.is_file():
        raise CheckError(f'FILE = "{file}" does not exist.{_beside(path)}')
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CheckError(f'FILE = "{file}" is not text. Known: {KNOWN}.') from None
    return check_text(text, file, need, crds)


def check_text(text: str, file: str, need: Need | None = None, crds: Mapping[Kind, Any] | None = None) -> FileFindings:
    findings = FileFindings(file)
    name = os.path.basename(file)
    if name.lower().startswith("dockerfile") or name.endswith(".dockerfile"):
        check_dockerfile(findings, text)
    elif text.startswith("#!") or "#SBATCH" in text:
        if "#SBATCH" not in text:
            findings.error("", "is a script without #SBATCH lines", f"Known: {KNOWN}.")
            return findings
        check_slurm(findings, text, need)
    elif name.endswith(".json"):
        _json(findings, text, need)
    else:
        _yaml(findings, text, need, crds)
    return findings


def _json(findings: FileFindings, text: str, need: Need | None) -> None:
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        findings.error(f"line {error.lineno}", f"is not JSON ({error.msg})")
        return
    if not isinstance(raw, dict) or not {"zero_optimization", "train_micro_batch_size_per_gpu", "bf16", "fp16"} & set(
        raw
    ):
        findings.error("", "is JSON, but no DeepSpeed configuration (it has no zero_optimization)", f"Known: {KNOWN}.")
        return
    check_zero(findings, raw, need)


def _yaml(findings: FileFindings, text: str, need: Need | None, crds: Mapping[Kind, Any] | None) -> None:
    try:
        loaded = yaml_documents(text, findings.file)
    except YamlError as error:
        for line in str(error).splitlines():
            findings.error("", line.removeprefix(findings.file).lstrip(": ").rstrip("."))
        return
    if not loaded or not all(isinstance(d, dict) for d in loaded):
        findings.error("", "is no mapping of keys", f"Known: {KNOWN}.")
        return
    first = loaded[0]
    if any("apiVersion" in d or d.get("kind") in KINDS for d in loaded):
        _manifests(findings, loaded, need, crds)
    elif "model" in first and "task" in first:
        findings.error(
            "",
            "is a study, not a cluster",
            f"Give it as --study {findings.file}; to check the study itself use `steadytune check`.",
        )
    elif "provider" in first or "available_node_types" in first or "cluster_name" in first:
        check_ray_up(findings, first, need)
    else:
        findings.error("", f"is none of the kinds that can be checked. Known: {KNOWN}")


def _manifests(
    findings: FileFindings, loaded: Sequence[dict[str, Any]], need: Need | None, crds: Mapping[Kind, Any] | None
) -> None:
    kinds = [str(d.get("kind")) for d in loaded]
    ours = [k for k in kinds if k in KINDS]
    if not ours:
        near = closest(kinds[0], KINDS)
        hint = f' Did you mean "{near}"?' if near and near != kinds[0] else ""
        if "CustomResourceDefinition" in kinds:
            hint = " A CRD is named by --crd, beside the manifest"
        findings.error(("kind",), f"holds neither a RayCluster nor a RayJob.{hint}", value=kinds[0])
        return
    why = ""
    if crds is None:
        crds, why = from_cluster(ours)
    checked = True
    for document in loaded:
        kind = (str(document.get("apiVersion")), str(document.get("kind")))
        if kind[1] not in KINDS:
            continue
        if kind in crds:
            check_schema(findings, document, crds[kind])
        else:
            checked = False
            reason = why or f"the CRDs at hand define {', '.join(sorted({k for _, k in crds})) or 'nothing'}"
            findings.note(
                ("kind",),
                f"was not checked against KubeRay's schema ({reason}): only the keys that Steadytune knows were",
                "Give the CRD: --crd FILE (kubectl get crd rayclusters.ray.io rayjobs.ray.io -o yaml).",
                kind[1],
            )
    check_kuberay(findings, loaded, need, checked)


def _beside(path: Path) -> str:
    folder = path.parent
    names = [p.name for p in sorted(folder.iterdir())] if folder.is_dir() else []
    near = closest(path.name, names)
    return f' Did you mean "{folder / near}"?' if near else f" Known: {KNOWN}."
