"""A real Ray head on this machine: token authentication, ports and temporary folder of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkout import ROOT


@dataclass(frozen=True)
class Head:
    address: str  # of the dashboard
    gcs: str
    token: str
    folder: str

    def environment(self, **changes: str) -> dict[str, str]:
        """As a user has it who may use the cluster; ``changes`` lie over it."""
        return {**plain_environment(self.folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, **changes}

    def command(self, *arguments: str, where: Path, **changes: str) -> subprocess.CompletedProcess[str]:
        """``steadytune …`` with this cluster's token."""
        return steadytune(*arguments, where=where, environment=self.environment(**changes))


def plain_environment(home: str) -> dict[str, str]:
    """Without Ray's variables and without a token file."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    path = os.pathsep.join([os.path.dirname(sys.executable), own.get("PATH", "")])
    return {**own, "HOME": home, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "160", "HF_HUB_OFFLINE": "1"}


def steadytune(*arguments: str, where: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweeps", *arguments]
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="st-", dir="/tmp")  # short: it holds sockets
    gcs, dashboard, client, agent = free_ports(4)
    found = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", secrets.token_hex(32), folder)
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2", "--num-gpus=0"]
    command += [f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += ["--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={folder}/ray"]
    environment = {k: v for k, v in found.environment().items() if k != "PYTHONPATH"}  # jobs bring their own code
    with ExitStack() as ends, open(f"{folder}/head.log", "w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        ends.callback(shutil.rmtree, folder, ignore_errors=True)
        ends.callback(end, process, folder)
        wait_until_up(found, process)
        yield found


def wait_until_up(head: Head, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{head.address}/api/authentication_mode", timeout=5).close()
            return
        except OSError:
            said = Path(head.folder, "head.log").read_text()[-2000:]
            assert process.poll() is None, f"the head ended: {said}"
            assert time.monotonic() < limit, f"the head does not come up: {said}"
            time.sleep(0.3)


def end(process: subprocess.Popen[bytes], folder: str) -> None:
    """End the head, and whatever of it is left: processes whose command line names its folder."""
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            left = folder.encode() in (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if left and int(entry.name) != os.getpid():
            os.kill(int(entry.name), signal.SIGKILL)


def free_ports(n: int) -> list[int]:
    """Ports below the range that the kernel gives to connections, so that none takes them meanwhile."""
    found: list[int] = []
    while len(found) < n:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
