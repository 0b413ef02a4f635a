"""``template.json`` of an export: what ``predict`` needs besides the adapter and its base model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.store import Store
from trainer.trial import Trial

FORMAT = 1  # of template.json
TEMPLATE = "template.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class ExportedTrial:
    """The content of ``template.json``."""

    trial: Trial
    study: str
    fields: tuple[str, ...]  # columns that its prompts may use
    options: str | None  # column with the row's own options
    id: str | None
    prompt: Prompt | None  # the default prompt; None if its text could not be found
    train_prompts: Mapping[str, str]  # the prompts it was trained on, id -> text
    label_counts: Mapping[str, int]  # how often each label occurs in the dev rows, for decision "batch"

    def to_json(self) -> dict[str, Any]:
        about = {f: getattr(self, f) for f in ("study", "fields", "options", "id", "train_prompts", "label_counts")}
        prompt = asdict(self.prompt) if self.prompt else None
        return {"format": FORMAT, "trial_id": self.trial.id, "prompt": prompt, **about, "trial": self.trial.to_json()}


def read_exported(store: Store) -> ExportedTrial:
    """Read the ``template.json`` of an export. UserError if it is missing or damaged."""
    where = f"{store.uri}/{TEMPLATE}"
    if not store.exists(TEMPLATE):
        raise UserError(f"{where}: no such file. Give a folder that `steadytune export RUN --to DIR` wrote")
    try:
        about = json.loads(store.read(TEMPLATE))
        if about["format"] != FORMAT:
            raise UserError(
                f"{where}: format = {about['format']} is not known, this version reads {FORMAT}. "
                "Export the trial again with this version, or use the one that wrote it"
            )
        prompt = Prompt(**about["prompt"]) if about["prompt"] else None
        parts = {name: about[name] for name in ("study", "options", "id", "train_prompts", "label_counts")}
        return ExportedTrial(Trial.from_json(about["trial"]), prompt=prompt, fields=tuple(about["fields"]), **parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        detail = f"{type(error).__name__}: {error}"
        raise UserError(f"{where}: is not what export writes ({detail}). Export the trial again") from None
