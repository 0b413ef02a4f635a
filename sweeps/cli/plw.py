"""``steadytune lengths``, ``shorten``, ``rows``, ``benchmark`` and ``plw``: commands for a prompt-loss-weight study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.panels import PLW
from trainer.errors import UserError, nearest

TokenizerOption = Annotated[
    str | None, typer.Option("--tokenizer", metavar="T", help="A tokenizer's folder or file, or a hub name.")
]
UNITS = ("tokens", "characters")


def register(app: typer.Typer) -> None:
    app.command("lengths", rich_help_panel=PLW)(lengths_command)
    app.command("shorten", rich_help_panel=PLW)(shorten_command)
    app.command("rows", rich_help_panel=PLW)(rows_command)
    app.command("benchmark", rich_help_panel=PLW)(benchmark_command)
    app.command("plw", rich_help_panel=PLW)(plw_command)


def lengths_command(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Rows of instruction, input, output: parquet, json, jsonl, a hub name, or AlpacaDataCleaned.",
        ),
    ],
    tokenizer: Annotated[str, typer.Option(metavar="T", help="A tokenizer's folder or file, or a hub name.")],
    published: Annotated[
        str | None, typer.Option(metavar="NAME", help="Compare with this row of the study's table 1.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HASH", help="Refuse a file with another SHA-256, or its beginning.")
    ] = None,
) -> None:
    """Show how long instructions, inputs and completions are, as in the study's table 1."""
    from sweeps.plw import alpaca

    if published is not None and published not in alpaca.PUBLISHED:
        raise UserError(f'--published = "{published}" is no row of the table.{nearest(published, alpaca.PUBLISHED)}')
    if (published is not None or sha256 is not None) and len(files) > 1:
        raise UserError("--published and --sha256 are for one file. Give one at a time")
    digest = alpaca.file_hash(files[0])
    if sha256 is not None and (digest is None or len(sha256) < 8 or not digest.startswith(sha256.lower())):
        said = "is no file, so it has no hash" if digest is None else f"has the SHA-256 {digest}"
        raise UserError(f"--sha256 = {sha256}: {files[0]} {said}. Give that file, or 8 digits of its hash")
    count = alpaca.tokens(tokenizer)
    found = [(Path(name).name, alpaca.measure_lengths(alpaca.read_records(name), count)) for name in files]
    typer.echo(alpaca.lengths_table(found))
    typer.echo("\nMean (std) tokens per row; each field is encoded by itself, without special tokens or a template.")
    if published is not None:
        typer.echo(
            f"\nThe study's row {published}{'' if digest is None else f', against the file with SHA-256 {digest}'}:"
        )
        for line in alpaca.against_published(found[0][1], published):
            typer.echo(line)


def shorten_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Rows of instruction, input, output.")],
    out: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The file to write. Default: <name>-short in the current folder."),
    ] = None,
    tokenizer: TokenizerOption = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="UNIT", help="Compare in tokens or characters. Default: tokens with --tokenizer."),
    ] = None,
) -> None:
    """Swap completion and instruction where the completion is longer than the prompt."""
    from sweeps.plw import alpaca

    unit = by or ("tokens" if tokenizer else "characters")
    if unit not in UNITS:
        raise UserError(f'--by = "{unit}" is not known.{nearest(unit, UNITS)}')
    if unit == "tokens" and tokenizer is None:
        raise UserError("--by tokens needs a tokenizer: add --tokenizer T, or compare with --by characters")
    source = Path(file)
    if out is not None:  # before anything is downloaded
        alpaca.check_ending(out)
    elif alpaca.on_hub(file):
        example = f"--out {source.name}-short.parquet"
        raise UserError(f"--out is missing: {file} is no file here. Name one, such as {example}")
    count = alpaca.tokens(tokenizer) if unit == "tokens" and tokenizer else alpaca.characters
    target = out or f"{source.stem}-short{source.suffix}"
    records, swapped = alpaca.shorten(alpaca.read_records(file), count)
    alpaca.write_records(records, target)
    typer.echo(
        f"{target}: {len(records):,} rows, {swapped:,} of them swapped (completion longer than the prompt in {unit})"
    )


def rows_command(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Rows of instruction, input, output; or of question, choices, label.")
    ],
    out: Annotated[str, typer.Option(metavar="FILE", help="The .parquet file to write.")],
    where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Keep only questions with this value.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The number of rows, drawn with a fixed seed.")] = None,
    longest: Annotated[
        int | None, typer.Option(min=1, help="Leave out rows with more tokens (characters without --tokenizer).")
    ] = None,
    tokenizer: TokenizerOption = None,
) -> None:
    """Write rows as a prompt-loss-weight study reads them."""
    import pyarrow.parquet as pq

    from sweeps.plw import alpaca
    from sweeps.plw.open_rows import open_rows

    if not out.endswith(".parquet"):
        raise UserError(f"--out = {out}: must end in .parquet, which keeps lists of options")
    pairs = [text.partition("=") for text in where or []]
    if bad := next((text for text in where or [] if "=" not in text), None):
        raise UserError(f'--where = "{bad}" must be COLUMN=VALUE, such as split=dev')
    count = alpaca.tokens(tokenizer) if tokenizer else alpaca.characters
    found = open_rows(file, {c: v for c, _, v in pairs}, limit, longest, count)
    try:
        pq.write_table(found.table, out, compression="zstd")
    except OSError as error:
        raise UserError(f"--out = {out}: cannot be written ({error.strerror}). Name another place") from None
    typer.echo(f"{out}: {found.table.num_rows:,} rows; left out {found.empty} without an answer, {found.long} too long")


def benchmark_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or its name in runs/.")],
    tasks: Annotated[
        str, typer.Option(metavar="NAMES", help="Tasks of lm-eval, separated by commas. Default: the study's four.")
    ] = "",
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="A folder with the questions as parquet. Default: the hub.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The number of questions of each task.")] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Examples before each question. Default: as in the study.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Choices scored in one batch.")] = 8,
) -> None:
    """Score a run's adapters on ARC, PIQA, TruthfulQA and WinoGrande."""
    from sweeps.plw.harness import benchmark
    from sweeps.run_folder.find import find_run

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    for line in benchmark(find_run(run), names, data, limit, shots, batch_size):
        typer.echo(line)


def plw_command(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run folders of one study: data sets, models, seeds.")
    ],
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where to write tables/. Default: the first run folder.")
    ] = None,
) -> None:
    """Test what the prompt loss weight does, over one or more run folders."""
    from sweeps.plw.report import write_study
    from sweeps.run_folder.find import find_run

    for line in write_study([find_run(run) for run in runs], out):
        typer.echo(line)
