"""The Ray cluster that a run uses: the one it was submitted to, or a local one for as long as the run lasts."""

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


@contextmanager
def connected(cpus: float) -> Iterator[None]:
    """RAY_ADDRESS names a cluster (``ray job submit`` sets it); without it a local one starts, reachable from this
    machine only, under a token that is made for it and dies with it. A connection that exists already is used and
    left alone."""
    address = os.environ.get("RAY_ADDRESS", "local")
    if address == "local" and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        # Ray reads these when it is first imported, and not again
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
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
    ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False, runtime_env=env or None, **local)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)  # Ray puts its own in place, which ends the process without a word
    try:
        yield
    finally:
        ray.shutdown()
