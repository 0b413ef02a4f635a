"""Checks of a Dockerfile for the nodes of a cluster."""

from __future__ import annotations

import re

from cluster.files import start_checks as start
from cluster.files.finding import FileFindings


def check_dockerfile(findings: FileFindings, text: str) -> None:
    lines = [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line and not line.startswith("#")]
    base = next((line.split()[1] for line in lines if line.upper().startswith("FROM ")), None)
    if base is None:
        findings.error("FROM", "is missing", "Write FROM python:3.11-slim-bookworm.")
        return
    if "ray" in base:
        start.check_image(findings, ("FROM",), base)
    elif ":" not in base or base.endswith(":latest"):
        findings.warn("FROM", "is not pinned", "Write its version.", base)
    if not any("constraints.txt" in line for line in lines if "pip install" in line):
        findings.warn("RUN", "does not install Steadytune's pinned environment", "Add pip install -c constraints.txt …")
    for line in lines:
        version = re.search(r"\bray(?:\[[\w,]+\])?==(\d+\.\d+\.\d+)", line)
        if version:
            start.check_ray_version(findings, "RUN pip install", version[1])
        if re.match(r"(?:ENV|ARG)\b.*RAY_AUTH_TOKEN[= ]\S", line):
            findings.warn(
                "ENV RAY_AUTH_TOKEN", "puts the token into the image, for everybody who can pull it", "Leave it out."
            )
        if re.search(r"RAY_AUTH_MODE[= ][\"']?disabled", line):
            findings.warn("ENV RAY_AUTH_MODE", "turns token authentication off", "Write token.")
        if line.upper().startswith("EXPOSE "):
            findings.warn("EXPOSE", "is not needed: no port has to be reached from outside", "Leave it out.", line[7:])
    users = [line.split()[1] for line in lines if line.upper().startswith("USER ")]
    if not users or users[-1] in ("root", "0"):
        findings.warn("USER", "is root", "Add a user without root's rights, so that jobs do not have them either.")
