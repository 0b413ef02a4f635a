"""A trial: one point of the sweep's axes, and the id that names it everywhere.

The id hashes everything that can change the trial's result: every field below that is not in ``NOT_IN_ID``,
the content of the rows, prompts and weights it reads (as fingerprints, not paths) and ``FORMAT``. It leaves
out what only names things (the template's and the pool's name, the model's path) and where the trial runs.
Stdlib only: a process that merely places trials must not pay for importing torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

FORMAT = 6  # raise it when training or scoring changes what the same trial gives
SEARCH_FORMAT = 2  # the same for trials whose arm searches for the worst wordings, alone. 2: rewrites keep the answers


@dataclass(frozen=True)
class Model:
    """The frozen base model. ``fingerprint`` stands for its weights, config and tokenizer in the id."""

    path: str  # local folder or hub name
    fingerprint: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # float16: of merged weights alone, no study has it
    head: Literal["lm", "classifier"] = "lm"  # classifier: a trained linear layer on the last position
    trust_remote_code: bool = False
    quantization: Literal["none", "int8", "nf4"] = "none"  # of the linear layers, by bitsandbytes as they are loaded


@dataclass(frozen=True)
class Task:
    """What a row asks. ``labels`` is empty where each row brings its own options."""

    labels: tuple[str, ...] = ()
    metric: str = "accuracy"  # of ``trainer.measure.registry``
    max_length: int = 512  # tokens, prompt and completion together


@dataclass(frozen=True)
class Template:
    """How a prompt becomes model input. ``words`` maps each label to the text the model answers with."""

    name: str
    chat: bool = False
    system: str = ""
    marker: str = "\nAnswer:"
    words: tuple[tuple[str, str], ...] = ()  # (label, word); a label that is not listed answers as itself
    date: str = "2024-07-26"  # YYYY-MM-DD, for a chat template that writes the date
    system_role: Literal["system", "user"] = "system"  # user: the system text stands before the user's text
    options: tuple[tuple[str, str | int | float | bool], ...] = ()  # of the chat template, such as enable_thinking


@dataclass(frozen=True)
class Lora:
    """Low-rank adapter, in peft's terms. ``all-linear`` is every linear layer but the output layer."""

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("all-linear",)
    rslora: bool = False  # scale by alpha / sqrt(r) instead of alpha / r


@dataclass(frozen=True)
class Loss:
    """Token weights: completion 1, row content ``plw``, the template's text and the prompt's own words 0 or ``plw``."""

    plw: float = 0.0
    normalization: Literal["weighted_mean", "nonzero_count", "completion_count"] = "weighted_mean"
    template_tokens: Literal["zero", "plw"] = "zero"


@dataclass(frozen=True)
class Optimization:
    """AdamW over ``steps`` optimizer steps of ``batch_size * accumulation`` examples each."""

    steps: int = 100
    lr: float = 1e-3
    batch_size: int = 8
    accumulation: int = 1
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = 0.1  # share of ``steps``
    weight_decay: float = 0.0
    clip: float = 1.0  # largest gradient norm; 0 turns clipping off
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    # (step, share) ascending: until the step, training draws from that share of the rows; then, or with none, from all
    row_shares: tuple[tuple[int, float], ...] = ()
    balance: Literal["none", "labels"] = "none"  # labels: each label of the train rows is drawn equally often


@dataclass(frozen=True)
class Draw:
    """Which prompt of the train pool an example meets (PAFT, Algorithm 1)."""

    mode: Literal["dynamic", "load"] = "dynamic"  # load: drawn once per row, the same in every epoch
    every: int = 4  # a new draw after this many
    unit: Literal["examples", "steps"] = "examples"


FORWARD = 1 / 3  # cost of a sequence that passes forward only, of one that is trained on


