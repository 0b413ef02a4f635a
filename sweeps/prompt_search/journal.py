"""The journal of a prompt search: every scored cell and every text of a writer that the search has paid for.

A search looks into its journal before it computes anything. So the same command run again pays for nothing twice: it
takes the same steps, reads what the journal has, and goes on where the first run ended. A cell's key is the digest of
model, template, task, wording and row. Searches with other methods or seeds may share a folder; then they share cells.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.store import Store
from trainer.trial import digest

log = logging.getLogger("steadytune")
FOLDER = "journal"


@dataclass(frozen=True)
class ScoredCell:
    """One prompt on one row. ``values`` has one number per label or option; the decision rule answers with the highest
    (with rule ``batch`` they are the log-probabilities before calibration). NaN where the model gave NaN."""

    values: tuple[float, ...]
    tokens: int  # that went through the model for it
    seconds: float  # its share of the time of its batch


@dataclass(frozen=True)
class WriterReply:
    """A writer's answer to one request. ``tokens`` None where the writer does not count them."""

    texts: tuple[str, ...]
    tokens: int | None = None
    seconds: float = 0.0


@dataclass
class SearchJournal:
    """A journal in memory, gone at the end of the process."""

    cells: dict[str, ScoredCell] = field(default_factory=dict)
    written: dict[str, WriterReply] = field(default_factory=dict)

    def add_cells(self, cells: Mapping[str, ScoredCell]) -> None:
        self.cells.update(cells)

    def add_written(self, key: str, written: WriterReply) -> None:
        self.written[key] = written


class FolderJournal(SearchJournal):
    """A journal in ``<store>/journal``: one file per batch of cells and one per reply of a writer, each written whole
    or not at all. A file that cannot be read is skipped with a warning, and what it held is paid for again."""

    def __init__(self, store: Store):
        super().__init__()
        self.store = store
        for name in store.names(FOLDER):
            kind = name.partition("-")[0]
            try:
                content = json.loads(store.read(f"{FOLDER}/{name}"))
                if kind == "cells":
                    self.cells.update({k: ScoredCell(tuple(v), int(t), float(s)) for k, (v, t, s) in content.items()})
                elif kind == "written":
                    self.written[content["key"]] = _written(content)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                log.warning(
                    "%s: not readable (%s); what it held is done again", store.address(f"{FOLDER}/{name}"), error
                )

    def add_cells(self, cells: Mapping[str, ScoredCell]) -> None:
        if not cells:
            return
        text = json.dumps({k: [list(c.values), c.tokens, round(c.seconds, 7)] for k, c in cells.items()})
        self.store.write(f"{FOLDER}/cells-{digest(sorted(cells))[:16]}.json", text.encode())
        super().add_cells(cells)

    def add_written(self, key: str, written: WriterReply) -> None:
        text = json.dumps(
            {"key": key, "texts": written.texts, "tokens": written.tokens, "seconds": written.seconds},
            ensure_ascii=False,
        )
        self.store.write(f"{FOLDER}/written-{key[:16]}.json", text.encode())
        super().add_written(key, written)


def _written(content: Mapping[str, Any]) -> WriterReply:
    texts: Sequence[Any] = content["texts"]
    return WriterReply(tuple(str(t) for t in texts), content["tokens"], float(content["seconds"]))
