"""What a prompt search is asked to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Order:
    """What ``steadytune prompts search`` was asked for; None where the default of the method holds."""

    method: str
    budget: int | None = None
    rows: int | None = None
    seed: int = 0
    pool: str | None = None
    template: str | None = None
    grow: int | None = None
    start: str | None = None
    family: str = "mix"
    writer: str = "rules"
    keys: tuple[str, ...] = ()
    embeddings: str | None = None
