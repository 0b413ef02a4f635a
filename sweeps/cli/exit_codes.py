"""The ``steadytune`` command: run, check, plan, report, export, predict.

``steadytune run quickstart axes.lr=[1e-3,3e-3]`` sweeps a shipped study; a path to a YAML file does as well. Each
command imports what it needs when it is called, so that help and a mistake in a study cost no second. Mistakes
are told on the error stream without a traceback, exit code 2; STEADYTUNE_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from cluster.connect import unwrapped
from sweeps.cli.cluster import cluster_app
from sweeps.cli.jobs import register as register_jobs
from sweeps.cli.plw import register as register_plw
from sweeps.cli.prompt_search import register as register_search
from sweeps.cli.prompts import prompts_app
from sweeps.study.load import load_study
from sweeps.study.overlay import StudyError
from sweeps.study.schema import Study
from trainer.errors import closest, nearest

STUDIES = Path(__file__).resolve().parents[1] / "studies"
INTERRUPTED = "interrupted: run the same command again to continue"

app = typer.Typer(
    name="steadytune",
    help="Find the fine-tune that keeps working when the prompt is worded differently.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cluster_app, name="cluster")
app.add_typer(prompts_app, name="prompts")
register_search(prompts_app)

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study's YAML file, or the name of a shipped one.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Laid over the study, such as axes.lr=1e-3.")
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or its name in runs/.")]


class Terminated(BaseException):
    """SIGTERM, raised where the main thread is, so that ``finally`` blocks run."""


# commands -----------------------------------------------------------------------------------------------------


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


@app.command("run")
def run_command(
    study: StudyArgument,
    overrides: Overrides = None,
    out: Annotated[
        str | None, typer.Option(help="The run folder: a path, s3://… or gs://…. Default: runs/<study's name>.")
    ] = None,
) -> None:
    """Run a study, or continue one that was interrupted."""
    loaded = open_study(study, overrides)
    from sweeps.run import run

    raise typer.Exit(run(loaded, out or f"runs/{loaded.name}"))


@app.command("check")
def check_command(study: StudyArgument, overrides: Overrides = None) -> None:
    """Check data, prompts and templates before anything runs."""
    loaded = open_study(study, overrides)
    from rich.console import Console

    from sweeps.checks.preflight import check

    raise typer.Exit(check(loaded, Console()))


@app.command("plan")
def plan_command(
    study: StudyArgument,
    overrides: Overrides = None,
    tflops: Annotated[
        float | None, typer.Option(min=1e-6, help="What one host reaches, in 10^12 operations a second.")
    ] = None,
) -> None:
    """Say what a study will cost before anything runs."""
    loaded = open_study(study, overrides)
    from rich.console import Console

    from sweeps.plan.cost import plan, render
    from sweeps.staged import plan as staged

    if loaded.stages is not None:
        found = staged.plan_stages(loaded, rate=None if tflops is None else tflops * 1e12)
        Console(soft_wrap=True).print(staged.render(found))
        return
    Console(soft_wrap=True).print(render(plan(loaded, rate=None if tflops is None else tflops * 1e12)))


@app.command("watch")
def watch_command(
    run: RunArgument,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.2, help="Between two looks at the folder.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Print the table as it is now, and end.")] = False,
) -> None:
    """Show a run's live table, from any machine that reads its folder."""
    folder = find_run(run)
    from sweeps.live.watch import watch

    raise typer.Exit(watch(folder, every, once))


@app.command("report")
def report_command(run: RunArgument) -> None:
    """Make a run's tables and report again."""
    folder = find_run(run)
    from sweeps.report.write import write_report

    typer.echo(write_report(folder))


@app.command("export")
def export_command(
    run: RunArgument,
    to: Annotated[str, typer.Option(metavar="DIR", help="The folder to write.")],
    trial: Annotated[str | None, typer.Option(metavar="ID", help="The trial. Default: the best.")] = None,
) -> None:
    """Write one trial's adapter with all it needs."""
    folder = find_run(run)
    from sweeps.export.export import export

    typer.echo(export(folder, trial, to))


@app.command("predict")
def predict_command(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="What export wrote.")],
    rows: Annotated[str, typer.Option(metavar="FILE", help="The rows to answer.")],
    out: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Where to write the answers: .jsonl, .csv or .parquet. Default: the screen."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Another wording, such as '{{ text }} Is it?', or the id of a train prompt."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="DIR", help="The base model, where it is not where it was trained.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the code that the base model brings, where it needs that.")
    ] = False,
) -> None:
    """Answer rows with an exported adapter."""
    if not os.path.exists(folder) and os.path.isdir(os.path.join("runs", folder)):
        raise StudyError(
            f'DIR = "{folder}" does not exist, and runs/{folder} is a run folder. '
            f"Export a trial of it first: steadytune export {folder} --to NEW"
        )
    for name, path in (("DIR", folder), ("--rows", rows)):
        if "://" not in path and not os.path.exists(path):
            raise StudyError(f'{name} = "{path}" does not exist.{_beside(path)}')
    from sweeps.export.predict import predict

    raise typer.Exit(predict(folder, rows, out, prompt, base, trust_remote_code))


