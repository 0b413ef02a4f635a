"""``steadytune prompts search``: choose one prompt for a study by one of four searches."""

from __future__ import annotations

from typing import Annotated

import typer

from sweeps.cli.options import Overrides, StudyArgument


def register(app: typer.Typer) -> None:
    """Add the command to the group ``prompts``."""
    app.command("search")(search_command)


def search_command(
    study: StudyArgument,
    method: Annotated[str, typer.Option(metavar="NAME", help="top-accuracy, batprompt, zopo or random.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="The folder for results and journal; methods may share one.")],
    overrides: Overrides = None,
    budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Scorings: one prompt on one row each. Default: 4000; top-accuracy: all; published: what they need.",
        ),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Training rows: per candidate (zopo 50, random 100) or in all (others).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="For the choice of rows, the order and rewrites.")] = 0,
    pool: Annotated[
        str | None, typer.Option(metavar="NAME", help="The train pool of candidates. Default: the largest.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(metavar="NAME", help="The study's template. Default: its first.")
    ] = None,
    grow: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Candidates in all: the pool and rule-based rewrites of it."),
    ] = None,
    start: Annotated[
        str | None, typer.Option(metavar="ID", help="batprompt: the first prompt. Default: the winner of a race.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="batprompt: mix (characters), combine (words) or both. Default: mix."),
    ] = None,
    writer: Annotated[
        str,
        typer.Option(metavar="MODEL", help="batprompt: rules, or a model: its folder, hub name or MODEL@URL."),
    ] = "rules",
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST=NAME", help="The environment variable that holds the key for a host."),
    ] = None,
    embeddings: Annotated[
        str | None, typer.Option(metavar="DIR", help="A sentence-embedding model. Default: the base model.")
    ] = None,
    settings: Annotated[
        str, typer.Option(metavar="NAME", help="zopo, batprompt: published, as their papers have them, or ours.")
    ] = "ours",
    given: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting of the method, such as rounds=3: docs/search.md."),
    ] = None,
) -> None:
    """Choose one good prompt on training rows, before any fine-tuning."""
    from sweeps.prompt_search.request import SearchRequest
    from sweeps.prompt_search.run import search
    from sweeps.study.shipped import open_study

    request = SearchRequest(
        method, budget, rows, seed, pool, template, grow, start, family, writer, tuple(key or ()), embeddings, settings,
        tuple(given or ()),
    )  # fmt: skip
    for line in search(open_study(study, overrides), request, out):
        typer.echo(line)
