"""The keys of a study, by section: its model, its axes, and how trials are trained, scored, compared and run. Each with
its type, its default and the reason for the default. What a study reads is in ``data_schema.py``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from sweeps.study.learning_rate import as_rates
from sweeps.study.problems import Problem, Problems, raise_any
from sweeps.study.values import (
    Count,
    Flag,
    Flags,
    Modules,
    Names,
    NotNegative,
    Number,
    Numbers,
    OneOrMore,
    PathText,
    Positive,
    Range,
    Section,
    Seed,
    Share,
    Text,
    Whole,
    at_most,
    at_most_items,
    distinct,
)
from sweeps.study.weights import as_weights


class ModelSection(Section):
    path: PathText = Field(description="the base model's folder or its name on the hub")
    dtype: Literal["float32", "bfloat16"] = (
        "float32"  # exact everywhere; bfloat16 halves the memory on a GPU that has it
    )
    head: Literal["lm", "classifier"] = "lm"  # lm needs no new weights; classifier trains a layer on the last position
    revision: PathText | None = None  # a hub model's branch, tag or commit; none is its main branch
    trust_remote_code: Flag = False  # true runs code that comes with the model
    quantization: Literal["none", "int8", "nf4"] = "none"  # int8 and nf4 save memory, and change every number a little


# Upper bounds: a value above one is a slip of the keyboard, and would end a run after an hour instead of at its start.
MOST_STEPS = 10_000_000
TOO_MANY_STEPS = "at a hundred steps a second they take a day; pre-training takes about a million"
MOST_EPOCHS = 100_000
TOO_MANY_EPOCHS = "a fine-tune sees its rows a few times"
MOST_TRIALS = 100_000
TOO_MANY_TRIALS = "each is a task for Ray's scheduler, which decides some hundred a second"
TOO_LARGE_BATCH = "the gradient of so many rows is no better, and their order takes memory"
Rank = Annotated[OneOrMore, at_most(65_536, "a rank above a layer's width adds nothing, and no open model is so wide")]
Trials = Annotated[OneOrMore, at_most(MOST_TRIALS, TOO_MANY_TRIALS)]
Steps = Annotated[OneOrMore, at_most(MOST_STEPS, TOO_MANY_STEPS)]
Epochs = Annotated[Positive, at_most(MOST_EPOCHS, TOO_MANY_EPOCHS)]


class LoraSection(Section):
    """In peft's terms. Defaults after "LoRA Without Regret": all linear layers, alpha 32, small rank for small data."""

    r: Numbers[Rank] = (16,)
    alpha: Numbers[Positive] = (32.0,)
    dropout: Numbers[Annotated[Number, Field(ge=0, lt=1)]] = (0.0,)
    target_modules: Modules = (("all-linear",),)
    rslora: Flags = (False,)  # true scales by alpha / sqrt(r); with alpha / r the best lr hardly moves with r


class AxesSection(Section):
    """Each a value, a list, or {loguniform: [low, high]}, {uniform: [low, high]}."""

    template: Names = ()  # default: all of `templates`
    lora: LoraSection = LoraSection()
    # about ten times full fine-tuning's, for models of some 10^9 parameters; smaller ones want more. `auto`
    # stands for three rates by the base model's width, and has become numbers when the schema sees it
    lr: Annotated[Numbers[Positive], BeforeValidator(as_rates)] = (3e-4,)
    steps: Numbers[Steps] | None = None  # optimizer steps; give this or epochs
    epochs: Numbers[Epochs] | None = None  # passes over the train rows; default 3, as in PAFT
    # prompt loss weight: 0 trains on the answer only, 1 on the prompt as much; sweeps.study.weights has other layouts
    plw: Annotated[Numbers[NotNegative], BeforeValidator(as_weights)] = (0.0,)
    pool: Names = ()  # default: all of `pools.train`; with arms, the pools that they name
    seed: Numbers[Seed] = (0,)
    arm: Names = ()  # default: all of `arms`


