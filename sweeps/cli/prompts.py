"""``steadytune prompts``: generate wordings with language models, split pools, show the accuracy under each wording."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.prompts.brief import STRATEGIES
from trainer.errors import UserError, nearest

if TYPE_CHECKING:
    from sweeps.prompts.brief import Brief
    from sweeps.prompts.endpoints import RetryLimits
    from sweeps.prompts.generation import GenerationSettings, PromptWriter, WordingSource
    from sweeps.prompts.journal import AnswerJournal

NUMBER = 20  # wordings of each model under each strategy, as PAFT has them
prompts_app = typer.Typer(
    help="Generate wordings with language models, split pools, show the accuracy under each wording.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@prompts_app.command("generate")
def generate_command(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="A TASK file, a study's YAML file, or the name of a shipped study.")
    ],
    model: Annotated[
        list[str],
        typer.Option(metavar="MODEL", help="A model's folder, a hub name, or MODEL@URL. Several are allowed."),
    ],
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="The pool to write: a .yaml file. Not with --paper.")
    ] = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper", help="Write the pools that a PAFT study reads instead of its own: 400 to train on, 50 to test."
        ),
    ] = False,
    number: Annotated[
        int | None, typer.Option(min=1, help="Wordings of each model under each strategy. Default: 20.")
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="few-shot or zero-shot. Default: both.")
    ] = None,
    examples: Annotated[
        str | None, typer.Option(metavar="FILE", help="The pool whose prompts few-shot requests show as examples.")
    ] = None,
    about: Annotated[str | None, typer.Option(metavar="TEXT", help="What the task asks, in a sentence.")] = None,
    apart: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="A pool: near duplicates of its prompts are not taken.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST=NAME", help="The environment variable that holds the key for a host."),
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, max=100, help="Wordings asked for in one request.")] = 10,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="Sampling temperature; 0 takes the likeliest token.")
    ] = 1.0,
    max_tokens: Annotated[
        int, typer.Option(min=16, help="The longest answer in tokens, with a model's thoughts.")
    ] = 2048,
    seed: Annotated[int, typer.Option(help="For sampling and for the choice of examples.")] = 0,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="The longest time to wait for one answer of an endpoint.")
    ] = 120.0,
    attempts: Annotated[
        int, typer.Option(min=1, help="Attempts to get one answer of an endpoint, with growing pauses.")
    ] = 6,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of local models: float32 or bfloat16. Default: bfloat16 on a GPU that has it."
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run the Python code that comes with a local model, where it needs that."
        ),
    ] = False,
) -> None:
    """Write a pool of wordings with language models."""
    from sweeps.prompts.brief import check_strategies, read_brief
    from sweeps.prompts.endpoints import RetryLimits
    from sweeps.prompts.files import check_local
    from sweeps.prompts.generation import GenerationSettings, generate_wordings
    from sweeps.prompts.journal import open_journal
    from sweeps.prompts.paper_pools import divide, paper_pools, without_made

    path, pools = _task_path(task), None
    if paper:
        for name, value in (("out", out), ("number", number), ("strategy", strategy)):
            if value is not None:
                raise UserError(f"--{name} cannot be combined with --paper, which decides it. Remove one of them")
        pools = paper_pools(path)
        out = pools.made
    elif out is None:
        raise UserError("--out is missing: the pool to write, a .yaml file. For the pools of a PAFT study give --paper")
    if not out.lower().endswith((".yaml", ".yml")):
        raise UserError(f'--out = "{out}" must end in .yaml, as pools do')
    check_local(out)
    strategies = tuple(dict.fromkeys(strategy or STRATEGIES))
    brief = read_brief(path, out, about, examples, apart or [], without_made(path) if paper else ())
    check_strategies(brief, strategies, task)
    models = _models(model, key or [], max_tokens, temperature, RetryLimits(attempts=attempts, timeout=timeout), dtype,
                     trust_remote_code)  # fmt: skip
    each = pools.each(len(models), len(strategies)) if pools else number or NUMBER
    settings = GenerationSettings(strategies, each, at_once, seed)
    with open_journal(out) as journal:
        for file in (out, pools.train, pools.test) if pools else (out,):  # before anything is paid for
            _check_free(file, journal, "Move it away" if pools else "Name another --out, or move it away")
        sources = generate_wordings(brief, models, settings, journal, _print_progress)
        for text in _write(out, brief, sources, settings, temperature, journal):
            typer.echo(text)
        for text in divide(pools, seed, journal) if pools else ():
            typer.echo(text)


@prompts_app.command("split")
def split_command(
    pools: Annotated[list[str], typer.Argument(metavar="POOL...", help="Files of prompts; several count as one pool.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="The folder for train.yaml, dev.yaml and test.yaml.")],
    train: Annotated[float, typer.Option(min=0.0, help="The train pool's share.")] = 0.6,
    dev: Annotated[float, typer.Option(min=0.0, help="The dev pool's share; 0 writes no file.")] = 0.2,
    test: Annotated[float, typer.Option(min=0.0, help="The test pool's share.")] = 0.2,
    seed: Annotated[int, typer.Option(help="For the random division.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that hold other prompts.")] = False,
) -> None:
    """Divide prompts into train, dev and test pools; near duplicates go into the same pool."""
    from sweeps.prompts.files import split_files

    for line in split_files(pools, out, {"train": train, "dev": dev, "test": test}, seed, overwrite):
        typer.echo(line)


@prompts_app.command("show")
def show_command(
    pool_file: Annotated[
        str | None, typer.Argument(metavar="[POOL]", help="A file of prompts. Default: the pool of the run.")
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="A run folder, for accuracies.")] = None,
    pool: Annotated[str, typer.Option(metavar="NAME", help="Which pool of the run: test or dev.")] = "test",
    trial: Annotated[str | None, typer.Option(metavar="ID", help="The trial. Default: the winner.")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write the whole list as a .csv file.")] = None,
) -> None:
    """List prompts with their near duplicates and flaws, and with the accuracy under each in a run."""
    from sweeps.prompts.accuracy import as_csv, as_lines, heading, list_prompts, pool_accuracies
    from sweeps.prompts.files import write_file
    from sweeps.run_folder.find import find_run
    from sweeps.run_folder.reading import RunFolder
    from trainer.data.pools import load_pool
    from trainer.store import Store

    if run is None and pool_file is None:
        raise UserError("prompts show needs a file of prompts, or --run RUN")
    if out is not None and not out.lower().endswith(".csv"):
        raise UserError(f'--out = "{out}" must end in .csv')
    scored = None if run is None else pool_accuracies(RunFolder(Store.open(find_run(run))), pool, trial)
    prompts = load_pool(pool_file) if pool_file else list(scored.prompts if scored else ())
    shown = list_prompts(prompts, scored)
    if out is not None:
        write_file(out, as_csv(shown))
        typer.echo(out)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in [*(heading(scored) if scored else []), *as_lines(shown, scored, width)]:
        typer.echo(line)


# parts of generate ----------------------------------------------------------------------------------------------


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _task_path(name: str) -> str:
    if os.path.exists(name):
        return name
    from sweeps.study.shipped import study_path

    return study_path(name)


def _models(
    specs: Sequence[str], keys: Sequence[str], max_tokens: int, temperature: float, limits: RetryLimits,
    dtype: str | None, trusted: bool,
) -> list[PromptWriter]:  # fmt: skip
    from sweeps.prompts.endpoints import is_endpoint, open_endpoint, parse_keys
    from sweeps.prompts.local_writer import DTYPES, LocalModel

    if dtype is not None and dtype not in DTYPES:
        raise UserError(f'--dtype = "{dtype}" is not known.{nearest(dtype, DTYPES)}')
    for spec in specs:
        if specs.count(spec) > 1:
            raise UserError(f'--model = "{spec}" is named twice. Keep one, and raise --number for more wordings of it')
    names = parse_keys(keys, [s for s in specs if is_endpoint(s)])
    models: list[PromptWriter] = []
    for spec in specs:
        if is_endpoint(spec):
            models.append(open_endpoint(spec, names, max_tokens, temperature, limits))
        else:
            local = LocalModel(spec, max_tokens, temperature, dtype, trusted)
            local.fingerprint()  # report a missing folder before anything is paid for
            models.append(local)
    return models


def _check_free(out: str, journal: AnswerJournal, remedy: str) -> None:
    """Raise UserError where ``out`` exists and was written or changed by hand."""
    if not os.path.exists(out):
        return
    with open(out, "rb") as f:
        if not journal.wrote(f.read()):
            raise UserError(
                f"{out}: exists, and is not as `prompts generate` wrote it. {remedy} (the answers that were paid for "
                "stay in the journal)"
            )


def _write(
    out: str,
    brief: Brief,
    sources: Sequence[WordingSource],
    settings: GenerationSettings,
    temperature: float,
    journal: AnswerJournal,
) -> list[str]:
    """Write the pool and its tables; returns lines that say what was written. Raises UserError where no wording was
    taken."""
    from sweeps.prompts.files import content_id, pool_text, write_file
    from sweeps.prompts.usage import usage_csv, usage_md, usage_tex
    from trainer.data.wording import Prompt

    stem, name = os.path.splitext(out)[0], os.path.basename(os.path.splitext(out)[0])
    tables = {"md": usage_md(sources, name), "csv": usage_csv(sources), "tex": usage_tex(sources)}
    for ending, text in tables.items():
        write_file(f"{stem}.usage.{ending}", text)
    n = sum(len(s.taken) for s in sources)
    if n == 0:
        raise UserError(
            f"{out}: not written, as no answer held a usable wording. {stem}.usage.md says why, {journal.path} has the "
            "answers. Take a model that follows instructions"
        )
    header = [
        f"{n} wordings of: {brief.about.strip()}",
        f"Made by `steadytune prompts generate`: up to {settings.number} of each model under each strategy, "
        f"temperature {temperature:g}, seed {settings.seed}.",
        f"Tokens: {name}.usage.md. The answers as they came: {os.path.basename(journal.path)}.",
        "No person has read them yet: read them before you train on them.",
    ]
    groups = {s.name: [Prompt(content_id(t), t) for t in s.taken] for s in sources}
    text = pool_text(header, groups)
    journal.add_written(text.encode())
    write_file(out, text)
    lines = [f"{out}: {n} wordings; tokens in {stem}.usage.md, .csv and .tex"]
    short = [f"{s.name}: {len(s.taken)} of {settings.number}" for s in sources if len(s.taken) < settings.number]
    if short:
        lines.append(f"fewer than asked for after {settings.most_requests} requests: {'; '.join(short)}")
    return lines
