"""The kinds of token that the loss tells apart."""

from __future__ import annotations

TEMPLATE, CONTENT, COMPLETION = 0, 1, 2  # kinds of tokens
