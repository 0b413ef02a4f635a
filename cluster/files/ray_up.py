"""Checks of a ``ray up`` file: Ray's own schema and validator, then what Ray accepts but is wrong for a sweep."""

from __future__ import annotations

import contextlib
import copy
import io
import re
from typing import Any

from cluster.files import start_checks as start
from cluster.files.capacity import Need, NodeGroup, check_capacity
from cluster.files.finding import FileFindings
from cluster.files.key_path import KeyPath, list_at, mapping_at, value_at
from cluster.files.machines import MACHINES, gpu_memory
from cluster.files.provider_checks import check_aws, check_gcp, is_spot
from cluster.files.schema_error import add_schema_error
from cluster.ray_private import prepare_ray_up_config
from trainer.errors import nearest

PROVIDERS = ("aws", "gcp", "local", "azure", "aliyun", "vsphere")


def check_ray_up(findings: FileFindings, raw: dict[str, Any], need: Need | None) -> None:
    provider = value_at(raw, "provider", "type")
    if not isinstance(provider, str) or provider not in PROVIDERS:
        near = nearest(str(provider or ""), PROVIDERS)
        findings.error(("provider", "type"), f"is not known.{near}", value=provider)
        return
    full = prepared(findings, raw)
    if full is None:
        return
    nodes = node_groups(full, provider)
    many = full["max_workers"] > 0 and (provider == "local" or any(n.count for n in nodes))
    start.check_placeholders(findings, raw)
    start.check_secrets(findings, raw)
    _images(findings, full)
    _token(findings, full)
    _head(findings, full, many)
    _workers(findings, raw, full, many)
    _environment(findings, full)
    _storage(findings, raw, full, nodes)
    if provider == "aws":
        check_aws(findings, full)
    elif provider == "gcp":
        check_gcp(findings, full)
    else:
        _addresses(findings, full)
    if need is not None and provider in MACHINES:
        check_capacity(findings, nodes, need, full["max_workers"], ("max_workers",))
    elif need is not None:
        findings.note(
            ("provider", "worker_ips"),
            f"study {need.name} keeps {need.hosts} hosts busy; the file does not say what these machines have",
        )


def prepared(findings: FileFindings, raw: dict[str, Any]) -> dict[str, Any] | None:
    """The file with Ray's defaults, as ``ray up`` reads it; None, with errors, where Ray refuses it."""
    import click
    import jsonschema

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return prepare_ray_up_config(copy.deepcopy(raw))
    except jsonschema.ValidationError as error:
        add_schema_error(findings, error, "Ray")
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
        findings.error("", f"Ray refuses the file: {' '.join(words.split())}".rstrip("."))
    return None


def node_groups(full: dict[str, Any], provider: str) -> list[NodeGroup]:
    """The worker types that may have nodes at all (``max_workers`` above 0)."""
    groups = []
    for name, kind in full["available_node_types"].items():
        count = min(kind.get("max_workers", 0), full["max_workers"])
        if name == full["head_node_type"] and provider != "local":
            continue
        resources = mapping_at(kind, "resources")
        config = mapping_at(kind, "node_config")
        machine = MACHINES.get(provider, {}).get(str(config.get("InstanceType") or config.get("machineType")))
        cpus = resources.get("CPU", machine.cpus if machine else 0)
        gpus = resources.get("GPU", machine.gpus if machine else 0)
        memory = gpu_memory(machine.gpu) if machine else None
        if count > 0:
            groups.append(NodeGroup(name, ("available_node_types", name), count, cpus, gpus, memory, is_spot(config)))
    return groups


def _commands(full: dict[str, Any], *keys: str) -> list[str]:
    return [str(c) for key in keys for c in full.get(key) or []]


def _images(findings: FileFindings, full: dict[str, Any]) -> None:
    for key in ("image", "head_image", "worker_image"):
        image = value_at(full, "docker", key)
        if image:
            start.check_image(findings, ("docker", key), str(image))
    for key in ("run_options", "head_run_options", "worker_run_options"):
        for i, option in enumerate(list_at(full, "docker", key)):
            if re.match(r"(-p|--publish)\b", str(option)):
                findings.warn(("docker", key, i), "publishes a port of the container", "Leave it out.", option)
    for i, command in enumerate(_commands(full, "setup_commands", "head_setup_commands", "worker_setup_commands")):
        version = re.search(r"\bray(?:\[[\w,]+\])?==(\d+\.\d+\.\d+)", command)
        if version:
            start.check_ray_version(findings, f"set-up command {i + 1}", version[1])


def _token(findings: FileFindings, full: dict[str, Any]) -> None:
    options = [str(o) for key in ("run_options", "head_run_options") for o in list_at(full, "docker", key)]
    outside = any("RAY_AUTH_MODE=token" in o for o in options)
    for key, head in (("head_start_ray_commands", True), ("worker_start_ray_commands", False)):
        for i, command in enumerate(_commands(full, key)):
            if "ray start" in command:
                start.check_start(findings, (key, i), command, head, outside)
    everything = [*_commands(full, "setup_commands", "head_start_ray_commands", "initialization_commands"), *options]
    delivered = any("auth_token" in str(k) for k in mapping_at(full, "file_mounts")) or any(
        re.search(r"get-auth-token|RAY_AUTH_TOKEN(_PATH)?=|>\s*\S*auth_token", c) for c in everything
    )
    if not delivered:
        findings.warn(
            ("file_mounts",),
            "brings no token to the nodes: Ray would refuse to start, or start without authentication",
            "Add ~/.ray/auth_token: ~/.ray/auth_token, after `ray get-auth-token --generate` here.",
        )


