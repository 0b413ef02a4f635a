"""The kinds of token that the loss weights differently."""

from __future__ import annotations

TEMPLATE, CONTENT, COMPLETION = (
    0,
    1,
    2,
)  # the template's text and the prompt's own words; the row's fields; the answer and the stop token
