"""``steadytune plan``: what a study will cost before anything runs, and which differences it can tell apart."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeps.plan.cost import Plan, plan
from sweeps.plan.differences import Differences, differences
from sweeps.plan.differences import render as render_differences
from sweeps.plan.page import render
from sweeps.plan.rung_ranking import RungRanking, rung_rankings
from sweeps.plan.variation import ASSUMED, variation_of
from sweeps.run_folder.find import find_run
from sweeps.run_folder.reading import RunFolder
from sweeps.staged import plan as staged
from sweeps.study.study import Study
from trainer.errors import UserError
from trainer.store import Store

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 120  # characters of a line of the text


@dataclass(frozen=True)
class StudyPlan:
    """``print`` shows what ``steadytune plan`` shows."""

    cost: Plan | staged.StagesPlan  # trials, tokens, scoring passes, time in seconds, memory in bytes
    differences: Differences | None  # the smallest that can be told apart; None for a study with `stages`
    rankings: tuple[RungRanking, ...] = ()  # of a finished run: how well each rung foretold the last one

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        if isinstance(self.cost, staged.StagesPlan):
            return staged.render(self.cost)
        parts: list[RenderableType] = [render(self.cost)]
        if self.differences is not None:
            parts.append(render_differences(self.differences))
        return Group(*parts, *(Text(f"rung      {ranking.text}") for ranking in self.rankings))

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        # Jupyter asks for colours, and Rich would show the text there by itself
        plain = Console(file=text, width=WIDTH, soft_wrap=True, force_terminal=False, force_jupyter=False)
        plain.print(self)
        return text.getvalue().rstrip("\n")


def planned(study: Study, tflops: float | None = None, source: str | None = None) -> StudyPlan:
    """The plan of a study. ``tflops``: the speed of one host in 10^12 operations a second; assumed from the study's
    resources if not given. ``source``: a finished run of the task, which tells how much its scores vary. Raises
    ``UserError``."""
    if tflops is not None and not 0 < tflops < math.inf:
        raise UserError(
            f"--tflops = {tflops:g} must be a finite number above 0: operations of a host in 10^12 a second"
        )
    rate = None if tflops is None else tflops * 1e12
    if study.stages is not None:
        if source is not None:
            raise UserError(
                f"--from {source}: is for a study without `stages`, whose stages compare by rules of their own. Leave "
                "it out, or add stages=null to plan the axes as one search"
            )
        return StudyPlan(staged.plan_stages(study, rate=rate), None)
    run = None if source is None else RunFolder(Store.open(find_run(source)))
    recorded = ASSUMED if run is None else variation_of(run, study)
    made = plan(study, rate=rate)
    rankings = () if run is None else tuple(rung_rankings(run, study))
    return StudyPlan(made, differences(study, made, recorded), rankings)
