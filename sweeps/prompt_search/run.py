"""One prompt search for a study, from the request to the files in its folder.

``<out>/<method>/prompt.yaml`` is a pool of the chosen prompt, ``evaluated.csv`` holds every evaluation, ``search.json``
the request and the result. ``<out>/budget.{md,csv}`` compares all methods that share the folder. Because of
``<out>/journal/`` the same command costs nothing the second time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sweeps.prompt_search.candidates import grown, train_pool
from sweeps.prompt_search.request import METHODS, SearchRequest
from sweeps.prompt_search.search_folder import write_results
from sweeps.prompt_search.settings import (
    FAMILIES,
    OURS,
    PUBLISHED,
    BatpromptSettings,
    Settings,
    published_scorings,
    settings_of,
)
from trainer.errors import UserError, nearest
from trainer.measure.registry import kind_of

if TYPE_CHECKING:
    from sweeps.prompt_search.embed import Embeddings
    from sweeps.prompt_search.label_engine import LabelEngine
    from sweeps.prompt_search.result import SearchResult
    from sweeps.prompt_search.scorer import Scorer
    from sweeps.prompt_search.writers import Writer
    from sweeps.study.study import Study
    from trainer.data.rows import Row
    from trainer.data.wording import Prompt

BUDGET = 4000  # scorings; about 20 full passes over the rows of a small task
LONGEST = 1024  # tokens of a writer's reply


def search(study: Study, request: SearchRequest, out: str) -> Iterator[str]:
    """Run the search and write its files; yields lines that say which prompt was chosen and where it is. Raises
    UserError."""
    from sweeps.prompt_search.journal import FolderJournal
    from sweeps.prompt_search.label_engine import LabelEngine
    from sweeps.prompt_search.race import spread_rows
    from sweeps.prompt_search.scorer import Scorer
    from sweeps.trials.assets import source_of, task_of, template_of
    from sweeps.trials.base_model import model_of
    from sweeps.trials.long_rows import splits_without_long_rows, without_long_rows
    from trainer.data.assets import Assets
    from trainer.data.rows import read_rows
    from trainer.data.texts import answer_words
    from trainer.store import Store

    request = _checked(study, request)
    assert request.template is not None
    settings = _settings(request)
    prompts = train_pool(study, request.pool)
    template = template_of(request.template, study.templates[request.template], study.task.names)
    model, task = model_of(study.model), task_of(study.task)
    answers = answer_words(template, task)
    candidates = grown(prompts, request.grow, answers, request.seed) if request.grow is not None else prompts
    loaded = read_rows(source_of(study.task, "train"), "train", "task.rows.train")
    rows, dropped = list(loaded.rows), list(loaded.dropped)
    if "train" in splits_without_long_rows(study):  # under the prompts and the template that are searched
        read = Assets({"train": loaded.rows}, {"searched": tuple(candidates)}, {})
        left, long = without_long_rows(read, ["train"], model, task, [template])
        rows, dropped = list(left.rows["train"]), dropped + long
    yield from map(str, dropped)
    if request.method in ("top-accuracy", "batprompt") and request.rows is not None:
        rows = spread_rows(rows, request.seed)[: request.rows]
    request = _with_budget(request, settings, len(candidates))
    engine = LabelEngine(model, template, task, study.scoring.decision)
    store = Store.open(out)
    labels, metric = tuple(study.task.names), study.task.metric
    scorer = Scorer(engine, FolderJournal(store), labels, study.scoring.decision, metric, request.budget)
    result = _RUN[request.method](request, settings, candidates, scorer, rows, engine)
    scorer.refuse_all_nan()
    write_results(store, request, settings, result, scorer.spent, study.name)
    scored_on = f"{result.rows} {_kind_of_rows(settings)}"
    yield f'{request.method}: prompt "{result.prompt.id}", {metric} {result.score:.3f} on {scored_on}'
    yield result.prompt.text
    spent = scorer.spent
    yield (
        f"{len(result.evaluated)} evaluations, {spent.scorings:,} scorings ({spent.reused:,} from the journal), "
        f"{spent.tokens:,} tokens, {spent.seconds:.1f} s"
    )
    yield f"{store.address(f'{request.method}/prompt.yaml')}: use it as a train pool; budgets of all methods: budget.md"


def _checked(study: Study, request: SearchRequest) -> SearchRequest:
    """The request with the template's name filled in. Raises UserError."""
    if request.method not in METHODS:
        raise UserError(f'--method = "{request.method}" is not known.{nearest(request.method, METHODS)}')
    name = request.template if request.template is not None else next(iter(study.templates))
    if name not in study.templates:
        raise UserError(f'--template = "{name}" is no template of the study.{nearest(name, study.templates)}')
    if kind_of(study.task.metric).ranks:
        raise UserError(
            f'task.metric = "{study.task.metric}" ranks rows, and a search compares answers to few rows. Give '
            "task.metric=balanced_accuracy"
        )
    given = {"start": request.start, "embeddings": request.embeddings, "family": request.family}
    only: Mapping[str, tuple[str, ...]] = {
        "start": ("batprompt",), "embeddings": ("batprompt", "zopo"), "family": ("batprompt",)
    }  # fmt: skip
    for option, methods in only.items():
        if given[option] is not None and request.method not in methods:
            raise UserError(f"--{option} is for {' and '.join(methods)}; --method {request.method} does not use it")
    if request.family is not None and request.family not in FAMILIES:
        raise UserError(f'--family = "{request.family}" is not known.{nearest(request.family, FAMILIES)}')
    return replace(request, template=name)