register_jobs(app)
register_plw(app)


# names --------------------------------------------------------------------------------------------------------


def open_study(name: str, overrides: list[str] | None) -> Study:
    """The study at a path or of a shipped name. StudyError where there is none."""
    if "=" in name and not os.path.exists(name):
        raise StudyError(f'"{name}" stands where the study must be. Write: steadytune COMMAND STUDY key=value')
    return load_study(study_path(name), overrides or [])


def study_path(name: str) -> str:
    shipped = {p.stem: str(p) for p in sorted(STUDIES.glob("*.yaml"))}
    is_path = os.sep in name or "/" in name or name.endswith((".yaml", ".yml"))
    if is_path or (os.path.exists(name) and name not in shipped):
        return name  # load_study tells of a file that is not there
    if name in shipped:
        return shipped[name]
    raise StudyError(f'study "{name}" is neither a file nor a shipped study.{nearest(name, shipped)}')


def find_run(name: str) -> str:
    """A run folder by path or URL, or by its name in ``runs/``."""
    if "://" in name or os.path.isdir(name):
        return name
    if os.path.isdir(os.path.join("runs", name)):
        return os.path.join("runs", name)
    runs = sorted(os.listdir("runs")) if os.path.isdir("runs") and not os.path.dirname(name) else []
    raise StudyError(f'run folder "{name}" does not exist.{_beside(name, runs)}')


def _beside(path: str, others: Sequence[str] = ()) -> str:
    """The nearest name in the folder where ``path`` would be, or among ``others``."""
    folder = os.path.dirname(path) or "."
    names = sorted(n for n in os.listdir(folder) if not n.startswith(".")) if os.path.isdir(folder) else []
    near = closest(os.path.basename(path.rstrip("/")), [*names, *others])
    return f' Did you mean "{near}"?' if near else ""


def version() -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("steadytune")
    except PackageNotFoundError:
        return "(not installed)"


# the way out --------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit: 0 done, 2 a mistake to mend, 1 a failure, 130 and 143 interrupted."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        code = guarded(lambda: app(args=arguments, prog_name="steadytune", standalone_mode=False))
    finally:
        signal.signal(signal.SIGTERM, previous)
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def guarded(command: Callable[[], Any]) -> int:
    """The exit code of ``command``; whatever it raises is told on the error stream."""
    try:
        result = command()
        sys.stdout.flush()
        if result == 130:  # Typer turns Ctrl-C into this code
            return _say(INTERRUPTED, 130)
        return result if isinstance(result, int) else 0
    except BaseException as error:
        return _told(error)


def _told(error: BaseException) -> int:
    error = unwrapped(error)
    if isinstance(error, Terminated) or (isinstance(error, SystemExit) and error.code == signal.SIGTERM):
        return _say(INTERRUPTED, 143)  # once Ray runs, its own handler leaves with the signal's number
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _say(INTERRUPTED, 130)
    if isinstance(error, SystemExit | typer.Exit):
        code = error.code if isinstance(error, SystemExit) else error.exit_code
        return code if isinstance(code, int) else 0 if code is None else _say(f"error: {code}", 1)
    if isinstance(error, BrokenPipeError):  # `steadytune plan x | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if is_user_error(error) and not debugging():
        cause = getattr(error, "cause", None) or error  # Ray wraps what a worker raised
        return _say("\n".join(f"error: {text}" for text in str(cause).splitlines()), 2)
    if type(error).__name__ == "NoArgsIsHelpError":
        return _say(str(error), 2)
    if hasattr(error, "format_message"):  # the command line itself: a flag or command that does not exist
        return _say(f"error: {error.format_message()}\nSee steadytune --help", 2)
    if debugging():
        raise error
    first = (str(error).strip().splitlines() or [""])[0]
    where = "set STEADYTUNE_DEBUG=1 and run the same command again to see where"
    return _say(f"error: unexpected {type(error).__name__}: {first} ({where})", 1)


def is_user_error(error: BaseException) -> bool:
    return bool(getattr(error, "user_error", False))


def debugging() -> bool:
    return os.environ.get("STEADYTUNE_DEBUG", "") not in ("", "0")


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr, flush=True)
    return code
