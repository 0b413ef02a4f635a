"""``steadytune watch``, ``report``, ``time``, ``export``, ``predict``: commands that take a run folder or an export."""

from __future__ import annotations

import enum
import functools
import os
from typing import Annotated, Literal

import typer

from sweeps.cli.options import BaseOption, DtypeOption, RunArgument, TrustOption
from sweeps.cli.panels import RESULTS
from sweeps.export.find import check_exists
from sweeps.live.opening import Opening
from sweeps.run_folder.find import did_you_mean, find_run
from sweeps.study.overlay import StudyError


def register(app: typer.Typer) -> None:
    app.command("watch", rich_help_panel=RESULTS)(watch_command)
    app.command("report", rich_help_panel=RESULTS)(report_command)
    app.command("time", rich_help_panel=RESULTS)(time_command)
    app.command("export", rich_help_panel=RESULTS)(export_command)
    app.command("predict", rich_help_panel=RESULTS)(predict_command)


def watch_command(
    run: RunArgument,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.2, help="Time between two readings of the folder.")
    ] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Print the table once, and end.")] = False,
) -> None:
    """Show a run's live table, from any machine that reads its folder."""
    folder = find_run(run)
    with Opening() as opening:
        if not once:
            opening.say(f"reading the run folder {folder}")
        from sweeps.live.watch import watch

        raise typer.Exit(watch(folder, every, once, opening=opening))


def report_command(
    run: RunArgument,
    figures: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Also write each figure as SVG, PDF and PNG, and each table as LaTeX, here."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="Also compare with another run: what changed, and paired differences."),
    ] = None,
) -> None:
    """Make a run's tables and report again."""
    folder, others = find_run(run), [] if against is None else [find_run(against)]
    from sweeps.report.against import lines
    from sweeps.report.write import report_on
    from sweeps.run_folder.reading import RunFolder
    from sweeps.tables.against import compare_runs
    from trainer.errors import UserError
    from trainer.store import Store

    found, *there = (RunFolder(Store.open(one)) for one in (folder, *others))
    compared = compare_runs(found, there[0]) if there else None
    typer.echo(report_on(found, compared))
    for line in lines(compared) if compared else ():
        typer.echo(line)
    if figures is not None:
        from sweeps.report.paper import write_paper_files

        target = Store.open(figures)
        for name in write_paper_files(found, target):
            typer.echo(target.address(name))
    for note in found.notes:
        typer.echo(note)
    if damage := [line for one in (found, *there) for line in one.damage]:  # the report is written, and says so as well
        raise UserError("\n".join(damage))


def time_command(
    run: RunArgument,
    answers: Annotated[int, typer.Option(min=3, help="Answers of each trial that are timed.")] = 96,
    batch: Annotated[int, typer.Option(min=1, help="Requests that are answered together.")] = 8,
    new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="The longest generated answer. Default: the study's scoring.max_new_tokens."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each trial that are timed, at least.")] = 10,
) -> None:
    """Time what each trial's answers and training steps cost by itself."""
    folder = find_run(run)
    from sweeps.driver.timing import TimingSettings, time_trials

    with Opening() as opening:
        for line in time_trials(folder, TimingSettings(answers, batch, new_tokens, steps), opening.say):
            opening.end()
            typer.echo(line)
    report_command(folder)


class WrittenDtype(enum.StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def export_command(
    run: RunArgument,
    to: Annotated[str, typer.Option(metavar="DIR", help="The folder to write.")],
    trial: Annotated[str | None, typer.Option(metavar="ID", help="The trial. Default: the best.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the base model's weights with the adapter merged into them.")
    ] = False,
    dtype: Annotated[
        WrittenDtype | None, typer.Option(help="Of merged weights. Default: that of the base model's files.")
    ] = None,
    base: BaseOption = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload the folder to this new repository of the hub.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it. Default: private.")] = False,
) -> None:
    """Write one trial as a folder that peft and predict load, or merged, that every server loads."""
    folder = find_run(run)
    from sweeps.export.export import export

    written = dtype.value if dtype else None
    say = functools.partial(typer.echo, err=True)
    typer.echo(export(folder, trial, to, merge=merge, dtype=written, base=base, push=push, public=public, say=say))


def predict_command(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR",
            help="A folder that export wrote. Several: adapters of one base model, which is loaded once.",
        ),
    ],
    rows: Annotated[str, typer.Option(metavar="FILE", help="The rows to answer.")],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Where to write the answers: .jsonl, .csv or .parquet; default: the screen. A folder, as answers/: "
            "parquet rows of any number are answered in parts, with Ray Data.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Another prompt, such as '{{ text }} Is it?', or the id of a train prompt."),
    ] = None,
    base: BaseOption = None,
    dtype: DtypeOption = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="tuned|NUMBER",
            help="Of two labels: the second one's probability above which it is the answer. Default: .5.",
        ),
    ] = None,
    trust_remote_code: TrustOption = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="With a folder as --out: models in memory. Default: one for each GPU, else one."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="With a folder as --out: the Ray cluster. Default: RAY_ADDRESS."),
    ] = None,
) -> None:
    """Answer rows with an exported adapter, or with several of one base model."""
    for folder in folders:
        check_exists(folder)
    computed_in: Literal["float32", "bfloat16"] | None = dtype.value if dtype else None
    if out is not None and (out.endswith("/") or os.path.isdir(out)):
        from sweeps.export.many_rows import Asking, predict_many

        if address is not None:
            os.environ["RAY_ADDRESS"] = address
        asking = Asking(tuple(folders), out, prompt, base, computed_in, trust_remote_code, threshold)
        raise typer.Exit(predict_many(asking, rows, workers, typer.echo))
    if workers is not None or address is not None:
        raise StudyError(
            f"--{'workers' if workers is not None else 'address'} is for answers in parts. Give --out a folder, as in "
            "--out answers/, or leave it out"
        )
    if "://" not in rows and not os.path.exists(rows):
        raise StudyError(f'--rows = "{rows}" does not exist.{did_you_mean(rows)}')
    from sweeps.export.predict import predict

    raise typer.Exit(predict(folders, rows, out, prompt, base, computed_in, trust_remote_code, threshold))
