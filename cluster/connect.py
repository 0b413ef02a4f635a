"""The connection of a run to Ray: to the cluster it was submitted to, or to a local one that lasts as long as the run;
and the token that Ray asks for."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

from cluster.address import LOCAL, ConnectError, cluster_address, is_local
from cluster.environment import only_passed_on
from cluster.limits import raise_open_files
from cluster.local_folder import local_folder, place
from cluster.ray_private import cpu_count, on_loopback
from trainer.errors import UserError

TOKEN_FILE = os.path.join("~", ".ray", "auth_token")  # the last place where Ray looks


def token_source() -> str:
    """Where Ray finds the cluster's token, in the order in which Ray looks; "" if there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named:
        if not _holds_text(named):  # Ray itself would end the process
            raise ConnectError(
                f'RAY_AUTH_TOKEN_PATH = "{named}" is no file with a token that can be read. Write the token there'
            )
        return f"{named} (RAY_AUTH_TOKEN_PATH)"
    default = os.path.expanduser(TOKEN_FILE)
    return default if _holds_text(default) else ""


def _holds_text(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as f:
            return bool(f.read().strip())
    except (OSError, UnicodeDecodeError):
        return False


def set_auth_mode() -> None:
    """Set RAY_AUTH_MODE if it is not set; to be called before Ray is imported. Without it some of Ray's commands use a
    token and others do not, and the parts of one cluster refuse each other."""
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token" if token_source() else "disabled"


def unwrapped(error: BaseException) -> BaseException:
    """What a signal handler raised. If the signal comes while Ray's compiled code waits, Ray wraps it in
    SystemError."""
    while isinstance(error, SystemError) and error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def connected(cpus: float, gpus: int = 0, needed: Collection[str] = ()) -> Iterator[None]:
    """Connected to the cluster that RAY_ADDRESS names (``ray job submit`` sets it), or else to a local Ray. If this
    process is connected already, that connection is used and kept.

    A local Ray is started without a dashboard, on the loopback only, under a token made for it alone, in a folder that
    is private and goes with it; its processes get the part of the environment that ``cluster/environment.py`` lists,
    with ``needed`` (as ``credentials`` gives it). ``cpus`` and ``gpus`` are those of one host. A local Ray never gets
    another node, so GPUs that this machine lacks are refused; a cluster may still grow. Raises ``UserError``."""
    if "ray" in sys.modules:
        import ray

        if ray.is_initialized():
            yield
            return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local = is_local()
    if local and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        # Ray reads these only when it is first imported
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    set_auth_mode()
    with ExitStack() as ends:
        stop = signal.getsignal(signal.SIGTERM)
        if local:
            _start(cpus, needed, ends)
        else:
            _join(cluster_address())
            ends.callback(_shut_down)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, stop)  # Ray sets a handler that ends the process without a message
        import ray

        if local and gpus and not ray.cluster_resources().get("GPU"):
            raise UserError(
                f"resources.gpus = {gpus}, but this machine has no GPU. Set resources.gpus=0, or name a cluster that "
                "has GPUs in RAY_ADDRESS"
            )
        yield


def prepare() -> str:
    """What can be known of the connection before it is made, within seconds: the address that answers, or ``local``
    where this machine can start a Ray. Raises ``UserError``."""
    if "ray" in sys.modules:
        import ray

        if ray.is_initialized():  # and this connection will be used
            return str(ray.get_runtime_context().gcs_address)
    if not is_local():
        set_auth_mode()  # before Ray is imported, as it is for `auto`
        return cluster_address()
    raise_open_files()
    place()
    return LOCAL


def _start(cpus: float, needed: Collection[str], ends: ExitStack) -> None:
    """Start a local Ray, whose end is put into ``ends``."""
    raise_open_files()
    folder = ends.enter_context(local_folder())
    folder.stays = bool(os.environ.get("STEADYTUNE_DEBUG", "") not in ("", "0"))
    import ray

    # Workers must find these packages also if they run from a checkout that is not installed.
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    try:
        with only_passed_on(needed), on_loopback():
            ray.init(
                address=LOCAL,
                include_dashboard=False,
                num_cpus=max(1, round(max(cpus, cpu_count()))),
                runtime_env={"env_vars": {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}},
                logging_level=logging.WARNING,
                log_to_driver=False,
                _temp_dir=folder.path,
            )
    except ray.exceptions.AuthenticationError as error:
        raise ConnectError(_refused(LOCAL, False)) from error
    except Exception as error:
        folder.stays = True
        raise ConnectError(
            f"Ray does not start on this machine: {' '.join(str(error).split())} Its own messages are in "
            f"{folder.logs}; `steadytune doctor` looks for the cause"
        ) from error
    ends.callback(_shut_down)


def _join(address: str) -> None:
    import ray

    try:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except (ray.exceptions.AuthenticationError, ConnectionError) as error:
        # Ray raises ConnectionError if the cluster is not there, and sometimes also if it refuses the token
        raise ConnectError(_refused(address, isinstance(error, ConnectionError))) from None
    except (RuntimeError, ValueError) as error:  # another version of Ray or Python, above all
        raise ConnectError(f"the cluster at {address} cannot be used: {' '.join(str(error).split())}") from error


def _shut_down() -> None:
    import ray

    ray.shutdown()


def _refused(address: str, silent: bool) -> str:
    where = token_source()
    start = f"the cluster at {address} " + ("cannot be reached, or " if silent else "")
    if os.environ.get("RAY_AUTH_MODE") != "token" or not where:
        return (
            f"{start}accepts no request without its token. Set RAY_AUTH_MODE=token and put the token into "
            f"RAY_AUTH_TOKEN or {TOKEN_FILE}"
        )
    return f"{start}refuses the token from {where}: it belongs to another cluster. Put the token of this one there"
