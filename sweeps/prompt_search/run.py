"""One search of a study's prompts: what it is made of, and what it leaves.

``<out>/<method>/prompt.yaml`` is a pool of the found prompt, ``evaluated.csv`` every evaluation, ``search.json`` the
order and the result; ``<out>/budget.{md,csv}`` compares all methods that share the folder; ``<out>/journal/`` makes the
same command free of charge the second time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sweeps.prompt_search.candidates import grown, train_pool
from sweeps.prompt_search.found import METHODS
from sweeps.prompt_search.order import Order
from sweeps.prompt_search.results import write_results
from trainer.errors import UserError, nearest

if TYPE_CHECKING:
    from sweeps.prompt_search.embed import Embeddings
    from sweeps.prompt_search.found import Found
    from sweeps.prompt_search.label_engine import LabelEngine
    from sweeps.prompt_search.scorer import Scorer
    from sweeps.prompt_search.writers import Writer
    from sweeps.study.schema import Study
    from trainer.data.rows import Row
    from trainer.data.wording import Prompt

BUDGET = 4000  # scorings; about 20 full passes over the rows of a small task
ROWS = {"zopo": 50, "random": 100}  # a candidate is scored on


def search(study: Study, order: Order, out: str) -> Iterator[str]:
    """Lines that say what was found and where it is. Raises UserError."""
    from sweeps.prompt_search.found import spread_rows
    from sweeps.prompt_search.journal import FolderJournal
    from sweeps.prompt_search.label_engine import LabelEngine
    from sweeps.prompt_search.scorer import Scorer
    from sweeps.trials.assets import source_of, task_of, template_of
    from sweeps.trials.base_model import model_of
    from trainer.data.rows import load_rows
    from trainer.store import Store

    order = _checked(study, order)
    assert order.template is not None
    prompts = train_pool(study, order.pool)
    template = template_of(order.template, study.templates[order.template], study.task.names)
    answers = [word for _, word in template.words]
    candidates = grown(prompts, order.grow, answers, order.seed) if order.grow is not None else prompts
    rows = load_rows(source_of(study.task, "train"), "train", "task.rows.train")
    if order.method in ("top-accuracy", "batprompt") and order.rows is not None:
        rows = spread_rows(rows, order.seed)[: order.rows]
    engine = LabelEngine(model_of(study.model), template, task_of(study.task), study.scoring.decision)
    store = Store.open(out)
    labels, metric = tuple(study.task.names), study.task.metric
    scorer = Scorer(engine, FolderJournal(store), labels, study.scoring.decision, metric, order.budget)
    found = _RUN[order.method](order, candidates, scorer, rows, engine)
    scorer.refuse_all_nan()
    write_results(store, order, found, scorer.spent, study.name)
    kind = "training rows, as they are and perturbed" if order.method == "batprompt" else "training rows"
    yield f'{order.method}: prompt "{found.prompt.id}", {metric} {found.score:.3f} on {found.rows} {kind}'
    yield found.prompt.text
    spent = scorer.spent
    yield (
        f"{len(found.evaluated)} evaluations, {spent.scorings:,} scorings ({spent.reused:,} from the journal), "
        f"{spent.tokens:,} tokens, {spent.seconds:.1f} s"
    )
    yield f"{store.address(f'{order.method}/prompt.yaml')}: use it as a train pool; budgets of all methods: budget.md"


def _checked(study: Study, order: Order) -> Order:
    """With the template's name and the default budget in it. Raises UserError."""
    if order.method not in METHODS:
        raise UserError(f'--method = "{order.method}" is not known.{nearest(order.method, METHODS)}')
    name = order.template if order.template is not None else next(iter(study.templates))
    if name not in study.templates:
        raise UserError(f'--template = "{name}" is no template of the study.{nearest(name, study.templates)}')
    foreign = {"start": order.start, "embeddings": order.embeddings}
    only: Mapping[str, tuple[str, ...]] = {"start": ("batprompt",), "embeddings": ("batprompt", "zopo")}
    for option, methods in only.items():
        if foreign[option] is not None and order.method not in methods:
            raise UserError(f"--{option} is of {' and '.join(methods)}; --method {order.method} does not use it")
    budget = order.budget if order.budget is not None or order.method == "top-accuracy" else BUDGET
    return replace(order, template=name, budget=budget)


# the methods --------------------------------------------------------------------------------------------------


def _top_accuracy(order: Order, prompts: list[Prompt], scorer: Scorer, rows: list[Row], _: LabelEngine) -> Found:
    from sweeps.prompt_search.top_accuracy import top_accuracy

    return top_accuracy(prompts, scorer, rows, order.seed)


def _random(order: Order, prompts: list[Prompt], scorer: Scorer, rows: list[Row], _: LabelEngine) -> Found:
    from sweeps.prompt_search.random_search import random_search

    return random_search(prompts, scorer, rows, order.rows or ROWS["random"], order.seed)


def _zopo(order: Order, prompts: list[Prompt], scorer: Scorer, rows: list[Row], engine: LabelEngine) -> Found:
    from sweeps.prompt_search.embed import at_answer
    from sweeps.prompt_search.found import spread_rows
    from sweeps.prompt_search.zopo import Settings, zopo

    if order.embeddings is not None:
        vectors = _embeddings(order, engine)([p.text for p in prompts])
    else:
        engine.load()
        began = time.perf_counter()
        vectors, tokens = at_answer(engine, prompts, spread_rows(rows, order.seed)[0])
        scorer.spent.add_embedded(tokens, time.perf_counter() - began)
    return zopo(prompts, vectors, scorer, rows, Settings(rows=order.rows or ROWS["zopo"]), order.seed)


def _batprompt(order: Order, prompts: list[Prompt], scorer: Scorer, rows: list[Row], engine: LabelEngine) -> Found:
    from sweeps.prompt_search.batprompt import FAMILIES, Settings, batprompt
    from sweeps.prompt_search.similarity import Gate

    settings = Settings(family=order.family, start=order.start)
    meaning = bool(FAMILIES.get(order.family, ((), ()))[1])  # only words are gated by meaning
    gate = Gate(embed=_embeddings(order, engine) if meaning else None)
    return batprompt(prompts, scorer, rows, _writer(order, scorer, engine), gate, settings, order.seed)


_RUN: dict[str, Any] = {"top-accuracy": _top_accuracy, "batprompt": _batprompt, "zopo": _zopo, "random": _random}


def _embeddings(order: Order, engine: LabelEngine) -> Embeddings:
    from sweeps.prompt_search.embed import of_base, of_folder

    return of_base(engine) if order.embeddings is None else of_folder(order.embeddings)


def _writer(order: Order, scorer: Scorer, engine: LabelEngine) -> Writer:
    from sweeps.prompt_search.rule_writer import RuleWriter
    from sweeps.prompt_search.writers import Counting, ModelWriter

    if order.writer == "rules":
        return RuleWriter([word for _, word in engine.template.words])
    from sweeps.prompts.endpoints import is_endpoint, open_endpoint, parse_keys
    from sweeps.prompts.local_writer import LocalModel

    if is_endpoint(order.writer):
        model: Any = open_endpoint(order.writer, parse_keys(order.keys, [order.writer]), 1024, 1.0)
        name = order.writer
    else:
        model = LocalModel(order.writer, 1024, 1.0)
        name = model.fingerprint()
    return ModelWriter(Counting(model, order.seed), name, scorer.journal, scorer.spent)
