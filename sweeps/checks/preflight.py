"""Checks, before a GPU is requested, that every template, label set and pool of the study makes sound sequences.

All prompts are rendered with a sample of rows, and all rows once per template. The longest sequences are found by an
estimate, which is exact for prompts that use each field once, and then rendered. Each finding says what is wrong,
where, and how to mend it. ``check`` prints the findings and shows the loss weights of a few training sequences.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from sweeps.checks.findings import Finding, Findings, split_of
from sweeps.checks.labels import LabelUse, label_findings, label_share_findings
from sweeps.checks.lengths import (
    NO_WRITING,
    RowLengths,
    WritingLimits,
    answer_findings,
    length_findings,
    longest,
    thought_findings,
)
from sweeps.checks.mask import print_masks
from sweeps.checks.meaning import matched_words, meaning_findings
from sweeps.checks.sequences import chat_findings, render_findings, special_text_findings
from sweeps.checks.settings import settings_findings
from sweeps.checks.shared_rows import shared_row_findings
from sweeps.checks.small_samples import sample_findings
from sweeps.checks.wordings import pool_findings, word_findings
from sweeps.study.study import Study
from sweeps.trials.assets import pool_choices
from sweeps.trials.from_points import target_modules
from sweeps.trials.load_content import Content, content_of
from trainer.data.rows import Row
from trainer.data.wording import Prompt, fill
from trainer.errors import UserError
from trainer.trial import Model, Task, Template

SAMPLED_ROWS = 12  # rows with which every prompt is rendered


def preflight(study: Study, content: Content, say: Callable[[str], None] = lambda _: None) -> Findings:
    """Everything that is wrong or doubtful, before anything is trained. ``say`` is told what is done. Raises
    ``UserError`` for a model that cannot be loaded, or that lacks the layers to which trials add an adapter."""
    say("checking the base model's layers, and loading its tokenizer")
    tokenizer, doubts = checked_model(content.model, target_modules(study))
    say("checking prompts and rows")
    templates, rows, use = list(content.templates.values()), content.assets.rows, LabelUse.of(study, content)
    findings = check_formats(templates, content.task, rows, content.pools, tokenizer, _limits_of(study))
    findings.items.extend([*doubts, *label_share_findings(content.task, rows, use), *shared_row_findings(rows)])
    if study.task.meaning is not None:
        findings.items.extend(meaning_findings(study.task.meaning, templates, content.pools, content.task.labels))
    findings.items.extend(settings_findings(study, len(rows["train"])))
    findings.items.extend(sample_findings(study, content))
    return findings


def _limits_of(study: Study) -> WritingLimits:
    """How much the model may write in a study."""
    generates = study.scoring.scorer == "generate" or (study.stages is not None and "generate" in study.stages.heads)
    return WritingLimits(study.scoring.max_new_tokens if generates else None, study.scoring.max_thought_tokens)


def check_formats(
    templates: Sequence[Template],
    task: Task,
    rows: Mapping[str, Sequence[Row]],
    pools: Mapping[str, Sequence[Prompt]],
    tokenizer: Any,
    limits: WritingLimits = NO_WRITING,
) -> Findings:
    """``rows`` by split (train, dev, test). ``pools`` by name: ``dev`` and ``test`` are checked with the rows of that
    split, every other pool with the train rows. Mistakes of the study are findings; none is raised."""
    findings = Findings()
    findings.items.extend(pool_findings(rows, pools))
    filled_wrongly = bool(findings.errors)
    findings.items.extend(label_findings(task, rows))
    for template in templates:
        findings.items.extend(word_findings(template, task, rows))
        _check_template(template, task, rows, pools, tokenizer, findings, filled_wrongly, limits)
    return Findings(list(dict.fromkeys(findings.items)), findings.lengths)


def checked_model(model: Model, target_modules: Sequence[str]) -> tuple[Any, list[Finding]]:
    """The tokenizer, with the longest sequence that the model takes, and what is doubtful of the model. Raises
    ``UserError`` if the model cannot be loaded as it is, or lacks the layers of the study's adapters."""
    from trainer.data.tokenizer import load_tokenizer
    from trainer.model.architecture import check_architecture, check_layers, positions

    check_architecture(model)
    frozen = check_layers(model, target_modules)
    tokenizer = load_tokenizer(model)
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions(model) or tokenizer.model_max_length)
    fix = "This is fine if attention and shared layers are enough; nothing else can be trained here"
    return tokenizer, [Finding("warning", f'model.path = "{model.path}"', text, fix) for text in frozen]


