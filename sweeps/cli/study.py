"""``steadytune run``, ``check`` and ``plan``: commands that take a study."""

from __future__ import annotations

from typing import Annotated

import typer

from sweeps.cli.options import Overrides, StudyArgument
from sweeps.cli.panels import RUN
from sweeps.live.opening import Opening
from sweeps.run_folder.find import usual_folder
from sweeps.study.shipped import open_study


def register(app: typer.Typer) -> None:
    app.command("run", rich_help_panel=RUN)(run_command)
    app.command("check", rich_help_panel=RUN)(check_command)
    app.command("plan", rich_help_panel=RUN)(plan_command)


def run_command(
    study: StudyArgument,
    overrides: Overrides = None,
    out: Annotated[
        str | None, typer.Option(help="The run folder: a path, s3://… or gs://…. Default: runs/<study's name>.")
    ] = None,
) -> None:
    """Run a study, or continue one that was interrupted."""
    with Opening() as opening:
        opening.say(f"reading the study {study}")
        loaded = open_study(study, overrides)
        from sweeps.run import run

        raise typer.Exit(run(loaded, out or usual_folder(loaded.name), opening))


def check_command(study: StudyArgument, overrides: Overrides = None) -> None:
    """Check data, prompts and templates before anything runs."""
    loaded = open_study(study, overrides)
    from rich.console import Console

    from sweeps.checks.preflight import check

    raise typer.Exit(check(loaded, Console()))


def plan_command(
    study: StudyArgument,
    overrides: Overrides = None,
    tflops: Annotated[
        float | None, typer.Option(min=1e-6, help="The speed of one host, in 10^12 operations a second.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN", help="A finished run of the task, for how much its scores vary."),
    ] = None,
) -> None:
    """Say what a study will cost before anything runs, and which differences it can tell apart."""
    loaded = open_study(study, overrides)
    from rich.console import Console

    from sweeps.planned import planned

    Console(soft_wrap=True).print(planned(loaded, tflops, source))