@dataclass(frozen=True)
class Arm:
    """What training does for robustness beyond drawing prompts at random (``trainer.train.arms``). The
    defaults add nothing.

    Every arm trains on as many sequences a step as every other: ``views`` wordings of a row take the place of as many
    rows."""

    name: str = ""
    choice: Literal["uniform", "curriculum", "importance", "group_dro", "adversarial"] = "uniform"
    temperature: float = 0.1  # importance: nats per token between prompts that makes one e times as likely
    step_size: float = 0.1  # group_dro: of the groups' weights, per nat and update
    typos: float = 0.0  # share of a wording's words that get a typo; adversarial: in the mistyped candidates
    formats: tuple[Template, ...] = ()  # templates to train under, drawn per row; none: the trial's own
    views: int = 1  # wordings of the same row in one step
    consistency: float = 0.0  # weight of the divergence between the answers under a row's wordings
    # adversarial: looks for the worst wordings after so many steps
    search_every: int = 25
    search_candidates: int = 24  # that are scored
    search_rows: int = 4  # under each; more where there are fewer candidates, so that every search costs the same
    search_worst: int = 4  # of the scored ones, which are trained on more
    search_share: float = 0.5  # largest share of examples that get one of these
    search_rewrites: int = 2  # of each of the pool's prompts among the candidates

    def searched(self, steps: int) -> int:
        """Sequences that pass forward in the searches before and between ``steps`` steps."""
        if self.choice != "adversarial":
            return 0
        return math.ceil(steps / self.search_every) * self.search_candidates * self.search_rows

    def matched_steps(self, steps: int, size: int) -> int:
        """The most steps of ``size`` sequences that cost, with their searches, no more than ``steps`` cost without; at
        least one, where there are any."""
        if self.choice != "adversarial" or not steps:
            return steps
        search = FORWARD * self.searched(1)
        stretches, left = divmod(steps * size + 1e-6, search + self.search_every * size)  # a search and its steps
        return max(1, int(stretches) * self.search_every + max(0, int((left - search) / size)))


@dataclass(frozen=True)
class Scoring:
    """How a row is answered. ``labels`` compares label log-probabilities; ``generate`` decodes and parses."""

    scorer: Literal["labels", "generate"] = "labels"
    decision: Literal["raw", "per_token", "per_byte", "pmi", "contextual", "batch"] = "raw"
    max_new_tokens: int = 8
    sample: float = 1.0  # share of the dev grid's cells that rungs before the last score; 1: all of them
    max_thought_tokens: int = 0  # of the thought that the model writes before it answers
    most: int = 0  # cells of the dev grid that any rung scores, a balanced sample; 0: all of them


@dataclass(frozen=True)
class Data:
    """Fingerprints of what the trial reads: the rows and prompts themselves are sent apart from it."""

    train_rows: str
    dev_rows: str
    test_rows: str
    train_prompts: str
    dev_prompts: str
    test_prompts: str


@dataclass(frozen=True)
class Trial:
    model: Model
    task: Task
    template: Template
    lora: Lora
    loss: Loss
    optimization: Optimization
    draw: Draw
    scoring: Scoring
    data: Data
    pool: str  # the train pool's name
    seed: int = 0
    arm: Arm = Arm()

    @cached_property
    def id(self) -> str:
        """12 hexadecimal digits, the same on every machine and for every order of fields."""
        return digest({"format": FORMAT, **_identity(self)})[:12]

    @cached_property
    def configuration(self) -> str:
        """The id of the configuration: the trial without its seed. Trials that share it are replicates."""
        found = {path: value for path, value in _identity(self).items() if path != "seed"}
        return digest({"format": FORMAT, **found})[:12]

    def sample_at(self, rung: int, pool: str) -> tuple[float, int]:
        """Of ``pool``'s grid, what is scored at ``rung``: a share of its cells, and at most so many (0: no limit). How
        much of the test pool is scored is not the trial's to say: what it gives there does not depend on that."""
        if pool != "dev":
            return 1.0, 0
        return self.scoring.sample if rung < self.optimization.steps else 1.0, self.scoring.most

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trial:
        """Also from the run folders and exports of earlier versions."""
        kinds = {f.name: f.type for f in dataclasses.fields(cls)}
        parts = {k: _SECTIONS[kinds[k]](**_tuples(v)) if kinds[k] in _SECTIONS else v for k, v in data.items()}
        made = cls(**parts)
        formats = tuple(f if isinstance(f, Template) else Template(**_tuples(dict(f))) for f in made.arm.formats)
        task = dataclasses.replace(made.task, metric=metric_today(made.task.metric))
        return dataclasses.replace(made, task=task, arm=dataclasses.replace(made.arm, formats=formats))


