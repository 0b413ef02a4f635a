"""What a study will cost before anything runs: trials at each rung, tokens, scoring passes, time and memory.

Counts of trials, steps and passes are exact (for random steps: their mean). Tokens follow from average lengths, which
are counted with the tokenizer on a sample (``token_counts.py``). Time is operations divided
by a stated rate: the share that early stopping saves is right, the hours are rough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeps.display.text import size
from sweeps.plan.sizes import DataSizes, ModelSize, model_size, planned_sizes
from sweeps.schedule.configurations import entrants
from sweeps.search.points import Domain, combinations
from sweeps.study.learning_rate import RatePrior, prior_of
from sweeps.study.precision import usual_cells
from sweeps.study.study import Study
from sweeps.study.values import Range
from sweeps.trials.from_points import axes_of, rungs_of, searches_of, steps_of, target_modules
from sweeps.trials.study_work import SCORED_WHOLE, StudyWork, seeds_each, study_work
from trainer.errors import UserError
from trainer.measure import design
from trainer.model.quantization import BYTES
from trainer.model.targets import matching_names
from trainer.setup import micro_batch_tokens
from trainer.trial import FORWARD, Arm

# Operations per second and core. SmolLM2 (hidden size 576) trains and is scored at 6e10 to 9e10 of a core with AVX2
# (`make demo-smollm2`, benchmarks/inference_time.py); the quickstart's matrices are too small for more than 2e10.
CPU_RATE, SMALL_CPU_RATE = 6e10, 2e10
SMALL_HIDDEN = 512  # hidden sizes below it have the second
GPU_RATE = {"float32": 2e13, "bfloat16": 1e14}  # a third of what current data-centre cards are rated at
ADAPTER_BYTES = 16  # float32 weight, gradient and AdamW's two moments
PIECE, LOGIT_BYTES = 2**24, 8  # logits that are in memory at a time, in float32, and what is made of them

# Proportional set sizes (benchmarks/memory.py): a host's Python with torch, DeepSpeed and Ray, without the model; and a
# running trial's process, which holds no model
HOST_BYTES, PROCESS_BYTES = 320 * 2**20, 150 * 2**20


@dataclass(frozen=True)
class PlannedRung:
    share: float  # of a trial's steps
    steps: float  # optimizer steps of a trial up to the rung, mean over trials
    trials: int  # that reach it
    tokens: float  # since the rung before, of all trials: trained on, and a third of what searches pass forward
    passes: int  # cells of the dev grid that are scored, for all trials
    cells: int  # cells of the dev grid that are scored for one trial


@dataclass(frozen=True)
class Cost:
    tokens: float  # as of ``PlannedRung``
    dev_passes: int
    test_passes: int
    operations: float

    @property
    def passes(self) -> int:
        return self.dev_passes + self.test_passes


@dataclass(frozen=True)
class Memory:
    """Bytes on one host."""

    base: float
    adapters: float
    activations: float
    processes: float  # of the host and of the running trials, in main memory
    on_gpu: bool = False  # the first three are in the GPU's memory

    @property
    def total(self) -> float:
        """What the accelerator needs: without a GPU, that is main memory."""
        return self.base + self.adapters + self.activations + (0.0 if self.on_gpu else self.processes)


@dataclass(frozen=True)
class Plan:
    name: str
    trials: int
    rungs: tuple[PlannedRung, ...]
    cost: Cost
    full: Cost  # every trial, with those of `confirm`, trained to the end and scored once
    rate: float  # operations per second of one host
    rate_source: str
    memory: Memory
    sizes: DataSizes
    model: ModelSize
    full_trials: int = 0  # of ``full``
    notes: tuple[str, ...] = field(default=())
    unsampled: int = 0  # dev passes if every rung scored the whole grid
    prior: RatePrior | None = None  # the usual learning rate; None where the model's config does not tell
    confirming: PlannedRung | None = None  # the trials with fresh seeds, after the search, all trained to their end

    @property
    def seconds(self) -> float:
        return self.cost.operations / self.rate

    @property
    def full_seconds(self) -> float:
        return self.full.operations / self.rate


def plan(
    study: Study, sizes: DataSizes | None = None, model: ModelSize | None = None, rate: float | None = None
) -> Plan:
    """The study's cost. ``sizes`` and ``model`` are read from the study's data and model when not given; ``rate``
    is a host's operations per second, assumed from its resources when not given."""
    if sizes is None:
        sizes = planned_sizes(study)
    model = model_size(study) if model is None else model
    trials, steps = count_trials(study), mean_steps(study, sizes.train_rows)
    ends, searched = _mean_rungs(study, sizes.train_rows)
    shares = study.scheduler.shares
    grids = (sizes.dev_prompts, sizes.dev_rows), (sizes.test_prompts, sizes.test_rows)
    work = study_work(study, trials, *grids, seeds=seeds_each(study))
    fresh = count_confirming(study, work.quotas[-1])
    length = sizes.trained_tokens or sizes.prompt_tokens + sizes.answer_tokens
    per_step = study.training.batch_size * study.training.accumulation * length
    asked = FORWARD * (sizes.prompt_tokens + sizes.answers * sizes.answer_tokens)  # in a search, of a prompt and a row
    trained = [now * per_step + sequences * asked for now, sequences in zip(ends, searched, strict=True)]
    grid = sizes.dev_prompts * sizes.dev_rows
    rungs = tuple(
        PlannedRung(share, end, n, n * (now - before), n * scored, scored)
        for share, end, now, before, n, scored in zip(
            shares, ends, trained, [0.0, *trained], work.quotas, work.dev_cells, strict=False
        )
    )
    confirming = PlannedRung(1.0, steps, fresh, fresh * trained[-1], fresh * work.dev_cells[-1], work.dev_cells[-1])
    tokens = sum(r.tokens for r in (*rungs, confirming))
    passes = sum(r.passes for r in (*rungs, confirming))
    whole = trials + count_confirming(study, trials)
    every_test = work.all_test_cells(trials) + _confirming_cells(study, work, whole - trials)
    tests = work.all_test_cells(work.tested) + _confirming_cells(study, work, fresh)
    chosen, source = (
        (rate, f"given: {rate / 1e12:g} TFLOP/s of a host") if rate is not None else _assumed_rate(study, model)
    )
    return Plan(
        name=study.name,
        trials=trials,
        rungs=rungs,
        cost=_cost(study, sizes, model, tokens, passes, tests),
        full=_cost(study, sizes, model, whole * trained[-1], whole * work.dev_cells[-1], every_test),
        full_trials=whole,
        rate=chosen,
        rate_source=source,
        memory=memory_of(study, sizes, model, trials),
        sizes=sizes,
        model=model,
        notes=(*_notes(study, sizes, trials), *_quantized(study, model)),
        unsampled=(sum(r.trials for r in rungs) + fresh) * grid,
        confirming=confirming if fresh else None,
        prior=_prior(study),
    )


