"""The set-ups of a server that ``verify`` can tell apart: the right one, and those that are known to go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from trainer.trial import Template

_BOS, _SAID = "{{ bos_token }}", "{% for m in messages %}"
_CLOSED = "{% endfor %}{% if add_generation_prompt %}"
# How chats are written where a server has no template of the model's own; each is known under this name.
CHAT_TEMPLATES = {
    "ChatML": _SAID + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" + _CLOSED + "<|im_start|>assistant\n"
    "{% endif %}",
    "Llama 2": _BOS + _SAID + "{% if m.role == 'system' %}[INST] <<SYS>>\n{{ m.content }}\n<</SYS>>\n\n"
    "{% else %}{% if loop.first %}[INST] {% endif %}{{ m.content }} [/INST]{% endif %}{% endfor %}",
    "Llama 3": _BOS + _SAID + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}"
    "<|eot_id|>" + _CLOSED + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "Gemma": _BOS + _SAID + "<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n" + _CLOSED
    + "<start_of_turn>model\n{% endif %}",
    "Phi 3": _SAID + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n" + _CLOSED + "<|assistant|>\n{% endif %}",
    "Zephyr": _SAID + "<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n" + _CLOSED + "<|assistant|>\n{% endif %}",
    "Alpaca": _SAID + "{% if m.role == 'user' %}### Instruction:\n{% endif %}{{ m.content }}\n\n" + _CLOSED
    + "### Response:\n{% endif %}",
    "Vicuna": _SAID + "{% if m.role == 'user' %}USER: {% endif %}{{ m.content }} " + _CLOSED + "ASSISTANT:{% endif %}",
    "plain text": _SAID + "{{ m.content }}{% if not loop.last %}\n\n{% endif %}{% endfor %}",
}  # fmt: skip
_NO_TURN = "{% set add_generation_prompt = false %}"


@dataclass(frozen=True)
class ServerSetup:
    """``fault``: what the server does, and ``fix`` what to change; both are empty for the right one. ``chat_template``:
    the template that it has in place of the model's. ``bos``: beginning-of-sequence tokens, more or fewer. ``stops``:
    whether it ends an answer at the tokens at which the adapter was trained to end it."""

    template: Template
    fault: str = ""
    fix: str = ""
    chat_template: str | None = None
    bos: int = 0
    adapter: bool = True
    stops: bool = True

    def without_adapter(self) -> ServerSetup:
        fault = "the adapter is not loaded: the base model answers"
        fix = "Serve the merged weights, or load the adapter and ask for its name, not the base model's (--model)"
        return self._with(fault, fix, adapter=False)

    def without_stop(self) -> ServerSetup:
        fault = "it does not end answers at the token at which the adapter was trained to end them"
        return self._with(fault, "Name that token in generation_config.json (eos_token_id)", stops=False)

    def _with(self, fault: str, fix: str, **changes: bool) -> ServerSetup:
        """This set-up with one more fault, which is named first."""
        both = (f"{fault}, and {self.fault}", f"{fix}. {self.fix}") if self.fault else (fault, fix)
        return replace(self, fault=both[0], fix=both[1], **changes)  # type: ignore[arg-type]


OTHER_TEMPLATE = "Give the server the chat template of the base model's tokenizer"


def changed_questions(template: Template, tokenizer: Any, today: date) -> Iterator[ServerSetup]:
    """Set-ups with one fault each, in which the exported question is changed. ``tokenizer``: the base model's."""
    right = ServerSetup(template)
    if tokenizer.bos_token:
        yield replace(
            right,
            bos=1,
            fault="it puts one more beginning-of-sequence token (bos) before each question",
            fix="Let either the template or the tokenizer write that token, not both",
        )
        yield replace(
            right,
            bos=-1,
            fault="it leaves out the beginning-of-sequence token (bos) before each question",
            fix="Let the server's tokenizer or chat template write it",
        )
    if template.chat:
        yield from _changed_chats(right, tokenizer, today)


def _changed_chats(right: ServerSetup, tokenizer: Any, today: date) -> Iterator[ServerSetup]:
    template = right.template
    if template.system:
        yield replace(
            right,
            template=replace(template, system=""),
            fault="the system text is missing",
            fix="Send it as the first message, and see that nothing on the way, nor the chat template, drops it",
        )
        alone = template.system_role == "system"
        yield replace(
            right,
            template=replace(template, system_role="user" if alone else "system"),
            fault=f"the system text stands in {'the user message' if alone else 'a message of its own'}",
            fix="See that nothing on the way, nor the chat template, moves it",
        )
    if template.options:
        named = ", ".join(name for name, _ in template.options)
        yield replace(
            right,
            template=replace(template, options=()),
            fault=f"the options of the chat template ({named}) do not reach it",
            fix="Set them when the server is started (--chat-template-kwargs), or let it take chat_template_kwargs",
        )
    yield replace(
        right,
        template=replace(template, date=today.isoformat()),
        fault=f"its chat template writes today's date, where the adapter was trained with {template.date}",
        fix="Serve a copy of the chat template that has that date in it",
    )
    yield replace(
        right,
        chat_template=_NO_TURN + tokenizer.get_chat_template(),
        fault="its chat template does not open the assistant's turn",
        fix="Let it add the generation prompt (add_generation_prompt)",
    )


def other_templates(template: Template) -> Iterator[ServerSetup]:
    """Set-ups with another chat template, which writes the beginning-of-sequence token, or does not."""
    for name, text in CHAT_TEMPLATES.items() if template.chat else ():
        for written in (text, text.removeprefix(_BOS) if text.startswith(_BOS) else _BOS + text):
            yield ServerSetup(template, f"its chat template is another one, like {name}'s", OTHER_TEMPLATE, written)
