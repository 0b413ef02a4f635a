"""The groups in which ``steadytune --help`` lists the commands.

Typer knows a command's group as its ``rich_help_panel``, and draws it with Rich alone. Here it is a heading in plain
text, which can be searched and piped, and needs no other letters than ASCII.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

RUN = "Run a study"
RESULTS = "Read results"
PROMPTS = "Prompts"
PLW = "Prompt-loss weights"
CLUSTER = "Cluster and jobs"
MACHINE = "The machine"
PANELS = (RUN, RESULTS, PROMPTS, PLW, CLUSTER, MACHINE)
_LONGEST = 200  # characters of what is said of a command; more than a line, so that nothing is cut


class CommandsInPanels(TyperGroup):
    """Lists its commands under the heading of their panel, in the order of ``PANELS``."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        listed: dict[str, list[tuple[str, str]]] = {panel: [] for panel in PANELS}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            rows = listed.setdefault(command.rich_help_panel or "Other commands", [])
            rows.append((name, command.get_short_help_str(_LONGEST)))
        width = max(len(name) for rows in listed.values() for name, _ in rows)
        for panel, rows in listed.items():
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])
