"""The one reader of a run folder."""

from __future__ import annotations

import yaml
from pydantic import ValidationError

from sweeps.study.schema import Study
from trainer.errors import UserError
from trainer.store import Store, StoreError


def read_study(store: Store) -> tuple[Study, str]:
    """The resolved study of a run folder, and its text."""
    try:
        text = store.read("study.yaml").decode()
        return Study.model_validate(yaml.safe_load(text)), text
    except StoreError as error:
        raise UserError(
            f"{store.uri} is no run folder: it holds no study.yaml. "
            "Give the folder that `steadytune run` wrote, such as runs/<study>"
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise UserError(
            f"{store.uri}/study.yaml: is not a resolved study ({str(error).splitlines()[0]}). "
            "Run the study again to write it anew; rungs that are done are kept"
        ) from error
