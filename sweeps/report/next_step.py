"""What to do after a run, as the last line that ``steadytune run`` prints, and in the report's verdict.

It follows from what the report says of the winner (``verdict.py``): with none, what its sentence names; with one that
is not clearly better than the others, fresh seeds for the best; else the export.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

from sweeps.report.evidence import Evidence
from sweeps.report.verdict import unclear_differences
from sweeps.tables.winner import no_winner

CONFIRM = "confirm={top: 2, seeds: 4}"


def next_step(evidence: Evidence) -> str:
    """One line. The run is over."""
    if evidence.winner is None:
        rows = [{**e.row, "status": e.status} for e in evidence.entries]
        _, what_to_do = no_winner(rows, evidence.confirmed)
        return f"next: {what_to_do[:1].lower()}{what_to_do[1:]}"
    export = f"steadytune export {_typed(evidence.run.store.uri)} --to adapter"
    unclear, compared = unclear_differences(evidence)
    if not unclear:
        return f"next: {export} (writes the winner for peft and `steadytune predict`)"
    beside = f"the winner is not clearly better than {_others(evidence, unclear, compared)}"
    if evidence.confirmed or evidence.study.stages is not None:
        return f"next: {export} (or another with --trial ID: {beside})"
    return f"next: {beside}. Run the study again with {shlex.quote(CONFIRM)}, or take it as it is: {export}"


@dataclass(frozen=True)
class Advice:
    """What to do next, in words, and the command that does it."""

    text: str
    command: str


def to_be_surer(evidence: Evidence) -> Advice | None:
    """What the page says to do where the winner is not clearly better than the others; None where it is, and where
    there is no winner."""
    unclear, compared = unclear_differences(evidence)
    if evidence.winner is None or not unclear:
        return None
    beside = f"The winner is not clearly better than {_others(evidence, unclear, compared)}."
    study = shlex.quote(f"{evidence.run.store.uri}/study.yaml")
    if evidence.confirmed or evidence.study.stages is not None:
        more = "To tell them apart takes more seeds, prompts or rows. This says how many:"
        return Advice(f"{beside} {more}", f"steadytune plan {study} --from {shlex.quote(evidence.run.store.uri)}")
    return Advice(
        f"{beside} To be surer, run the study again with fresh seeds for the best:",
        f"steadytune run {study} {shlex.quote(CONFIRM)}",
    )


def _others(evidence: Evidence, unclear: int, compared: int) -> str:
    if not evidence.confirmed:
        return f"{unclear} of {compared} other {evidence.unit}s"
    if compared == 1:
        return "the other one that was trained with fresh seeds"
    return f"{unclear} of the {compared} others that were trained with fresh seeds"


def _typed(uri: str) -> str:
    """The run folder as a user would type it here."""
    inside = "://" not in uri and not os.path.relpath(uri).startswith("..")
    return shlex.quote(os.path.relpath(uri) if inside else uri)
