"""Settings of a study that are allowed and doubtful: learning rates far from what is usual, ranks whose scale differs,
a first rung within the warm-up, a rung with very few rows."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sweeps.checks.findings import Finding
from sweeps.display.text import counted
from sweeps.study.learning_rate import FAR, SPREAD, prior_of
from sweeps.study.problems import yaml_text
from sweeps.study.stages import doubtful_templates
from sweeps.study.study import Study
from sweeps.study.values import Range
from trainer.errors import UserError


def settings_findings(study: Study, n_train: int) -> Iterator[Finding]:
    """What is doubtful of a study's axes and schedule; ``n_train``: train rows. Where the model's config cannot be
    read, nothing is said of rates: loading the model says why."""
    yield from _rate_findings(study)
    yield from _scale_findings(study)
    doubt = None if study.stages is None else doubtful_templates(len(study.axes.template))
    if doubt is not None:
        yield Finding("warning", "axes.template", *doubt.split(". ", 1))
    shares, warmup = study.scheduler.shares, study.training.warmup
    if len(shares) > 1 and shares[0] <= warmup:
        yield Finding(
            "warning",
            f"scheduler.rungs[0] = {shares[0]:g}",
            f"lies within the warm-up (training.warmup = {warmup:g}), where learning rates cannot be told apart",
            "Raise the first rung, or lower training.warmup",
        )
    a_step = study.training.batch_size * study.training.accumulation
    for i, (_, share) in enumerate(study.scheduler.row_shares):
        if share * n_train < a_step <= n_train:
            yield Finding(
                "warning",
                f"scheduler.rungs[{i}].rows = {share:g}",
                f"is {counted(max(1, math.ceil(share * n_train)), 'row')} of {n_train}, fewer than the {a_step} of a "
                "step, so every step until that rung repeats rows",
                f"Give {math.ceil(1000 * a_step / n_train) / 1000:g} or more",
            )


def _rate_findings(study: Study) -> Iterator[Finding]:
    try:
        prior = prior_of(study.model.path, study.model.revision)
    except UserError:
        return
    rates = study.axes.lr
    if prior is None or not prior.is_far(rates):
        return
    written = yaml_text({rates.kind: [rates.low, rates.high]} if isinstance(rates, Range) else list(rates))
    yield Finding(
        "warning",
        f"axes.lr = {written}",
        f"every rate is more than {FAR:g} times away from the usual one for LoRA on this base model, {prior.text}",
        "If no other study says otherwise, try axes.lr=auto: that rate, and a third and three times of it",
    )


def _scale_findings(study: Study) -> Iterator[Finding]:
    """The adapter's output is scaled by alpha / r: ranks with one alpha and one learning rate differ in both."""
    lora, rates = study.axes.lora, study.axes.lr
    if not isinstance(lora.r, tuple) or not isinstance(lora.alpha, tuple) or not isinstance(rates, tuple):
        return
    low, high = min(lora.r), max(lora.r)
    if len(lora.alpha) > 1 or len(rates) > 1 or True in lora.rslora or high <= SPREAD * low:
        return
    alpha = lora.alpha[0]
    yield Finding(
        "warning",
        f"axes.lora.r = {yaml_text(list(lora.r))}",
        f"with one alpha and one learning rate the scale alpha / r falls from {alpha / low:.3g} to {alpha / high:.3g}: "
        "what the table shows of the rank is also of the scale",
        "Give several axes.lr, so that each rank finds its own, or rslora: true",
    )
