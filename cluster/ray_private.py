"""The private parts of Ray that placing trials and sending jobs need: no public part of Ray does the same.

All were read in Ray 2.60.0, and pyproject.toml admits 2.60 alone: read them again before it admits another. Those of
Tune's controller are in ``sweeps/schedule/tune_private.py``.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def actor_id(handle: Any) -> str:
    """The id of an actor, equal for all handles of it. (``ray.actor.ActorHandle._actor_id``)"""
    return str(handle._actor_id.hex())


def cpu_count() -> int:
    """The CPUs of this machine as Ray counts them: within the quota of a container. (``ray._private.utils``)"""
    from ray._private.utils import get_num_cpus

    return max(1, int(get_num_cpus(override_docker_cpu_warning=True)))


def memory() -> int:
    """Bytes of memory as Ray counts them: within the limit of a container. (``ray._common.utils``)"""
    from ray._common.utils import get_system_memory

    return int(get_system_memory())


def running_cluster() -> str:
    """HOST:PORT of a cluster that has a process on this machine, or "". (``ray._private.services``)"""
    from ray._private import services

    found = services.find_gcs_addresses()
    return str(services.find_bootstrap_address(None) or next(iter(found))) if found else ""


@contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray that is started meanwhile takes 127.0.0.1 for this machine's address, and all its processes listen there
    only; else they listen on every interface. ``ray.init(_node_ip_address="127.0.0.1")`` is turned into the outer
    address. (``ray._private.ray_constants.ENABLE_RAY_CLUSTER``, which is how Ray does it on macOS and Windows)"""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def node_summaries(client: Any) -> list[dict[str, Any]]:
    """What the dashboard's page of nodes shows, or nothing where it does not answer.
    (``JobSubmissionClient._do_request``, which adds the token; the address is the dashboard's own)"""
    answer = client._do_request("GET", "/nodes?view=summary")
    return list(answer.json()["data"]["summary"]) if answer.ok else []


def quiet_job_client() -> None:
    """Silence what Ray's job client logs on its own, such as the size of each upload. Call it after
    ``ray.job_submission`` is imported, since the import sets levels of its own. (names of Ray's loggers)"""
    for name in (
        "dashboard",
        "dashboard.modules.dashboard_sdk",
        "dashboard.modules.job.sdk",
        "_private.authentication.http_token_authentication",
        "_private.runtime_env.packaging",
    ):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)


def job_submission_id() -> str:
    """The id under which Ray runs this process as a job's driver; "" outside of jobs.
    (``ray._private.runtime_env.constants.RAY_JOB_CONFIG_JSON_ENV_VAR``, which the job server sets)"""
    try:
        about = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return str(about.get("metadata", {}).get("job_submission_id", ""))
    except (ValueError, AttributeError):
        return ""


def prepare_ray_up_config(raw: dict[str, Any]) -> dict[str, Any]:
    """A ``ray up`` file with Ray's defaults filled in, and validated, as the command does it; it raises many kinds of
    errors and prints. (``prepare_config`` and ``validate_config``; neither needs a cloud SDK or the network)"""
    from ray.autoscaler._private.util import prepare_config, validate_config

    full: dict[str, Any] = prepare_config(raw)
    validate_config(full)
    return full
