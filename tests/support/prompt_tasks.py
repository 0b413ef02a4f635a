"""A TASK file for the prompt commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps.cli import main

TASK = {
    "fields": ["text"],
    "labels": {0: "no", 1: "yes"},
    "about": "Is the writer of the message unhappy?",
    "terms": {"one_of": ["unhappy", "upset"], "never": ["angry"]},
    "examples": "human.yaml",
}


HUMAN = {"h1": "Is the writer unhappy? {{ text }}", "h2": "{{ text }}\nUpset, yes or no"}


def task_file(folder: Path, **changes: Any) -> str:
    (folder / "human.yaml").write_text(yaml.safe_dump(HUMAN))
    (folder / "task.yaml").write_text(yaml.safe_dump({k: v for k, v in (TASK | changes).items() if v is not None}))
    return str(folder / "task.yaml")


def steadytune(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code