def _head(findings: FileFindings, full: dict[str, Any], many: bool) -> None:
    commands = _commands(full, "head_start_ray_commands")
    at = start.first_match(r"\bray start\b", commands)
    if at is None:
        findings.error(("head_start_ray_commands",), "starts no Ray", "Write ray start --head … as its last command.")
        return
    key: KeyPath = ("head_start_ray_commands", at)
    if many and "--autoscaling-config" not in commands[at]:
        findings.error(
            key,
            "starts no autoscaler: no worker will ever start",
            "Add --autoscaling-config=~/ray_bootstrap_config.yaml.",
        )
    if many and not re.search(r"--num-cpus[= ]0\b", commands[at]):
        findings.warn(
            key,
            "lets trials run on the head: one that uses up its memory ends the whole cluster",
            "Add --num-cpus=0 --num-gpus=0.",
        )
    head = full["available_node_types"][full["head_node_type"]]
    if many and mapping_at(head, "resources").get("CPU", 0) and re.search(r"--num-cpus[= ]0\b", commands[at]):
        findings.warn(
            ("available_node_types", full["head_node_type"], "resources", "CPU"),
            "is more than the head offers (--num-cpus=0): the autoscaler would wait for it instead of starting workers",
            'Write resources: {"CPU": 0}.',
            head["resources"]["CPU"],
        )
    if is_spot(mapping_at(head, "node_config")):
        findings.warn(
            ("available_node_types", full["head_node_type"], "node_config"),
            "makes the head a spot machine: if it is lost, the run ends",
            "Take the spot option out of the head's type; it needs no GPU and costs little.",
        )


def _workers(findings: FileFindings, raw: dict[str, Any], full: dict[str, Any], many: bool) -> None:
    if not many:
        return
    given = raw.get("idle_timeout_minutes")
    start.check_idle(
        findings, ("idle_timeout_minutes",), None if given is None else 60.0 * given, "Ray's default of 5 minutes"
    )
    commands = _commands(full, "worker_start_ray_commands")
    at = start.first_match(r"\bray start\b", commands)
    if at is None:
        findings.error(("worker_start_ray_commands",), "starts no Ray", "Write ray start --address=$RAY_HEAD_IP:6379.")
    elif "RAY_HEAD_IP" not in commands[at]:
        findings.error(
            ("worker_start_ray_commands", at),
            "does not join the head: $RAY_HEAD_IP is missing",
            "Write --address=$RAY_HEAD_IP:6379.",
        )
    for name, kind in full["available_node_types"].items():
        low, high = kind.get("min_workers", 0), kind.get("max_workers", 0)
        key: KeyPath = ("available_node_types", name)
        if low > high:
            findings.error((*key, "min_workers"), f"is more than max_workers = {high}", "Lower it.", low)
        elif low > 0 and name != full["head_node_type"]:
            findings.warn(
                (*key, "min_workers"), "keeps nodes running (and paid) while nothing runs", "Write min_workers: 0.", low
            )


def _environment(findings: FileFindings, full: dict[str, Any]) -> None:
    commands = _commands(full, "setup_commands", "head_setup_commands", "worker_setup_commands")
    own = [
        value_at(full, "docker", k)
        for k in ("image", "worker_image")
        if "steadytune" in str(value_at(full, "docker", k))
    ]
    installs = [c for c in commands if re.search(r"\bpip3? install\b", c)]
    if own:
        return
    if not any("constraints.txt" in c for c in installs):
        findings.warn(
            ("setup_commands",),
            "does not install Steadytune's pinned environment",
            "Add pip install -c ~/steadytune/constraints.txt torch==… ~/steadytune, or use ray_configs/Dockerfile.",
        )


def _storage(findings: FileFindings, raw: dict[str, Any], full: dict[str, Any], nodes: list[NodeGroup]) -> None:
    folder = value_at(raw, "metadata", "run_folder")
    commands = _commands(full, "initialization_commands", "setup_commands", "worker_setup_commands")

    def mounted(path: str) -> bool:
        top = "/" + path.strip("/").split("/")[0]
        return any(
            re.search(r"\b(mount|mountpoint|findmnt|gcsfuse|mount-s3|nfs)\b", c)
            and re.search(rf"{re.escape(top)}\b", c)
            for c in commands
        )

    total = min(full["max_workers"], sum(n.count for n in nodes)) + 1
    start.check_run_folder(findings, ("metadata", "run_folder"), folder, total, mounted)


def _addresses(findings: FileFindings, full: dict[str, Any]) -> None:
    """The addresses of the user's own machines."""
    listed = [str(a) for a in list_at(full, "provider", "worker_ips") if "CHANGE-ME" not in str(a)]
    for address in sorted({a for a in listed if listed.count(a) > 1}):
        findings.error(("provider", "worker_ips"), f"names {address} twice", "A machine joins once, with all its GPUs.")
    head = value_at(full, "provider", "head_ip")
    if head in listed:
        findings.error(("provider", "worker_ips"), f"names the head ({head}) too", "Take it out of the list.")
    if listed and head in ("127.0.0.1", "localhost"):
        findings.error(
            ("provider", "head_ip"), "cannot be reached by the workers", "Write its address in their network.", head
        )
