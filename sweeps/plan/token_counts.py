"""The average lengths of a study's sequences, counted with the base model's tokenizer on a sample.

They are means over what the trials differ in: every template, and for training every train pool, weighs the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeps.study.study import Study
from sweeps.trials.assets import task_of, templates_of
from trainer.train.row_order import BalancedRows
from trainer.train.row_subsets import all_rows
from trainer.trial import Model

if TYPE_CHECKING:
    from trainer.data.assets import Assets
    from trainer.data.render import Renderer
    from trainer.data.rows import Row
    from trainer.data.wording import Prompt

PAIRS = 256  # of a prompt and a row, for each template and pool: the mean is then within about 2 %
MOST_PAIRS = 4096  # for all of them, a few seconds


@dataclass(frozen=True)
class SampledLengths:
    """Means in tokens, as in ``DataSizes``."""

    prompt_tokens: float
    answer_tokens: float
    answers: float
    longest: float
    trained_tokens: float


def tokenizer_of(study: Study) -> Any:
    """The base model's tokenizer. Raises ``UserError``."""
    from trainer.data.tokenizer import load_tokenizer

    return load_tokenizer(model_of(study))


def model_of(study: Study) -> Model:
    """The base model without its fingerprint, which would read its weights or ask the hub."""
    m = study.model
    return Model(m.path, "", m.revision, m.dtype, m.head, m.trust_remote_code)


def sampled_lengths(study: Study, assets: Assets, tokenizer: Any) -> SampledLengths:
    """Raises ``UserError`` where a sequence cannot be rendered."""
    from trainer.data.render import Renderer

    templates = [t for name, t in templates_of(study).items() if name in study.axes.template]
    task = dataclasses.replace(task_of(study.task), max_length=10**9)  # `check` looks at lengths
    renderers = [Renderer(tokenizer, template, task) for template in templates]
    pools, rows = assets.train_pools.values(), list(assets.rows["train"])
    if study.training.balance == "labels":
        order = BalancedRows(0, [row.label for row in rows], all_rows(len(rows)))
        rows = [rows[order.row(at)] for at in range(len(rows))]
    each = max(16, min(PAIRS, MOST_PAIRS // (len(renderers) * (len(pools) + 1))))
    trained = [
        size
        for renderer in renderers
        for prompts in pools
        for size in _trained(renderer, _pairs(prompts, rows, each), study.model.head == "classifier")
    ]
    requests = [
        request
        for renderer in renderers
        for request in renderer.requests(_pairs(assets.pools["dev"], assets.rows["dev"], each))
    ]
    contexts = [len(r.context) for r in requests]
    answers = [len(option) for r in requests for option in r.options]
    return SampledLengths(
        prompt_tokens=sum(contexts) / len(contexts),
        answer_tokens=sum(answers) / len(answers),
        answers=len(answers) / len(requests),
        longest=float(max(*trained, *(len(r.context) + max(map(len, r.options)) for r in requests))),
        trained_tokens=sum(trained) / len(trained),
    )


def _trained(renderer: Renderer, pairs: Sequence[tuple[Prompt, Row]], classes: bool) -> Iterator[int]:
    """Tokens of each training sequence. A class is read off the end of the context."""
    if classes:
        yield from (len(r.context) for r in renderer.requests(pairs))
    else:
        yield from (len(e.ids) for e in renderer.examples(pairs))


def _pairs(prompts: Sequence[Prompt], rows: Sequence[Row], n: int) -> list[tuple[Prompt, Row]]:
    """``n`` pairs or fewer, all different; prompts and rows each come equally often, and rows evenly over their order:
    files are often sorted by label or length."""
    n = min(n, len(prompts) * len(rows))
    chosen = [rows[i * len(rows) // n] for i in range(n)] if n < len(rows) else [rows[i % len(rows)] for i in range(n)]
    return [(prompts[(i + i // len(rows)) % len(prompts)], row) for i, row in enumerate(chosen)]
