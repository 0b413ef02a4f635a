"""The smallest differences that a planned study can tell apart, what would lower them, and what that costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeps.display.text import counted, percent
from sweeps.plan.cost import Plan, plan
from sweeps.plan.variation import Recorded
from sweeps.statistics.power import LEVEL, SmallestDifferences, smallest_differences
from sweeps.study.study import Study
from sweeps.trials.study_work import seeds_each

if TYPE_CHECKING:
    from rich.console import RenderableType

MORE_PROMPTS, MORE_ROWS = 10, 2  # what is tried: ten more test prompts, twice the test rows
QUANTITIES = (("mean", "means"), ("std", "stds over prompts"), ("objective", "objectives"))


@dataclass(frozen=True)
class Design:
    """A study as it is planned, or with one thing more."""

    name: str
    seeds: int
    smallest: SmallestDifferences
    compute: float  # times that of the study as it is planned


@dataclass(frozen=True)
class Differences:
    designs: tuple[Design, ...]  # the study as it is planned, then what could be added
    comparisons: int  # with the best configuration
    recorded: Recorded
    dev_noise: tuple[float, float, int]  # std over prompts that the objective sees, share that is row noise, rows

    @property
    def planned(self) -> Design:
        return self.designs[0]

    def advice(self, quantity: str) -> Design | None:
        """What lowers the smallest difference most for the compute that it takes more. A second seed is not among
        these: what it makes visible no prompt or row can."""
        before = getattr(self.planned.smallest, quantity)
        gains = [(_gain(before, getattr(d.smallest, quantity), d.compute), d) for d in self.designs[1:]]
        gains = [(gain, d) for gain, d in gains if gain > 0 and (d.seeds > 1) == (self.planned.seeds > 1)]
        return max(gains, key=lambda found: found[0])[1] if gains else None


def _gain(before: float, after: float, compute: float) -> float:
    lower = before - after if math.isfinite(before) else math.inf if math.isfinite(after) else 0.0
    return lower / max(compute - 1.0, 1e-9)


def differences(study: Study, made: Plan, recorded: Recorded) -> Differences:
    """``made``: the plan of ``study``. All three quantities are on the test grid, which the tables compare."""
    sizes = made.sizes
    more_prompts = dataclasses.replace(sizes, test_prompts=sizes.test_prompts + MORE_PROMPTS)
    more_rows = dataclasses.replace(sizes, test_rows=sizes.test_rows * MORE_ROWS)
    variants = [("as planned", study, made)]
    if (more := _with_one_more_seed(study)) is not None and recorded.seeds:
        variants.append(("one more seed", more, plan(more, sizes, made.model, made.rate)))
    variants.append((f"{MORE_PROMPTS} more test prompts", study, plan(study, more_prompts, made.model, made.rate)))
    variants.append(("twice the test rows", study, plan(study, more_rows, made.model, made.rate)))
    designs = tuple(_design(name, of, p, recorded, made.cost.operations) for name, of, p in variants)
    observed = recorded.found.observed(sizes.dev_rows)
    noise = math.sqrt(observed), recorded.found.row_noise(sizes.dev_rows), sizes.dev_rows
    return Differences(designs, _compared(study, made)[1], recorded, noise)


def _with_one_more_seed(study: Study) -> Study | None:
    """None where seeds are drawn, or trials chosen one by one."""
    if not isinstance(study.axes.seed, tuple) or study.search.method == "tpe":
        return None
    seeds = (*study.axes.seed, max(study.axes.seed) + 1)
    changed: dict[str, Any] = {"axes": study.axes.model_copy(update={"seed": seeds})}
    if study.search.trials is not None:
        trials = study.search.trials // (len(seeds) - 1) * len(seeds)
        changed["search"] = study.search.model_copy(update={"trials": trials})
    return study.model_copy(update=changed)


def _compared(study: Study, made: Plan) -> tuple[int, int]:
    """(configurations, comparisons of those with test scores to the best of them), of the search."""
    seeds = seeds_each(study)
    tested = made.rungs[-1].trials if study.tables.test == "finalists" else made.trials
    return max(1, made.trials // seeds), max(1, tested // seeds - 1)


def _design(name: str, study: Study, made: Plan, recorded: Recorded, operations: float) -> Design:
    seeds = seeds_each(study) if recorded.seeds else 1
    configurations, comparisons = _compared(study, made)
    smallest = smallest_differences(
        recorded.found,
        seeds,
        made.sizes.test_prompts,
        made.sizes.test_rows,
        study.objective.std_weight,
        configurations,
        comparisons,
    )
    return Design(name, seeds, smallest, made.cost.operations / operations)


# as the terminal shows it -------------------------------------------------------------------------------------


def render(found: Differences) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("smallest difference, in points", title_justify="left")
    for heading in ("mean", "std", "objective", "compute"):
        table.add_column(heading, justify="right")
    for design in found.designs:
        numbers = [_points(getattr(design.smallest, name)) for name, _ in QUANTITIES]
        table.add_row(f"{design.name}{_of(design, found)}", *numbers, f"x {design.compute:.2f}")
    return Group(table, *(Text(line) for line in lines(found)))


def _points(value: float) -> str:
    return percent(value) if math.isfinite(value) else "-"


def _of(design: Design, found: Differences) -> str:
    """What the differences of a design with another number of seeds than planned are of."""
    return ": of settings" if design.seeds > 1 and found.planned.seeds == 1 else ""


def lines(found: Differences) -> Iterator[str]:
    level = f"{LEVEL:g}" if found.comparisons == 1 else f"{LEVEL:g} / {found.comparisons}, the comparisons to the best"
    yield f"power     two configurations that differ by so much are told apart with a chance of 80 % (level {level})"
    if not found.recorded.seeds:
        yield (
            "seeds     unknown: no configuration of the run has two seeds. The differences are of these fine-tunes, "
            "and not of their settings"
        )
    elif found.planned.seeds == 1:
        yield (
            "seeds     one of each: the differences are of these fine-tunes. What another seed would change shows only "
            "with two seeds or more, and then the differences are of settings"
        )
    advised = {plural: found.advice(name) for name, plural in QUANTITIES}
    for design in dict.fromkeys(d for d in advised.values() if d is not None):
        what = [plural for plural, d in advised.items() if d == design]
        yield f"advice    {design.name} lowers it most for the compute: {' and '.join(what)}"
    std, share, rows = found.dev_noise
    yield (
        f"noise     the objective sees a std of {percent(std)} points over the dev prompts, of whose square "
        f"{percent(share, digits=0)} % is noise of {counted(rows, 'dev row')}"
    )
    yield f"variation {found.recorded.source}"
