"""``steadytune init``: from a file of rows to a study."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.panels import RUN
from trainer.errors import UserError

MINUTES = 30.0


def register(app: typer.Typer) -> None:
    app.command("init", rich_help_panel=RUN)(init_command)


def init_command(
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="A .csv, .tsv, .json, .jsonl or .parquet file, a folder, or a hub name."),
    ],
    model: Annotated[
        str | None, typer.Option(help="A model's folder or hub name; `embedded` is a tiny one to try things out.")
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="FOLDER", help="The folder to make. Default: DATA's name.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="The column with the text. Several are allowed.")
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column with the answer.")] = None,
    options: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column with each row's options: a multiple choice.")
    ] = None,
    names: Annotated[
        str | None, typer.Option(metavar="VALUE=NAME,…", help="What the labels are called, such as 0=ham,1=spam.")
    ] = None,
    configuration: Annotated[str | None, typer.Option(metavar="NAME", help="Of a hub data set.")] = None,
    wordings: Annotated[
        str | None, typer.Option(metavar="FILE", help="Prompts of your own (.txt, .yaml, .jsonl); they come first.")
    ] = None,
    about: Annotated[
        str, typer.Option(metavar="TEXT", help="What is asked, in a sentence; the starter wordings begin with it.")
    ] = "",
    minutes: Annotated[float, typer.Option(min=0.1, help="How long the study may take on this machine.")] = MINUTES,
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Tokens of a sequence; longer rows are left out. Default: 1024.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what is guessed.")] = False,
) -> None:
    """Make a study of your own data: rows without leakage, three pools of wordings, and a study file."""
    asking = sys.stdin.isatty() and not yes
    if model is None:
        if not asking:
            raise UserError("--model is missing. Give a model's folder or hub name, or `embedded` to try things out")
        model = _answer("Which model (a folder, a hub name, or `embedded` to try things out)?", "embedded")
    from rich.console import Console

    from sweeps.init.begin import Wanted, begin
    from sweeps.init.collect import Given

    given = Given(tuple(text or ()), label, options, _pairs(names), configuration)
    folder = Path(to) if to is not None else Path(Path(data.rstrip("/")).name.split(".")[0] or "study")
    ask: Callable[[str, str], str] = _answer if asking else lambda question, default: default
    console = Console(soft_wrap=True)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    begun = begin(data, given, Wanted(model, folder, minutes, max_length, wordings, about), say, ask)
    for finding in [*begun.findings.errors, *begun.findings.warnings]:
        say(f"{finding.level:<9} {finding}")
    say(f"written   {begun.study}; its rows and prompts are beside it")
    if begun.findings.errors:
        say(f"next:     correct what the errors say, then steadytune check {begun.study}")
        raise typer.Exit(1)
    say(f"next:     steadytune run {begun.study}")


def _answer(question: str, default: str) -> str:
    return str(typer.prompt(question, default=default)).strip()


def _pairs(names: str | None) -> tuple[tuple[str, str], ...]:
    """``0=ham,1=spam`` as pairs."""
    pairs = []
    for part in (names or "").split(",") if names else ():
        value, equals, name = part.partition("=")
        if not equals or not value.strip() or not name.strip():
            raise UserError(f'--names: "{part}" is not VALUE=NAME. Write --names 0=ham,1=spam')
        pairs.append((value.strip(), name.strip()))
    return tuple(pairs)
