"""The README.md of an export: what it is, how it was measured, how to load it, and its limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sweeps.display.table_files import markdown_text
from sweeps.display.text import column_with_interval, metric_text, metric_unit, percent, shown, with_interval
from sweeps.export.hub_metadata import header
from sweeps.export.use_text import use_of_adapter, use_of_merged
from sweeps.run_folder.columns import CHOOSE, REPORT, SEARCH
from sweeps.study.study import Study
from sweeps.tables.columns import Settings, is_sampled, unread_share
from trainer.measure.estimate import Z
from trainer.measure.grid import DEGENERATE_SHARE
from trainer.measure.metrics import Objective
from trainer.model.quantization import settings
from trainer.trial import Trial, axis_columns

if TYPE_CHECKING:
    from sweeps.export.differences import MergeFigures
    from sweeps.export.exported import ExportedTrial


@dataclass(frozen=True)
class Measurements:
    """The numbers that the run folder holds of one trial."""

    rung: int  # optimizer steps behind its last dev scores
    status: str  # finished | stopped | failed | running | of an earlier study in its run folder
    dev: Mapping[str, float]  # prompt id -> metric at that rung
    n_rows: int  # of dev
    objective: Objective  # on dev
    row: Mapping[str, Any]  # as in tables/trials
    configuration: Mapping[str, Any] = field(default_factory=dict)  # as in tables/robustness; empty with one seed
    two_labels: Mapping[str, float | None] = field(default_factory=dict)  # as in tables/binary; empty for other tasks

    @property
    def degenerate(self) -> bool:
        return bool(self.row.get("degenerate") or self.objective.degenerate)

    @property
    def tested(self) -> bool:
        return self.row.get("mean") is not None


def card(
    exported: ExportedTrial, study: Study, measured: Measurements, unread: str = "",
    merged: MergeFigures | None = None, licence: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """Markdown with the YAML header that the hub reads. ``unread``: why peft has not read the adapter back, where it
    has not; ``merged``: what was measured of merged weights; ``licence``: the base model's, under the hub's keys."""
    trial = exported.trial
    lines = ["---", header(exported, study.name, measured.row, licence or {}), "---", ""]
    lines += [f"# Trial {trial.id} of the study {markdown_text(study.name)}", "", *_warnings(trial, measured)]
    what = "A LoRA adapter, merged into its base model's weights" if merged else "A LoRA adapter"
    lines += [f"{what}, chosen for how it holds up when the prompt is worded differently.", ""]
    for title, part in (
        ("Trained on", _training(exported, study)),
        ("Measured", _numbers(exported, study, measured)),
        ("Input", _input(exported, measured)),
        ("Use", use_of_merged(exported, merged) if merged else use_of_adapter(trial, unread)),
        ("Limits", _limits(exported, measured)),
    ):
        lines += [f"## {title}", "", *part, ""]
    return "\n".join(lines)


def _warnings(trial: Trial, measured: Measurements) -> Iterator[str]:
    steps = trial.optimization.steps
    if unread_share(measured.row) > DEGENERATE_SHARE:
        yield "**Nearly none of the answers that it generated could be read; do not use it.**"
        yield ""
    elif measured.degenerate:
        yield (
            f"**Degenerate: one answer takes more than {100 * DEGENERATE_SHARE:g} % of what it was scored on. "
            "It answers the same whatever is asked; do not use it.**"
        )
        yield ""
    if measured.status != "finished":
        yield f"**This trial is {measured.status}: it was trained for {measured.rung} of its {steps} steps.**"
        yield ""


def _training(exported: ExportedTrial, study: Study) -> Iterator[str]:
    trial = exported.trial
    columns = ", ".join(map(_code, exported.fields))
    yield _base(trial)
    yield f"- Rows: {_code(study.task.rows.train.path)}, columns {columns}; the answer: {_code(study.task.label)}"
    if trial.task.labels:
        words = dict(trial.template.words)
        yield "- Labels and what the model answers for them: " + ", ".join(
            f"{markdown_text(name)} ({_code(words.get(name, name))})" for name in trial.task.labels
        )
    else:
        yield f"- Answers: the options in each row's column {_code(str(exported.options))}"
    seen = exported.train_prompts
    if seen:
        ids = ", ".join(map(markdown_text, seen))
        yield f"- Prompts: {len(seen)}, the train pool {_code(trial.pool)}; texts in template.json: {ids}"
    else:
        yield f"- Prompts: the train pool {_code(trial.pool)}; its texts were not available when this was written"
    yield ""
    yield "| axis | value |"
    yield "| --- | --- |"
    for axis, value in axis_columns(trial).items():
        yield f"| {axis} | {markdown_text(shown(value))} |"


def _numbers(exported: ExportedTrial, study: Study, measured: Measurements) -> Iterator[str]:
    trial, row = exported.trial, measured.row
    settings = Settings.of(study)
    name = trial.task.metric
    if measured.tested:
        yield (
            f"{name} on {row['n_prompts']} test prompts x {row['n_rows']} test rows, {metric_unit(name)}; no trial had "
            "seen or been chosen on these prompts. Intervals are of 95 %, for new prompts and new rows."
            f"{_cells(row)}"
        )
        yield ""
        yield "| mean | std over prompts | std, noise removed | worst prompt |" + "".join(
            f" prompts {'>' if settings.strict else '≥'} {100 * x:g} % |" for x in settings.thresholds
        )
        yield "|" + " --- |" * (4 + len(settings.thresholds))
        shares = (column_with_interval(row, top) for top in settings.top_names())
        noise_free = with_interval(row["std_corrected"], row["std_low"], row["std_high"])
        cells = [
            column_with_interval(row, "mean"),
            percent(row["std"]),
            noise_free,
            column_with_interval(row, "min"),
            *shares,
        ]
        yield "| " + " | ".join(cells) + " |"
        yield ""
        yield from _of_configuration(trial.id, measured)
    else:
        yield "It has no test scores. Trials were chosen by these dev scores, so it looks better on them than it is."
        yield ""
    dev = measured.objective
    weight = f"{study.objective.std_weight:g}"
    sample = f", estimated from {dev.n_cells} of its cells" if dev.n_cells < dev.n_prompts * dev.n_rows else ""
    yield (
        f"On {dev.n_prompts} dev prompts x {dev.n_rows} dev rows after {measured.rung} steps{sample}: "
        f"mean {percent(dev.mean)}, std {percent(dev.std)}, worst prompt {percent(dev.min)}; "
        f"mean - {weight} x std = {percent(dev.value)}."
    )


def _of_configuration(trial_id: str, measured: Measurements) -> Iterator[str]:
    """What the other seeds say of the setting."""
    whole = measured.configuration
    if whole.get("mean") is None:
        yield (
            "These are figures of this fine-tune, trained with one seed. The same setting trained again gives others; "
            "how far they differ was not measured."
        )
    else:
        yield (
            f"These are figures of this fine-tune. Its setting was trained with {whole['n_seeds']} seeds: mean "
            f"{column_with_interval(whole, 'mean')}, for new seeds as well as new prompts and rows; standard deviation "
            f"between seeds {percent(whole['seed_std'])}; worst prompt of one fine-tune "
            f"{column_with_interval(whole, 'min')}. {_which_seed(trial_id, measured)}"
        )
    yield ""


def _which_seed(trial_id: str, measured: Measurements) -> str:
    """How this seed came to be exported, and what its own figures are worth."""
    whole, role = measured.configuration, measured.row.get("role") or SEARCH
    if whole["trial_id"] == trial_id:
        return "This seed was not chosen by its result: it is the first of them."
    named = "It was named by --trial; if that was for its result, expect less of it than its own figures."
    if "n_report" in whole and role != REPORT:
        part = "chose the setting (confirm)" if role == CHOOSE else "searched for the setting"
        return f"This seed is none of those, but one of the seeds that {part}. {named}"
    return f"This seed is one of them, and not the first, which is exported by default. {named}"


def _cells(row: Mapping[str, Any]) -> str:
    """On how many cells the test numbers rest, where not all were scored."""
    if not is_sampled(row):
        return ""
    of = row["n_prompts"] * row["n_rows"]
    return (
        f" {row['n_cells']:,} of the {of:,} cells (a prompt with a row) were scored: the numbers estimate what all "
        f"would give, the mean to {percent(Z * row['mean_sampling'])} and the std to "
        f"{percent(Z * row['std_sampling'])} points."
    )


def _input(exported: ExportedTrial, measured: Measurements) -> Iterator[str]:
    template = exported.trial.template
    if template.chat:
        prefill = "" if template.marker in ("", type(template)("").marker) else f", then {_code(template.marker)}"
        system = f"system text {_code(template.system)}, " if template.system else ""
        turns = "the filled prompt as the user's turn, the assistant's turn opened"
        yield f"The tokenizer's chat template: {system}{turns}{prefill}."
    else:
        lead = f"{_code(template.system)}, a blank line, " if template.system else ""
        marker = f", then {_code(template.marker)}" if template.marker else ""
        yield f"Plain text: {lead}the filled prompt{marker}."
    if exported.trial.model.head == "classifier":
        yield "The label is read from a linear layer on the last token; its outputs are in the labels' order."
    elif exported.trial.scoring.scorer == "labels":
        rule = _code(exported.trial.scoring.decision)
        yield f"The answer is the label with the highest log-probability (decision {rule})."
    else:
        yield f"The answer is generated, at most {exported.trial.scoring.max_new_tokens} tokens, and read off the text."
    yield ""
    if exported.threshold is not None:
        yield from _threshold(exported, measured)
    if exported.prompt is None:
        yield "No default prompt is stored: the prompt files were gone or had changed. Give one with `--prompt`."
        return
    best, name = measured.dev[exported.prompt.id], exported.trial.task.metric
    yield (
        f"Default prompt: {_code(exported.prompt.id)}, the best of the dev prompts ({metric_text(best, name)} {name}). "
        "It was chosen by that number, so expect less of it on new rows; the train prompts were not scored. "
        "`--prompt` uses another prompt."
    )
    yield ""
    fence = _fence(exported.prompt.text)
    yield fence
    yield exported.prompt.text
    yield fence


def _threshold(exported: ExportedTrial, measured: Measurements) -> Iterator[str]:
    positive, two = exported.trial.task.labels[1], measured.two_labels
    gain = ""
    if two.get("f1_tuned") is not None:
        gain = (
            f" On the test prompts macro-F1 is {percent(two['f1_tuned'])} with it and {percent(two['f1_half'])} with "
            f".5; with the best threshold of each prompt, which no user knows, it would be {percent(two['f1_own'])}."
        )
    yield (
        f"`--threshold tuned` answers {_code(positive)} where its share of the two labels' probabilities is above "
        f"{exported.threshold:.4g}, the one threshold with the best macro-F1 on the dev prompts and rows; without it "
        f"the more probable label is the answer.{gain}"
    )
    yield ""


def _base(trial: Trial) -> str:
    model = trial.model
    kept = f", its linear layers quantised to {model.quantization} by bitsandbytes" if settings(model) else ""
    revision = f", revision {_code(model.revision)}" if model.revision else ""
    return f"- Base model: {_code(model.path)}{revision}, in {model.dtype}{kept}"


def _limits(exported: ExportedTrial, measured: Measurements) -> Iterator[str]:
    yield f"- Prompt and answer together take at most {exported.trial.task.max_length} tokens; on more it is untested."
    yield "- It answers the labels it was trained on, for rows and languages like its own; everything else is untested."
    if exported.merged is None:
        yield "- The adapter needs exactly this base model: another of the same shape loads and answers wrongly."
    if measured.degenerate:
        yield "- It gives no usable answers (see above)."


def _code(text: str) -> str:
    """Inline code; quotes show line breaks, and spaces at the ends."""
    shown = repr(text) if text != text.strip() or "\n" in text else text
    ticks = "`" * (_longest_ticks(shown) + 1)
    return f"{ticks} {shown} {ticks}" if "`" in shown else f"{ticks}{shown}{ticks}"


def _fence(text: str) -> str:
    return "`" * max(3, _longest_ticks(text) + 1)


def _longest_ticks(text: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return longest
