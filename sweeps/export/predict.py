"""``steadytune predict``: answer rows with exported trials, adapters on their base or merged weights.

What comes out is described in ``sweeps.export.answers``. Of two labels, ``threshold`` may say above which probability
of the second one the answer is the second.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from sweeps.checks.findings import Finding, Findings
from sweeps.checks.wordings import empty_findings
from sweeps.export.answers import Record, writer_to
from sweeps.export.exported import ADAPTER, TEMPLATE, ExportedTrial, check_sums, merged_trial, read_exported
from sweeps.export.merged import local_folder
from sweeps.export.one_base import ExportedAdapters, ExportQuestion, ReadRows, check_folders
from sweeps.trials.base_model import fingerprint_model
from trainer.data.grammar import OPTIONS, PromptError
from trainer.data.wording import Prompt, placeholders
from trainer.errors import UserError, closest, listed, nearest
from trainer.store import Store
from trainer.trial import Trial

if TYPE_CHECKING:
    from trainer.data.rows import Asked
    from trainer.predictor import Predictor

log = logging.getLogger("steadytune")

FEW = 20  # fewer rows give decision "batch" no reliable mean
BaseDtype = Literal["float32", "bfloat16"]


def predict(
    folders: str | Sequence[str],
    rows: str,
    out: str | None,
    prompt: str | None = None,
    base: str | None = None,
    dtype: BaseDtype | None = None,
    trust_remote_code: bool = False,
    threshold: str | None = None,
) -> int:
    """Answer the rows in the file ``rows`` with the exports in ``folders``, or with that in a single one; returns 0.
    ``out``: the file to write; none prints the answers. The others are those of ``ExportedAdapter``. Raises
    UserError."""
    write = writer_to(out, rows)
    folders = [folders] if isinstance(folders, str) else folders
    write(open_exports(folders, base, dtype, trust_remote_code).records(rows, prompt, threshold))
    return 0


def open_exports(
    folders: Sequence[str], base: str | None = None, dtype: BaseDtype | None = None, trust_remote_code: bool = False
) -> ExportedAdapters:
    """The exports in ``folders``, to answer together. The others are those of ``ExportedAdapter``. Raises UserError."""
    check_folders(folders)
    return ExportedAdapters([ExportedAdapter(f, base, dtype, trust_remote_code) for f in folders])


class ExportedAdapter:
    """An export on its base model, or with merged weights, loaded for the first answers and kept for the next.

    ``base``: the base model, if it has moved; ``dtype``: what it computes in, if not what it was trained or merged in;
    ``trust_remote_code``: run the code that comes with it, if it needs that. Raises UserError."""

    def __init__(
        self, folder: str, base: str | None = None, dtype: BaseDtype | None = None, trust_remote_code: bool = False
    ) -> None:
        self._store, self._base = Store.open(folder), base
        exported = read_exported(self._store)
        if exported.merged is None:
            check_sums(self._store, (*ADAPTER, TEMPLATE))
        else:
            check_sums(self._store, (TEMPLATE,), every=True)
        exported = _located(exported, self._store, base, trust_remote_code)
        if dtype is not None:
            model = replace(exported.trial.model, dtype=dtype)
            exported = replace(exported, trial=replace(exported.trial, model=model))
        self.exported = exported

    def check_options(self, prompt: str | None, threshold: str | None) -> None:
        """UserError where ``records`` could not use them."""
        _threshold(self.exported, self._store, threshold)
        _wording(self.exported, self._store, prompt)

    def records(
        self, rows: Asked, prompt: str | None = None, threshold: str | None = None, first: int = 0
    ) -> list[Record]:
        """A record per row. ``rows``: a file, or rows that the program holds; ``prompt``: a wording, or the id of a
        train prompt; ``threshold``: "tuned" (on the dev rows) or a number, none answers with the more probable label;
        ``first``: the number of the first row, for rows without ids. Raises UserError."""
        return ExportedAdapters([self]).records(rows, prompt, threshold, first)

    def question(self, read: ReadRows, place: str, prompt: str | None, threshold: str | None) -> ExportQuestion:
        """What this export is asked. ``read`` gives the rows, ``place`` is their name in messages; the others are those
        of ``records``. Raises UserError."""
        exported, trial = self.exported, self.exported.trial
        limit = _threshold(exported, self._store, threshold)
        wording = _wording(exported, self._store, prompt)
        names = placeholders(wording)
        columns = tuple(sorted(names - {OPTIONS} if exported.options else names))
        rows = read(columns, exported.options, exported.id)
        found = list(empty_findings(place, rows, [wording], "leave such rows out"))
        if trial.scoring.decision == "batch" and trial.scoring.scorer == "labels" and len(rows) < FEW:
            doubt = f'decision "batch" takes off the mean over the rows given, and {len(rows)} are few for a mean'
            found.append(Finding("warning", place, doubt, "Give more rows at once, or train with scoring.decision=raw"))
        counts = [exported.label_counts.get(label, 0) for label in trial.task.labels] or None
        return ExportQuestion(wording, rows, limit, counts, Findings(found).warnings_or_raise())

    @property
    def uri(self) -> str:
        """The folder, for messages."""
        return self._store.uri

    def wording(self, prompt: str | None) -> Prompt:
        """``prompt`` as of ``records``. Raises UserError."""
        return _wording(self.exported, self._store, prompt)

    def check_base(self) -> None:
        """UserError if there is no such base model; a warning if its files are not those of the training. Merged
        weights need no base."""
        if self.exported.merged is None:
            _check_base(self.exported, self._store, self._base)

    @functools.cached_property
    def tensors(self) -> dict[str, Any] | None:
        """The adapter's weights, by peft's names; None where they are merged."""
        return None if self.exported.merged is not None else _tensors(self._store)

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The adapter on its base model, or the merged weights. Raises UserError."""
        from trainer.predictor import Predictor

        if self.tensors is None:
            from trainer.model.merge import load_merged

            return Predictor(self.exported.trial, load_merged(self.exported.trial))
        self.check_base()
        model = self.exported.trial.model
        if model.quantization != "none":
            log.warning('base model "%s" is quantised to %s, as it was in training', model.path, model.quantization)
        return Predictor(self.exported.trial, self.tensors)


