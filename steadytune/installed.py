"""Whether the packages that Python finds are Steadytune's.

The wheel has five top-level packages. ``trainer``, ``cluster`` and ``sweeps`` are common names, so that a file of the
user's project or another distribution can stand in for one of them. Without this check the error would name neither.
"""

from __future__ import annotations

import importlib.util
import os
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

PACKAGES = {"trainer": "trial.py", "cluster": "hosting", "sweeps": "cli", "ray_configs": "deepspeed"}  # a part of each
HOME = Path(__file__).resolve().parents[1]


def _here(name: str) -> ModuleSpec | None:
    """The package in the folder where the command starts, where Ray's workers look first. A folder without __init__.py
    is none, as it gives way to a package elsewhere."""
    try:
        found = PathFinder.find_spec(name, [os.getcwd()])
    except FileNotFoundError:  # somebody has removed the folder
        return None
    return found if found is not None and found.origin is not None else None


def refuse_foreign_packages() -> None:
    """Raise ImportError where one of our packages is missing or another one is found in its place. The message says
    which, where it is, and what to do."""
    for name, part in PACKAGES.items():
        found = _here(name) or importlib.util.find_spec(name)
        places = [] if found is None else list(found.submodule_search_locations or [str(found.origin)])
        if HOME / name not in [Path(place).resolve() for place in places if os.path.isabs(place)]:
            where = f"is found at {places[0]}" if places else "is not found"
            raise ImportError(
                f'the Python package "{name}" {where}, and Steadytune\'s is {HOME / name}. Start elsewhere, take '
                "the other one's folder from PYTHONPATH, or install Steadytune in an environment of its own"
            )
        if not (HOME / name / part).exists():
            raise ImportError(
                f'the Python package "{name}" at {HOME / name} is not Steadytune\'s: it has no {part}. Another '
                "distribution with a package of this name was installed over it. Install Steadytune in an environment "
                "of its own"
            )
