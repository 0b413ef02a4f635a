"""``steadytune run``, ``check`` and ``plan``: commands that take a study."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from sweeps.cli.options import Overrides, StudyArgument
from sweeps.cli.panels import RUN
from sweeps.live.opening import Opening
from sweeps.study.shipped import open_study
from trainer.errors import UserError


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

        raise typer.Exit(run(loaded, out or f"runs/{loaded.name}", opening))


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
    if tflops is not None and not math.isfinite(tflops):
        raise UserError(f"--tflops = {tflops:g} must be a finite number: operations of a host in 10^12 a second")
    loaded = open_study(study, overrides)
    from rich.console import Console

    from sweeps.plan.cost import plan
    from sweeps.plan.differences import differences
    from sweeps.plan.differences import render as render_differences
    from sweeps.plan.page import render
    from sweeps.plan.rung_ranking import rung_rankings
    from sweeps.plan.variation import ASSUMED, variation_of
    from sweeps.run_folder.find import find_run
    from sweeps.run_folder.reading import RunFolder
    from sweeps.staged import plan as staged
    from trainer.store import Store

    if loaded.stages is not None:
        if source is not None:
            raise UserError(
                f"--from {source}: is for a study without `stages`, whose stages compare by rules of their own. Leave "
                "it out, or add stages=null to plan the axes as one search"
            )
        stages_plan = staged.plan_stages(loaded, rate=None if tflops is None else tflops * 1e12)
        Console(soft_wrap=True).print(staged.render(stages_plan))
        return
    run = None if source is None else RunFolder(Store.open(find_run(source)))
    recorded = ASSUMED if run is None else variation_of(run, loaded)
    made = plan(loaded, rate=None if tflops is None else tflops * 1e12)
    console = Console(soft_wrap=True)
    console.print(render(made))
    console.print(render_differences(differences(loaded, made, recorded)))
    for ranking in [] if run is None else rung_rankings(run, loaded):
        console.print(f"rung      {ranking.text}", markup=False, highlight=False)
