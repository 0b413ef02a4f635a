"""Broken cluster files: each is refused, or warned of, with the reason, the place and the fix."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from cluster_files import command, edited, findings

from cluster.files.capacity import Need
from cluster.files.check import CheckError, check_file, check_text
from cluster.files.render import CONFIGS

GPU = Need("s", trials=16, slots=8, cpus=4, gpus=1)
HEAD = "head_start_ray_commands"
START = "ray start --head --num-cpus=0 --autoscaling-config=x"
WORLD = {"FromPort": 8265, "ToPort": 8265, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
CPU_ONLY = {
    "head": {"resources": {"CPU": 0}, "node_config": {"InstanceType": "m7i.xlarge"}},
    "cpu": {"max_workers": 2, "resources": {"CPU": 8}, "node_config": {"InstanceType": "m7i.2xlarge"}},
}


# ray up -------------------------------------------------------------------------------------------------------

AWS = "available_node_types"
BROKEN_UP: list[tuple[str, str, str, Any, str, str]] = [  # file, path, value; level, words of the finding
    (
        "a key that Ray does not know",
        "aws.yaml",
        "max_wokers",
        3,
        "error",
        r'max_wokers is not a known key. Did you mean "max_workers"',
    ),
    (
        "a key of a node type",
        "aws.yaml",
        f"{AWS}/l4/max_worker",
        3,
        "error",
        r'l4.max_worker is not a known key. Did you mean "max_workers"',
    ),
    ("no resources", "aws.yaml", f"{AWS}/l4/resources", ..., "error", r"l4.resources is missing"),
    (
        "a fraction of a GPU on a node",
        "aws.yaml",
        f"{AWS}/l4/resources/GPU",
        0.5,
        "error",
        r"l4.resources.GPU = 0.5 must be of type integer",
    ),
    ("a head type that is not there", "aws.yaml", "head_node_type", "haed", "error", r"head_node_type"),
    ("min above max", "aws.yaml", f"{AWS}/l4/min_workers", 9, "error", r"min_workers"),
    ("an unknown provider", "aws.yaml", "provider/type", "awss", "error", r'"awss" is not known. Did you mean "aws"'),
    (
        "a misspelt EC2 key",
        "aws.yaml",
        f"{AWS}/l4/node_config/InstanceTyp",
        "x",
        "error",
        r'InstanceTyp is not a known key. Did you mean "InstanceType"',
    ),
    ("no instance type", "aws.yaml", f"{AWS}/l4/node_config/InstanceType", ..., "error", r"InstanceType is missing"),
    (
        "more GPUs than the machine has",
        "aws.yaml",
        f"{AWS}/l4/resources/GPU",
        2,
        "error",
        r"GPU = 2 is more than a g6.xlarge has \(1\).*never be placed",
    ),
    (
        "no autoscaler",
        "aws.yaml",
        f"{HEAD}/1",
        "RAY_AUTH_MODE=token ray start --head --num-cpus=0",
        "error",
        r"starts no autoscaler",
    ),
    (
        "workers that do not join",
        "aws.yaml",
        "worker_start_ray_commands/1",
        "RAY_AUTH_MODE=token ray start --head",
        "error",
        r"does not join the head",
    ),
    (
        "a dashboard for everybody",
        "aws.yaml",
        f"{HEAD}/1",
        f"RAY_AUTH_MODE=token {START} --dashboard-host=0.0.0.0",
        "warning",
        r"opens the dashboard",
    ),
    ("Ray's own start commands", "aws.yaml", HEAD, ..., "warning", r"opens the dashboard"),
    ("no token on the nodes", "aws.yaml", "file_mounts", {}, "warning", r"brings no token"),
    ("authentication off", "on_prem.yaml", f"{HEAD}/1", START, "warning", r"without token authentication"),
    (
        "authentication disabled",
        "gcp.yaml",
        f"{HEAD}/1",
        f"RAY_AUTH_MODE=disabled {START}",
        "warning",
        r"turns token authentication off",
    ),
    (
        "another Ray in the image",
        "aws.yaml",
        "docker/worker_image",
        "rayproject/ray:2.9.3-py311-gpu",
        "warning",
        r'worker_image = "rayproject/ray:2.9.3|"2.9.3" is another Ray',
    ),
    (
        "an image that is not pinned",
        "aws.yaml",
        "docker/head_image",
        "rayproject/ray:latest",
        "warning",
        r"is not pinned",
    ),
    ("a published port", "aws.yaml", "docker/run_options/0", "-p 8265:8265", "warning", r"publishes a port"),
    (
        "SSH for the whole internet",
        "aws.yaml",
        "provider/security_group",
        {"IpPermissions": [WORLD]},
        "warning",
        r"opens ports 8265 to 8265 to the whole internet",
    ),
    (
        "Ray's own security group",
        "aws.yaml",
        f"{AWS}/head/node_config/SecurityGroupIds",
        ...,
        "warning",
        r"opens port 22 to the whole internet",
    ),
    (
        "workers that cannot write",
        "aws.yaml",
        f"{AWS}/l4/node_config/IamInstanceProfile",
        ...,
        "warning",
        r"could not write to it",
    ),
    (
        "a spot head",
        "aws.yaml",
        f"{AWS}/head/node_config/InstanceMarketOptions",
        {"MarketType": "spot"},
        "warning",
        r"makes the head a spot machine",
    ),
    (
        "a market that is none",
        "aws.yaml",
        f"{AWS}/l4/node_config/InstanceMarketOptions/MarketType",
        "spto",
        "error",
        r'Did you mean "spot"',
    ),
    (
        "a head that works",
        "aws.yaml",
        f"{HEAD}/1",
        "RAY_AUTH_MODE=token ray start --head --autoscaling-config=x",
        "warning",
        r"lets trials run on the head",
    ),
    (
        "a head that promises CPUs",
        "aws.yaml",
        f"{AWS}/head/resources",
        {"CPU": 4},
        "warning",
        r"more than the head offers",
    ),
    ("no idle timeout", "aws.yaml", "idle_timeout_minutes", ..., "warning", r"idle_timeout_minutes is missing"),
    ("a long idle timeout", "aws.yaml", "idle_timeout_minutes", 600, "warning", r"keeps idle nodes for 600 minutes"),
    ("workers that never go", "aws.yaml", f"{AWS}/l4/min_workers", 2, "warning", r"keeps nodes running"),
    ("a run folder on each node's disk", "aws.yaml", "metadata/run_folder", "/home/ray/runs", "warning", r"own disk"),
    ("a disk that nobody mounts", "aws.yaml", "metadata/run_folder", "/efs/runs", "warning", r"own disk"),
    ("no run folder", "gcp.yaml", "metadata", ..., "warning", r"does not say where the run folder is"),
    ("storage that is none", "gcp.yaml", "metadata/run_folder", "ftp://x/y", "error", r"no storage"),
    (
        "an environment that is not pinned",
        "on_prem.yaml",
        "setup_commands",
        ["mountpoint /shared", "pip install ray"],
        "warning",
        r"pinned environment",
    ),
    (
        "a GPU machine that may be moved",
        "gcp.yaml",
        f"{AWS}/l4/node_config/scheduling",
        {"provisioningModel": "SPOT"},
        "error",
        r"must be TERMINATE",
    ),
    (
        "a misspelt spot model",
        "gcp.yaml",
        f"{AWS}/l4/node_config/scheduling/provisioningModel",
        "SPOTT",
        "error",
        r'Did you mean "SPOT"',
    ),
    ("the default network", "gcp.yaml", f"{AWS}/l4/node_config/networkInterfaces", ..., "warning", r"default network"),
    ("no project", "gcp.yaml", "provider/project_id", None, "error", r"project_id is missing"),
    (
        "a small disk",
        "gcp.yaml",
        f"{AWS}/l4/node_config/disks/0/initializeParams/diskSizeGb",
        20,
        "warning",
        r"disk of 20 GB",
    ),
    (
        "one machine twice",
        "on_prem.yaml",
        "provider/worker_ips",
        ["10.0.0.2", "10.0.0.2"],
        "error",
        r"names 10.0.0.2 twice",
    ),
    (
        "node types of one's own machines",
        "on_prem.yaml",
        "available_node_types",
        {"a": {}},
        "error",
        r"not supported for on-premise",
    ),
    (
        "a token in the file",
        "on_prem.yaml",
        f"{HEAD}/1",
        f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN=0123456789abcdef {START}",
        "warning",
        r"secret in plain text",
    ),
]


@pytest.mark.parametrize(
    ("file", "path", "value", "level", "words"), [c[1:] for c in BROKEN_UP], ids=[c[0] for c in BROKEN_UP]
)
def test_broken_ray_up_files(file: str, path: str, value: Any, level: str, words: str) -> None:
    before = {str(f) for f in findings((CONFIGS / file).read_text(), file)}
    new = [f for f in findings(edited(file, path, value), file) if str(f) not in before]
    assert any(f.level == level and re.search(words, str(f)) for f in new), [str(f) for f in new]
    assert all(str(f).startswith(f"{file}: ") for f in new)
    assert not any("0123456789abcdef" in str(f) for f in new), "a secret is not repeated"


def test_the_fix_is_said() -> None:
    [found] = findings(edited("aws.yaml", f"{AWS}/head/node_config/SecurityGroupIds"), "aws.yaml")
    assert "Name a group that lets in only itself" in str(found)


# a study on it ------------------------------------------------------------------------------------------------

NEEDS: list[tuple[str, str, str, Any, Need, str, str]] = [
    (
        "no GPU at all",
        "aws.yaml",
        AWS,
        CPU_ONLY,
        GPU,
        "error",
        r"no node has a GPU.*0.125 GPU and 0.5 CPU.*never be placed",
    ),
    (
        "CPUs that never suffice",
        "aws.yaml",
        "max_workers",
        8,
        Need("s", 4, 1, 300, 0),
        "error",
        r"no node has room for a trial.*300 CPU.*never be placed",
    ),
    (
        "a gang that never fits",
        "aws.yaml",
        "max_workers",
        1,
        Need("s", 2, 1, 4, 1, workers=16),
        "error",
        r"gang of 16 and can never be placed",
    ),
    (
        "too few workers",
        "aws.yaml",
        "max_workers",
        1,
        Need("s", 640, 8, 4, 1),
        "warning",
        r"64 of its 640 trials run at once",
    ),
    (
        "CPUs that leave the GPU idle",
        "aws.yaml",
        "max_workers",
        8,
        Need("s", 16, 8, 12, 1),
        "warning",
        r"l4 has 4 CPUs for 1 GPU: 2 of 8 slots",
    ),
    (
        "a GPU that is too small",
        "aws.yaml",
        "max_workers",
        8,
        Need("s", 16, 8, 4, 1, gpu_bytes=30 * 2**30),
        "warning",
        r"l4 has GPUs of 22.3 GiB, and study s needs about 30 GiB",
    ),
    (
        "spot for gangs",
        "aws.yaml",
        "max_workers",
        8,
        Need("s", 1, 1, 4, 1, workers=4),
        "warning",
        r"is spot, and study s trains in gangs",
    ),
]


@pytest.mark.parametrize(
    ("file", "path", "value", "need", "level", "words"), [c[1:] for c in NEEDS], ids=[c[0] for c in NEEDS]
)
def test_files_that_do_not_fit_the_study(file: str, path: str, value: Any, need: Need, level: str, words: str) -> None:
    found = findings(edited(file, path, value), file, need)
    assert any(f.level == level and re.search(words, str(f)) for f in found), [str(f) for f in found]


def test_a_study_that_fits_brings_no_finding() -> None:
    for file in ("aws.yaml", "gcp.yaml", "kuberay-job.yaml", "kuberay-cluster.yaml", "slurm.sh"):
        assert findings((CONFIGS / file).read_text(), file, GPU) == [], file


# what it is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "file", "words"),
    [
        ("model: {path: x}\ntask: {}\n", "study.yaml", "is a study, not a cluster"),
        ("a: 1\n", "x.yaml", "none of the kinds"),
        ("- 1\n", "x.yaml", "no mapping"),
        ("a: [\n", "x.yaml", "is not YAML"),
        ("cluster_name: a\ncluster_name: b\n", "x.yaml", "line 2: cluster_name is given twice"),
        ("{", "x.json", "is not JSON"),
        ("{}", "x.json", "no DeepSpeed configuration"),
        ("#!/bin/sh\ntrue\n", "x.sh", "without #SBATCH"),
        ("apiVersion: ray.io/v1\nkind: RayClustr\n", "x.yaml", 'Did you mean "RayCluster"'),
        ("apiVersion: v1\nkind: CustomResourceDefinition\n", "x.yaml", "named by --crd"),
    ],
)
def test_files_of_no_known_kind(text: str, file: str, words: str) -> None:
    [found] = check_text(text, file, None, {}).items
    assert found.level == "error"
    assert words in str(found)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("a: 1\n")
    with pytest.raises(CheckError, match=r'clustr.yaml" does not exist. Did you mean ".*cluster.yaml"'):
        check_file(str(tmp_path / "clustr.yaml"))


# the command --------------------------------------------------------------------------------------------------


def test_the_command_says_what_is_wrong_and_exits_with_2(tmp_path: Path) -> None:
    bad, odd = tmp_path / "bad.yaml", tmp_path / "odd.yaml"
    bad.write_text(edited("aws.yaml", "max_wokers", 1))
    odd.write_text(edited("aws.yaml", "idle_timeout_minutes", 600))
    assert command("cluster", "check", str(CONFIGS / "aws.yaml")).returncode == 0
    done = command("cluster", "check", str(odd), str(bad))
    assert done.returncode == 2
    assert f"error: {bad}: max_wokers is not a known key" in done.stdout
    assert f"{odd}: 1 warning" in done.stdout
    assert command("cluster", "check", str(odd)).returncode == 0
    assert command("cluster", "check", "--strict", str(odd)).returncode == 2


def test_the_command_takes_the_study_into_account(tmp_path: Path) -> None:
    done = command("cluster", "check", "--study", "quickstart", str(CONFIGS / "slurm.sh"))
    assert done.returncode == 0
    assert "has GPUs, and study quickstart uses none" in done.stdout


def test_help_costs_no_heavy_import() -> None:
    code = (
        "import sys; from sweeps.cli import main\n"
        "try: main(['cluster', 'check', '--help'])\n"
        "finally: assert not {'ray', 'torch', 'jsonschema', 'jinja2', 'numpy'} & {m.split('.')[0] for m in sys.modules}"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "FILE..." in done.stdout