# Names and places: with another value of these alone, adapter and score rows are the same.
NOT_IN_ID = frozenset({"pool", "template.name", "arm.name", "model.path", "model.revision", "model.trust_remote_code"})
_SECTIONS: dict[Any, Any] = {
    c.__name__: c for c in (Model, Task, Template, Lora, Loss, Optimization, Draw, Arm, Scoring, Data)
}
# Added after trials had been run. At their defaults, which change nothing, these fields are left out of the id, so that
# the earlier trials are found again.
_LATER = {f"arm.{f.name}": f.default for f in dataclasses.fields(Arm)} | {
    "template.date": Template.date,
    "model.quantization": Model.quantization,
    "optimization.row_shares": Optimization.row_shares,
    "optimization.balance": Optimization.balance,
    "scoring.most": Scoring.most,
}
# Names that metrics had before. Studies may still give them, and ids hash them, so that the trials of then are found.
_METRICS_BEFORE = {"f1_macro": "macro_f1"}


def metric_today(name: str) -> str:
    """The name of a metric that may have had another one before."""
    return next((today for today, before in _METRICS_BEFORE.items() if name == before), name)


def _identity(trial: Trial) -> dict[str, Any]:
    found = {path: value for path, value in flatten(trial) if path not in NOT_IN_ID}
    found["task.metric"] = _METRICS_BEFORE.get(trial.task.metric, trial.task.metric)
    if trial.arm.choice == "adversarial":
        found["arm.search_format"] = SEARCH_FORMAT
    return {path: _one_form(value) for path, value in found.items() if path not in _LATER or value != _LATER[path]}


def _one_form(value: Any) -> Any:
    """16.0 as 16, so that equal trials have equal ids; templates by what they hold, without their names."""
    if isinstance(value, tuple) and value and isinstance(value[0], Template):
        asked = [{k: v for k, v in dataclasses.asdict(x).items() if k != "name"} for x in value]
        return [{k: v for k, v in x.items() if (k, v) != ("date", Template.date)} for x in asked]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def flatten(trial: Trial) -> Iterable[tuple[str, Any]]:
    """Every field of a trial as (dotted path, value)."""
    for field in dataclasses.fields(trial):
        value = getattr(trial, field.name)
        if dataclasses.is_dataclass(value):
            for sub in dataclasses.fields(value):
                yield f"{field.name}.{sub.name}", getattr(value, sub.name)
        else:
            yield field.name, value


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON form of ``value``, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _tuples(section: dict[str, Any]) -> dict[str, Any]:
    def fix(v: Any) -> Any:
        return tuple(fix(x) for x in v) if isinstance(v, list | tuple) else v

    return {k: fix(v) for k, v in section.items()}


def rung_steps(shares: Sequence[float], steps: int) -> tuple[int, ...]:
    """Optimizer steps at which a trial of ``steps`` steps is scored, from ``shares`` of them; the last is its end."""
    return (*(max(1, math.ceil(share * steps - 1e-9)) for share in shares[:-1]), steps)


def modules_text(modules: Sequence[str]) -> str:
    return ",".join(modules)


def axis_columns(trial: Trial) -> dict[str, Any]:
    """The axis values of a trial as the columns of ``trials.parquet``."""
    return {
        "template": trial.template.name,
        "r": trial.lora.r,
        "alpha": trial.lora.alpha,
        "dropout": trial.lora.dropout,
        "target_modules": modules_text(trial.lora.target_modules),
        "rslora": trial.lora.rslora,
        "lr": trial.optimization.lr,
        "steps": trial.optimization.steps,
        "plw": trial.loss.plw,
        "pool": trial.pool,
        "seed": trial.seed,
        **({"arm": trial.arm.name} if trial.arm.name else {}),
    }


AXES = ("template", "r", "alpha", "dropout", "target_modules", "rslora", "lr", "steps", "plw", "pool", "seed", "arm")
SAME = " = "  # between the names of arms that share a trial
