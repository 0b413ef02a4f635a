"""Exports of one base model that answer rows together: one base in memory, with each adapter in a slot of it.

Each export keeps its own default prompt, columns, options, tuned threshold and decision rule. Which exports can answer
together is found out from their files, before the base is loaded.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeps.checks.sequences import special_text_findings
from sweeps.export.answers import Record, record_of
from sweeps.export.exported import read_exported
from trainer.data.rows import Row, load_questions, name_of
from trainer.errors import UserError, named
from trainer.store import Store
from trainer.trial import Trial

if TYPE_CHECKING:
    from sweeps.export.predict import ExportedAdapter
    from trainer.data.rows import Asked
    from trainer.data.wording import Prompt
    from trainer.predictor import Predictor

log = logging.getLogger("steadytune")

ReadRows = Callable[[tuple[str, ...], str | None, str | None], list[Row]]  # of columns, column of options, of ids

# What adapters that share a base in memory have in common. Models are compared by their fingerprints: the same files
# may have been in several places.
COMPARED: dict[str, Callable[[Trial], str]] = {
    "base model": lambda t: t.model.fingerprint,
    "quantization": lambda t: t.model.quantization,
    "dtype": lambda t: t.model.dtype,
    "trust_remote_code": lambda t: str(t.model.trust_remote_code).lower(),
    "head": lambda t: t.model.head,
    "number of labels": lambda t: str(len(t.task.labels)) if t.model.head == "classifier" else "",
}


@dataclass(frozen=True)
class ExportQuestion:
    """What one export is asked. ``limit``: the probability of the second label above which it is the answer, None for
    the more probable one; ``label_counts``: of the dev rows, per label; ``warnings``: what is doubtful about it."""

    wording: Prompt
    rows: Sequence[Row]
    limit: float | None
    label_counts: Sequence[int] | None
    warnings: Sequence[str]


class ExportedAdapters:
    """Exports of one base model, which is loaded for the first answers and kept for the next; or one export of any
    kind. Raises UserError where they cannot share a base."""

    def __init__(self, adapters: Sequence[ExportedAdapter]) -> None:
        self.adapters = adapters
        for other in adapters[1:]:
            _check_alike(adapters[0], other)
        # what begins the records and errors of each; one export needs no name
        self.names = [folder_name(a.uri) if len(adapters) > 1 else "" for a in adapters]

    def check_options(self, prompt: str | None, threshold: str | None) -> None:
        """UserError where ``records`` could not use them, or there is no base model."""
        for name, adapter in zip(self.names, self.adapters, strict=True):
            with named(name):
                adapter.check_options(prompt, threshold)
        self.adapters[0].check_base()

    def records(
        self, rows: Asked, prompt: str | None = None, threshold: str | None = None, first: int = 0
    ) -> list[Record]:
        """A record per row and export: row by row, and for each row in the order of the exports. The arguments are
        those of ``ExportedAdapter.records``. Raises UserError."""
        from trainer.predictor import RowsAsked, predict_together

        @functools.cache  # exports of one study read the same columns
        def read(columns: tuple[str, ...], options: str | None, id: str | None) -> list[Row]:
            return load_questions(rows, columns, options, id, first)

        questions = []
        for name, adapter in zip(self.names, self.adapters, strict=True):
            with named(name):
                questions.append(adapter.question(read, f"rows: {name_of(rows)}", prompt, threshold))
        tokenizer = self.predictors[0].renderer.tokenizer
        special = [
            str(finding)
            for q in questions
            for finding in special_text_findings(tokenizer, {f"rows: {name_of(rows)}": q.rows})
        ]
        for warning in dict.fromkeys([*(w for q in questions for w in q.warnings), *special]):
            log.warning("%s", warning)
        answers = predict_together(
            [
                RowsAsked(predictor, q.wording, q.rows, q.label_counts, name)
                for predictor, q, name in zip(self.predictors, questions, self.names, strict=True)
            ]
        )
        return [
            ({"export": name} if name else {})
            | record_of(adapter.exported.trial.task.labels, q.rows[i], found[i], q.limit)
            for i in range(len(questions[0].rows))
            for name, adapter, q, found in zip(self.names, self.adapters, questions, answers, strict=True)
        ]

    @functools.cached_property
    def predictors(self) -> list[Predictor]:
        """A predictor for each export, on one model. Raises UserError."""
        if len(self.adapters) == 1:
            return [self.adapters[0].predictor]
        from trainer.predictor import load_predictors

        self.adapters[0].check_base()
        return load_predictors([(a.exported.trial, a.tensors or {}) for a in self.adapters])


# which exports can answer together ------------------------------------------------------------------------------------


def folder_name(folder: str) -> str:
    """What an export is called beside others: the last part of its folder's path."""
    root = Store.open(folder).root
    return root.rsplit("/", 1)[-1] or root


def check_folders(folders: Sequence[str]) -> None:
    """UserError where exports of these folders cannot be told apart, or one of several has merged weights."""
    if len(folders) < 2:
        return
    places: dict[tuple[str, str], str] = {}
    names: dict[str, str] = {}
    for folder in folders:
        store = Store.open(folder)
        place = (store.fs.type_name, os.path.realpath(store.root) if store.is_local else store.root)
        if place in places:
            twice = f"{folder} is given twice"
            if places[place] != folder:
                twice = f"{places[place]} and {folder} are the same folder"
            raise UserError(f"DIR: {twice}. Give each export once")
        name = folder_name(folder)
        if name in names:
            raise UserError(
                f'DIR: {names[name]} and {folder} are both called "{name}", and answers are told apart by that name. '
                "Rename one of the folders"
            )
        places[place], names[name] = folder, folder
    for folder in folders:
        if read_exported(Store.open(folder)).merged is not None:
            raise UserError(
                f"DIR: {folder} holds merged weights, which share no base model with other exports. Give it alone"
            )


def _check_alike(one: ExportedAdapter, other: ExportedAdapter) -> None:
    for what, value in COMPARED.items():
        mine, theirs = value(one.exported.trial), value(other.exported.trial)
        if mine == theirs:
            continue
        if what == "base model":
            mine, theirs = (f"{a.exported.trial.model.path} ({v[:12]})" for a, v in ((one, mine), (other, theirs)))
        remedy = "Give one --dtype for all, or each alone" if what == "dtype" else "Give each alone"
        raise UserError(
            f"DIR: exports answer together on one base model, and {one.uri} has {what} {mine}, but {other.uri} has "
            f"{theirs}. {remedy}"
        )
