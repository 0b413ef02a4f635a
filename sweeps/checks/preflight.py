"""Before a GPU is asked for: does every template, tokenizer, label set and pool of the study make sound sequences?

All prompts are rendered with a sample of rows; all rows are rendered once per template; the longest sequences are
found by an estimate that is exact for prompts that use each field once, and rendered. Each finding says which, where
and how to mend it. ``check`` prints them and shows what the loss weights.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.checks.findings import Finding, Length, Report, split_of
from sweeps.checks.lengths import Sizes, length_findings, longest
from sweeps.checks.sequences import chat_findings, render_findings, special_text_findings
from sweeps.checks.wordings import label_findings, pool_findings, word_findings
from sweeps.study.schema import Study
from sweeps.trials.make import target_modules
from trainer.data.assets import Assets
from trainer.data.rows import Row
from trainer.data.wording import Prompt, fill
from trainer.errors import UserError
from trainer.trial import Model, Task, Template

__all__ = ["Finding", "Length", "Report", "check", "checked_tokenizer", "preflight", "sample_rows"]

SAMPLED_ROWS = 12  # rows with which every prompt is rendered


def preflight(
    templates: Sequence[Template],
    task: Task,
    rows: Mapping[str, Sequence[Row]],
    pools: Mapping[str, Sequence[Prompt]],
    tokenizer: Any,
) -> Report:
    """``rows`` by split (train, dev, test). ``pools`` by name: ``dev`` and ``test`` meet the rows of that split, every
    other pool the train rows. Never raises for what the study got wrong: that is in the report."""
    report = Report()
    report.findings.extend(pool_findings(rows, pools))
    filled_wrongly = bool(report.errors)
    report.findings.extend(label_findings(task, rows))
    for template in templates:
        report.findings.extend(word_findings(template, task, rows))
        _check_template(template, task, rows, pools, tokenizer, report, skip_unfilled=filled_wrongly)
    return Report(list(dict.fromkeys(report.findings)), report.lengths)


def checked_tokenizer(model: Model, target_modules: Sequence[str]) -> Any:
    """The tokenizer of a model that can be loaded and can carry the study's adapters, with the longest sequence that
    this model takes. Raises ``UserError``."""
    from trainer.data.tokenizer import load_tokenizer
    from trainer.model.architecture import check_architecture, check_layers, positions

    check_architecture(model)
    check_layers(model, target_modules)
    tokenizer = load_tokenizer(model)
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions(model) or tokenizer.model_max_length)
    return tokenizer


def _check_template(
    template: Template,
    task: Task,
    rows: Mapping[str, Sequence[Row]],
    pools: Mapping[str, Sequence[Prompt]],
    tokenizer: Any,
    report: Report,
    skip_unfilled: bool,
) -> None:
    from trainer.data.render import Renderer  # numpy and, through the tokenizer, transformers

    where = f"templates.{template.name}"
    try:
        renderer = Renderer(
            tokenizer, template, dataclasses.replace(task, max_length=10**9)
        )  # lengths are judged below
    except UserError as error:
        report.findings.append(Finding("error", where, str(error), "Choose another template or model"))
        return
    if template.chat:
        report.findings.extend(chat_findings(renderer, where))
    sizes: Sizes = {}
    for pool, prompts in pools.items():
        split = list(rows.get(split_of(pool), []))
        if not split or not prompts:
            continue
        usable = [p for p in prompts if _fillable(p, split[0])] if skip_unfilled else list(prompts)
        sample = sample_rows(split)
        broken = render_findings(renderer, usable, sample, f"{where}, pools.{pool}")
        report.findings.extend(broken)
        if not usable or any(f.level == "error" for f in broken):
            continue
        try:
            length = longest(renderer, usable, split, task.max_length, template.name, pool, sizes)
        except UserError as error:
            report.findings.append(
                Finding("error", f"{where}, pools.{pool}", str(error), "Mend the row or the template")
            )
            continue
        report.lengths.append(length)
        report.findings.extend(length_findings(length, task, tokenizer))
    report.findings.extend(special_text_findings(renderer, rows))


def sample_rows(rows: Sequence[Row], n: int = SAMPLED_ROWS) -> list[Row]:
    """About ``n`` rows: each label once, the longest and shortest, some at random (always the same)."""
    size = {row.id: sum(map(len, row.fields.values())) + sum(map(len, row.options)) for row in rows}
    ordered = sorted(rows, key=lambda r: size[r.id])
    labels = {row.label: row for row in reversed(rows)}
    chosen = [*labels.values(), ordered[0], *ordered[-2:], *random.Random(0).sample(list(rows), min(n, len(rows)))]
    return list({row.id: row for row in chosen}.values())[: max(n, len(labels) + 3)]


def _fillable(prompt: Prompt, row: Row) -> bool:
    try:
        return bool(fill(prompt, row.fields, row.options).text.strip())
    except UserError:
        return False  # already a finding of the pool


def check(study: Any, console: Any) -> int:
    """Load what the study reads, check it, print findings and the masks of a few rows. 0 where nothing is an error."""
    from sweeps.checks.mask import print_masks
    from sweeps.trials.assets import load_assets, pools_by_place, task, templates_read
    from sweeps.trials.base_model import model_of
    from sweeps.trials.make import target_modules

    try:
        assets = load_assets(study)
        model = model_of(study)
        tokenizer = checked_tokenizer(model, target_modules(study))
    except UserError as error:
        for text in str(error).splitlines():
            _print(console, "error", text)
        return 1
    templates = templates_read(study)
    report = preflight(templates, task(study), assets.rows, pools_by_place(assets), tokenizer)
    if study.stages is not None:
        from sweeps.checks.meaning import meaning_findings

        asked = study.stages.meaning
        report.findings.extend(meaning_findings(asked, templates, pools_by_place(assets), study.task.names))
    for finding in sorted(report.findings, key=lambda f: f.level != "error"):
        _print(console, finding.level, str(finding))
    for n in report.lengths:
        text = f"templates.{n.template}, pools.{n.pool}: longest {n.longest} of {study.task.max_length} tokens"
        console.print(text, markup=False, highlight=False)
    if not report.errors:
        print_masks(console, templates, assets, tokenizer, study)
    wrong, doubtful = len(report.errors), len(report.findings) - len(report.errors)
    counted = f"{wrong} error{'s' * (wrong != 1)}, {doubtful} warning{'s' * (doubtful != 1)}"
    console.print(counted, style="red" if wrong else "green")
    return 1 if wrong else 0


def _print(console: Any, level: str, text: str) -> None:
    from rich.text import Text

    console.print(Text.assemble((level, "bold red" if level == "error" else "bold yellow"), f" {text}"), soft_wrap=True)


def check_wordings(study: Study, assets: Assets, model: Model) -> list[str]:
    """Preflight, before anything is asked of the cluster. The warnings; raises ``UserError`` with every finding that is
    an error."""
    from sweeps.trials.assets import pools_by_place, task, templates_read

    templates = templates_read(study)
    tokenizer = checked_tokenizer(model, target_modules(study))
    found = preflight(templates, task(study), assets.rows, pools_by_place(assets), tokenizer)
    if found.errors:
        raise UserError("\n".join(str(f) for f in found.errors))
    return [str(f) for f in found.findings]
