"""How a chat model's own template is used: whether it takes a system turn, and how it is told not to think."""

from __future__ import annotations

from typing import Any

from trainer.data.tokenizer import load_tokenizer
from trainer.trial import Model

_TURNS = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]


def chat_template_of(model: str, system: str) -> dict[str, Any] | None:
    """A study's template section with the model's chat template and this ``system`` text; None where the tokenizer has
    no chat template. Raises ``UserError`` where the model has no tokenizer."""
    tokenizer = load_tokenizer(Model(model, ""))
    written = tokenizer.chat_template
    if not written:
        return None
    text = written if isinstance(written, str) else str(written)
    found: dict[str, Any] = {"chat": True}
    if "enable_thinking" in text:
        found["options"] = {"enable_thinking": False}
    if not system:
        return found
    found["system"] = system
    try:
        tokenizer.apply_chat_template(_TURNS, tokenize=False)
    except Exception:  # templates raise what they like where they know no system role
        found["system_role"] = "user"
    return found
