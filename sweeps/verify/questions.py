"""What ``verify`` asks: rows under one prompt, in the form in which users of the server would send them.

A chat template's question goes as messages, of which the server makes the text. A plain template's goes as the text
itself, and so does a chat whose answer is begun for the model (a marker), which messages cannot say.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Any

from sweeps.export.predict import ExportedAdapter
from trainer.data.grammar import OPTIONS
from trainer.data.render import Renderer
from trainer.data.rows import Row, fingerprint_rows, load_questions, read_rows
from trainer.data.wording import Prompt, placeholders
from trainer.errors import UserError

log = logging.getLogger("steadytune")


def rows_to_ask(adapter: ExportedAdapter, wording: Prompt, data: str | None, n: int) -> tuple[str, list[Row]]:
    """(their name, ``n`` rows at random, always the same ones, in their order): of the file ``data``, or of the study's
    test rows where these can be reached. Raises UserError."""
    exported = adapter.exported
    if data is not None:
        names = placeholders(wording) - ({OPTIONS} if exported.options else set())
        name, rows = data, load_questions(data, sorted(names), exported.options, exported.id)
    else:
        name, rows = _study_rows(adapter)
    keep = sorted(random.Random(0).sample(range(len(rows)), min(n, len(rows))))
    return name, [rows[i] for i in keep]


def _study_rows(adapter: ExportedAdapter) -> tuple[str, list[Row]]:
    exported = adapter.exported
    source = exported.test_rows
    if source is None:
        raise UserError(
            f"{adapter.uri}: an earlier version exported it and did not note where the study's rows are. Give rows "
            "with --data FILE, or export the trial again"
        )
    try:
        rows = list(read_rows(source, "test", "the study's test rows").rows)
    except UserError as error:
        raise UserError(f"{error}. Give rows with --data FILE") from None
    # which rows are too long depends on all templates of the study, which an export does not hold
    if "too_long" not in source.drop and fingerprint_rows(rows) != exported.trial.data.test_rows:
        log.warning("%s has changed since the study: these are not its test rows any more", source.path)
    return source.path, rows


def as_requests(renderer: Renderer, wording: Prompt, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each row the parameters of a request that ask for it."""
    template, texts = renderer.template, renderer.texts
    if template.chat and not texts.prefilled:
        options = {"chat_template_kwargs": dict(template.options)} if template.options else {}
        return [{"messages": texts.messages(wording, row), **options} for row in rows]
    front = _written_by_the_server(renderer.tokenizer)
    return [{"prompt": c.text.removeprefix(front)} for c in texts.contexts([(wording, row) for row in rows])]


def _written_by_the_server(tokenizer: Any) -> str:
    """The beginning-of-sequence token, where a server's tokenizer puts it before a text by itself."""
    bos, ids = tokenizer.bos_token, tokenizer("a").input_ids
    return bos if bos and ids[0] == tokenizer.bos_token_id else ""
