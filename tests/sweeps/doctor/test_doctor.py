"""`steadytune doctor`: a line for each thing looked at, fine or what to do."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import ROOT
from local_head import free_ports, plain_environment

from cluster.limits import NEEDED
from sweeps.doctor import machine, outside, packages
from sweeps.doctor.diagnosis import Check, Diagnosis, diagnoses

WHAT = {
    "Python", "packages", "processors", "memory", "GPUs", "shared memory", "open files", "home", "cache",
    "temporary folder", "locale", "ports", "token", "Ray", "run folder", "clock", "hub",
}  # fmt: skip


def only(check: Check) -> Diagnosis:
    (found,) = check()
    return found


def test_the_command_says_a_line_of_each_thing_and_ends_with_1_if_one_is_ill(tmp_path: Path) -> None:
    """The cluster that RAY_ADDRESS names is gone: the rest is told all the same."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    environment = plain_environment(str(tmp_path)) | {"RAY_ADDRESS": address}
    command = [sys.executable, "-m", "sweeps", "doctor"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    lines = [line.split(": ")[0].split("  ", 1) for line in done.stdout.splitlines()]
    assert {what for _, what in lines} == WHAT
    assert {kind for kind, _ in lines} == {"fine", "mend"}
    (ray,) = (line for line in done.stdout.splitlines() if "  Ray: " in line)
    assert ray.startswith(f'mend  Ray: RAY_ADDRESS = "{address}": nobody answers there')
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("doctor-")] == []
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_machine_that_is_well(tmp_path: Path) -> None:
    environment = plain_environment(str(tmp_path))
    command = [sys.executable, "-m", "sweeps", "doctor"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    (ray,) = (line for line in done.stdout.splitlines() if "  Ray: " in line)
    assert ray.startswith("fine  Ray: 2.")
    assert "a local one: " in ray


def test_a_check_that_fails_is_a_finding_and_the_others_go_on() -> None:
    def broken() -> Iterator[Diagnosis]:
        yield Diagnosis("a", "1")
        raise OSError("no\n such thing.")

    found = list(diagnoses({"a": broken, "b": lambda: iter([Diagnosis("b", "2", "Do this")])}))
    assert [str(d) for d in found] == [
        "fine  a: 1",
        "mend  a: no such thing. Mend this, and look again",
        "mend  b: 2. Do this",
    ]


def test_too_few_open_files() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "from sweeps.doctor.machine import open_files; print(*open_files())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("mend  open files: up to 64. Raise the limit"), done.stderr
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert only(machine.open_files).fine == (hard >= NEEDED or hard == resource.RLIM_INFINITY)


def test_a_home_and_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", "/proc/none")
    told = [str(d) for d in machine.home()]
    assert [t.split(" cannot be written")[0] for t in told] == ["mend  home: /proc/none", "mend  cache: /proc/none"]
    assert told[1].endswith("Set HF_HOME to a folder that can be written")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a folder, as root")
def test_a_temporary_folder_in_which_no_program_runs() -> None:
    code = "from sweeps.doctor.machine import temporary_folder; print(*temporary_folder(), sep='\\n')"
    script = 'mount -t tmpfs -o noexec,size=99m t /tmp && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", code]
    env = {**plain_environment("/"), "TMPDIR": "/tmp"}
    done = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True)
    if done.stderr.startswith(("unshare", "mount")) or done.returncode == 127:
        pytest.skip(f"nothing may be mounted here, or Python lies under /tmp: {done.stderr.strip()}")
    assert "fine  temporary folder: /tmp, " in done.stdout, done.stderr
    assert "mend  temporary folder: no program runs in /tmp (noexec)" in done.stdout


def test_packages_are_compared_with_what_is_needed_and_what_was_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.tested_versions()["ray"].startswith("2.60")
    monkeypatch.setattr(packages, "requires", lambda _: ["numpy>=999", "no-such-package", "pytest; extra == 'dev'"])
    told = [str(d) for d in packages.packages()]
    assert told[0].startswith("mend  packages: numpy ")
    assert " is not >=999. Install the tested versions" in told[0]
    assert told[1].startswith("mend  packages: no-such-package is not installed. Install")
    assert told[2] == "fine  packages: 2 are needed"


def test_a_clock_that_is_off_the_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [d.fine for d in outside.clock(str(tmp_path))] == [True, True]
    now = outside.time.time
    monkeypatch.setattr(outside.time, "time", lambda: now() + 3600)
    _, found = outside.clock(str(tmp_path))
    assert (found.fine, found.found) == (False, "3600 s off the run folder's")


def test_the_hub_is_not_asked_where_it_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert only(outside.hub).fine
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    assert "HF_HUB_OFFLINE=1" in only(outside.hub).remedy


def test_a_local_run_makes_its_own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert only(outside.token).fine
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert only(outside.token).remedy == "Unset RAY_AUTH_MODE"
