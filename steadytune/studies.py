"""``steadytune.study``: a study to check, to plan and to run, as the commands of these names do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steadytune.runs import OpenedRun, open_run

if TYPE_CHECKING:
    from sweeps.checks.findings import Findings
    from sweeps.planned import StudyPlan
    from sweeps.study.study import Study

OVERRIDE = "override"  # where messages say that a value of an override stands


def study(source: str | os.PathLike[str] | Mapping[str, Any], *overrides: str) -> OpenedStudy:
    """The study ``source``: a YAML file, the name of a shipped study, or a dict of the keys that the file would hold,
    with a ``name``. Each of ``overrides`` is laid over it, as ``steadytune run STUDY key=value`` does:
    ``st.study("quickstart", "axes.lr=[1e-3, 3e-3]")``. Relative paths of a file count from its folder, those of a dict
    and of overrides from the current folder. Raises ``UserError`` with a line for each mistake."""
    from sweeps.study.load import study_of
    from sweeps.study.shipped import open_study

    if isinstance(source, Mapping):
        return OpenedStudy(study_of(source, overrides, OVERRIDE))
    return OpenedStudy(open_study(os.fspath(source), overrides, OVERRIDE))


class OpenedStudy:
    """A study whose keys and values are right. ``settings`` holds them all, with every default, as docs/study.md names
    them: ``study.settings.axes.lr``."""

    def __init__(self, settings: Study) -> None:
        self.settings = settings

    def __repr__(self) -> str:
        return f"<study {self.settings.name}>"

    def check(self) -> Findings:
        """What is wrong (``errors``) or doubtful (``warnings``) with rows, prompts, templates and base model; each says
        where, what and how to mend it. ``lengths`` are those of the longest sequences, in tokens. ``print`` shows the
        findings. Raises ``UserError`` if rows, prompts or base model cannot be read at all."""
        from sweeps.checks.preflight import preflight
        from sweeps.trials.load_content import content_of

        return preflight(self.settings, content_of(self.settings))

    def plan(self, tflops: float | None = None, source: str | os.PathLike[str] | None = None) -> StudyPlan:
        """What the study will cost, ``cost``: trials, tokens, scoring passes, ``seconds`` on one host, bytes of memory;
        and which ``differences`` it can tell apart, as fractions of 1. ``tflops``: the speed of a host in 10^12
        operations a second; ``source``: a finished run of the task, which tells how much its scores vary. ``print``
        shows what ``steadytune plan`` shows. Raises ``UserError``."""
        from sweeps.planned import planned

        return planned(self.settings, tflops, None if source is None else os.fspath(source))

    def run(self, out: str | os.PathLike[str] | None = None) -> OpenedRun:
        """Run the study, or continue it, in the run folder ``out`` (a path, s3://… or gs://…; default: runs/ and the
        study's name), and open it. Prints what ``steadytune run`` prints. A trial that fails raises nothing: its
        ``status`` in the tables is ``failed``. Raises ``UserError`` for a study with errors, or if another run is at
        work in the folder."""
        from sweeps.run import run
        from sweeps.run_folder.find import usual_folder

        folder = usual_folder(self.settings.name) if out is None else os.fspath(out)
        run(self.settings, folder)
        return open_run(folder)
