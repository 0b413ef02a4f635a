"""Checks for every kind of cluster file: Ray's version, how Ray is started, the run folder, secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from cluster.files.finding import PLACEHOLDER, FileFindings
from cluster.files.key_path import KeyPath, leaves

TOKEN_SINCE = (2, 52)  # the first Ray with token authentication
_VERSION = re.compile(r"ray[:=/-]+v?(\d+\.\d+\.\d+)")  # rayproject/ray:2.60.0-py311, steadytune:0.1.0-ray2.60.0
_TAGGED = re.compile(r"ray(\d+\.\d+\.\d+)")
_OPEN = r"(?:0\.0\.0\.0|::|\*)(?!\d)"
LOCAL_DISK = re.compile(r"^(?:~|\.|/(?:tmp|root|home|var|scratch-local|local)\b|(?![a-z0-9]+://|/|\$))")


def local_ray() -> str:
    from importlib.metadata import version

    return version("ray")


def check_ray_version(findings: FileFindings, key: KeyPath | str, version: str) -> None:
    """Nodes of different Ray versions refuse each other. A job's client may have another one: untested."""
    if version != local_ray():
        findings.warn(
            key,
            f"is another Ray than the one installed here ({local_ray()})",
            f"Use {local_ray()} on all nodes, or install ray=={version} here.",
            version,
        )


def version_in(image: str) -> str | None:
    match = _VERSION.search(image) or _TAGGED.search(image)
    return match[1] if match else None


def check_image(findings: FileFindings, key: KeyPath, image: str) -> None:
    version, tag = version_in(image), image.rsplit("/", 1)[-1].partition(":")[2]
    if version is not None:
        check_ray_version(findings, key, version)
    elif "@sha256:" not in image and tag in ("", "latest", "nightly"):
        findings.warn(
            key,
            "is not pinned: tomorrow it can be another Ray",
            f"Write the version: rayproject/ray:{local_ray()}",
            image,
        )
    elif "@sha256:" not in image:
        findings.note(key, "does not say its Ray version", f"Put it in the tag, such as ray{local_ray()}.", image)


def check_start(findings: FileFindings, key: KeyPath, command: str, head: bool, token: bool) -> None:
    """Check one ``ray start`` command. ``token``: whether something outside the command turns authentication on."""
    if re.search(rf"--dashboard-host[= ]['\"]?{_OPEN}", command):
        findings.warn(
            key,
            "opens the dashboard, which runs any code that it is sent, to every network (--dashboard-host=0.0.0.0)",
            "Write --dashboard-host=127.0.0.1 and use `ray dashboard FILE` or an SSH tunnel.",
        )
    if re.search(r"RAY_AUTH_MODE=[\"']?disabled", command):
        findings.warn(key, "turns token authentication off", "Write RAY_AUTH_MODE=token.")
    elif not token and not re.search(r"RAY_AUTH_MODE=[\"']?token", command):
        findings.warn(
            key,
            "starts Ray without token authentication: whoever reaches its ports runs code on it",
            "Put `export RAY_AUTH_MODE=token;` before ray start.",
        )
    if head and "--head" not in command.split():
        findings.error(key, "does not start a head: --head is missing", "Write ray start --head …")


def check_secrets(findings: FileFindings, raw: Any) -> None:
    """Find tokens and keys, which do not belong in a file that is stored and passed on."""
    for path, value in leaves(raw):
        last = str(path[-1]) if path else ""
        if isinstance(value, str) and (
            re.search(r"RAY_AUTH_TOKEN=[\"']?(?![\"'$]|\s|$)", value)
            or re.search(r"\b(?:AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{30,})\b", value)
            or (re.search(r"(?:^|_)(?:secret_access_key|api_key|password)$", last, re.IGNORECASE) and value)
        ):
            findings.warn(
                path, "holds a secret in plain text", "Keep it in a file of your own (~/.ray/auth_token) or a Secret."
            )


def check_placeholders(findings: FileFindings, raw: Any) -> None:
    places = [path for path, value in leaves(raw) if isinstance(value, str) and PLACEHOLDER in value]
    if places:
        names = sorted({str(next((p for p in reversed(path) if isinstance(p, str)), "")) for path in places})
        findings.note("", f"still to be filled in ({PLACEHOLDER}, {len(places)} times): {', '.join(names)}")


def check_run_folder(
    findings: FileFindings, key: KeyPath | str, folder: str | None, nodes: int, mounted: Callable[[str], bool]
) -> None:
    """``mounted`` tells whether, by the file, every node mounts a shared disk at a path."""
    if nodes <= 1:
        return
    if not folder:
        findings.warn(
            key,
            "does not say where the run folder is",
            "Write an address that every node sees: s3://…, gs://… or a path on a shared disk.",
        )
    elif "://" in folder:
        scheme = folder.split("://")[0]
        if scheme not in ("s3", "gs", "gcs", "hdfs"):
            findings.error(
                key, "is no storage that a run folder can be on", "Known: s3://, gs://, hdfs:// or a path.", folder
            )
    elif LOCAL_DISK.match(folder) or not mounted(folder):
        findings.warn(
            key,
            "is a path on each node's own disk: the driver would not find what the workers write",
            "Use s3:// or gs://, or mount a shared disk there in the set-up and say so in this file.",
            folder,
        )


def check_idle(findings: FileFindings, key: KeyPath | str, seconds: float | None, default: str) -> None:
    if seconds is None:
        findings.warn(key, f"is missing, so it is {default}", "Write it down: idle GPUs cost the most.")
    elif seconds > 3600:
        findings.warn(
            key,
            f"keeps idle nodes for {seconds / 60:g} minutes",
            "5 minutes are enough: a new node takes about as long.",
        )
    elif seconds == 0:
        findings.warn(key, "is 0: nodes end between two rungs and start again", "Write 2 to 10 minutes.")


def first_match(pattern: str, commands: Sequence[str]) -> int | None:
    return next((i for i, c in enumerate(commands) if re.search(pattern, c)), None)