def _settings(request: SearchRequest) -> Settings | None:
    """None for top-accuracy, which has none. Raises UserError."""
    if request.method == "top-accuracy" and request.settings == OURS and not request.given:
        return None
    own = {"zopo": {"rows": request.rows}, "random": {"rows": request.rows}}.get(
        request.method, {"start": request.start, "family": request.family}
    )
    found = settings_of(request.method, request.settings, request.given, **own)
    if isinstance(found, BatpromptSettings) and found.characters_by == "writer" and request.writer == "rules":
        name = "Name one with --writer: a model's folder, a hub name or MODEL@URL"
        if request.settings == PUBLISHED:
            raise UserError(
                f"--settings published: BATprompt rewrites with a language model. {name}; or take --settings ours, "
                "whose rules need none"
            )
        raise UserError(
            '--set = "characters_by=writer" has a language model change the characters, and --writer is "rules". '
            f"{name}; or leave it out, and rules change them"
        )
    unused = [text for text in request.given if text.partition("=")[0] in ("temperature", "top_p")]
    if unused and request.writer == "rules":
        raise UserError(
            f'--set = "{unused[0]}" is for a language model, and --writer is "rules", which draws nothing. Leave it '
            "out, or name a model with --writer"
        )
    return found


def _kind_of_rows(settings: Settings | None) -> str:
    """The rows of the result's score, as text."""
    if not isinstance(settings, BatpromptSettings):
        return "training rows"
    raced = settings.end_share > 0  # a race uses both
    return "training rows, as they are and perturbed" if raced or settings.clean_rows else "perturbed training rows"


def _with_budget(request: SearchRequest, settings: Settings | None, candidates: int) -> SearchRequest:
    """The request with its budget: as published what the settings need, or the larger one that is given. Raises
    UserError for less."""
    if request.settings == OURS or settings is None:
        usual = None if request.method == "top-accuracy" else BUDGET
        return replace(request, budget=request.budget or usual)
    need, sum_of = published_scorings(settings, candidates)
    if request.budget is not None and request.budget < need:
        raise UserError(
            f"--budget = {request.budget} is below the {need:,} scorings that --settings published need ({sum_of}). "
            "Raise it, leave it out, lower a setting with --set, or take --settings ours"
        )
    return replace(request, budget=request.budget or need)


# the methods --------------------------------------------------------------------------------------------------


