"""The settings of the searches, by name: ``published``, as the papers have them, and ``ours``.

docs/search.md says where each published value comes from, and what differs all the same. Values that no source gives
are marked assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args, get_type_hints

from trainer.errors import UserError, nearest

OURS, PUBLISHED = "ours", "published"
NAMES = (OURS, PUBLISHED)
CHARACTERS = ("C1", "C2", "C3", "S1")  # strategies applied one after the other (the paper's `mix`)
WORDS = ("W1", "W2", "W3", "S2", "S3")  # strategies applied each by itself (the paper's `combine`)
FAMILIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mix": (CHARACTERS, ()),
    "combine": ((), WORDS),
    "both": (CHARACTERS, WORDS),
}


@dataclass(frozen=True)
class ZopoSettings:
    rows: int = 50  # that each candidate is scored on, the same for all
    initial: int | None = None  # random evaluations at the start; None: a quarter of all
    evaluations: int | None = None  # candidates that are evaluated, at most; None: as many as the budget pays for
    neighbours: int = 20  # evaluated candidates that the surrogate is fitted to
    explore: int = 10  # candidates evaluated around an uncertain point
    uncertain: float = 0.1  # variance of the surrogate; with a scaled kernel a share of the prior's
    uncertain_times: int = 5
    patience: int = 4
    most_steps: int = 2
    lr: float = 0.1  # Adam's; in a hundred dimensions of [0, 1] a step of 0.5 leads beyond all candidates
    depth: int = 2  # of the network whose kernel it is
    width: int = 32
    noise: float | None = None  # None: the standard error of a score on the rows
    kernel: Literal["scaled", "raw"] = "scaled"  # scaled: the mean variance of the candidates is 1
    scores: Literal["standardised", "raw"] = "standardised"  # raw: far from all scores the surrogate predicts 0
    embedding: Literal["answer", "mean"] = "answer"  # the base's state where it would answer, or its mean over the text
    end_share: float = 0.25  # of the budget, for a race between the best at the end; 0: no race


@dataclass(frozen=True)
class BatpromptSettings:
    family: Literal["mix", "combine", "both"] = "mix"
    iterations: int = 10  # at most
    sample: int = 5  # rows attacked in an iteration
    rounds: int = 1  # of rewriting each attacked row; with more, a small budget pays for few iterations
    rewrites: int = 5  # of each row in a round
    improved: int = 5  # new instructions in an iteration; each is paraphrased once
    compared_on: int = 20  # rows of each set
    kept: int = 5  # best instructions of an iteration that are remembered
    start: str | None = None  # prompt id; None: a race between all candidates, or without one the first candidate
    start_share: float = 0.15  # of the budget, for that race; 0: no race
    end_share: float = 0.4  # of the budget, for a race at the end; 0: the result is that of the last iteration
    characters_by: Literal["rules", "writer"] = "rules"  # who makes the character-level changes of rows
    attack_by: Literal["margin", "metric"] = "margin"  # how badly a rewritten row is answered; metric: right or wrong
    clean_rows: bool = True  # compare instructions on rows as they are, beside the perturbed ones
    keep_current: bool = True  # let the current instruction compete with its rewrites
    temperature: float = 1.0  # of the writer
    top_p: float = 0.95


@dataclass(frozen=True)
class RandomSettings:
    rows: int = 100  # that each candidate is scored on, the same for all
    end_share: float = 0.0  # of the budget, for a race between the best at the end, as ZOPO's


Settings = ZopoSettings | BatpromptSettings | RandomSettings
KINDS: dict[str, type[Settings]] = {"zopo": ZopoSettings, "batprompt": BatpromptSettings, "random": RandomSettings}
AS_PUBLISHED: dict[str, Settings] = {
    "zopo": ZopoSettings(
        initial=40, evaluations=165, lr=0.5, noise=0.01, kernel="raw", scores="raw", embedding="mean", end_share=0.0
    ),
    "batprompt": BatpromptSettings(
        iterations=5,
        rounds=3,
        start_share=0.0,
        end_share=0.0,
        characters_by="writer",
        attack_by="metric",
        clean_rows=False,
        keep_current=False,
    ),
}


Bound = tuple[str, Callable[[float], bool]]  # (as it is told, whether a number is within it)
COUNT: Bound = ("at least 1", lambda n: 1 <= n < 1e9)
SIZE: Bound = ("1 to 4096", lambda n: 1 <= n <= 4096)  # the kernel's gradients are as long as width x width x depth
NOT_NEGATIVE: Bound = ("at least 0", lambda n: 0 <= n < 1e9)
POSITIVE: Bound = ("above 0", lambda x: 0 < x < 1e9)
SHARE: Bound = ("at least 0 and below 1", lambda x: 0 <= x < 1)
BOUNDS: dict[str, Bound] = {
    "patience": NOT_NEGATIVE,
    "uncertain": NOT_NEGATIVE,
    "depth": SIZE,
    "width": SIZE,
    "lr": POSITIVE,
    "noise": POSITIVE,
    "start_share": SHARE,
    "end_share": SHARE,
    "temperature": ("0 to 2", lambda x: 0 <= x <= 2),
    "top_p": ("above 0 and at most 1", lambda x: 0 < x <= 1),
}  # of other numbers, which are counts, COUNT


def settings_of(method: str, name: str, given: Sequence[str] = (), **options: Any) -> Settings:
    """The settings of ``method`` by name, with ``given`` (texts ``key=value``) and ``options`` that are not None laid
    over them. Raises UserError."""
    if name not in NAMES:
        raise UserError(f'--settings = "{name}" is not known.{nearest(name, NAMES)}')
    if method not in KINDS or (name == PUBLISHED and method not in AS_PUBLISHED):
        which = "zopo, batprompt and random" if name == OURS else " and ".join(AS_PUBLISHED)
        verb = "--set and --settings are" if name == OURS else f"--settings {name} is"
        raise UserError(f"{verb} for {which}; --method {method} has none")
    found = AS_PUBLISHED[method] if name == PUBLISHED else KINDS[method]()
    changed = {key: value for key, value in options.items() if value is not None}
    for text in given:
        key, sign, value = text.partition("=")
        kinds = get_type_hints(KINDS[method])
        if not sign or key not in kinds:
            raise UserError(f'--set = "{text}" must be KEY=VALUE with a setting of {method}.{nearest(key, kinds)}')
        changed[key] = _value(text, kinds[key], value)
    found = replace(found, **changed)
    if isinstance(found, BatpromptSettings) and found.start_share + found.end_share >= 1:
        raise UserError(
            f"start_share = {found.start_share:g} and end_share = {found.end_share:g} must be below 1 together: the "
            "iterations get the rest of the budget. Lower one with --set"
        )
    return found


def _value(text: str, kind: Any, value: str) -> Any:
    choices = [c for c in get_args(kind) if isinstance(c, str)]
    if choices:
        if value not in choices:
            raise UserError(f'--set = "{text}" must be one of{nearest(value, choices).partition("Known:")[2]}')
        return value
    if value in ("none", "null") and type(None) in get_args(kind):
        return None
    if kind is bool or kind is str or str in get_args(kind):
        known = {"true": True, "false": False}
        if kind is bool and value not in known:
            raise UserError(f'--set = "{text}" must be true or false')
        return known[value] if kind is bool else value
    whole = kind is int or int in get_args(kind)
    try:
        number: float = int(value) if whole else float(value)
    except ValueError:
        raise UserError(f'--set = "{text}" must be a {"whole " if whole else ""}number') from None
    allowed, within = BOUNDS.get(text.partition("=")[0], COUNT)
    if not within(number):
        raise UserError(f'--set = "{text}" must be {allowed}')
    return number


def published_scorings(settings: Settings, candidates: int) -> tuple[int, str]:
    """(the scorings with which a search evaluates as much as these settings say, how they add up): those of its
    evaluations or iterations, and its races, which get a share of all."""
    assert not isinstance(settings, RandomSettings)
    cost, sum_of = _evaluated(settings, candidates)
    raced = settings.end_share
    if isinstance(settings, BatpromptSettings) and settings.start is None and candidates > 1:
        raced += settings.start_share
    need = math.ceil(cost / (1 - raced))
    need += need - raced * need < cost  # a rounding error must not cost an evaluation
    return need, f"{sum_of}{f', and {raced:.0%} of all for races' if raced else ''}"


def _evaluated(settings: ZopoSettings | BatpromptSettings, candidates: int) -> tuple[int, str]:
    """The same without races."""
    if isinstance(settings, ZopoSettings):
        n = min(settings.evaluations or candidates, candidates)
        return n * settings.rows, f"{n} evaluations x {settings.rows} rows"
    characters, words = FAMILIES[settings.family]
    strategies, sets = len(characters) + len(words), bool(characters) + len(words) + settings.clean_rows
    attacked = strategies * settings.rounds * settings.rewrites * settings.sample
    compared = (2 * settings.improved + settings.keep_current) * sets * settings.compared_on
    return settings.iterations * (attacked + compared), (
        f"{settings.iterations} iterations x ({strategies} strategies x {settings.rounds} rounds x {settings.rewrites} "
        f"rewrites x {settings.sample} rows + {compared} for the new instructions)"
    )


def recorded(name: str, settings: Settings | None, encoder: str | None, writer: str) -> dict[str, Any]:
    """What ``search.json`` says of the settings, and of the models that stand for the paper's. ``encoder``: the folder
    of a sentence encoder, None for the base model."""
    if settings is None:
        return {"name": name}
    models = {} if isinstance(settings, RandomSettings) else {"encoder": encoder or "the base model"}
    models |= {"writer": writer} if isinstance(settings, BatpromptSettings) else {}
    return {"name": name, **models, **asdict(settings)}
