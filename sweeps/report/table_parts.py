"""The report's parts: on which axis mattered, on two labels, on asking in several wordings, and those that have
packages of their own, on stages, prompt loss weights and training arms. Each is made with its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sweeps.display.parts import Figure, ReportPart, ShownTable
from sweeps.paft import report as paft_report
from sweeps.plw import report as plw_report
from sweeps.report.evidence import DRAWN
from sweeps.run_folder.reading import RunFolder
from sweeps.staged import report as staged_report
from sweeps.tables import binary, effects, ensembles
from sweeps.tables.configurations import labels


@dataclass(frozen=True)
class RunParts:
    """``mattered``: on which axis mattered, which has a place of its own in the page; ``others``: in their order."""

    mattered: ReportPart | None = None
    others: tuple[ReportPart, ...] = ()

    @property
    def figures(self) -> tuple[Figure, ...]:
        every = (*([self.mattered] if self.mattered else []), *self.others)
        return tuple(figure for part in every for figure in part.drawn)


def parts_of_run(run: RunFolder) -> RunParts:
    """Write the tables of every part that the run has and return the parts. ``tables/robustness`` must be there."""
    if not run.has_trials:  # at the start of a run
        return RunParts()
    found = [binary_part(run), ensembles_part(run), staged_report.part_of_run(run)]
    if run.study.stages is None:  # stages have no grid over the weights
        found.append(plw_report.part_of_run(run))
    found.append(paft_report.part_of_run(run))
    return RunParts(mattered_part(run), tuple(part for part in found if part is not None))


def mattered_part(run: RunFolder) -> ReportPart | None:
    """Write ``tables/effects`` and ``tables/variance`` and return the report's part; None where no two configurations
    can be compared."""
    found, metric = effects.write_effects(run), run.study.task.metric
    if not found.variance.num_rows:
        return None
    tables = [effects.effect_table(found, metric)] if found.effects.num_rows else []
    said = effects.sentence(found, metric)
    return ReportPart(
        effects.TITLE,
        answer=tuple(filter(None, (said, effects.unpaired_note(found)))),
        tables=(*tables, effects.variance_table(found, metric)),
        notes=tuple(effects.notes(found, metric)),
    )


def binary_part(run: RunFolder) -> ReportPart | None:
    """Write ``tables/binary`` and return the report's part; None where the task has not two labels."""
    table, names = binary.write_binary(run), labels(run.robustness())
    if table.num_rows == 0:
        return None
    title = f"The figures, for the best {DRAWN} trials at most; all are in tables/binary"
    return ReportPart(
        binary.TITLE,
        answer=tuple(binary.answer(table, names)),
        tables=(_shown(title, *binary.cells(_first(table), names)),),
        notes=tuple(binary.notes(table, run.study)),
    )


def ensembles_part(run: RunFolder) -> ReportPart | None:
    """Write ``tables/ensembles`` and return the report's part; None where no trial has test scores yet."""
    table, names = ensembles.write_ensembles(run), labels(run.robustness())
    if table.num_rows == 0:
        return None
    return ReportPart(
        ensembles.TITLE,
        answer=tuple(ensembles.answer(table, run.study, names)),
        figures=(ensembles.figure(table, run.study, names),),
        tables=(_shown("By method, with 95 % intervals", *ensembles.pivot(table, names)),),
        notes=tuple(ensembles.notes(table, run.study)),
    )


def _shown(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> ShownTable:
    """A folded table without the columns in which there is nothing."""
    kept = [i for i in range(len(head)) if any(row[i] not in ("", "-") for row in rows)]
    texts = {"configuration", "trial", "method", "metric", "note"}
    return ShownTable(
        title,
        tuple(head[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in rows),
        numbers=frozenset(at for at, i in enumerate(kept) if head[i] not in texts),
        long_texts=frozenset(at for at, i in enumerate(kept) if head[i] == "note"),
        folded=True,
    )


def _first(table: pa.Table) -> pa.Table:
    """The rows of the best trials, as many as the report draws."""
    ids = list(dict.fromkeys(table["trial_id"].to_pylist()))[:DRAWN]
    return table.filter(pc.is_in(table["trial_id"], pa.array(ids)))
