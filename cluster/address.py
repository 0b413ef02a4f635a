"""Which Ray a run uses: the cluster that RAY_ADDRESS names, once something answers there, or a local one."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import socket
import threading
import time

from cluster.ray_private import running_cluster
from trainer.errors import UserError

LOCAL = "local"
PORT = 6379  # of Ray's control store, unless `ray start --port` says another
PATIENCE = 8.0  # seconds within which a cluster must answer; Ray itself would try for minutes


class ConnectError(UserError):
    """The cluster refuses this process, or cannot be reached."""


def is_local() -> bool:
    """Whether RAY_ADDRESS leaves a run on this machine, with a Ray of its own."""
    return os.environ.get("RAY_ADDRESS", "").strip() in ("", LOCAL)


def cluster_address() -> str:
    """``local``, or HOST:PORT of the cluster that RAY_ADDRESS names, which has answered. Ray need not be imported for
    this, except for ``auto``. Raises ConnectError."""
    if is_local():
        return LOCAL
    given = os.environ["RAY_ADDRESS"].strip()
    if given == "auto":
        found = running_cluster()
        if not found:
            raise ConnectError(
                "RAY_ADDRESS = auto, but no Ray cluster runs on this machine. Unset RAY_ADDRESS to run on this machine "
                "alone, or start a cluster with `ray start --head`"
            )
        given = found
    host, port = _host_and_port(given)
    _wait_for_answer(given, host, port)
    return given


def _host_and_port(given: str) -> tuple[str, int]:
    """The parts of ``given``; raises ConnectError if it is another kind of address, or none."""
    scheme, _, rest = given.rpartition("://")
    shown = re.sub(r"//[^/@]*@", "//…@", given)  # without a password
    what = f'RAY_ADDRESS = "{shown}"'
    if scheme in ("http", "https"):
        raise ConnectError(
            f"{what} is the address of a cluster's job server, to which `steadytune submit STUDY` sends a study. To "
            "run it from here, unset RAY_ADDRESS (then it runs on this machine) or set it to HOST:6379 of the cluster"
        )
    if scheme == "ray":
        raise ConnectError(
            f"{what} is an address of Ray Client, through which no study runs. Send the study with `steadytune "
            f"submit`, or run it on a machine of the cluster with RAY_ADDRESS={rest.split(':')[0] or 'HOST'}:{PORT}"
        )
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+):([0-9]{1,5})", given)
    if not found or not 0 < int(found[2]) < 65536:
        raise ConnectError(
            f"{what} is no address of a Ray cluster. Write HOST:PORT, such as 10.0.0.1:{PORT}, or unset it to run on "
            "this machine"
        )
    return found[1].strip("[]"), int(found[2])


def _wait_for_answer(given: str, host: str, port: int) -> None:
    """Returns once a gRPC server, as Ray's control store is one, has answered; raises ConnectError otherwise."""
    until = time.monotonic() + PATIENCE
    remedy = f"Set RAY_ADDRESS to the cluster's HOST:{PORT}, or unset it to run on this machine"
    start = f'RAY_ADDRESS = "{given}": '
    answers: queue.Queue[OSError | None] = queue.Queue()

    def knock() -> None:
        try:
            socket.create_connection((host, port), timeout=PATIENCE).close()
            answers.put(None)
        except (OSError, UnicodeError) as error:
            answers.put(error if isinstance(error, OSError) else socket.gaierror(str(error)))

    threading.Thread(target=knock, daemon=True).start()  # a name server may be silent for longer than PATIENCE
    error: OSError | None = TimeoutError()
    with contextlib.suppress(queue.Empty):
        error = answers.get(timeout=PATIENCE)
    if isinstance(error, socket.gaierror):
        raise ConnectError(f"{start}the host {host} is not known. {remedy}")
    if isinstance(error, TimeoutError):
        raise ConnectError(f"{start}no answer within {PATIENCE:.0f} s. {remedy}")
    if error is not None:
        raise ConnectError(f"{start}nobody answers there ({error.strerror or error}). {remedy}")
    if os.environ.get("RAY_USE_TLS", "0") in ("", "0") and not _speaks_grpc(given, until - time.monotonic()):
        raise ConnectError(f"{start}what answers there is no Ray cluster (8265 is the dashboard's port). {remedy}")


def _speaks_grpc(address: str, patience: float) -> bool:
    import grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=max(1.0, patience))
        except grpc.FutureTimeoutError:
            return False
    return True
