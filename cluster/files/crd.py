"""KubeRay's schema, taken from its custom resource definitions (CRDs) and made strict: an unknown key is an error, as
with ``kubectl --validate=strict``. Kubernetes itself drops unknown keys silently, so a misspelt key has no effect.
CEL rules (``x-kubernetes-validations``) are not evaluated.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.files.finding import FileFindings
from cluster.files.schema_error import add_schema_error
from trainer.errors import UserError
from trainer.files.yaml_nodes import YamlFault, plain_value, read_nodes

Kind = tuple[str, str]  # apiVersion and kind
PLURALS = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}
_NUMBERS = ("int32", "int64", "double", "float", "byte")


class CrdError(UserError):
    """A file given with --crd is no custom resource definition of KubeRay."""


def from_files(files: Sequence[str]) -> dict[Kind, Any]:
    """A validator for each kind and version that the files define."""
    found: dict[Kind, Any] = {}
    for file in files:
        if not Path(file).is_file():
            raise CrdError(
                f'--crd = "{file}" does not exist. Save one: kubectl get crd rayclusters.ray.io -o yaml > FILE'
            )
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a CRD has 30,000 lines
        try:
            documents = [
                plain_value(root) for root in read_nodes(Path(file).read_text(encoding="utf-8"), loader, times=16)
            ]
        except (YamlFault, UnicodeDecodeError) as error:
            raise CrdError(f'--crd = "{file}": {error}.') from None
        try:
            validators = _validators(documents)
        except (KeyError, TypeError, AttributeError) as error:
            raise CrdError(
                f'--crd = "{file}" is no whole definition of KubeRay ({error} is missing or no mapping).'
            ) from None
        if not validators:
            raise CrdError(
                f'--crd = "{file}" holds no custom resource definition of KubeRay. '
                "Save one: kubectl get crd rayclusters.ray.io -o yaml > FILE"
            )
        found.update(validators)
    return found


def from_cluster(kinds: Sequence[str]) -> tuple[dict[Kind, Any], str]:
    """The validators from the cluster that kubectl is set up for, or the reason why there are none."""
    if shutil.which("kubectl") is None:
        return {}, "kubectl is not installed"
    names = [f"{PLURALS[kind]}.ray.io" for kind in sorted(set(kinds)) if kind in PLURALS]
    try:
        done = subprocess.run(
            ["kubectl", "get", "crd", *names, "-o", "json", "--request-timeout=5s"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {}, f"kubectl did not answer ({type(error).__name__})"
    if done.returncode:
        return {}, f"kubectl says: {(done.stderr.strip().splitlines() or ['nothing'])[-1][:160]}"
    loaded = json.loads(done.stdout)
    return _validators(loaded.get("items", [loaded])), ""


def check_schema(findings: FileFindings, document: Mapping[str, Any], validator: Any) -> None:
    """Every deviation from the CRD; for an unknown key also the nearest known one."""
    for error in sorted(validator.iter_errors(document), key=lambda e: [str(p) for p in e.absolute_path]):
        add_schema_error(findings, error, "the CRD")


def _validators(documents: Sequence[Any]) -> dict[Kind, Any]:
    import jsonschema

    found: dict[Kind, Any] = {}
    for document in documents:
        if not isinstance(document, dict) or document.get("kind") != "CustomResourceDefinition":
            continue
        spec = document["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
            kind = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            found[kind] = jsonschema.Draft202012Validator(schema)
    return found


def strict(schema: Any) -> Any:
    """A structural schema of Kubernetes as a JSON Schema that refuses unknown keys."""
    if not isinstance(schema, dict):
        return schema
    made = {k: v for k, v in schema.items() if not k.startswith("x-kubernetes-") and k not in ("default", "nullable")}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        return made
    if schema.get("format") in _NUMBERS:
        del made["format"]
    if schema.get("nullable") and "type" in made:
        made["type"] = [made["type"], "null"]
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-embedded-resource")
    if "properties" in made:
        made["properties"] = {k: strict(v) for k, v in made["properties"].items()}
        if not open_ended:
            made.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties", "not"):
        if isinstance(made.get(key), dict):
            made[key] = strict(made[key])
    return made