def _top_accuracy(
    request: SearchRequest, _: Any, prompts: list[Prompt], scorer: Scorer, rows: list[Row], engine: LabelEngine
) -> SearchResult:
    from sweeps.prompt_search.top_accuracy import top_accuracy

    return top_accuracy(prompts, scorer, rows, request.seed)


def _random(
    request: SearchRequest, settings: Any, prompts: list[Prompt], scorer: Scorer, rows: list[Row], _: LabelEngine
) -> SearchResult:
    from sweeps.prompt_search.random_search import random_search

    return random_search(prompts, scorer, rows, settings, request.seed)


def _zopo(
    request: SearchRequest, settings: Any, prompts: list[Prompt], scorer: Scorer, rows: list[Row], engine: LabelEngine
) -> SearchResult:
    from sweeps.prompt_search.embed import at_answer
    from sweeps.prompt_search.race import spread_rows
    from sweeps.prompt_search.zopo import zopo

    if request.embeddings is not None or settings.embedding == "mean":
        vectors = _embeddings(request, engine, scorer)([p.text for p in prompts])
    else:
        engine.load()
        began = time.perf_counter()
        vectors, tokens = at_answer(engine, prompts, spread_rows(rows, request.seed)[0])
        scorer.spent.add_embedded(tokens, time.perf_counter() - began)
    return zopo(prompts, vectors, scorer, rows, settings, request.seed)


def _batprompt(
    request: SearchRequest, settings: Any, prompts: list[Prompt], scorer: Scorer, rows: list[Row], engine: LabelEngine
) -> SearchResult:
    from sweeps.prompt_search.batprompt import batprompt
    from sweeps.prompt_search.similarity import Gate
    from trainer.data.texts import answer_words

    words = bool(FAMILIES[settings.family][1])  # only these rewrites are compared by their meaning
    gate = Gate(embed=_embeddings(request, engine, scorer) if words else None)
    writer, answers = _writer(request, settings, scorer, engine), answer_words(engine.template, engine.task)
    return batprompt(prompts, scorer, rows, writer, gate, settings, request.seed, answers)


Method = Callable[["SearchRequest", Any, "list[Prompt]", "Scorer", "list[Row]", "LabelEngine"], "SearchResult"]
_RUN: dict[str, Method] = {
    "top-accuracy": _top_accuracy,
    "batprompt": _batprompt,
    "zopo": _zopo,
    "random": _random,
}


def _embeddings(request: SearchRequest, engine: LabelEngine, scorer: Scorer) -> Embeddings:
    """What they cost is added to what the search has spent."""
    from sweeps.prompt_search.embed import of_base, of_folder

    spend = scorer.spent.add_embedded
    return of_base(engine, spend) if request.embeddings is None else of_folder(request.embeddings, spend)


def _writer(request: SearchRequest, settings: BatpromptSettings, scorer: Scorer, engine: LabelEngine) -> Writer:
    from sweeps.prompt_search.writers import ChatGenerator, ModelWriter
    from trainer.data.rewrites import RuleWriter
    from trainer.data.texts import answer_words

    if request.writer == "rules":
        return RuleWriter(answer_words(engine.template, engine.task))
    from sweeps.prompts.endpoints import is_endpoint, open_endpoint, parse_keys
    from sweeps.prompts.local_writer import LocalModel

    if is_endpoint(request.writer):
        keys = parse_keys(request.keys, [request.writer])
        model: Any = open_endpoint(request.writer, keys, LONGEST, settings.temperature, top_p=settings.top_p)
        name = request.writer
    else:
        model = LocalModel(request.writer, LONGEST, settings.temperature, top_p=settings.top_p)
        name = model.fingerprint()
    # Local models had (1, 0.95) before it could be chosen, so the journal's replies of that time are theirs. Endpoints
    # were sent no top_p then: those replies are not what they would answer now.
    if is_endpoint(request.writer) or (settings.temperature, settings.top_p) != (1.0, 0.95):
        name = f"{name} temperature {settings.temperature:g} top_p {settings.top_p:g}"
    return ModelWriter(ChatGenerator(model, request.seed), name, scorer.journal, scorer.spent)
