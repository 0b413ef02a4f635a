"""What the user asks a prompt search to do."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.prompt_search.settings import OURS

METHODS = ("top-accuracy", "batprompt", "zopo", "random")  # as the command line names the searches


@dataclass(frozen=True)
class SearchRequest:
    """The options of ``steadytune prompts search``. None stands for the method's default."""

    method: str
    budget: int | None = None
    rows: int | None = None
    seed: int = 0
    pool: str | None = None
    template: str | None = None
    grow: int | None = None
    start: str | None = None
    family: str | None = None
    writer: str = "rules"
    keys: tuple[str, ...] = ()
    embeddings: str | None = None
    settings: str = OURS
    given: tuple[str, ...] = ()  # KEY=VALUE of single settings
