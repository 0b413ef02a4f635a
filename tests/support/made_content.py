"""The content of a study whose files do not exist."""

from __future__ import annotations

from collections.abc import Mapping

from sweeps.study.study import Study
from sweeps.trials.assets import task_of, templates_of
from sweeps.trials.load_content import Content
from trainer.data.assets import Assets
from trainer.trial import Data, Model


def made_content(study: Study, fingerprints: Mapping[str, Data], model: Model, n_train_rows: int) -> Content:
    return Content(Assets({}, {}, {}), task_of(study.task), templates_of(study), model, fingerprints, n_train_rows)
