"""What a local run's Ray shows of itself, and what is left of it when the run is killed (CASES E3, E8, E9)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from checkout import FILES
from local_head import plain_environment
from secrets_left import MARK, PLANTED, files_with_secrets, readable_by_others
from small_study import wait_for

from cluster.environment import credentials, passed_on

INSIDE = """
import json, os, sys, psutil
from cluster.connect import connected
with connected(1):
    import ray
    from cluster.ray_private import cpu_count
    @ray.remote
    class Trial:
        def pid(self): return os.getpid()
        def names(self): return dict(os.environ)
    trial = Trial.remote()
    tree = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = {c.laddr.ip for p in tree for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
    own = {k: os.environ.get(k) for k in ("MY_PASSWORD", "HF_TOKEN")}
    cpus = [ray.cluster_resources()["CPU"], cpu_count()]
    trials = ray.get(trial.names.remote())
    print(json.dumps([trials, sorted(listening), [p.pid for p in tree[1:]], own, cpus]), flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class LocalRay:
    process: subprocess.Popen[str]
    folder: Path
    environment: dict[str, str]  # of a trial's process
    listening: list[str]
    pids: list[int]
    own: dict[str, str]
    cpus: list[float]


@pytest.fixture(scope="module")
def local() -> Iterator[LocalRay]:
    with tempfile.TemporaryDirectory(prefix="st-", dir="/tmp") as place:
        env = plain_environment(place) | PLANTED | {"RAY_TMPDIR": place}
        process = subprocess.Popen(
            [sys.executable, "-c", INSIDE],
            cwd=place, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said, process.communicate()[1][-3000:]
            (folder,) = Path(place).glob("st-ray-*")
            yield LocalRay(process, folder, *json.loads(said))
        finally:
            process.kill()
            process.communicate()


def test_a_trials_process_gets_the_listed_names_of_the_environment_only(local: LocalRay) -> None:
    assert MARK.decode() not in json.dumps(local.environment)
    own = ("RAY_", "PYTHON", "TOKENIZERS_", "SPT_NOENV", "PWD", "OLDPWD", "SHLVL", "_", "CUDA_", "OMP_")
    added = set(local.environment) - passed_on(set(local.environment))
    assert not [n for n in added if not n.startswith(own)], "Ray adds names of its own, and a shell three"
    assert local.own["MY_PASSWORD"] == PLANTED["MY_PASSWORD"], "the run itself keeps its environment"


def test_the_folder_of_a_local_ray_is_private_and_holds_no_secret(local: LocalRay) -> None:
    assert not readable_by_others(local.folder)
    assert (local.folder / "r" / "session_latest" / "logs").is_dir(), "this is the folder in use"
    assert not files_with_secrets(local.folder)


def test_a_local_ray_listens_on_the_loopback_only(local: LocalRay) -> None:
    """Its agents too, whichever port they take."""
    assert local.listening
    assert not [ip for ip in local.listening if ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")]


def test_a_local_ray_has_the_cpus_that_ray_counts(local: LocalRay) -> None:
    """As many as a container's quota allows; ``os.cpu_count`` does not know the quota (CASES E3)."""
    assert local.cpus[0] == local.cpus[1]
    assert not [
        p.name for p in FILES if "os.cpu_count" in p.read_text() or "multiprocessing.cpu_count" in p.read_text()
    ]


def test_nothing_is_left_of_the_ray_of_a_killed_run(local: LocalRay) -> None:
    """Ray's own agents would go on for a minute, and the folder would stay."""
    local.process.kill()
    local.process.wait()
    wait_for(lambda: not [p for p in local.pids if psutil.pid_exists(p)], 40)
    assert not local.folder.exists()


def test_a_credential_is_passed_on_only_to_a_run_that_needs_it() -> None:
    names = {*PLANTED, "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS", "HF_HOME", "RAY_AUTH_TOKEN", "TORCH_API_KEY"}
    always = {"HF_HOME", "RAY_AUTH_TOKEN"}
    aws = {n for n in names if n.startswith("AWS_")}
    assert passed_on(names, credentials(["/runs/x", "/models/y"], hub=False)) == always
    assert passed_on(names, credentials(["s3://b/x", "/models/y"], hub=False)) == always | aws | {"HTTPS_PROXY"}
    assert passed_on(names, credentials(["/runs/x", "org/model"], hub=True)) == always | {"HF_TOKEN", "HTTPS_PROXY"}
    google = {"GOOGLE_APPLICATION_CREDENTIALS", "HTTPS_PROXY"}
    assert passed_on(names, credentials(["gs://b/x"], hub=False)) == always | google


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a quota over the cgroup's file, as root")
def test_the_cpus_are_those_of_the_containers_quota() -> None:
    """CASES E3: a quota of one CPU on a machine with more."""
    written = {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000", "/sys/fs/cgroup/cpu.max": "100000 100000"}
    quota = next((p for p in written if Path(p).exists()), None)
    if quota is None:
        pytest.skip("this machine has no file for a quota of CPUs")
    code = "from cluster.ray_private import cpu_count; print(cpu_count())"
    script = f'echo "{written[quota]}" > "$1" && mount --bind "$1" {quota} && exec "$2" -c "$3"'
    with tempfile.NamedTemporaryFile() as file:
        command = ["unshare", "--mount", "sh", "-c", script, "sh", file.name, sys.executable, code]
        env = plain_environment("/tmp")
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no file may be mounted here: {done.stderr.strip()}")
    assert done.stdout.split() == ["1"], done.stderr
