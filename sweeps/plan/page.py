"""The plan as the terminal shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

from sweeps.display.text import amount, duration, size
from sweeps.plan.cost import Plan


def render(p: Plan) -> RenderableType:
    """The plan as a table of rungs and lines of totals."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("rung", title=f"{p.name}: {p.trials} trial{'s' * (p.trials != 1)}", title_justify="left")
    for heading in ("steps", "trials", "tokens trained", "scoring passes"):
        table.add_column(heading, justify="right")
    named = [(f"{rung.share:g}", rung) for rung in p.rungs]
    if p.confirming is not None:
        named.append(("confirm", p.confirming))
    for name, rung in named:
        table.add_row(name, f"{rung.steps:.0f}", str(rung.trials), amount(rung.tokens), amount(rung.passes))
    table.add_row("test pool", "", "", "", amount(p.cost.test_passes), end_section=True)
    trials = str(p.trials if p.confirming is None else p.trials + p.confirming.trials)
    table.add_row("all", "", trials, amount(p.cost.tokens), amount(p.cost.passes))
    table.add_row("without stopping", "", str(p.full_trials), amount(p.full.tokens), amount(p.full.passes))
    m, s = p.memory, p.sizes
    lines = [
        f"time      about {duration(p.seconds)} on one host, {duration(p.full_seconds)} without stopping",
        f"rate      {p.rate_source}",
        f"memory    about {size(m.total)} a host: base {size(m.base)}, adapters {size(m.adapters)}, "
        f"activations {size(m.activations)}"
        + (f"; main memory: {size(m.processes)} for" if m.on_gpu else f", {size(m.processes)} for")
        + " the processes of host and trials",
        f"model     {amount(p.model.parameters)} parameters",
        f"lengths   {s.prompt_tokens:.0f} tokens a prompt, {s.answer_tokens:.1f} an answer ({s.source})",
        *([] if p.prior is None else [f"learning  usual rate for LoRA: {p.prior.text}; a place to begin"]),
        *_sampling(p),
        *(f"note      {note}" for note in p.notes),
    ]
    return Group(table, *(Text(text) for text in lines))


def _sampling(p: Plan) -> list[str]:
    """The line on what sampling saves; none if all rungs score the whole grid."""
    saved = p.unsampled - p.cost.dev_passes
    if not saved:
        return []
    grid = p.sizes.dev_prompts * p.sizes.dev_rows
    return [
        f"sample    {amount(p.rungs[0].cells)} of {amount(grid)} cells of the dev grid at rungs before the last: "
        f"{amount(saved)} of {amount(p.unsampled)} passes over the dev pool saved"
    ]