# what to ask, and of which model ---------------------------------------------------------------------------------


def _located(exported: ExportedTrial, store: Store, base: str | None, trust: bool) -> ExportedTrial:
    """``exported`` with the present path of its base model or merged weights. Code that comes with a model runs only if
    the user allows it."""
    model = exported.trial.model
    if exported.merged is not None:
        if base is not None:
            raise UserError(f'--base = "{base}": {store.uri} holds merged weights and needs no base. Leave --base out')
        here = merged_trial(exported.trial, str(local_folder(store, "DIR")), exported.merged)
        return replace(exported, trial=here)
    if model.trust_remote_code and not trust:
        raise UserError(
            f'{store.uri}/{TEMPLATE}: the base model "{base or model.path}" comes with its own code. '
            "If you trust it, say so with --trust-remote-code"
        )
    if base is not None:
        path = os.path.abspath(base) if os.path.isdir(base) else base
        model = replace(model, path=path, revision=None)
    return replace(exported, trial=replace(exported.trial, model=model))


def _wording(exported: ExportedTrial, store: Store, prompt: str | None) -> Prompt:
    if prompt is None:
        if exported.prompt is None:
            raise UserError(
                f"{store.uri}/{TEMPLATE}: holds no default prompt. "
                f"Give one: --prompt '{{{{ {exported.fields[0]} }}}} …', or the id of a train prompt"
            )
        return exported.prompt
    known = {**exported.train_prompts, **({exported.prompt.id: exported.prompt.text} if exported.prompt else {})}
    if prompt in known:
        return Prompt(prompt, known[prompt])
    wording = Prompt("given", prompt)
    try:
        reads = placeholders(wording)
    except PromptError as error:
        raise UserError(f"--prompt: {error}") from None
    if not reads:
        near = closest(prompt, known)
        meant = f' Did you mean the prompt "{near}"?' if near else ""
        if len(prompt.split()) < 2:  # a wording has several words, an id has one
            raise UserError(
                f'--prompt = "{prompt}" is no prompt of {store.uri}/{TEMPLATE}.{meant}{listed(known)}. Give one of '
                f"these ids, or a wording with a column of the rows in it, such as {{{{ {exported.fields[0]} }}}}"
            )
        raise UserError(
            f'--prompt = "{prompt}" reads no column of the rows, so every row would be asked the same.{meant} '
            f"Write the column into it: {{{{ {exported.fields[0]} }}}}"
        )
    return wording


TUNED = "tuned"


def _threshold(exported: ExportedTrial, store: Store, given: str | None) -> float | None:
    """The probability of the second label above which it is the answer; None for the more probable one."""
    if given is None:
        return None
    trial = exported.trial
    said, labels = f'--threshold = "{given}"', trial.task.labels
    if len(labels) != 2:
        what = f"this one has {len(labels)}: {', '.join(labels)}" if labels else "here every row has options of its own"
        raise UserError(f"{said} is for tasks with two labels; {what}. Leave --threshold out")
    if trial.scoring.scorer == "generate":
        raise UserError(f"{said} compares probabilities, and generated answers have none. Leave --threshold out")
    if given == TUNED:
        if exported.threshold is not None:
            return exported.threshold
        raise UserError(
            f"{said}: {store.uri}/{TEMPLATE} holds no tuned threshold, because {_why_untuned(trial)}. Give a number "
            "such as --threshold .5"
        )
    try:
        limit = float(given)
    except ValueError:
        raise UserError(f"{said} is neither a number nor {TUNED}.{nearest(given, [TUNED])}") from None
    if not 0 <= limit <= 1:
        raise UserError(f"{said} is no probability. Give {TUNED}, or a number from 0 to 1")
    return limit


def _why_untuned(trial: Trial) -> str:
    if trial.scoring.decision != "raw":
        return f"the decision rule {trial.scoring.decision} compares more than the probabilities that the run stored"
    return (
        "an earlier version exported it, or the model gave NaN on a dev row; export the trial again, and if there is "
        "still none, it is the latter"
    )


def _check_base(exported: ExportedTrial, store: Store, base: str | None) -> None:
    """UserError if there is no such model; a warning if its files are not those of the training."""
    model = exported.trial.model
    try:
        found = fingerprint_model(model.path, model.revision)
    except UserError as error:
        at = "--base" if base is not None else f"{store.uri}/{TEMPLATE}"
        raise UserError(f"{at}: {error}. The base model may have moved: give it with --base DIR") from None
    if found != model.fingerprint:
        log.warning(
            'the files of base model "%s" are not those that the adapter was trained on; '
            "if it is another model, the answers mean nothing",
            model.path,
        )


def _tensors(store: Store) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(store.read(ADAPTER[1]))
    except (SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{store.uri}/{ADAPTER[1]}: is damaged ({error}). Export the trial again") from None
