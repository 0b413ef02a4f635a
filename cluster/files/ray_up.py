"""Checks of a ``ray up`` file: Ray's own schema and validator, then what is legal there but wrong for a sweep."""

from __future__ import annotations

import contextlib
import copy
import io
import re
from typing import Any

from cluster.files import start_checks as start
from cluster.files.capacity import Need, Nodes, check_capacity
from cluster.files.finding import Findings, Path, get, items, section
from cluster.files.machines import MACHINES, gpu_memory
from cluster.files.provider_checks import check_aws, check_gcp, is_spot
from trainer.errors import nearest

PROVIDERS = ("aws", "gcp", "local", "azure", "aliyun", "vsphere")


def check_ray_up(found: Findings, raw: dict[str, Any], need: Need | None) -> None:
    provider = get(raw, "provider", "type")
    if not isinstance(provider, str) or provider not in PROVIDERS:
        near = nearest(str(provider or ""), PROVIDERS)
        found.error(("provider", "type"), f"is not known.{near}", value=provider)
        return
    full = prepared(found, raw)
    if full is None:
        return
    nodes = nodes_of(full, provider)
    many = full["max_workers"] > 0 and (provider == "local" or any(n.count for n in nodes))
    start.check_placeholders(found, raw)
    start.check_secrets(found, raw)
    _images(found, full)
    _token(found, full)
    _head(found, full, many)
    _workers(found, raw, full, many)
    _environment(found, full)
    _storage(found, raw, full, nodes)
    if provider == "aws":
        check_aws(found, full)
    elif provider == "gcp":
        check_gcp(found, full)
    else:
        _addresses(found, full)
    if need is not None and provider in MACHINES:
        check_capacity(found, nodes, need, full["max_workers"], ("max_workers",))
    elif need is not None:
        found.note(
            ("provider", "worker_ips"),
            f"study {need.name} keeps {need.hosts} hosts busy; what these machines hold is not said",
        )


