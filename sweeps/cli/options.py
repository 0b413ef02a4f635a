"""Arguments that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study's YAML file, or the name of a shipped one.")
]


Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Laid over the study, such as axes.lr=1e-3.")
]


RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or its name in runs/.")]
