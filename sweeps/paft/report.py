"""The part of a report about training arms: the PAFT paper's tables and figures, made from a run folder.

``steadytune report`` writes it at any time for every study that sweeps arms. It needs no GPU, torch or ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.display.parts import ReportPart, ShownTable
from sweeps.display.text import counted, metric_text, percent, with_interval
from sweeps.paft import tables
from sweeps.paft.arm_results import Result, is_base, results
from sweeps.paft.claims import FAILS, HOLDS, UNDECIDED
from sweeps.paft.figures import figures
from sweeps.paft.tables import Rows
from sweeps.run_folder.reading import RunFolder
from sweeps.run_folder.timing import read_timing
from sweeps.study.study import Study
from sweeps.tables.words import in_words

TITLE = "Training arms"
SHOWN_FIRST = ("paft_claims", "paft_main")  # the others are folded
_DESCRIBED = ("arm", "train_prompts", "threshold")  # of the main table: said by the description and in the notes
MOST_NAMED = 4  # findings of one verdict that the answer names
_SAYS = {
    HOLDS: ("holds", "hold"),
    FAILS: ("does not hold", "do not hold"),
    UNDECIDED: ("is undecided", "are undecided"),
}


def part_of_run(run: RunFolder) -> ReportPart | None:
    """Write ``tables/paft_*`` and return the report's part; None where no arm has been scored on the test pool, or the
    study has none. ``tables/robustness`` must be there."""
    found = results(run) if run.study.axes.arm else []
    if not found:
        return None
    timing = read_timing(run.store)
    made = tables.tables(found, run.study, run.store, timing)
    said = [*run.notes, *tables.notes(found, run.study, timing)]
    tables.write(run.store, made, said)
    return ReportPart(
        TITLE,
        answer=tuple(answer(made, run.study)),
        figures=tuple(figures(found, run.study, made.get("paft_claims", []), made.get("paft_prompts", []))),
        tables=tuple(shown(made, found, run.study)),
        notes=tuple(said),
    )


def answer(made: dict[str, Rows], study: Study) -> list[str]:
    """Which of the paper's findings hold, do not hold or are undecided, and which arm is best on the test prompts."""
    rows, said = made.get("paft_claims", []), []
    for verdict in (HOLDS, FAILS, UNDECIDED) if rows else ():
        if not (named := [_claim(r) for r in rows if r["verdict"] == verdict]):
            continue
        more = f"; and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        of = f"{len(named)} of {counted(len(rows), 'finding')} of the paper"
        said.append(f"{of} {_SAYS[verdict][len(named) > 1]} here: {'; '.join(named[:MOST_NAMED])}{more}.")
    if best := made.get("paft_best"):
        first, second, gap = best
        said.append(
            f"The arm with the best mean {study.task.metric} on the test prompts is {first['arm']}, with "
            f"{metric_text(first['mean'], study.task.metric)}: "
            f"{with_interval(gap['mean'], gap['mean_low'], gap['mean_high'], signed=True)} points to the second best, "
            f"{second['arm']}."
        )
    return said


def _claim(row: Mapping[str, Any]) -> str:
    ends = f"{percent(row['low'], signed=True)} to {percent(row['high'], signed=True)}"
    return f"{row['claim']} ({percent(row['difference'], signed=True)} points, {ends})"


def shown(made: dict[str, Rows], found: Sequence[Result], study: Study) -> list[ShownTable]:
    """The tables in words, the findings and the arms first. An arm of the main table is described."""
    trained_on = {r.name: arm_in_words(r) for r in found}
    order = [*(n for n in SHOWN_FIRST if n in made), *(n for n in made if n not in SHOWN_FIRST)]
    tables_of = []
    for name in order:
        rows = made[name]
        if name == "paft_main":
            kept = [n for n in rows[0] if n not in _DESCRIBED]
            rows = [{"arm": r["arm"], "trained_on": trained_on[r["arm"]], **{n: r[n] for n in kept}} for r in rows]
        tables_of.append(in_words(tables.TITLES[name], rows, study.task.metric, folded=name not in SHOWN_FIRST))
    return tables_of


def arm_in_words(result: Result) -> str:
    """What an arm was trained on: ``24 prompts, another one every 4 examples, with typos``."""
    if is_base(result):
        return "nothing: the base model"
    arm, draw = result.trial.arm, result.trial.draw
    said = [counted(result.train_prompts, "prompt")]
    if result.train_prompts > 1:
        often = draw.unit.removesuffix("s") if draw.every == 1 else f"{draw.every} {draw.unit}"
        said.append(f"another one every {often}" if draw.mode == "dynamic" else "one for each row in every epoch")
        said += [f"{arm.choice} instead of uniform choice"] if arm.choice != "uniform" else []
    said += [f"typos in {percent(arm.typos, digits=0)} %"] if arm.typos else []
    said += [f"templates {', '.join(each.name for each in arm.formats)}"] if arm.formats else []
    said += [f"{arm.views} wordings of a row at once"] if arm.views > 1 else []
    return ", ".join(said)
