"""The part of a model card that says how to load what was exported, and how far that gives what was trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sweeps.display.text import percent
from trainer.model.quantization import settings
from trainer.trial import Trial

if TYPE_CHECKING:
    from sweeps.export.differences import AnswerDifference, MergeFigures
    from sweeps.export.exported import ExportedTrial

# What bitsandbytes does by itself; `trainer/model/quantized_linear.py` says why training does not.
_ROUNDED = {
    "int8": "There bitsandbytes also rounds what goes into each layer to 8 bits, which training and `predict` do not: "
    "probabilities differ a little.",
    "nf4": "There bitsandbytes computes in bfloat16 on CPUs with AVX512-BF16, which training and `predict` do not: "
    "probabilities differ a little on such a machine.",
}
_LABELS = (
    "A label's log-probability is the sum over its own tokens behind the input; the end token, which was trained "
    "behind them, does not count."
)


def use_of_adapter(trial: Trial, unread: str) -> Iterator[str]:
    """``unread``: why peft has not read the adapter back, where it has not."""
    classifier = trial.model.head == "classifier"
    kind = _kind(trial)
    revision = f", revision={trial.model.revision!r}" if trial.model.revision else ""
    labels = f", num_labels={len(trial.task.labels)}" if classifier else ""
    remote = ", trust_remote_code=True" if trial.model.trust_remote_code else ""
    chosen = ", ".join(f"{k}={v!r}" for k, v in settings(trial.model).items())
    quantized = ", quantization_config=quantization" if chosen else ""
    yield from _predict(" --trust-remote-code" if trial.model.trust_remote_code else "")
    yield "or with peft alone:"
    yield ""
    yield "```python"
    yield "from peft import PeftModel"
    yield f"from transformers import {kind}{', BitsAndBytesConfig' if chosen else ''}"
    yield ""
    if chosen:
        yield f"quantization = BitsAndBytesConfig({chosen})"
    given = f"{revision}, dtype={trial.model.dtype!r}{labels}{remote}{quantized}"
    yield f"base = {kind}.from_pretrained({trial.model.path!r}{given})"
    yield 'model = PeftModel.from_pretrained(base, "FOLDER")'
    yield "```"
    yield ""
    if chosen:
        yield _ROUNDED[trial.model.quantization]
        yield ""
    if unread:
        yield f"Not compared: whether peft reads this adapter as it was trained was not tried, since {unread}."
    else:
        yield "peft has read this adapter back on its base model, and gave the outputs of training on a few rows."
    if _compares_labels(trial):
        yield ""
        yield _LABELS


def use_of_merged(exported: ExportedTrial, figures: MergeFigures) -> Iterator[str]:
    """How merged weights are loaded, how a classifier's head and a tuned threshold are applied, what was compared."""
    trial = exported.trial
    yield from _predict("")
    yield "or with transformers alone:"
    yield ""
    yield "```python"
    if trial.model.head == "classifier":
        yield "import torch"
    yield f"from transformers import {_kind(trial)}, AutoTokenizer"
    yield ""
    yield f'model = {_kind(trial)}.from_pretrained("FOLDER", dtype="auto").eval()'
    yield 'tokenizer = AutoTokenizer.from_pretrained("FOLDER")'
    if trial.model.head == "classifier":
        yield from _classify(exported)
    yield "```"
    yield ""
    if _compares_labels(trial):
        yield _LABELS
        yield ""
    yield from _compared(trial, figures)


def _predict(consent: str) -> Iterator[str]:
    yield "```sh"
    yield f"steadytune predict FOLDER --rows rows.jsonl --out answers.jsonl{consent}"
    yield "```"
    yield ""


def _classify(exported: ExportedTrial) -> Iterator[str]:
    labels = exported.trial.task.labels
    yield ""
    yield ""
    yield "@torch.no_grad()"
    yield "def answer(ids):"
    yield '    """The label for the token ids of one input, as described above."""'
    yield "    logits = model(input_ids=torch.tensor([ids])).logits[0]"
    yield "    p = torch.softmax(logits.float(), dim=-1)  # " + ", ".join(map(repr, labels))
    if exported.threshold is not None:
        tuned = f"{labels[1]!r} if p[1] > {exported.threshold:.6g} else {labels[0]!r}"
        yield f"    # return {tuned}  # as `--threshold tuned`"
    yield "    return model.config.id2label[int(p.argmax())]"


def _compared(trial: Trial, figures: MergeFigures) -> Iterator[str]:
    kept = f", in {trial.model.dtype}, quantised to {trial.model.quantization}" if settings(trial.model) else ""
    into = f", though it was trained on that base{kept}" if kept else ""
    yield (
        f"peft has merged the adapter into the whole base model's weights in float32{into}. They are written in "
        f"{figures.dtype}."
    )
    rounding, written = figures.rounding, figures.written
    if rounding is None or written is None:
        yield (
            "For a few tokens they give the outputs of base and adapter. How far answers differ was not measured, "
            f"since {figures.unmeasured}."
        )
        return
    yield ""
    yield (
        f"Compared on {written.rows} of the {figures.of_rows} dev rows (the first that fit), asked in the wording "
        f"`{figures.prompt}`:"
    )
    yield ""
    yield f"- merged weights in float32 with base and adapter in float32: {_difference(rounding)};"
    trained = f"base in {trial.model.dtype}" if not kept else f"base{kept}"
    yield f"- these weights in {figures.dtype} with the trial as it was trained ({trained}): {_difference(written)}."


def summary(figures: MergeFigures) -> str:
    """One line for the screen."""
    if figures.written is None:
        return f"merged in {figures.dtype}; not compared on dev rows, since {figures.unmeasured}"
    return f"merged in {figures.dtype}; beside the trial as it was trained, {_difference(figures.written)}"


def _difference(found: AnswerDifference) -> str:
    share = f"{found.changed} of {found.rows} answers are others ({percent(found.changed / found.rows)} %)"
    if found.scores is None:
        return share
    return f"a label's log-probability differs by at most {found.scores:.2g} nats, and {share}"


def _kind(trial: Trial) -> str:
    return "AutoModelForSequenceClassification" if trial.model.head == "classifier" else "AutoModelForCausalLM"


def _compares_labels(trial: Trial) -> bool:
    return trial.model.head != "classifier" and trial.scoring.scorer == "labels"
