"""A figure of the report, and the sections of the page that have figures."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.display.vega import Spec

MATTERED, DISTRIBUTION, WINS, ANSWERS, LEARNING, AXES, COST = (
    "mattered", "distribution", "wins", "answers", "learning", "axes", "cost",
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    name: str  # of its files
    section: str
    title: str
    caption: str
    spec: Spec