def _check_template(
    template: Template,
    task: Task,
    rows: Mapping[str, Sequence[Row]],
    pools: Mapping[str, Sequence[Prompt]],
    tokenizer: Any,
    findings: Findings,
    skip_unfilled: bool,
    limits: WritingLimits,
) -> None:
    from trainer.data.render import Renderer  # numpy and, through the tokenizer, transformers

    where = f"templates.{template.name}"
    try:
        renderer = Renderer(
            tokenizer, template, dataclasses.replace(task, max_length=10**9)
        )  # lengths are checked below
    except UserError as error:
        findings.items.append(Finding("error", where, str(error), "Choose another template or model"))
        return
    if template.chat:
        findings.items.extend(chat_findings(renderer, where))
    sizes: RowLengths = {}
    for pool, prompts in pools.items():
        split = list(rows.get(split_of(pool), []))
        if not split or not prompts:
            continue
        usable = [p for p in prompts if _fillable(p, split[0])] if skip_unfilled else list(prompts)
        sample = sample_rows(split)
        broken = render_findings(renderer, usable, sample, f"{where}, pools.{pool}")
        findings.items.extend(broken)
        if not usable or any(f.level == "error" for f in broken):
            continue
        try:
            limit = min(task.max_length, getattr(tokenizer, "model_max_length", None) or task.max_length)
            length = longest(renderer, usable, split, limit, template.name, pool, sizes)
        except UserError as error:
            findings.items.append(
                Finding("error", f"{where}, pools.{pool}", str(error), "Mend the row or the template")
            )
            continue
        findings.lengths.append(length)
        findings.items.extend(length_findings(length, task, tokenizer))
        if pool in ("dev", "test"):
            findings.items.extend(thought_findings(renderer, length, limits.thought))
            if limits.answer is not None:
                findings.items.extend(answer_findings(renderer, usable[0], split, limits.answer))
    by_place = {f"task.rows.{split}": some for split, some in rows.items()}
    findings.items.extend(special_text_findings(tokenizer, by_place))


def sample_rows(rows: Sequence[Row]) -> list[Row]:
    """About ``SAMPLED_ROWS`` rows: each label once, the longest and shortest, some at random (always the same)."""
    size = {row.id: sum(map(len, row.fields.values())) + sum(map(len, row.options)) for row in rows}
    ordered = sorted(rows, key=lambda r: size[r.id])
    labels = {row.label: row for row in reversed(rows)}
    chosen = [
        *labels.values(),
        ordered[0],
        *ordered[-2:],
        *random.Random(0).sample(list(rows), min(SAMPLED_ROWS, len(rows))),
    ]
    return list({row.id: row for row in chosen}.values())[: max(SAMPLED_ROWS, len(labels) + 3)]


def _fillable(prompt: Prompt, row: Row) -> bool:
    try:
        return bool(fill(prompt, row.fields, row.options).text.strip())
    except UserError:
        return False  # already a finding of the pool


def check(study: Study, console: Console) -> int:
    """Load what the study reads, check it, print the findings and the masks of a few rows. 0 without errors, else 1."""
    try:
        content = content_of(study)
        findings = preflight(study, content)
    except UserError as error:
        for text in str(error).splitlines():
            _print(console, "error", text)
        return 1
    for finding in [*findings.errors, *findings.warnings]:
        _print(console, finding.level, str(finding))
    for line in [*content.dropped_lines, *pool_choices(study.pools, study.axes.pool)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    meaning = study.task.meaning
    for line in () if meaning is None else matched_words(meaning, content.pools):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for n in findings.lengths:
        text = f"templates.{n.template}, pools.{n.pool}: longest {n.longest} of {content.task.max_length} tokens"
        console.print(text, markup=False, highlight=False)
    if not findings.errors:
        print_masks(console, content, study.axes.plw, study.training.template_tokens)
    console.print(findings.counts, style="red" if findings.errors else "green")
    return 1 if findings.errors else 0


def _print(console: Console, level: str, text: str) -> None:
    from rich.text import Text

    console.print(Text.assemble((level, "bold red" if level == "error" else "bold yellow"), f" {text}"), soft_wrap=True)
