"""``steadytune verify``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sweeps.cli.options import BaseOption, DtypeOption, ExportArgument, TrustOption
from sweeps.cli.panels import RESULTS
from sweeps.export.find import check_exists
from sweeps.live.opening import Opening
from sweeps.run_folder.find import did_you_mean
from sweeps.study.overlay import StudyError


def register(app: typer.Typer) -> None:
    app.command("verify", rich_help_panel=RESULTS)(verify_command)


def verify_command(
    folder: ExportArgument,
    url: Annotated[
        str, typer.Option(metavar="URL", help="The server's OpenAI-compatible address, as http://127.0.0.1:8000/v1.")
    ],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the server calls the adapter. Default: its only model.")
    ] = None,
    rows: Annotated[int, typer.Option(metavar="N", min=1, help="Rows that are asked.")] = 100,
    data: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The rows to ask. Default: the study's test rows, where they lie."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Another prompt, or the id of a train prompt, as of predict.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="VAR", help="The environment variable with the server's key, if it wants one.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="A difference of probabilities up to which it may be rounding.")
    ] = 0.1,
    base: BaseOption = None,
    dtype: DtypeOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Compare a server's answers with those of the adapter that it serves."""
    check_exists(folder)
    if data is not None and "://" not in data and not os.path.exists(data):
        raise StudyError(f'--data = "{data}" does not exist.{did_you_mean(data)}')
    from sweeps.verify.verify import ServerAddress, verify

    with Opening(every=30.0) as opening:
        server = ServerAddress(url, model, api_key_env)
        found = verify(
            folder, server, rows, data, prompt, base, dtype.value if dtype else None, trust_remote_code, tolerance,
            say=opening.say, tell=typer.echo,
        )  # fmt: skip
    raise typer.Exit(found)
