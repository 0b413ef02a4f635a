"""The folder of an export, by its path. Imports nothing slow."""

from __future__ import annotations

import os

from sweeps.run_folder.find import did_you_mean, usual_folder
from sweeps.study.overlay import StudyError


def check_exists(folder: str) -> None:
    """StudyError if there is no such folder, with the nearest name."""
    if "://" in folder or os.path.exists(folder):
        return
    if os.path.isdir(usual_folder(folder)):
        raise StudyError(
            f'DIR = "{folder}" does not exist, and {usual_folder(folder)} is a run folder. '
            f"Export a trial of it first: steadytune export {folder} --to NEW"
        )
    raise StudyError(f'DIR = "{folder}" does not exist.{did_you_mean(folder)}')
