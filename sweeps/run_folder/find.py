"""A run folder by its path, URL or name."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sweeps.study.overlay import StudyError
from trainer.errors import closest, listed

RUNS = "runs"  # in the current folder


def usual_folder(study: str) -> str:
    """The run folder of the study with this name, where no other is given."""
    return os.path.join(RUNS, study)


def find_run(name: str) -> str:
    """A run folder by path or URL, or by its name in ``runs/``. A folder of that name that is no run, such as the one
    with the study that ``steadytune init`` writes, does not hide the run in ``runs/``."""
    named = os.path.isdir(usual_folder(name))
    if "://" in name or (os.path.isdir(name) and not (named and "study.yaml" not in os.listdir(name))):
        return name
    if named:
        return usual_folder(name)
    if os.path.isfile(name):
        inside = os.path.dirname(name)
        fix = f"Give its folder: {inside}" if inside and "study.yaml" in os.listdir(inside) else "Give a run's folder"
        raise StudyError(f'run folder "{name}" is a file. {fix}')
    runs = sorted(os.listdir(RUNS)) if os.path.isdir(RUNS) and not os.path.dirname(name) else []
    looked = f" Looked for {os.path.abspath(name)}"
    if not os.path.dirname(name):
        looked += f" and {os.path.abspath(usual_folder(name))}"
    there = listed(runs).removeprefix(" Known: ") if runs else ""
    where = f". Run folders there: {there}" if there else ". Give the folder's path, or go where `run` was started"
    raise StudyError(f'run folder "{name}" does not exist.{did_you_mean(name, runs)}{looked}{where}')


def did_you_mean(path: str, others: Sequence[str] = ()) -> str:
    """`` Did you mean "x"?`` with the nearest name in the folder of ``path`` or among ``others``; "" if none is
    near."""
    folder = os.path.dirname(path) or "."
    names = sorted(n for n in os.listdir(folder) if not n.startswith(".")) if os.path.isdir(folder) else []
    near = closest(os.path.basename(path.rstrip("/")), [*names, *others])
    return f' Did you mean "{near}"?' if near else ""
