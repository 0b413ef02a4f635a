"""``steadytune cluster``: check the files that describe a cluster, and write one for a study."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sweeps.cli.options import Overrides, StudyArgument

cluster_app = typer.Typer(
    help="Check the files that describe a cluster, or write one for a study.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@cluster_app.command("check")
def check_command(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="ray up and KubeRay YAML, Slurm script, DeepSpeed JSON, Dockerfile."),
    ],
    study: Annotated[str | None, typer.Option(metavar="STUDY", help="The study that is to run there.")] = None,
    crd: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="KubeRay's CRD. Default: the one of kubectl's cluster."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Count warnings as errors.")] = False,
) -> None:
    """Find mistakes in cluster files before they cost money."""
    from cluster.files.check import check_file
    from cluster.files.crd import from_files
    from sweeps.plan.need import need_of
    from sweeps.study.shipped import open_study

    need = None if study is None else need_of(open_study(study, None))
    schemas = from_files(crd) if crd else None
    failed = False
    for file in files:
        found = check_file(file, need, schemas)
        for item in sorted(found.items, key=lambda f: ("error", "warning", "note").index(f.level)):
            typer.echo(f"{item.level}: {item}")
        counts = {level: sum(f.level == level for f in found.items) for level in ("error", "warning")}
        failed = failed or counts["error"] > 0 or (strict and counts["warning"] > 0)
        words = [f"{n} {level}{'s' * (n != 1)}" for level, n in counts.items() if n]
        typer.echo(f"{file}: {', '.join(words) or 'in order'}")
    raise typer.Exit(2 if failed else 0)


@cluster_app.command("render")
def render_command(
    study: StudyArgument,
    overrides: Overrides = None,
    provider: Annotated[str, typer.Option(metavar="NAME", help="aws, gcp, kuberay, slurm or local.")] = "local",
    out: Annotated[str | None, typer.Option(metavar="FILE", help="The file to write. Default: the screen.")] = None,
    hosts: Annotated[
        int | None, typer.Option(min=1, help="At most this many. Default: all trials run at once.")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The GPU, such as l40s. Default: the cheapest that is large enough."),
    ] = None,
    spot: Annotated[
        bool | None,
        typer.Option("--spot/--on-demand", help="Prices to pay. Default: spot, and on demand for gangs."),
    ] = None,
    run_folder: Annotated[
        str | None, typer.Option(metavar="URI", help="The run folder: s3://…, gs://… or a path.")
    ] = None,
    image: Annotated[str | None, typer.Option(metavar="NAME", help="Your image of ray_configs/Dockerfile.")] = None,
) -> None:
    """Write a cluster file with the machines that a study needs."""
    from cluster.files.check import check_text
    from cluster.files.render import PROVIDERS, Choices, ClusterFileError, render_cluster_file
    from sweeps.plan.need import sized
    from sweeps.study.shipped import open_study
    from trainer.errors import nearest

    if provider not in PROVIDERS:
        raise ClusterFileError(f'--provider = "{provider}" is not known.{nearest(provider, PROVIDERS)}')
    if out is not None and os.path.exists(out):
        raise ClusterFileError(f'--out = "{out}" exists. Remove it first, or write another file')
    loaded = open_study(study, overrides)
    need, time = sized(loaded, gpu, provider)
    suffix = ".sh" if provider == "slurm" else ".yaml"
    name = out or f"{loaded.name}-{provider}{suffix}"
    text, said = render_cluster_file(
        provider, need, Choices(study, name, hosts, gpu, spot, run_folder, image, overrides or ())
    )
    if out is None:
        typer.echo(text, nl=False)
    else:
        with open(out, "w", encoding="utf-8") as file:
            file.write(text)
    typer.echo(f"{name}: {said}", err=True)
    if time:
        typer.echo(f"time: {time}", err=True)
    for item in check_text(text, name, need, {}).items:
        if "KubeRay's schema" not in item.what:  # a test checks the shipped files against the schema
            typer.echo(f"{item.level}: {item}", err=True)
