"""The keys of a study that say what it reads: rows, the task, templates and pools of prompts. Each with its type, its
default and the reason for the default."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sweeps.study.problems import Problem, Problems, raise_any
from sweeps.study.values import (
    Count,
    Day,
    Flag,
    KeyName,
    Name,
    PathText,
    Section,
    Seed,
    Share,
    Text,
    Whole,
    at_most,
    at_most_items,
)
from trainer.measure.registry import ACCURACY, misfit
from trainer.trial import metric_today

MOST_LABELS = 10_000


def as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class SourceSection(Section):
    """Rows. ``path`` is a file, a folder or a name on the hub."""

    path: PathText = Field(description="a file or folder of rows, or a data set's name on the hub")
    name: PathText | None = None  # a hub data set's configuration
    split: PathText | None = None  # default: a file's only split; of several, the one named train, dev or test as here
    revision: PathText | None = None  # a hub data set's branch, tag or commit
    where: dict[str, Any] = Field(default_factory=dict)  # column -> value (or list of values) a row must have
    limit: Count | None = None  # so many of the rows left by `where`, drawn once with a fixed seed; none takes all
    # which of these rows to leave out instead of telling of them; none: no row is lost unless the study says so
    drop: Annotated[tuple[Literal["empty", "too_long", "duplicate"], ...], BeforeValidator(as_list)] = ()


def as_source(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


AnySource = Annotated[SourceSection, BeforeValidator(as_source)]


class RowsSection(Section):
    train: AnySource = Field(description="the rows to train on")
    dev: AnySource = Field(description="the rows that early stopping reads")
    test: AnySource = Field(description="the rows of the final table")


def _labels(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    made: dict[str, Any] = {}
    for i, label in enumerate(value):
        if str(label) in made:
            raise Problems([Problem((i,), "is listed twice. Keep one")])
        made[str(label)] = label
    return made


def _metric(value: Any) -> Any:
    if isinstance(value, dict) and len(value) == 1:
        [(name, label)] = value.items()
        raise Problems(f"must be text: write {name}[{label}]")
    return metric_today(value) if isinstance(value, str) else value


class Meaning(Section):
    """What the task asks, so that a wording which asks something else is found."""

    about: Text = Field(description="what the task asks, in a sentence")
    # the first letters of the words that name the task, such as [sexis]. Every prompt must contain such a word, and so
    # must the word of a label that is neither yes, no nor the label itself. If empty, only `other` is checked
    terms: Annotated[tuple[Text, ...], BeforeValidator(as_list)] = ()
    # another task -> the first letters of the words that would ask for it instead: {misogyny: [misogyn]}
    other: dict[str, Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(as_list)]] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _terms_differ(self) -> Meaning:
        found = [Problem(("terms", i), "is empty") for i, term in enumerate(self.terms) if not term.strip()]
        for name, terms in self.other.items():
            for i, term in enumerate(terms):
                inside = [own for own in self.terms if own.casefold().startswith(term.casefold())]
                if not term.strip():
                    found.append(Problem(("other", name, i), "is empty"))
                elif inside:
                    what = f'begins "{inside[0]}" of meaning.terms, too: every prompt of the task would contain it'
                    found.append(Problem(("other", name, i), what))
        if not self.about.strip():
            found.append(Problem(("about",), "is empty. Say in a sentence what the task asks"))
        raise_any(found)
        return self


class TaskSection(Section):
    rows: RowsSection = Field(description="the train, dev and test rows")
    fields: Annotated[tuple[Text, ...], Field(min_length=1)] = Field(description="the columns that prompts may use")
    label: Text = Field(description="the column that holds the right answer")
    # data value -> label; a list where they are the same
    labels: Annotated[dict[str, Name], BeforeValidator(_labels), at_most_items(MOST_LABELS, "labels")] = Field(
        default_factory=dict
    )
    # the column with the row's own options: `label` is then the index of the right option, and the option's text is the
    # answer. With labels as well, prompts only show the options, and the model answers with a label, such as a letter
    options: Text | None = None
    id: Text | None = None  # the column that names a row; default: <split>-<position>
    # a name of trainer.measure.registry; accuracy is what is easiest to read, but says little where one label is rare
    metric: Annotated[Text, BeforeValidator(_metric)] = ACCURACY
    meaning: Meaning | None = None  # none: nobody looks whether every prompt asks the same
    # tokens of prompt and answer; memory grows with it
    max_length: Annotated[Whole, Field(ge=8), at_most(2**20, "no open model reads longer sequences")] = 512

    @property
    def names(self) -> tuple[str, ...]:
        """The labels, each once, in the study's order; none if rows have their own options."""
        return tuple(dict.fromkeys(self.labels.values()))

    @model_validator(mode="after")
    def _one_kind_of_answer(self) -> TaskSection:
        found = []
        if not self.labels and self.options is None:
            found.append(
                Problem(
                    ("labels",),
                    "is missing: give the labels, or `options`, the column with each row's own options",
                    bare=True,
                )
            )
        elif self.labels and len(self.names) < 2:
            found.append(Problem(("labels",), "must name at least two labels"))
        for key, label in self.labels.items():
            if not label.strip():
                found.append(Problem(("labels", key), "is empty. Give the label a name"))
        if wrong := misfit(self.metric, self.names):
            found.append(Problem(("metric",), wrong))
        if self.label in self.fields:
            found.append(
                Problem(
                    ("fields", self.fields.index(self.label)),
                    "is the label's column: prompts would show the right answer. Remove it",
                )
            )
        raise_any(found)
        return self


