"""``steadytune submit``, ``status``, ``logs``, ``stop``, ``results``: a study as a job on a Ray cluster.

A submitted study runs on the cluster without this client (``sweeps/submit.py``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.options import Overrides, StudyArgument
from sweeps.cli.panels import CLUSTER

if TYPE_CHECKING:
    from cluster.jobs.server import JobServer
    from sweeps.study.study import Study

Address = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The head's dashboard, such as http://localhost:8265. Default: RAY_ADDRESS."),
]
JobArgument = Annotated[str, typer.Argument(metavar="RUN|ID", help="A job's id, its study's name, or its run folder.")]

TABLES = ("study.yaml", "trials.parquet", "report.html", "tables", "prompts")


def register(app: typer.Typer) -> None:
    app.command("submit", rich_help_panel=CLUSTER)(submit_command)
    app.command("status", rich_help_panel=CLUSTER)(status_command)
    app.command("logs", rich_help_panel=CLUSTER)(logs_command)
    app.command("stop", rich_help_panel=CLUSTER)(stop_command)
    app.command("results", rich_help_panel=CLUSTER)(results_command)


# commands -----------------------------------------------------------------------------------------------------------


def submit_command(
    study: StudyArgument,
    overrides: Overrides = None,
    address: Address = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="The run folder, on storage that every node sees: s3://…, gs://… or the path of a shared disk."
        ),
    ] = None,
    shared: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="A folder that every node sees at the same path. Its files are not sent."),
    ] = None,
) -> None:
    """Run a study as a job on a cluster, or find the job that already runs it."""
    loaded = _open(study, overrides, shared or [])
    from sweeps.submit import submit

    job, new = submit(loaded, out, shared or [], lambda: _server(address))
    at = "" if address is None else f" --address {address}"
    if not new:
        typer.echo(f"{job.id}: this study already runs there ({job.status}); nothing was sent")
    elif job.attempt > 1:
        typer.echo(f"{job.id}: submitted; goes on in {job.run} where attempt {job.attempt - 1} ended")
    else:
        typer.echo(f"{job.id}: submitted; run folder {job.run}")
    typer.echo(f"It runs without this client. Follow it: steadytune logs -f {job.id}{at}")


def status_command(
    job: Annotated[
        str | None,
        typer.Argument(metavar="[RUN|ID]", help="A job's id, its study's name, or its run folder. Default: all."),
    ] = None,
    address: Address = None,
) -> None:
    """Show the jobs of a cluster."""
    server = _server(address)
    jobs = server.find(job) if job is not None else [j for j in server.jobs() if j.run]
    if not jobs:
        typer.echo(f"no study was submitted to {server.address}")
        return
    lines = [("job", "status", "started", "took", "run folder")]
    for j in jobs:
        took = (j.ended or time.time()) - j.started
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(j.started))
        lines.append((j.id, j.status, started, f"{took:.0f} s", j.run or j.entrypoint))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        typer.echo("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
    if len(jobs) == 1 and jobs[0].status == "FAILED":
        typer.echo(_end_of(jobs[0].message))


def logs_command(
    job: JobArgument,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show it as it grows, until the job ends.")] = False,
) -> None:
    """Show what a job prints."""
    server = _server(address)
    found = server.newest(job)
    if not follow:
        typer.echo(server.logs(found.id), nl=False)
        return
    ended = server.follow(found.id, lambda text: typer.echo(text, nl=False))
    if ended.status != "SUCCEEDED":
        typer.echo(f"job {ended.id}: {ended.status}", err=True)
        raise typer.Exit(1)


def stop_command(job: JobArgument, address: Address = None) -> None:
    """Stop a job. Its run folder keeps what is finished."""
    server = _server(address)
    found = server.newest(job)
    if found.over:
        typer.echo(f"{found.id} has ended already: {found.status}")
        return
    typer.echo(f"{found.id}: {server.stop(found.id).status}. Submit the study again to go on")


def results_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the job's id or study with --address.")],
    to: Annotated[str, typer.Option(metavar="DIR", help="The folder to write.")],
    address: Address = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also scores, adapters, checkpoints and TensorBoard's files.")
    ] = False,
) -> None:
    """Copy the tables and the report of a run folder to this machine."""
    folder = run
    if "://" not in run and not os.path.isdir(run):
        folder = run if os.path.isabs(run) else _server(address).newest(run).run
    from sweeps.run_folder.fetch import fetch

    typer.echo(fetch(folder, to, None if everything else TABLES))


# what the commands share --------------------------------------------------------------------------------------------


def _open(name: str, overrides: list[str] | None, shared: Sequence[str]) -> Study:
    from sweeps.study.load import load_study
    from sweeps.study.shipped import open_study, study_path

    if not shared:
        return open_study(name, overrides)
    return load_study(study_path(name), overrides or [], files=False)  # `travelling` checks the files that are sent


def _server(address: str | None) -> JobServer:
    from cluster.jobs.server import JobServer

    server = JobServer(address)
    if server.unguarded:
        typer.echo(
            f"warning: {server.address} asks for no token: whoever reaches it can run code there. "
            "Start its nodes with RAY_AUTH_MODE=token",
            err=True,
        )
    return server


def _end_of(message: str, lines: int = 8) -> str:
    return "\n".join(message.strip().splitlines()[-lines:])
