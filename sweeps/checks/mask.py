"""Shows a training sequence: each token's text, coloured by kind, and the weight of each kind in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.text import Text

from trainer.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

    from sweeps.trials.load_content import Content
    from trainer.data.render import Example, Renderer

NAMES = ("template", "content", "completion")  # by kind
SHOWN_ROWS = 2  # under each template
STYLES = ("dim", "black on cyan", "bold white on green")


def mask(renderer: Renderer, example: Example, colour: bool) -> Text:
    """The sequence with its kinds as colours, or as brackets: ``template [content:…] [completion:…]``."""
    tokens = zip(example.kinds.tolist(), example.ids.tolist(), renderer.token_texts(example), strict=True)
    out = Text()
    for kind, group in groupby(tokens, key=lambda t: t[0]):
        pieces = list(group)
        text = "".join(piece for _, _, piece in pieces)
        if "\ufffd" in text:  # a character split over tokens: read them together
            whole = renderer.tokenizer.decode([i for _, i, _ in pieces])
            text = whole if whole.startswith(" ") or not text.startswith(" ") else f" {whole}"
        text = printable(text)  # a row may hold what would rewrite the terminal
        out.append(text if colour or kind == 0 else f"[{NAMES[kind]}:{text}]", style=STYLES[kind] if colour else "")
    return out


def weights(plw: Sequence[float] | str, template_tokens: str) -> tuple[str, str, str]:
    """The weight of each kind as text. ``plw``: the study's values, or their range as text."""
    content = plw if isinstance(plw, str) else ", ".join(f"{v:g}" for v in plw)
    return ("0" if template_tokens == "zero" else content, content, "1")


def print_masks(console: Console, content: Content, plw: Any, template_tokens: str) -> None:
    """A few training rows under each template, with the first train pool's prompts. ``plw``: the study's values, or
    their range."""
    from trainer.data.render import Renderer
    from trainer.data.tokenizer import load_tokenizer

    colour = bool(console.color_system)
    given = weights(plw if isinstance(plw, tuple) else f"{plw.low:g} to {plw.high:g}", template_tokens)
    legend = Text("weights: ")
    for kind, name in enumerate(NAMES):
        legend.append(f"{name} {given[kind]}", style=STYLES[kind] if colour else "")
        legend.append("  ")
    console.print(legend)
    prompts, tokenizer = next(iter(content.assets.train_pools.values())), load_tokenizer(content.model)
    for template in content.templates.values():
        renderer = Renderer(tokenizer, template, content.task)
        for i, row in enumerate(_short_by_label(content.assets.rows["train"])[:SHOWN_ROWS]):
            prompt = prompts[i % len(prompts)]
            console.print(Text(f"\ntemplates.{template.name}, prompt {prompt.id}, row {row.id}", style="bold"))
            console.print(mask(renderer, renderer.example(prompt, row), colour), soft_wrap=True)


def _short_by_label(rows: Sequence[Any]) -> list[Any]:
    """One short row per label, so that the template is seen and not only one long text."""
    found: dict[str, Any] = {}
    for row in sorted(rows, key=lambda r: abs(sum(map(len, r.fields.values())) - 60)):
        found.setdefault(row.label, row)
    return list(found.values())
