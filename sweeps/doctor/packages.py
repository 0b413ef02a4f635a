"""Checks of the versions of Python and of the packages that Steadytune needs, against those that were tested."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from sweeps.doctor.diagnosis import Check, Diagnosis

PYTHON = "3.11"
REMEDY = "Install the tested versions: pip install -c constraints.txt torch==2.13.0 -e ."


def python() -> Iterator[Diagnosis]:
    found = platform.python_version()
    yield Diagnosis("Python", found, "" if found.startswith(f"{PYTHON}.") else f"Tested with {PYTHON}: use that")


def packages() -> Iterator[Diagnosis]:
    """Each package outside of the range that this version of Steadytune admits; those of another version than the
    tested one are counted, since they may do as well."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(text) for text in requires("steadytune") or []]
    except PackageNotFoundError:
        yield Diagnosis("packages", "Steadytune is not installed, so nothing says what it needs", REMEDY)
        return
    tested, other, count = tested_versions(), [], 0
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Diagnosis("packages", f"{requirement.name} is not installed", REMEDY)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield Diagnosis("packages", f"{requirement.name} {found} is not {requirement.specifier}", REMEDY)
        elif found.partition("+")[0] != tested.get(requirement.name.lower(), found.partition("+")[0]):
            other.append(f"{requirement.name} {found}")
    untested = f"; not the tested version: {', '.join(other)}" if other else ""
    yield Diagnosis("packages", f"{count} are needed{untested}", REMEDY if other else "")


def tested_versions() -> dict[str, str]:
    """The versions in ``constraints.txt`` of the checkout; nothing where Steadytune is installed without it."""
    path = Path(__file__).parents[2] / "constraints.txt"
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {m[1].lower(): m[2] for m in (re.match(r"([\w.\-]+)==([^\s;+]+)", line) for line in lines) if m}


CHECKS: dict[str, Check] = {"Python": python, "packages": packages}
