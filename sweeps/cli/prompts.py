"""``steadytune prompts``: generate candidate wordings with language models, split pools, show how each wording does."""

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
    from sweeps.prompts.endpoints import Patience
    from sweeps.prompts.generation import Model, Order, Source
    from sweeps.prompts.journal import Journal

prompts_app = typer.Typer(
    help="Generate wordings with language models, split pools, show how each wording does.",
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
    out: Annotated[str, typer.Option(metavar="FILE", help="The pool to write: a .yaml file.")],
    number: Annotated[int, typer.Option(min=1, help="Wordings of each model under each strategy.")] = 20,
    strategy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="few-shot or zero-shot. Default: both.")
    ] = None,
    examples: Annotated[
        str | None, typer.Option(metavar="FILE", help="The pool that few-shot requests show examples from.")
    ] = None,
    about: Annotated[str | None, typer.Option(metavar="TEXT", help="What the task asks, in a sentence.")] = None,
    apart: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="A pool that the new one must not come near.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST=NAME", help="The environment variable that holds the key for a host."),
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, max=100, help="Wordings asked for in one request.")] = 10,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="Of sampling; 0 takes the likeliest.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=16, help="Of an answer; thinking counts.")] = 2048,
    seed: Annotated[int, typer.Option(help="Of sampling and of the examples shown.")] = 0,
    timeout: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="For one answer of an endpoint.")] = 120.0,
    attempts: Annotated[int, typer.Option(min=1, help="At one answer of an endpoint, with growing pauses.")] = 6,
    dtype: Annotated[
        str | None, typer.Option(metavar="NAME", help="float32 or bfloat16, of local models. Default: as the machine.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the code that a local model brings, where it needs that.")
    ] = False,
) -> None:
    """Write a pool of wordings with language models."""
    from sweeps.prompts.brief import check_strategies, read_brief
    from sweeps.prompts.endpoints import Patience
    from sweeps.prompts.files import check_local
    from sweeps.prompts.generation import Order, generate
    from sweeps.prompts.journal import open_journal

    if not out.lower().endswith((".yaml", ".yml")):
        raise UserError(f'--out = "{out}" must end in .yaml, as pools do')
    check_local(out)
    strategies = tuple(dict.fromkeys(strategy or STRATEGIES))
    brief = read_brief(_task_path(task), out, about, examples, apart or [])
    check_strategies(brief, strategies, task)
    models = _models(model, key or [], max_tokens, temperature, Patience(attempts=attempts, timeout=timeout), dtype,
                     trust_remote_code)  # fmt: skip
    order = Order(strategies, number, at_once, seed)
    with open_journal(out) as journal:
        _check_free(out, journal)
        sources = generate(brief, models, order, journal, lambda line: print(line, file=sys.stderr, flush=True))
        for text in _write(out, brief, sources, order, temperature, journal):
            typer.echo(text)


@prompts_app.command("split")
def split_command(
    pools: Annotated[list[str], typer.Argument(metavar="POOL...", help="Files of prompts; several count as one pool.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="The folder for train.yaml, dev.yaml and test.yaml.")],
    train: Annotated[float, typer.Option(min=0.0, help="The train pool's share.")] = 0.6,
    dev: Annotated[float, typer.Option(min=0.0, help="The dev pool's share; 0 writes no file.")] = 0.2,
    test: Annotated[float, typer.Option(min=0.0, help="The test pool's share.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the drawing.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that hold something else.")] = False,
) -> None:
    """Deal prompts into train, dev and test pools, near duplicates into the same one."""
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
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write it all as a .csv file.")] = None,
) -> None:
    """List prompts, with near duplicates, flaws and, from a run, the accuracy under each."""
    from sweeps.prompts.accuracy import as_csv, as_lines, heading, listed, scored_pool
    from sweeps.prompts.files import write_file
    from sweeps.run_folder.find import find_run
    from sweeps.run_folder.reading import RunFolder
    from trainer.data.pools import load_pool
    from trainer.store import Store

    if run is None and pool_file is None:
        raise UserError("prompts show needs a file of prompts, or --run RUN")
    if out is not None and not out.lower().endswith(".csv"):
        raise UserError(f'--out = "{out}" must end in .csv')
    scored = None if run is None else scored_pool(RunFolder(Store.open(find_run(run))), pool, trial)
    prompts = load_pool(pool_file) if pool_file else list(scored.prompts if scored else ())
    shown = listed(prompts, scored)
    if out is not None:
        write_file(out, as_csv(shown))
        typer.echo(out)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in [*(heading(scored) if scored else []), *as_lines(shown, scored, width)]:
        typer.echo(line)


# parts of generate ----------------------------------------------------------------------------------------------


def _task_path(name: str) -> str:
    if os.path.exists(name):
        return name
    from sweeps.study.shipped import study_path

    return study_path(name)


def _models(
    specs: Sequence[str], keys: Sequence[str], max_tokens: int, temperature: float, patience: Patience,
    dtype: str | None, trusted: bool,
) -> list[Model]:  # fmt: skip
    from sweeps.prompts.endpoints import is_endpoint, open_endpoint, parse_keys
    from sweeps.prompts.local_writer import DTYPES, LocalModel

    if dtype is not None and dtype not in DTYPES:
        raise UserError(f'--dtype = "{dtype}" is not known.{nearest(dtype, DTYPES)}')
    for spec in specs:
        if specs.count(spec) > 1:
            raise UserError(f'--model = "{spec}" is named twice. Keep one, and raise --number for more wordings of it')
    names = parse_keys(keys, [s for s in specs if is_endpoint(s)])
    models: list[Model] = []
    for spec in specs:
        if is_endpoint(spec):
            models.append(open_endpoint(spec, names, max_tokens, temperature, patience))
        else:
            local = LocalModel(spec, max_tokens, temperature, dtype, trusted)
            local.fingerprint()  # a folder that is not there is told before anything is paid
            models.append(local)
    return models


def _check_free(out: str, journal: Journal) -> None:
    """A pool that somebody wrote or changed by hand is not replaced."""
    if not os.path.exists(out):
        return
    with open(out, "rb") as f:
        if not journal.wrote(f.read()):
            raise UserError(
                f"{out}: exists, and is not as `prompts generate` wrote it. Name another --out, or move it away (what "
                "was paid for stays in the journal)"
            )


def _write(
    out: str, brief: Brief, sources: Sequence[Source], order: Order, temperature: float, journal: Journal
) -> list[str]:
    """The pool and its tables; lines that say what there is. Raises UserError where there is no wording."""
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
        f"Made by `steadytune prompts generate`: up to {order.number} of each model under each strategy, temperature "
        f"{temperature:g}, seed {order.seed}.",
        f"Tokens: {name}.usage.md. The answers as they came: {os.path.basename(journal.path)}.",
        "No person has read them yet: do, before you train on them.",
    ]
    groups = {s.name: [Prompt(content_id(t), t) for t in s.taken] for s in sources}
    text = pool_text(header, groups)
    journal.add_written(text.encode())
    write_file(out, text)
    lines = [f"{out}: {n} wordings; tokens in {stem}.usage.md, .csv and .tex"]
    short = [f"{s.name}: {len(s.taken)} of {order.number}" for s in sources if len(s.taken) < order.number]
    if short:
        lines.append(f"fewer than asked for after {order.most} requests: {'; '.join(short)}")
    return lines
