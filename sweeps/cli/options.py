"""Arguments that several commands take."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study's YAML file, or the name of a shipped one.")
]


Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Laid over the study, such as axes.lr=1e-3.")
]


RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or its name in runs/.")]


class Dtype(enum.StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"


# of commands that answer with an export
ExportArgument = Annotated[str, typer.Argument(metavar="DIR", help="A folder that export wrote.")]
BaseOption = Annotated[
    str | None, typer.Option(metavar="DIR", help="The base model, if its path has changed since training.")
]
DtypeOption = Annotated[
    Dtype | None, typer.Option(help="Compute the base model in this type. Default: the one of training.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code that comes with the base model, if it needs it.")
]
