"""Separate machines on this one: each Ray node in its own network, process and mount namespaces, with its own address,
its own ``/tmp`` and ``/dev/shm``. To kill a node is to kill its first process, and the kernel ends the rest, as when a
machine loses power; a link is cut by taking its cable down. Needs root, ``ip`` and ``unshare``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkout import ROOT

BIN = Path(sys.executable).parent
PORT = 6379
# The head finds a node that does not answer any more after period + timeout, `threshold` times over: with Ray's own
# values (3 s, 10 s, 5 times) about a minute, with these about 15 s.
DETECTION = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}
OWNER = "steadytune tests, process "  # on a link: who is to remove it
MARK = "STEADYTUNE_NODES_OF"  # in the environment of all processes of the nodes: the same
# A temporary folder of its own, in which the folders of $KEPT stay where they are.
OWN_TMP = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
IFS=:
for kept in $KEPT; do mkdir -p "/mnt$kept"; mount --bind "$kept" "/mnt$kept"; done
mount -t tmpfs tmpfs /tmp
for kept in $KEPT; do mkdir -p "$kept"; mount --bind "/mnt$kept" "$kept"; done
unset IFS
"""
START = f"""{OWN_TMP}
mount -t tmpfs -o size=1g tmpfs /dev/shm
: > /tmp/empty; mount --bind /tmp/empty /etc/resolv.conf || true  # look-ups fail at once instead of after seconds
printf '127.0.0.1 localhost\\n%s %s\\n' "$ADDRESS" "$NAME" > /tmp/hosts; mount --bind /tmp/hosts /etc/hosts
hostname "$NAME"
ip link set lo up
for _ in $(seq 100); do ip link show eth0 >/dev/null 2>&1 && break; sleep 0.05; done
ip addr add "$ADDRESS/24" dev eth0; ip link set eth0 up; ip route add default via "$GATEWAY"
"$@" & wait $!
"""


def kept(*folders: Path | None) -> str:
    """$KEPT of ``OWN_TMP``: ``folders``, and this checkout and the Python environment if they lie in /tmp."""
    hidden = [f for f in (ROOT, Path(sys.prefix), Path(sys.base_prefix)) if f.is_relative_to("/tmp")]
    return ":".join(dict.fromkeys(str(f) for f in (*folders, *hidden) if f is not None))


# The first word ends a node when whoever started it is gone, however it went.
SPACES = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--fork", "--kill-child"]
SPACES += ["--mount", "--mount-proc", "--ipc", "--uts"]


