"""The commands of ``steadytune``; each group of commands has a file of its own.

``steadytune run quickstart axes.lr=[1e-3,3e-3]`` sweeps a shipped study; a path to a YAML file does as well. Each
command imports what it needs when it is called, so that help and a mistake in a study cost no second.
"""

from __future__ import annotations

from typing import Annotated

import typer

from sweeps.cli import doctor, init, jobs, monitor, plw, prompt_search, results, study, track, verify
from sweeps.cli.cluster import cluster_app
from sweeps.cli.panels import CLUSTER, PROMPTS, CommandsInPanels
from sweeps.cli.prompts import prompts_app

app = typer.Typer(
    name="steadytune",
    cls=CommandsInPanels,
    help="Find the fine-tune that keeps working when the prompt is worded differently.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cluster_app, name="cluster", rich_help_panel=CLUSTER)
app.add_typer(prompts_app, name="prompts", rich_help_panel=PROMPTS)
prompt_search.register(prompts_app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"steadytune {version()}")
        raise typer.Exit


@app.callback()
def _root(
    show: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def version() -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("steadytune")
    except PackageNotFoundError:
        return "(not installed)"


for group in (init, study, results, verify, monitor, track, jobs, doctor, plw):
    group.register(app)