class TemplateSection(Section):
    """How a prompt becomes model input."""

    chat: Flag = False  # true: through the tokenizer's chat template
    system: Text = ""  # most base models saw no system text
    # user: the system text stands before the user's text, for chat templates without a system role
    system_role: Literal["system", "user"] = "system"
    # what the chat template is called with, such as enable_thinking: false; none: as a server calls it
    options: dict[str, bool | int | float | Text] = Field(default_factory=dict)
    marker: Text = "\nAnswer:"  # between prompt and answer; "" in a chat, whose template has its own
    # label -> what the model answers with; default the label, after a space in plain text
    words: Annotated[dict[str, Text], at_most_items(MOST_LABELS, "words")] = Field(default_factory=dict)
    # for a chat template that writes the date; any day does, if it is always the same: this one is Llama 3's own
    date: Day = "2024-07-26"

    @model_validator(mode="after")
    def _words_differ(self) -> TemplateSection:
        first: dict[str, str] = {}
        found = []
        texts: dict[tuple[str, ...], str] = {("system",): self.system, ("marker",): self.marker}
        texts |= {("words", label): word for label, word in self.words.items()}
        texts |= {("options", name): value for name, value in self.options.items() if isinstance(value, str)}
        for at, text in texts.items():
            bad = re.search("[\x00\ud800-\udfff]", text)
            if bad:
                found.append(Problem(at, f"contains the character U+{ord(bad.group()):04X}, which no text can hold"))
        if self.options and not self.chat:
            found.append(Problem(("options",), "is for chat templates. Add chat: true, or remove it"))
        for label, word in self.words.items():
            if not word.strip():
                found.append(Problem(("words", label), "is empty: the model must have something to answer"))
            elif word in first:
                found.append(
                    Problem(
                        ("words", label), f"is also the word of {first[word]}: the model could not tell the two apart"
                    )
                )
            first.setdefault(word, label)
        raise_any(found)
        return self


def as_pool(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


class PoolSection(Section):
    file: PathText | None = None  # a YAML mapping id -> prompt, or one prompt a line; none: the train share of `split`
    prefer: PathText | None = None  # a file that is read instead where it exists, such as one that is made later
    only: tuple[Text, ...] = ()  # ids to keep; none keeps all
    limit: Count | None = None  # the first so many; none keeps all


class SplitSection(Section):
    """One file divided at random into the three pools."""

    file: PathText = Field(description="the file of prompts to divide")
    train: Share = 0.6  # about ten training prompts give most of the gain (PAFT's ablation), so the rest can measure
    dev: Share = 0.2
    test: Share = 0.2
    seed: Seed = 0

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> SplitSection:
        if min(self.train, self.dev, self.test) == 0 or abs(self.train + self.dev + self.test - 1) > 1e-6:
            raise Problems("must have shares train, dev and test above 0 that sum to 1")
        return self


def as_train_pools(value: Any) -> Any:
    return (
        {"train": value}
        if isinstance(value, str) or (isinstance(value, dict) and value and set(value) <= set(PoolSection.model_fields))
        else value
    )


AnyPool = Annotated[PoolSection, BeforeValidator(as_pool)]


class PoolsSection(Section):
    """Three sets of prompts that never overlap: for training, for early stopping, and for the final table."""

    train: Annotated[dict[KeyName, AnyPool], BeforeValidator(as_train_pools), at_most_items(1000, "pools")] = Field(
        default_factory=dict
    )
    dev: AnyPool | None = None
    test: AnyPool | None = None
    split: Annotated[SplitSection, BeforeValidator(as_pool)] | None = None  # instead of the three

    @model_validator(mode="after")
    def _all_pools_are_given(self) -> PoolsSection:
        found = []
        for name in ("dev", "test"):
            pool = getattr(self, name)
            if self.split is not None and pool is not None:
                found.append(
                    Problem((name,), "cannot be combined with pools.split, which makes the pools itself. Remove one")
                )
            elif self.split is None and (pool is None or pool.file is None):
                found.append(
                    Problem((name,), "is missing: a file of prompts, or `pools.split` to divide one file", bare=True)
                )
        if self.split is None and not self.train:
            found.append(
                Problem(("train",), "is missing: a file of prompts, or `pools.split` to divide one file", bare=True)
            )
        for name, pool in self.train.items():
            if self.split is not None and pool.file is not None:
                found.append(
                    Problem(
                        ("train", name, "file"),
                        "cannot be combined with pools.split. Give `only` or `limit`, to take part of its train share",
                    )
                )
            elif self.split is None and pool.file is None:
                found.append(Problem(("train", name), "names no file of prompts"))
        raise_any(found)
        return self
