"""The shipped configs: each is what its reader accepts, is safe as it is, and says how it is used."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import ROOT
from cluster_files import crds as crds  # the fixture

from cluster.files.check import check_file
from cluster.files.finding import PLACEHOLDER
from cluster.files.key_path import leaves
from cluster.files.machines import MACHINES, gpu_memory
from cluster.files.render import CONFIGS

OTHERS = {"__pycache__", "grafana"}  # a dashboard is no cluster
FILES = sorted(p for p in CONFIGS.rglob("*") if p.is_file() and not OTHERS & set(p.parts))
UP = [p for p in FILES if p.name in ("local.yaml", "on_prem.yaml", "aws.yaml", "gcp.yaml")]
CLOUD = [p for p in UP if p.name in ("aws.yaml", "gcp.yaml")]
KUBE = [p for p in FILES if p.name.startswith("kuberay")]


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def load(path: Path) -> Any:
    return next(yaml.safe_load_all(path.read_text()))


def test_the_files_that_are_promised_are_there() -> None:
    promised = ["local.yaml", "on_prem.yaml", "aws.yaml", "gcp.yaml", "kuberay-cluster.yaml", "kuberay-job.yaml"]
    promised += ["slurm.sh", "Dockerfile"]
    promised += [f"deepspeed/{n}.json" for n in ("zero0", "zero2", "zero3", "zero3_offload")]
    assert {name(p) for p in FILES} == set(promised)


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix != ".json"], ids=name)
def test_the_first_line_is_the_command(path: Path) -> None:
    lines = path.read_text().splitlines()
    first = lines[1] if lines[0].startswith("#!") else lines[0]
    assert re.match(r"# (ray up|kubectl apply -f|sbatch|docker build -f) ray_configs/", first), first
    assert f"ray_configs/{name(path)}" in first
    assert "Change:" in path.read_text()


@pytest.mark.parametrize("path", [p for p in FILES if p not in KUBE], ids=name)
def test_every_file_passes_the_check(path: Path) -> None:
    found = check_file(str(path))
    assert [str(f) for f in found.items if f.level != "note"] == []


@pytest.mark.parametrize("path", KUBE, ids=name)
def test_manifests_pass_the_check_with_the_crd(path: Path, crds: dict[Any, Any]) -> None:
    found = check_file(str(path), crds=crds)
    assert [str(f) for f in found.items if f.level != "note"] == []
    assert not any("schema" in f.what for f in found.items)


@pytest.mark.parametrize("path", KUBE, ids=name)
def test_manifests_pass_the_check_without_a_crd(path: Path) -> None:
    found = check_file(str(path), crds={})
    assert [str(f) for f in found.items if f.level != "note"] == []
    assert any("was not checked against KubeRay's schema" in f.what for f in found.items)


def test_the_job_and_the_cluster_of_kuberay_are_the_same_cluster() -> None:
    cluster, job = (load(CONFIGS / f"kuberay-{n}.yaml") for n in ("cluster", "job"))
    inner = job["spec"]["rayClusterSpec"]
    head = inner["headGroupSpec"]["template"]["spec"]
    assert [v["name"] for v in head.pop("volumes")] == ["study"]
    del head["containers"][0]["volumeMounts"]
    assert inner == cluster["spec"]


@pytest.mark.parametrize("path", CLOUD, ids=name)
def test_clouds_have_a_head_on_demand_and_several_gpu_types_at_spot_prices(path: Path) -> None:
    config = load(path)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    text = json.dumps(head)
    assert "spot" not in text.lower()
    gpus = {n: t for n, t in types.items() if t["resources"].get("GPU")}
    assert len({n.rsplit("-x", 1)[0] for n in gpus}) >= 3
    for node, kind in gpus.items():
        gang = kind["resources"]["GPU"] > 1
        assert ("spot" in json.dumps(kind["node_config"]).lower()) is not gang, node
        assert kind["min_workers"] == 0
        assert gpu_memory(node) is not None
    assert 0 < config["idle_timeout_minutes"] <= 10
    assert config["metadata"]["run_folder"].startswith(("s3://", "gs://"))


@pytest.mark.parametrize("path", CLOUD, ids=name)
def test_node_types_offer_what_their_machines_have(path: Path) -> None:
    config = load(path)
    for node, kind in config["available_node_types"].items():
        machine = kind["node_config"].get("InstanceType") or kind["node_config"]["machineType"]
        facts = MACHINES[path.stem][machine]
        if node == config["head_node_type"]:
            assert kind["resources"] == {"CPU": 0}
        else:
            assert kind["resources"] == {"CPU": facts.cpus, **({"GPU": facts.gpus} if facts.gpus else {})}
            assert not facts.gpu or gpu_memory(node) == gpu_memory(facts.gpu)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_port_is_open_to_the_world(path: Path) -> None:
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    for word in ("0.0.0.0", "::/0", "LoadBalancer", "NodePort", "hostPort", "hostNetwork", "EXPOSE", "enableIngress"):
        assert word not in text, word


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix != ".json"], ids=name)
def test_token_authentication_is_on(path: Path) -> None:
    text = path.read_text()
    assert "RAY_AUTH_MODE=token" in text or "mode: token" in text
    assert "disabled" not in text


def test_versions_are_those_of_the_pinned_environment() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if re.match(r"[\w.-]+==", line)
    )
    assert pins["ray"] == importlib.metadata.version("ray")
    for path in FILES:
        text = path.read_text()
        assert set(re.findall(r"\bray[:]?(\d+\.\d+\.\d+)", text)) <= {pins["ray"]}, path.name
        assert set(re.findall(r"torch==(\d+\.\d+\.\d+)", text)) <= {pins["torch"]}, path.name
        assert set(re.findall(r"rayVersion: \"([^\"]+)\"", text)) <= {pins["ray"]}, path.name
    assert f"ARG TORCH={pins['torch']}" in (CONFIGS / "Dockerfile").read_text()


@pytest.mark.parametrize("path", [*UP, *KUBE], ids=name)
def test_what_is_to_be_filled_in_is_said_at_the_top(path: Path) -> None:
    text = path.read_text()
    top = text[: re.search(r"(?m)^[^#\n]", text).start()]  # type: ignore[union-attr]
    assert PLACEHOLDER in top
    values = [v for d in yaml.safe_load_all(text) for _, v in leaves(d) if isinstance(v, str)]
    assert any(PLACEHOLDER in v for v in values)


def test_the_slurm_script_is_bash() -> None:
    assert subprocess.run(["bash", "-n", str(CONFIGS / "slurm.sh")]).returncode == 0


def test_the_configs_are_installed_with_the_packages() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = tools["packages"]["find"]["include"]
    for path in FILES:
        package = ".".join(path.relative_to(ROOT).parent.parts)
        assert any(fnmatch(package, pattern) for pattern in found), path
        assert any(path.match(pattern) for pattern in tools["package-data"][package]), path


# DeepSpeed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "zero", "offload"),
    [("zero0", 0, False), ("zero2", 2, False), ("zero3", 3, False), ("zero3_offload", 3, True)],
)
def test_a_deepspeed_file_is_what_the_engine_gives_deepspeed(file: str, zero: int, offload: bool) -> None:
    """Nothing reads these files: they show what ``resources.zero`` and ``resources.offload`` amount to."""
    from tiny_llama import make_llama

    from trainer.setup import Setup
    from trainer.train.engine import Engine
    from trainer.trial import Lora, Optimization

    lora = Lora(r=2, alpha=4.0, target_modules=("q_proj",))
    setup = Setup(max_r=2, target_modules=lora.target_modules, zero=zero, offload=offload)
    engine = Engine(make_llama(), setup)
    engine.place(0, lora, Optimization(steps=2, lr=1e-3, batch_size=1), seed=0)
    given = dict(engine._engine._config._param_dict)
    engine.close()
    written = json.loads((CONFIGS / "deepspeed" / f"{file}.json").read_text())
    assert written.pop("_command").startswith("steadytune run STUDY ")
    assert {k: given[k] for k in written} == written
    assert set(given) - set(written) <= {"train_batch_size"}, "DeepSpeed works that out"