def prepared(found: Findings, raw: dict[str, Any]) -> dict[str, Any] | None:
    """The file with Ray's defaults, as ``ray up`` reads it; None, with errors, where Ray refuses it. A private module
    of Ray: its version is pinned. Needs no cloud SDK and no network."""
    import click
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            full: dict[str, Any] = prepare_config(copy.deepcopy(raw))
            validate_config(full)
        return full
    except jsonschema.ValidationError as error:
        _schema_error(found, error)
    except (
        click.ClickException,
        ValueError,
        RuntimeError,
        AssertionError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        words = str(error) or said.getvalue() or type(error).__name__
        found.error("", f"Ray refuses the file: {' '.join(words.split())}".rstrip("."))
    return None


def _schema_error(found: Findings, error: Any) -> None:
    path: Path = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        patterns = list(error.schema.get("patternProperties", {}))
        for key in error.instance:
            if key not in known and not any(re.search(p, key) for p in patterns):
                found.error((*path, key), f"is not a known key.{nearest(str(key), known)}")
    elif error.validator == "required":
        missing = [k for k in error.validator_value if k not in error.instance]
        for key in missing:
            found.error((*path, key), "is missing", f"Ray requires {', '.join(error.validator_value)} here.")
    elif error.validator == "type":
        found.error(path, f"must be of type {error.validator_value}", value=error.instance)
    else:
        found.error(path, f"is refused by Ray: {error.message.splitlines()[0]}"[:300])


def nodes_of(full: dict[str, Any], provider: str) -> list[Nodes]:
    """The worker types that may have nodes at all."""
    found = []
    for name, kind in full["available_node_types"].items():
        count = min(kind.get("max_workers", 0), full["max_workers"])
        if name == full["head_node_type"] and provider != "local":
            continue
        resources = section(kind, "resources")
        config = section(kind, "node_config")
        machine = MACHINES.get(provider, {}).get(str(config.get("InstanceType") or config.get("machineType")))
        cpus = resources.get("CPU", machine.cpus if machine else 0)
        gpus = resources.get("GPU", machine.gpus if machine else 0)
        memory = gpu_memory(machine.gpu) if machine else None
        if count > 0:
            found.append(Nodes(name, ("available_node_types", name), count, cpus, gpus, memory, is_spot(config)))
    return found


def _commands(full: dict[str, Any], *keys: str) -> list[str]:
    return [str(c) for key in keys for c in full.get(key) or []]


def _images(found: Findings, full: dict[str, Any]) -> None:
    for key in ("image", "head_image", "worker_image"):
        image = get(full, "docker", key)
        if image:
            start.check_image(found, ("docker", key), str(image))
    for key in ("run_options", "head_run_options", "worker_run_options"):
        for i, option in enumerate(items(full, "docker", key)):
            if re.match(r"(-p|--publish)\b", str(option)):
                found.warn(("docker", key, i), "publishes a port of the container", "Leave it out.", option)
    for i, command in enumerate(_commands(full, "setup_commands", "head_setup_commands", "worker_setup_commands")):
        version = re.search(r"\bray(?:\[[\w,]+\])?==(\d+\.\d+\.\d+)", command)
        if version:
            start.check_ray_version(found, f"set-up command {i + 1}", version[1])


def _token(found: Findings, full: dict[str, Any]) -> None:
    options = [str(o) for key in ("run_options", "head_run_options") for o in items(full, "docker", key)]
    outside = any("RAY_AUTH_MODE=token" in o for o in options)
    for key, head in (("head_start_ray_commands", True), ("worker_start_ray_commands", False)):
        for i, command in enumerate(_commands(full, key)):
            if "ray start" in command:
                start.check_start(found, (key, i), command, head, outside)
    everything = [*_commands(full, "setup_commands", "head_start_ray_commands", "initialization_commands"), *options]
    delivered = any("auth_token" in str(k) for k in section(full, "file_mounts")) or any(
        re.search(r"get-auth-token|RAY_AUTH_TOKEN(_PATH)?=|>\s*\S*auth_token", c) for c in everything
    )
    if not delivered:
        found.warn(
            ("file_mounts",),
            "brings no token to the nodes: Ray would refuse to start, or start without authentication",
            "Add ~/.ray/auth_token: ~/.ray/auth_token, after `ray get-auth-token --generate` here.",
        )


def _head(found: Findings, full: dict[str, Any], many: bool) -> None:
    commands = _commands(full, "head_start_ray_commands")
    at = start.first_match(r"\bray start\b", commands)
    if at is None:
        found.error(("head_start_ray_commands",), "starts no Ray", "Write ray start --head … as its last command.")
        return
    key: Path = ("head_start_ray_commands", at)
    if many and "--autoscaling-config" not in commands[at]:
        found.error(
            key,
            "starts no autoscaler: no worker will ever come",
            "Add --autoscaling-config=~/ray_bootstrap_config.yaml.",
        )
    if many and not re.search(r"--num-cpus[= ]0\b", commands[at]):
        found.warn(
            key,
            "lets the head do trials' work: one that eats its memory takes the whole cluster down",
            "Add --num-cpus=0 --num-gpus=0.",
        )
    head = full["available_node_types"][full["head_node_type"]]
    if many and section(head, "resources").get("CPU", 0) and re.search(r"--num-cpus[= ]0\b", commands[at]):
        found.warn(
            ("available_node_types", full["head_node_type"], "resources", "CPU"),
            "is more than the head offers (--num-cpus=0): the autoscaler would wait for it instead of starting workers",
            'Write resources: {"CPU": 0}.',
            head["resources"]["CPU"],
        )
    if is_spot(section(head, "node_config")):
        found.warn(
            ("available_node_types", full["head_node_type"], "node_config"),
            "makes the head a spot machine: losing it ends the run",
            "Take the spot option out of the head's type; it needs no GPU and costs little.",
        )


def _workers(found: Findings, raw: dict[str, Any], full: dict[str, Any], many: bool) -> None:
    if not many:
        return
    given = raw.get("idle_timeout_minutes")
    start.check_idle(
        found, ("idle_timeout_minutes",), None if given is None else 60.0 * given, "Ray's default of 5 minutes"
    )
    commands = _commands(full, "worker_start_ray_commands")
    at = start.first_match(r"\bray start\b", commands)
    if at is None:
        found.error(("worker_start_ray_commands",), "starts no Ray", "Write ray start --address=$RAY_HEAD_IP:6379.")
    elif "RAY_HEAD_IP" not in commands[at]:
        found.error(
            ("worker_start_ray_commands", at),
            "does not join the head: $RAY_HEAD_IP is missing",
            "Write --address=$RAY_HEAD_IP:6379.",
        )
    for name, kind in full["available_node_types"].items():
        low, high = kind.get("min_workers", 0), kind.get("max_workers", 0)
        key: Path = ("available_node_types", name)
        if low > high:
            found.error((*key, "min_workers"), f"is more than max_workers = {high}", "Lower it.", low)
        elif low > 0 and name != full["head_node_type"]:
            found.warn(
                (*key, "min_workers"), "keeps nodes running (and paid) while nothing runs", "Write min_workers: 0.", low
            )


def _environment(found: Findings, full: dict[str, Any]) -> None:
    commands = _commands(full, "setup_commands", "head_setup_commands", "worker_setup_commands")
    own = [get(full, "docker", k) for k in ("image", "worker_image") if "steadytune" in str(get(full, "docker", k))]
    installs = [c for c in commands if re.search(r"\bpip3? install\b", c)]
    if own:
        return
    if not any("constraints.txt" in c for c in installs):
        found.warn(
            ("setup_commands",),
            "does not install Steadytune's pinned environment",
            "Add pip install -c ~/steadytune/constraints.txt torch==… ~/steadytune, or use ray_configs/Dockerfile.",
        )


def _storage(found: Findings, raw: dict[str, Any], full: dict[str, Any], nodes: list[Nodes]) -> None:
    folder = get(raw, "metadata", "run_folder")
    commands = _commands(full, "initialization_commands", "setup_commands", "worker_setup_commands")

    def mounted(path: str) -> bool:
        top = "/" + path.strip("/").split("/")[0]
        return any(
            re.search(r"\b(mount|mountpoint|findmnt|gcsfuse|mount-s3|nfs)\b", c)
            and re.search(rf"{re.escape(top)}\b", c)
            for c in commands
        )

    total = min(full["max_workers"], sum(n.count for n in nodes)) + 1
    start.check_run_folder(found, ("metadata", "run_folder"), folder, total, mounted)


def _addresses(found: Findings, full: dict[str, Any]) -> None:
    """Machines of one's own."""
    listed = [str(a) for a in items(full, "provider", "worker_ips") if "CHANGE-ME" not in str(a)]
    for address in sorted({a for a in listed if listed.count(a) > 1}):
        found.error(("provider", "worker_ips"), f"names {address} twice", "A machine joins once, with all its GPUs.")
    head = get(full, "provider", "head_ip")
    if head in listed:
        found.error(("provider", "worker_ips"), f"names the head ({head}) too", "Take it out of the list.")
    if listed and head in ("127.0.0.1", "localhost"):
        found.error(
            ("provider", "head_ip"), "cannot be reached by the workers", "Write its address in their network.", head
        )
