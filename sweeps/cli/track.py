"""``steadytune track``: a run folder shown in a tracker."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from sweeps.cli.options import RunArgument
from sweeps.cli.panels import RESULTS
from sweeps.run_folder.find import find_run


class TrackerName(enum.StrEnum):
    mlflow = "mlflow"
    wandb = "wandb"
    trackio = "trackio"


def register(app: typer.Typer) -> None:
    app.command("track", rich_help_panel=RESULTS)(track_command)


def track_command(
    run: RunArgument,
    to: Annotated[TrackerName, typer.Option(help="The tracker.")],
    project: Annotated[
        str | None, typer.Option(metavar="NAME", help="Experiment or project there. Default: the study's name.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="The tracker's server. Default: what its own settings say.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run is over.")] = False,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=1.0, help="With --follow, the time between two looks.")
    ] = 15.0,
) -> None:
    """Show a run in MLflow, Weights & Biases or Trackio; again adds only what is new."""
    folder = find_run(run)
    from sweeps.track.mirror import track

    track(folder, to.value, project, url, follow, every, typer.echo)