class DrawSection(Section):
    """Which prompt of the pool an example gets (PAFT, Algorithm 1)."""

    mode: Literal["dynamic", "load"] = "dynamic"  # as published; load draws once per row, as PAFT's released code does
    every: Count = 4  # PAFT's K; between 1 and 8 it hardly matters
    unit: Literal["examples", "steps"] = "examples"


class ArmSection(Section):
    """One way to train for robustness: a pool and how it is used. Everything else is as in the rest of the study."""

    pool: Text | None = None  # of `pools.train`; default: the only one
    draw: DrawSection | None = None  # instead of training.draw
    # instead of axes.epochs or axes.steps; 0 leaves the base model as it is
    epochs: Annotated[NotNegative, at_most(MOST_EPOCHS, TOO_MANY_EPOCHS)] | None = None
    steps: Annotated[Whole, Field(ge=0), at_most(MOST_STEPS, TOO_MANY_STEPS)] | None = None  # likewise
    choice: Literal["uniform", "curriculum", "importance", "group_dro", "adversarial"] = "uniform"  # PAFT's
    temperature: Positive = 0.1  # of importance; the losses of tuned models differ by tenths of a nat between prompts
    step_size: Positive = 0.1  # of group_dro; ten times the paper's, because a step here does not see every group
    typos: Share = 0.0
    formats: tuple[Text, ...] = ()  # of `templates`; none: only the trial's own
    views: Count = 1
    consistency: NotNegative = 0.0  # begin with 0.3 to 1; it matters where the answers under two wordings differ
    # of adversarial. A search takes a sixth of the compute with batches of 8, and the arm makes fewer steps for it
    search_every: Count = 25  # steps; the model has changed enough by then for others to be the worst
    search_candidates: Count = 24
    search_rows: Count = 4  # few are enough to find wordings that are far worse than others
    search_worst: Count = 4
    search_share: Annotated[Number, Field(gt=0, le=1)] = 0.5  # the other half keeps the pool from being forgotten
    search_rewrites: Annotated[Whole, Field(ge=0), at_most(100, "each is a wording for every prompt of the pool")] = 2


class TrainingSection(Section):
    batch_size: Annotated[OneOrMore, at_most(65_536, TOO_LARGE_BATCH)] = 8  # rows per trial in one pass
    accumulation: Annotated[OneOrMore, at_most(65_536, TOO_LARGE_BATCH)] = 1  # passes per optimizer step
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: Annotated[Number, Field(ge=0, lt=1)] = 0.1  # share of the steps; PAFT's
    weight_decay: NotNegative = 0.0  # adapters are small: decay only blurs the comparison of ranks
    clip: NotNegative = 1.0  # largest gradient norm; 0 turns clipping off
    normalization: Literal["weighted_mean", "nonzero_count", "completion_count"] = (
        "weighted_mean"  # the one continuous at PLW 0
    )
    template_tokens: Literal["zero", "plw"] = "zero"  # learning to predict templates works against robustness to them
    # labels draws each label equally often; none, because the rows as they are are what most studies mean to learn
    balance: Literal["none", "labels"] = "none"
    draw: DrawSection = DrawSection()
    # compute each layer again in the backward pass: a fraction of the memory, half more time
    checkpointing: Flag = False


class ScoringSection(Section):
    scorer: Literal["labels", "generate"] = (
        "labels"  # one pass per prompt; generate mixes format-following into the score
    )
    decision: Literal["raw", "per_token", "per_byte", "pmi", "contextual", "batch"] = "raw"  # the plain argmax
    # for generate: room for a label, not for rambling
    max_new_tokens: Annotated[OneOrMore, at_most(32_768, "each is a pass through the model for every row")] = 8
    # for templates that let the model think before it answers; it has no good default, since it decides the cost
    max_thought_tokens: Annotated[
        Whole, Field(ge=0), at_most(32_768, "each is a pass through the model for every row")
    ] = 0
    # share of the dev grid's cells that rungs before the last score; 0.1 of 50 prompts x 200 rows costs one point
    sample: Annotated[Number, Field(gt=0, le=1)] = 1.0


