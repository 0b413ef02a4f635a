"""A study by its path, or by the name of a shipped one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sweeps.study.load import load_study
from sweeps.study.overlay import COMMAND_LINE, StudyError
from sweeps.study.study import Study
from trainer.errors import nearest, short

STUDIES = Path(__file__).resolve().parents[1] / "studies"


def open_study(name: str, overrides: Sequence[str] | None, place: str = COMMAND_LINE) -> Study:
    """The study at a path or of a shipped name. ``place`` is where messages say that the overrides stand. Raises
    StudyError if there is none."""
    if "=" in name and not os.path.exists(name):
        raise StudyError(f'"{short(name)}" stands where the study must be. Write: steadytune COMMAND STUDY key=value')
    return load_study(study_path(name), overrides or [], place=place)


def study_path(name: str) -> str:
    shipped = {p.stem: str(p) for p in sorted(STUDIES.glob("*.yaml"))}
    is_path = os.sep in name or "/" in name or name.endswith((".yaml", ".yml"))
    if is_path or (os.path.exists(name) and name not in shipped):
        return name  # load_study reports a file that does not exist
    if name in shipped:
        return shipped[name]
    raise StudyError(f'study "{short(name)}" is neither a file nor a shipped study.{nearest(name, shipped)}')
