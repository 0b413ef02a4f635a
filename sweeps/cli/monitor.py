"""``steadytune monitor``: an exported trial in use is watched."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sweeps.cli.options import BaseOption, DtypeOption, ExportArgument, TrustOption
from sweeps.cli.panels import RESULTS
from sweeps.export.find import check_exists
from sweeps.run_folder.find import did_you_mean
from sweeps.study.overlay import StudyError


def register(app: typer.Typer) -> None:
    app.command("monitor", rich_help_panel=RESULTS)(monitor_command)


def monitor_command(
    folder: ExportArgument,
    rows: Annotated[
        str | None, typer.Option(metavar="FILE", help="New rows, which are asked in several test wordings.")
    ] = None,
    answers: Annotated[
        str | None, typer.Option(metavar="FILE", help="Answers that predict wrote under the default prompt, instead.")
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="The rows hold the right answers, in the study's column.")
    ] = False,
    margin: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="The smallest difference that matters, as a fraction of 1.")
    ] = 0.15,
    base: BaseOption = None,
    dtype: DtypeOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Say whether new rows are answered as the study's were (exit code 1: they are not)."""
    check_exists(folder)
    for option, file in (("--rows", rows), ("--answers", answers)):
        if file is not None and "://" not in file and not os.path.exists(file):
            raise StudyError(f'{option} = "{file}" does not exist.{did_you_mean(file)}')
    from sweeps.export.monitor import monitor

    found = monitor(folder, rows, answers, labels, margin, base, dtype.value if dtype else None, trust_remote_code)
    typer.echo("\n".join(found.lines()))
    raise typer.Exit(1 if found.differs else 0)
