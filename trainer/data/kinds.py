"""The kinds of token that the loss weights differently."""

from __future__ import annotations

TEMPLATE = 0  # the template's text and the prompt's own words
CONTENT = 1  # the row's fields
COMPLETION = 2  # the answer and the stop token
