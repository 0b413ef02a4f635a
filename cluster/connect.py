"""The Ray cluster that a run uses: the one it was submitted to, or a local one for as long as the run lasts; and
the token that opens it."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainer.errors import UserError

TOKEN_FILE = os.path.join("~", ".ray", "auth_token")  # where Ray looks last


class ConnectError(UserError):
    """The cluster does not let this process in."""


def token_source() -> str:
    """Where Ray takes the cluster's token from, in its own order; "" where there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named:
        if not _holds_text(named):  # Ray would end the process
            raise ConnectError(
                f'RAY_AUTH_TOKEN_PATH = "{named}" is no file with a token that can be read. Write the token there'
            )
        return f"{named} (RAY_AUTH_TOKEN_PATH)"
    default = os.path.expanduser(TOKEN_FILE)
    return default if _holds_text(default) else ""


def _holds_text(path: str) -> bool:
    try:
        with open(path) as f:
            return bool(f.read().strip())
    except (OSError, UnicodeDecodeError):
        return False


def set_auth_mode() -> None:
    """Say RAY_AUTH_MODE outright, before Ray is imported: where it is not set, Ray takes it as disabled in some
    commands and as token in others, and half a cluster refuses the other half."""
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token" if token_source() else "disabled"


def unwrapped(error: BaseException) -> BaseException:
    """What a signal raised; Ray's compiled code wraps it where it came while that waited."""
    while isinstance(error, SystemError) and error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def connected(cpus: float, gpus: int = 0) -> Iterator[None]:
    """RAY_ADDRESS names a cluster (``ray job submit`` sets it); without it a local one starts, without
    dashboard, under a token that is made for it and dies with it: Ray's own ports listen on every interface, and
    answer to who has the token. A connection that exists already is used and left alone. ``cpus`` and ``gpus`` of
    one host: a local Ray gets no node beside its own, so what this machine lacks is refused; a cluster may yet grow.
    Raises ``UserError``."""
    address = os.environ.get("RAY_ADDRESS", "local")
    if address == "local" and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        # Ray reads these when it is first imported, and not again
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    set_auth_mode()
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Workers must find these packages also where they run from a checkout that is not installed.
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    local: dict[str, Any] = (
        {"include_dashboard": False, "num_cpus": max(1, round(max(cpus, os.cpu_count() or 1)))}
        if address == "local"
        else {}
    )
    env = {"env_vars": {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}} if address == "local" else {}
    stop = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False, runtime_env=env or None, **local)
    except (ray.exceptions.AuthenticationError, ConnectionError) as error:
        # Ray says the second where the cluster is not there, and at times where it refuses the token as well
        raise ConnectError(_refused(address, isinstance(error, ConnectionError))) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)  # Ray puts its own in place, which ends the process without a word
    try:
        if address == "local" and gpus and not ray.cluster_resources().get("GPU"):
            raise UserError(
                f"resources.gpus = {gpus}, but this machine has no GPU. Set resources.gpus=0, or name a cluster that "
                "has GPUs in RAY_ADDRESS"
            )
        yield
    finally:
        ray.shutdown()


def _refused(address: str, silent: bool) -> str:
    where = token_source()
    start = f"the cluster at {address} " + ("cannot be reached, or " if silent else "")
    if os.environ.get("RAY_AUTH_MODE") != "token" or not where:
        return (
            f"{start}lets nobody in without its token. Set RAY_AUTH_MODE=token and put the token into RAY_AUTH_TOKEN "
            f"or {TOKEN_FILE}"
        )
    return f"{start}refuses the token from {where}: it is another cluster's. Give this one's there"