class SearchSection(Section):
    method: Literal["grid", "random", "tpe"] = "grid"
    # how many to draw; a grid has its own number
    trials: Trials | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _trials_fit_method(self) -> SearchSection:
        if self.method == "grid" and self.trials is not None:
            raise Problems(
                [
                    Problem(
                        ("trials",),
                        "has no meaning in a grid, which runs every point. Remove it, or use method random or tpe",
                    )
                ]
            )
        if self.method != "grid" and self.trials is None:
            raise Problems(
                [Problem(("trials",), f"is missing: how many trials search.method = {self.method} draws", bare=True)]
            )
        return self


class RungSection(Section):
    """A rung before which training draws from a part of the train rows."""

    at: Number = Field(description="the share of a trial's steps at which it is scored")
    # share of the train rows, the same for every trial, until the rung: an early rung then has more passes behind it
    rows: Annotated[Number, Field(gt=0, le=1)] = 1.0


AnyRung = Annotated[
    Annotated[Number, Tag("number")] | Annotated[RungSection, Tag("mapping")],
    Discriminator(lambda value: "mapping" if isinstance(value, dict | RungSection) else "number"),
]


def _ascending(rungs: tuple[float | RungSection, ...]) -> tuple[float | RungSection, ...]:
    shares = [_at(rung) for rung in rungs]
    if any(a >= b for a, b in itertools.pairwise(shares)) or shares[0] <= 0 or shares[-1] != 1:
        raise Problems("must ascend from above 0 and end at 1.0, such as [0.25, 0.5, 1.0]")
    rows = [_rows(rung) for rung in rungs]
    if rows[-1] < 1:
        raise Problems([Problem((len(rungs) - 1,), "must have all rows: what is trained to its end learns from them")])
    if any(a > b for a, b in itertools.pairwise(rows)):
        raise Problems("must not have fewer rows at a later rung, such as [{at: 0.25, rows: 0.25}, 0.5, 1.0]")
    return rungs


def _at(rung: float | RungSection) -> float:
    return rung.at if isinstance(rung, RungSection) else rung


def _rows(rung: float | RungSection) -> float:
    return rung.rows if isinstance(rung, RungSection) else 1.0


class SchedulerSection(Section):
    name: Literal["asha", "none"] = "asha"  # none trains every trial to the end
    # certain waits until no report can change who goes on; asynchronous, as ASHA was published, compares with the
    # reports so far, so that no trial waits for a slow one, and the order of reports decides
    rule: Literal["certain", "asynchronous"] = "certain"
    # the best 1/eta go on; gentle, since learning rates rank late
    eta: Annotated[Whole, Field(ge=2), at_most(1000, "a rung would keep less than one of a thousand trials")] = 2
    rungs: Annotated[
        tuple[AnyRung, ...],
        Field(min_length=1),
        AfterValidator(_ascending),
        at_most_items(100, "rungs, each of which scores the dev pool"),
    ] = (
        0.25,
        0.5,
        1.0,
    )  # shares of a trial's steps; first past warm-up

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares of a trial's steps at which it is scored; without early stopping only its end."""
        return tuple(map(_at, self.rungs)) if self.name == "asha" else (1.0,)

    @property
    def row_shares(self) -> tuple[tuple[float, float], ...]:
        """(share of a trial's steps, share of the train rows until then) of every rung. They belong to the training, so
        that a trial is the same with and without early stopping."""
        return tuple((_at(rung), _rows(rung)) for rung in self.rungs)


SeedsOrNumber = Annotated[
    Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(distinct), Tag("values")]
    | Annotated[Trials, Tag("number")],
    Discriminator(lambda value: "values" if isinstance(value, list | tuple) else "number"),
]