def why_not() -> str:
    """Why this machine cannot hold machines; empty where it can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    for tool in ("ip", "unshare", "nsenter", "setpriv"):
        if not shutil.which(tool):
            return f"needs the command {tool} (Debian: iproute2, util-linux)"
    tried = "ip link add st-try type veth peer name st-eer && ip link del st-try"
    done = subprocess.run(
        [*SPACES, "sh", "-c", f"mount -t tmpfs tmpfs /mnt && {tried}"],
        capture_output=True,
        text=True,
    )
    return f"this machine allows no network namespaces ({done.stderr.strip()})" if done.returncode else ""


@dataclass
class Node:
    """One machine. ``link`` is its cable's end at the switch."""

    name: str
    address: str
    link: str
    process: subprocess.Popen[bytes]

    @property
    def init(self) -> int:
        """Its first process, as seen from outside."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            found = children(self.process.pid)
            if found:
                return found[0]
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} did not start")

    def enter(self) -> list[str]:
        """What to put before a command to run it there."""
        return ["nsenter", "-t", str(self.init), "-n", "-m", "-p", "-i", "-u", "--"]

    def processes(self, name: str) -> list[int]:
        """Ids, as seen from outside, of its processes whose title contains ``name``."""
        here = os.readlink(f"/proc/{self.init}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if name in title and os.readlink(entry / "ns" / "pid") == here:
                        found.append(int(entry.name))
        return sorted(found)


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@dataclass
class Machines:
    """A switch and the nodes on it. ``shared``: a folder that the nodes see, or only the head with ``head_only``."""

    folder: Path  # of the nodes' logs
    shared: Path | None = None
    head_only: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    made: int = 0
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    tag: str = field(default_factory=lambda: secrets.token_hex(2))

    def __post_init__(self) -> None:
        self._cables = itertools.count()
        self.net = f"10.{64 + int(self.tag, 16) % 128}.{int(self.tag, 16) // 256}"
        self.gateway = f"{self.net}.1"
        self.switch = f"st{self.tag}"

    def __enter__(self) -> Machines:
        remove_orphans()
        _do("ip", "link", "add", self.switch, "type", "bridge")
        try:
            _do("ip", "link", "set", self.switch, "alias", f"{OWNER}{os.getpid()}")
            _do("ip", "addr", "add", f"{self.gateway}/24", "dev", self.switch)
            _do("ip", "link", "set", self.switch, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as last:  # each is tried, whatever the others say
            last.callback(_do, "ip", "link", "del", self.switch)
            for node in list(self.nodes):
                last.callback(self.kill, node)

    @property
    def environment(self) -> dict[str, str]:
        """Of every process on the nodes: token authentication, this checkout, one thread."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
        return {
            **kept,
            MARK: str(os.getpid()),
            "PATH": f"{BIN}:{kept.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "DS_ACCELERATOR": "cpu",
            "GLOO_SOCKET_IFNAME": "eth0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            **DETECTION,
            **self.env,
        }

    @property
    def head(self) -> Node:
        return self.nodes[0]

    def start(self, cpus: int, first: bool = False) -> Node:
        """Start a node and Ray on it; the ``first`` is the head and has the cluster's address."""
        number = 0 if first else self.made + 1
        self.made += 1
        address, name = f"{self.net}.{10 + number}", f"node{number}"
        ray = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", f"--node-ip-address={address}"]
        ray += [f"--num-cpus={cpus}", "--object-store-memory=100000000"]
        ray += ["--head", f"--port={PORT}", "--include-dashboard=false"] if first else [f"--address={self.address}"]
        node = self.boot(name, address, ray, self.shared if first or not self.head_only else None)
        if first:
            self.nodes.insert(0, self.nodes.pop())
        return node

    def boot(self, name: str, address: str, command: Sequence[str], shared: Path | None) -> Node:
        """A machine that runs ``command``."""
        inside = {"KEPT": kept(shared), "ADDRESS": address, "NAME": name, "GATEWAY": self.gateway}
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [*SPACES, "bash", "-c", START, name, *command],
            env={**self.environment, **inside},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        node = Node(name, address, f"v{self.tag}-{next(self._cables)}", process)
        self.nodes.append(node)
        _do("ip", "link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", str(node.init))
        _do("ip", "link", "set", node.link, "alias", f"{OWNER}{os.getpid()}")
        _do("ip", "link", "set", node.link, "master", self.switch, "up")
        return node

    @property
    def address(self) -> str:
        return f"{self.net}.10:{PORT}"

    def read_only(self, node: Node, on: bool = True) -> None:
        """The shared folder takes no writes from ``node``, or does again."""
        command = [*node.enter(), "mount", "-o", f"remount,bind,{'ro' if on else 'rw'}", str(self.shared)]
        end = time.monotonic() + 20
        while (done := subprocess.run(command, capture_output=True, text=True)).returncode:  # a file is being written
            if time.monotonic() > end:
                raise RuntimeError(done.stderr)
            time.sleep(0.05)

    def kill(self, node: Node) -> None:
        """As when the machine loses power."""
        if node.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, RuntimeError):
                os.kill(node.init, signal.SIGKILL)
            node.process.wait(20)
        subprocess.run(["ip", "link", "del", node.link], capture_output=True)
        if node in self.nodes:
            self.nodes.remove(node)

    def cut(self, node: Node) -> None:
        """Take its cable out: nothing is told to anyone, its processes go on."""
        _do("ip", "link", "set", node.link, "down")

    def mend(self, node: Node) -> None:
        _do("ip", "link", "set", node.link, "up")

    def freeze(self, node: Node, frozen: bool = True) -> None:
        """Stop all its processes, or let them go on."""
        for process in node.processes(""):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP if frozen else signal.SIGCONT)

    def popen(self, node: Node, *command: str, **settings: Any) -> subprocess.Popen[str]:
        """``command`` on ``node``, with the cluster's address in its environment."""
        return subprocess.Popen(
            [*node.enter(), *command],
            env={**self.environment, "RAY_ADDRESS": self.address},
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            **settings,
        )

    def ask(self, code: str, *arguments: str, node: Node | None = None) -> str:
        """What a Python program that is connected to the cluster prints."""
        program = "import ray, sys; ray.init(address='auto', log_to_driver=False, logging_level='ERROR')\n" + code
        done = self.popen(
            node or self.head, sys.executable, "-c", program, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = done.communicate(timeout=90)
        if done.returncode:
            raise RuntimeError(err[-2000:])
        return out

    def alive(self) -> set[str]:
        """Addresses of the nodes that the head holds for alive."""
        return set(self.ask("print(*[n['NodeManagerAddress'] for n in ray.nodes() if n['Alive']])").split())

    def wait_until_alive(self, nodes: int, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                if len(self.alive()) >= nodes:
                    return
            if time.monotonic() > end:
                logs = "\n".join(f"{p.name}: {p.read_text()[-1000:]}" for p in sorted(self.folder.glob("node*.log")))
                raise RuntimeError(f"the nodes did not find each other\n{logs}")
            time.sleep(0.5)


@contextlib.contextmanager
def cluster(
    folder: Path, cpus: Sequence[int], shared: Path | None = None, head_only: bool = False, **env: str
) -> Iterator[Machines]:
    """Nodes with so many CPUs each, the first of them the head; up when this returns."""
    with Machines(folder, shared, head_only, env) as machines:
        for number, n in enumerate(cpus):
            machines.start(n, first=number == 0)
        machines.wait_until_alive(len(cpus))
        yield machines


def remove_orphans() -> None:
    """Switches of a process that was killed; its nodes and their cables went with it."""
    for link in json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True).stdout or "[]"):
        owner = str(link.get("ifalias", ""))
        if owner.startswith(OWNER) and not Path(f"/proc/{owner.removeprefix(OWNER)}").exists():
            subprocess.run(["ip", "link", "del", link["ifname"]], capture_output=True)


def traces(owner: int) -> set[str]:
    """What is left of the nodes that process ``owner`` started: links and processes."""
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True).stdout or "[]")
    found = {f"link {link['ifname']}" for link in links if link.get("ifalias") == f"{OWNER}{owner}"}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{MARK}={owner}\0".encode() in (entry / "environ").read_bytes():
                    found.add(f"process {entry.name} {(entry / 'comm').read_text().strip()}")
    return found


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
