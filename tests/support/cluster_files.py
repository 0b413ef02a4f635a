"""Shipped cluster files with one value changed, and what the check finds in them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import ROOT

from cluster.files.capacity import Need
from cluster.files.check import check_text
from cluster.files.crd import from_files
from cluster.files.finding import FileFinding
from cluster.files.render import CONFIGS


def edited(file: str, path: str, value: Any = ...) -> str:
    """The text of a shipped YAML file with the value at a path (``a/0/b``) replaced, or removed."""
    documents = list(yaml.safe_load_all((CONFIGS / file).read_text()))
    *parents, last = path.split("/")
    target: Any = documents[0]
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else target[part]
    key: Any = int(last) if isinstance(target, list) else last
    if value is ...:
        del target[key]
    else:
        target[key] = value
    return yaml.safe_dump_all(documents, sort_keys=False)


def findings(text: str, name: str, need: Need | None = None, schemas: Any = None) -> list[FileFinding]:
    return [f for f in check_text(text, name, need, {} if schemas is None else schemas).items if f.level != "note"]


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-m", "sweeps", *arguments], env=env, capture_output=True, text=True)


@pytest.fixture(scope="session")
def crds(shared: Path) -> dict[Any, Any]:
    files = sorted((shared / "schemas").glob("ray.io_ray*.yaml"))
    if not files:
        pytest.skip("shared/schemas has no CRDs of KubeRay")
    return from_files([str(f) for f in files])
