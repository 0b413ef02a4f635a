"""``steadytune doctor``: whether this machine, or the cluster that RAY_ADDRESS names, can run studies."""

from __future__ import annotations

from typing import Annotated

import typer

from sweeps.cli.panels import MACHINE
from trainer.errors import printable


def register(app: typer.Typer) -> None:
    app.command("doctor", rich_help_panel=MACHINE)(doctor_command)


def doctor_command(
    out: Annotated[
        str, typer.Option(help="Where run folders will be: a path, s3://… or gs://…. A file is written and removed.")
    ] = ".",
) -> None:
    """Look for what could keep a study from running: a line each, fine or what to do."""
    from sweeps.doctor import machine, outside, packages
    from sweeps.doctor.diagnosis import diagnoses

    ill = 0
    for found in diagnoses({**packages.CHECKS, **machine.CHECKS, **outside.checks(out)}):
        print(printable(str(found)), flush=True)
        ill += not found.fine
    raise typer.Exit(1 if ill else 0)