def _prior(study: Study) -> RatePrior | None:
    try:
        return prior_of(study.model.path, study.model.revision)
    except UserError:  # the model's sizes were given
        return None


# counts -------------------------------------------------------------------------------------------------------


def count_trials(study: Study) -> int:
    if study.search.trials is not None:
        return study.search.trials
    return combinations(axes_of(study)) or 0  # a grid has no ranges


def count_confirming(study: Study, finishing: int) -> int:
    """Trials that ``confirm`` adds, where so many finish the search."""
    if study.confirm is None:
        return 0
    return min(study.confirm.top, -(-finishing // seeds_each(study))) * study.confirm.n_seeds


def _confirming_cells(study: Study, work: StudyWork, fresh: int) -> int:
    """Cells of the test grid that the trials of ``confirm`` score."""
    if study.confirm is None or not work.whole_tests:
        return fresh * work.test_cells
    whole = min(fresh // study.confirm.n_seeds, SCORED_WHOLE) * (study.confirm.n_seeds - study.confirm.n_choose)
    return whole * work.whole_tests + (fresh - whole) * work.test_cells


def mean_steps(study: Study, train_rows: int) -> float:
    steps = [steps for steps, _ in _lengths(study, train_rows)]
    return sum(steps) / len(steps)


def _lengths(study: Study, train_rows: int) -> list[tuple[int, Arm]]:
    """Steps and searches of every length and arm; of a range, its two ends."""
    axes = axes_of(study)
    name = "steps" if "steps" in axes else "epochs"
    arms: list[dict[str, Any]] = [{"arm": a} for a in study.axes.arm] or [{}]
    points = [{name: v, **arm} for v in _values(axes[name]) for arm in arms]
    return [(steps_of(study, point, train_rows), searches_of(study, point)) for point in points]


def _mean_rungs(study: Study, train_rows: int) -> tuple[list[float], list[float]]:
    """The steps at which a trial is scored, as the run counts them, and the sequences that its searches have passed
    forward by then, each the mean over lengths and arms. StudyError where two rungs have the same step."""
    lengths = _lengths(study, train_rows)
    rungs = [rungs_of(study, steps) for steps, _ in lengths]
    searched = [[arm.searched(end) for end in ends] for ends, (_, arm) in zip(rungs, lengths, strict=True)]
    return _means(rungs), _means(searched)


def _means(lines: Sequence[Sequence[int]]) -> list[float]:
    """Of each column."""
    return [sum(column) / len(lines) for column in zip(*lines, strict=True)]


def _values(values: Any) -> tuple[Any, ...]:
    """The values of an axis, or the two ends of its range."""
    return (values.low, values.high) if isinstance(values, Range | Domain) else tuple(values)


def _notes(study: Study, sizes: DataSizes, trials: int) -> list[str]:
    notes = []
    grid, share = sizes.dev_prompts * sizes.dev_rows, study.scoring.sample
    least = design.sample_size(share, sizes.dev_prompts, sizes.dev_rows).cells
    if least >= share * grid + 1:
        notes.append(f"scoring.sample = {share:g} is raised to {least:,} cells: at least {design.LEAST} a prompt")
    notes += _of_samples(study, sizes)
    if study.confirm is not None:
        seeds = seeds_each(study)
        scheduler = study.scheduler
        last = entrants(-(-trials // seeds), scheduler.eta, len(scheduler.shares), scheduler.rule)[-1]
        if last < study.confirm.top:
            notes.append(
                f"confirm.top = {study.confirm.top}, and the search trains {last} to the end: only so many are "
                "confirmed. Give fewer rungs, or a smaller scheduler.eta or confirm.top"
            )
    if study.scheduler.name == "asha":
        if len(study.scheduler.shares) > 1 and study.scheduler.shares[0] <= study.training.warmup:
            notes.append(
                f"The first rung ({study.scheduler.shares[0]:g}) lies within the warm-up ({study.training.warmup:g}): "
                "learning rates cannot be told apart there. Raise scheduler.rungs or lower training.warmup"
            )
        if trials < study.scheduler.eta:
            few = f"{trials} trial{'s' * (trials != 1)}"
            notes.append(f"With {few} nothing can be stopped early: scheduler.name = none saves the scores at rungs")
    return notes


def _of_samples(study: Study, sizes: DataSizes) -> Iterator[str]:
    """What ``tables.precision`` leaves of the grids."""
    test, dev = (sizes.test_prompts, sizes.test_rows), (sizes.dev_prompts, sizes.dev_rows)
    for pool, (prompts, rows) in (("test", test), ("dev", dev)):
        cells = usual_cells(study, pool, prompts, rows)
        if cells == prompts * rows:
            continue
        grid = f"{cells:,} of the {prompts * rows:,} cells of a trial's {pool} grid are scored (tables.precision)"
        if pool == "dev":
            yield f"{grid}, the same for every trial"
        else:
            yield f"About {grid}: a pilot decides how many. The best {SCORED_WHOLE} configurations are scored on all"


# operations, time, memory -------------------------------------------------------------------------------------


def _cost(study: Study, sizes: DataSizes, model: ModelSize, tokens: float, dev: int, test: int) -> Cost:
    """A forward pass takes 2 operations per parameter and token, plus attention; training takes twice that, as frozen
    weights need no gradient. The output layer runs only at the positions that are read."""
    forward = 2.0 * model.body + 4.0 * model.layers * model.hidden * sizes.prompt_tokens
    output = 2.0 * model.vocabulary * model.hidden
    length = sizes.prompt_tokens + sizes.answer_tokens
    heavy = any(v > 0 for v in _values(study.axes.plw)) and study.model.head == "lm"
    read = 1.0 if heavy else sizes.answer_tokens / length  # share of training tokens that reach the output layer
    answered = (
        study.scoring.max_new_tokens if study.scoring.scorer == "generate" else sizes.answers * sizes.answer_tokens
    )
    scoring = (dev + test) * ((sizes.prompt_tokens + answered) * forward + answered * output)
    return Cost(tokens, dev, test, 2.0 * tokens * (forward + read * output) + scoring)


def _assumed_rate(study: Study, model: ModelSize) -> tuple[float, str]:
    res = study.resources
    if res.gpus:
        rate = GPU_RATE[study.model.dtype] * res.workers
        return rate, f"assumed: {rate / 1e12:g} TFLOP/s of a host with {res.workers} GPU{'s' * (res.workers > 1)}"
    rate = (CPU_RATE if model.hidden >= SMALL_HIDDEN else SMALL_CPU_RATE) * res.cpus * res.workers
    return (
        rate,
        f"assumed: {rate / 1e9:g} GFLOP/s of a host with {res.cpus * res.workers:g} CPU cores",
    )


def base_bytes(study: Study, model: ModelSize) -> float:
    """Of the base model's weights: those of linear layers as they are quantised, the others in ``model.dtype``."""
    width = _width(study)
    return (model.parameters - model.quantizable) * width + model.quantizable * BYTES.get(_kind(study, model), width)


def _quantized(study: Study, model: ModelSize) -> Iterator[str]:
    """What quantisation saves, where there is some."""
    kind = _kind(study, model)
    if kind != "none":
        whole = size(model.parameters * _width(study))
        yield f"Linear layers are kept in {kind}, {BYTES[kind]:.2f} bytes a weight: whole, the base would take {whole}"


def _kind(study: Study, model: ModelSize) -> str:
    return model.stored if study.model.quantization == "none" else study.model.quantization


def _width(study: Study) -> float:
    return 2.0 if study.model.dtype == "bfloat16" else 4.0


def memory_of(study: Study, sizes: DataSizes, model: ModelSize, trials: int) -> Memory:
    """Of one host whose slots are all taken by trials of the largest rank, as far as there are so many."""
    width = _width(study)
    res, axes = study.resources, study.axes
    width_of = dict(model.linear)
    adapted = [width_of[name] for name in matching_names(width_of, target_modules(study))]
    rank = max(_values(axes.lora.r))
    widths = sum(width_of.values())
    tokens = min(
        micro_batch_tokens(widths * width, bool(res.gpus)), res.slots * study.training.batch_size * sizes.longest
    )
    kept: float = (
        widths  # numbers of a token that the backward pass needs: what goes into the linear layers and out of them
    )
    if study.training.checkpointing:
        kept = model.layers * model.hidden + widths / max(1, model.layers)
    heavy = any(v > 0 for v in _values(axes.plw))
    read = tokens if heavy else tokens / sizes.longest * (sizes.answer_tokens + 1)
    logits = min(PIECE, read * model.vocabulary) * LOGIT_BYTES
    return Memory(
        base=base_bytes(study, model) / (res.workers if res.zero == 3 else 1),
        adapters=res.slots * rank * sum(adapted) * ADAPTER_BYTES,
        activations=tokens * kept * width + logits,
        processes=HOST_BYTES + min(res.slots, trials) * PROCESS_BYTES,
        on_gpu=bool(res.gpus),
    )