class ConfirmSection(Section):
    """The best configurations once more, with fresh seeds: the best of many noisy objectives is too good on average."""

    top: Trials = 2  # with one, nothing can be said of the runner-up
    # how many fresh seeds, or which. Half of them choose the winner and the others report it, since figures that chose
    # are too good again; with top = 1 all report
    seeds: SeedsOrNumber = 4

    @property
    def n_seeds(self) -> int:
        return len(self.seeds) if isinstance(self.seeds, tuple) else self.seeds

    def fresh_seeds(self, used: tuple[int, ...] | Range[int]) -> Sequence[int]:
        """Those that are given, or the first above all of ``used``, which are ``axes.seed``."""
        if isinstance(self.seeds, tuple):
            return self.seeds
        first = 1 + (max(used) if isinstance(used, tuple) else int(used.high))
        return range(first, first + self.seeds)

    @property
    def n_choose(self) -> int:
        """How many of the fresh seeds choose."""
        return 0 if self.top == 1 else self.n_seeds // 2


class ObjectiveSection(Section):
    std_weight: NotNegative = 1.0  # mean - std_weight * std over the dev prompts: robust first


def as_precision(value: Any) -> Any:
    if isinstance(value, str) and value != "whole":
        raise Problems('is not known. Give "whole", or the half-widths of mean and std, such as {mean: 0.01}')
    return {"whole": True} if value == "whole" else value


HalfWidth = Annotated[Number, Field(gt=0, lt=1)]


class PrecisionSection(Section):
    """Half-widths of 95 % intervals about the value that the whole grid would give, as fractions of 1."""

    mean: HalfWidth | None = None  # none: as it comes with that of the std
    std: HalfWidth | None = None  # none: it needs a multiple of the cells, and most studies compare means
    whole: Flag = False  # true: every cell, as `precision: whole` says in short

    @model_validator(mode="after")
    def _one_kind(self) -> PrecisionSection:
        given = self.mean is not None or self.std is not None
        if self.whole and given:
            raise Problems([Problem(("whole",), "cannot be combined with half-widths. Remove one or the other")])
        if not self.whole and not given:
            raise Problems('has no half-width. Give mean, std or both, such as {mean: 0.01}, or "whole"')
        return self


class TablesSection(Section):
    # PAFT's Top for most of its data sets
    thresholds: Annotated[tuple[Share, ...], Field(min_length=1), at_most_items(100, "thresholds")] = (0.85,)
    strict: Flag = True  # above the threshold, not at it: PAFT's "exceeding"
    test: Literal["all", "finalists"] = "all"  # who is scored on the test pool; finalists are fewer and cost less
    # how much of a trial's grid is scored; none: all up to 10,000 cells, above that what one point of the mean needs
    precision: Annotated[PrecisionSection, BeforeValidator(as_precision)] | None = None


class ResourcesSection(Section):
    """Of one host: one accelerator and the base model on it."""

    # trials that share the base; default 1 where workers > 1 or zero > 0
    slots: Annotated[OneOrMore, at_most(1024, "each holds an adapter and a process, on one accelerator")] = 8
    # a study that does not give it and has fewer trials than a machine has cores shares them out (driver/session.py)
    cpus: Annotated[Number, Field(ge=0.01), at_most(4096, "no machine has so many cores")] = 1.0
    gpus: Annotated[Whole, Field(ge=0, le=1)] = 0  # 1 puts each host on a GPU of its own
    # more than 1: a gang over so many accelerators, for a model too large for one
    workers: Annotated[OneOrMore, at_most(4096, "each needs an accelerator of its own")] = 1
    zero: Annotated[Whole, Field(ge=0, le=3)] = 0  # DeepSpeed ZeRO stage; 3 also shares out the base
    offload: Flag = False  # optimizer state (and, with 3, the base) in the CPU's memory

    @model_validator(mode="after")
    def _slots_fit_workers(self) -> ResourcesSection:
        found = []
        if self.workers > 1 and self.slots > 1:
            found.append(
                Problem(
                    ("slots",), "must be 1 where resources.workers is more than 1: a gang trains one trial at a time"
                )
            )
        elif self.zero > 0 and self.slots > 1:
            found.append(
                Problem(("slots",), "must be 1 where resources.zero is 1, 2 or 3: its shards belong to one trial")
            )
        if self.offload and self.zero == 0:
            found.append(Problem(("offload",), "needs resources.zero = 1, 2 or 3"))
        raise_any(found)
        return self
