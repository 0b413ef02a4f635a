"""A whole study, made of the sections of ``schema.py`` and ``data_schema.py``, which give each key's type and default.

Defaults that depend on other keys, such as ``axes.template`` (all templates), come from ``derived_defaults.py``;
``rules.py`` finds contradictions between sections.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from sweeps.study.data_schema import PoolsSection, TaskSection, TemplateSection
from sweeps.study.derived_defaults import completed
from sweeps.study.problems import raise_any
from sweeps.study.rules import disagreements
from sweeps.study.schema import (
    ArmSection,
    AxesSection,
    ConfirmSection,
    ModelSection,
    ObjectiveSection,
    ResourcesSection,
    SchedulerSection,
    ScoringSection,
    SearchSection,
    TablesSection,
    TrainingSection,
)
from sweeps.study.stages import Stages
from sweeps.study.values import KeyName, Section, Text, at_most_items
from trainer.errors import LONGEST_NAME


class Study(Section):
    # default: the file's name; a folder of this name is made
    name: Annotated[Text, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"), at_most_items(LONGEST_NAME, "characters")]
    model: ModelSection = Field(description="the base model")
    task: TaskSection = Field(description="the rows, and what they ask")
    templates: Annotated[dict[KeyName, TemplateSection], Field(min_length=1), at_most_items(1000, "templates")] = Field(
        default_factory=lambda: {"plain": TemplateSection()}
    )
    pools: PoolsSection = Field(description="the files of prompts")
    # none: axes.pool and training.draw decide how to train
    arms: Annotated[dict[KeyName, ArmSection], at_most_items(1000, "arms")] = Field(default_factory=dict)
    axes: AxesSection = AxesSection()
    training: TrainingSection = TrainingSection()
    scoring: ScoringSection = ScoringSection()
    search: SearchSection = SearchSection()
    scheduler: SchedulerSection = SchedulerSection()
    objective: ObjectiveSection = ObjectiveSection()
    confirm: ConfirmSection | None = None  # none: it costs top x seeds trials more
    tables: TablesSection = TablesSection()
    resources: ResourcesSection = ResourcesSection()
    stages: Stages | None = None  # none: the axes are one search

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, value: Any) -> Any:
        return completed(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _sections_agree(self) -> Study:
        raise_any(disagreements(dict(self)))
        return self
