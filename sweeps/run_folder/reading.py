"""``RunFolder``: the reader of a run folder, for tables, report, export and watch.

A trial's scores are those of its highest rung that has a score file, and never of a rung below the one at which
``trials.parquet`` says that the trial ended. A rung above it is from an earlier study in the folder, which trained the
trial for longer. If the dev scores of the trial's end are missing or damaged, a warning says so.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from sweeps.study.overlay import StudyError, parse_yaml
from sweeps.study.schema import SchedulerSection
from sweeps.study.study import Study
from sweeps.study.texts import text_at
from trainer.errors import UserError
from trainer.measure import grid as score_grid
from trainer.measure.grid import Grid, read_grid
from trainer.store import Store, StoreError, scores_name
from trainer.trial import Trial, axis_columns

COLUMNS = (*score_grid.COLUMNS, "new_tokens")  # of the score rows
TRIALS_FILE = "trials.parquet"
ROBUSTNESS_FILE = "tables/robustness.parquet"
log = logging.getLogger("steadytune")


@dataclass(frozen=True)
class Rung:
    """The scores of a trial at one rung under one pool."""

    step: int  # optimizer steps
    record: Mapping[str, Any]  # of the score file: trial, losses, seconds, tokens, curve
    rows: pa.Table  # ``COLUMNS``; empty if the rung ended in NaN
    grid: Grid | None  # the scores as prompts x rows; None if the rung ended in NaN


class RunFolder:
    def __init__(self, store: Store) -> None:
        self.store = store

    # the study and its trials -----------------------------------------------------------------------------------

    @property
    def has_study(self) -> bool:
        return self.store.exists("study.yaml")

    @functools.cached_property
    def study_text(self) -> str:
        """``study.yaml``. Raises ``UserError`` if there is none."""
        try:
            return self.store.read("study.yaml").decode()
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            raise UserError(
                f"{self.store.uri} is no run folder: it holds no study.yaml. "
                "Give the folder that `steadytune run` wrote, such as runs/<study>"
            ) from error
        except UnicodeDecodeError as error:
            raise self._no_study(error) from error

    @functools.cached_property
    def study(self) -> Study:
        """The resolved study. Raises ``UserError``."""
        try:
            return Study.model_validate(self._layer)
        except ValidationError as error:
            raise self._no_study(error) from error

    @functools.cached_property
    def name_and_shares(self) -> tuple[str, tuple[float, ...]]:
        """The study's name, and the shares of a trial's steps at which it is scored. Every version writes these two,
        even if other keys of its studies differ. Raises ``UserError``."""
        try:
            return str(self._layer["name"]), SchedulerSection.model_validate(self._layer["scheduler"]).shares
        except (KeyError, ValidationError) as error:
            raise self._no_study(error) from error

    @functools.cached_property
    def _layer(self) -> dict[str, Any]:
        try:
            layer = parse_yaml(self.study_text, "study.yaml", text_at)
        except StudyError as error:
            raise self._no_study(error) from error
        if not isinstance(layer, dict):
            raise self._no_study("it is no mapping of keys")
        return layer

    def _no_study(self, why: object) -> UserError:
        return UserError(
            f"{self.store.uri}/study.yaml: is not a resolved study ({str(why).splitlines()[0]}). "
            "Run the study again to write it anew; rungs that are done are kept"
        )

    @property
    def has_trials(self) -> bool:
        """False at the start of a run, before ``trials.parquet`` is there."""
        return self.store.exists(TRIALS_FILE)

    @functools.cached_property
    def trials_table(self) -> pa.Table:
        """``trials.parquet``; the driver's state is in the table's metadata. Raises ``UserError``."""
        if not self.has_trials:
            raise UserError(
                f"{self.store.uri}/{TRIALS_FILE}: no such file. Is this a run folder? `steadytune run` writes it"
            )
        return self.table(TRIALS_FILE)

    @functools.cached_property
    def trials(self) -> list[dict[str, Any]]:
        """The rows of ``trials.parquet``. Raises ``UserError`` if it is missing or damaged."""
        rows: list[dict[str, Any]] = self.trials_table.to_pylist()
        return rows

    @functools.cached_property
    def trials_by_id(self) -> dict[str, dict[str, Any]]:
        """The rows of ``trials.parquet`` by trial id; empty while the file is not there yet."""
        return {row["trial_id"]: row for row in self.trials} if self.has_trials else {}

    def trials_from_scores(self) -> list[dict[str, Any]]:
        """Rows as in ``trials.parquet``, made from the records of the dev scores, while that file is not there yet."""
        return [row for trial_id in self.store.folders("scores") if (row := self._trial_from_scores(trial_id))]

    def _trial_from_scores(self, trial_id: str) -> dict[str, Any] | None:
        scores = (self.store.read_scores(trial_id, step, "dev", COLUMNS) for step in self.store.rungs(trial_id, "dev"))
        records = [record for _, record in filter(None, scores)]
        if not records:
            return None
        return {
            "trial_id": trial_id,
            **axis_columns(Trial.from_json(records[-1]["trial"])),
            "rung": records[-1]["rung"],
            "seconds": sum(r.get("seconds") or 0.0 for r in records),
            "tokens": sum(r.get("tokens") or 0 for r in records),
        }

    # tables -----------------------------------------------------------------------------------------------------

    def robustness(self) -> list[dict[str, Any]]:
        """The rows of tables/robustness as they were last written; none if they were not written yet."""
        return self.rows(ROBUSTNESS_FILE)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a parquet file of the folder; none if it is not there. Raises ``UserError``."""
        rows: list[dict[str, Any]] = self.table(name).to_pylist() if self.store.exists(name) else []
        return rows

    def table(self, name: str) -> pa.Table:
        """A parquet file of the folder. Raises ``UserError`` if it is missing or damaged."""
        try:
            return self.store.read_table(name)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{self.store.uri}/{name}: is damaged ({error}). {self.how_to_continue} to write it anew"
            ) from None

    @property
    def how_to_continue(self) -> str:
        """The sentence that names the command which continues the run."""
        study = f"{self.store.uri}/study.yaml" if "://" not in self.store.uri else "STUDY"
        return f"Continue it with: steadytune run {study} --out {self.store.uri}"

    # scores -----------------------------------------------------------------------------------------------------

    def last_grid(self, trial_id: str, pool: str) -> Grid | None:
        """The trial's scores under ``pool`` at its last rung; None if it has none there, or if that rung ended in NaN.
        Raises ``ScoreError`` naming file, prompt and row of a bad cell."""
        last = self.last_rung(trial_id, pool)
        return None if last is None else last.grid

    def last_rung(self, trial_id: str, pool: str) -> Rung | None:
        """The trial's last rung under ``pool``; None if it has no scores there."""
        for step in reversed(self.store.rungs(trial_id, pool)):
            if self._ended_later(trial_id, step):
                break
            if (found := self._rung(trial_id, step, pool)) is not None:
                return found
        if pool == "dev" and self._ended_later(trial_id, 0):
            name = scores_name(trial_id, self.trials_by_id[trial_id]["rung"], pool)
            log.warning("%s: is missing or damaged. %s", self.store.address(name), self.how_to_continue)
        return None

    def rungs(self, trial_id: str, pool: str) -> Iterator[Rung]:
        """Every rung of the trial under ``pool``, first to last."""
        for step in self.store.rungs(trial_id, pool):
            if (found := self._rung(trial_id, step, pool)) is not None:
                yield found

    def _rung(self, trial_id: str, step: int, pool: str) -> Rung | None:
        scores = self.store.read_scores(trial_id, step, pool, COLUMNS)
        if scores is None:
            return None
        rows, record = scores
        if rows.num_rows == 0:
            return Rung(step, record, rows, None)
        where = f"{self.store.uri}/{scores_name(trial_id, step, pool)}"
        return Rung(step, record, rows, read_grid(rows, self._labels(pool, record), where, record.get("sample")))

    def pools(self, trial_id: str) -> list[str]:
        """The pools under which the trial has scores, sorted."""
        names = (re.fullmatch(r"\d+-(.+)\.parquet", n) for n in self.store.names(f"scores/{trial_id}"))
        return sorted({m[1] for m in names if m})

    def _ended_later(self, trial_id: str, step: int) -> bool:
        """Whether ``trials.parquet`` says that the trial ended at a later step."""
        row = self.trials_by_id.get(trial_id, {})
        return row.get("status") in ("finished", "stopped") and step < (row.get("rung") or 0)

    @staticmethod
    def _labels(pool: str, record: Mapping[str, Any]) -> tuple[str, ...]:
        """The labels in the order of ``label_logprobs``; none if rows have their own options, as those of a benchmark
        have."""
        if pool not in ("dev", "test"):
            return ()
        return tuple(((record.get("trial") or {}).get("task") or {}).get("labels") or ())
