"""``RunFolder``: the reader of a run folder, for tables, report, export and watch.

A trial's scores are those of its highest rung that has a score file, and never of a rung below the one at which
``trials.parquet`` says that the trial ended. A rung above it is from an earlier study in the folder, which trained the
trial for longer.

A file that is missing, damaged or another one's is noted in ``damage``, and nothing takes its place: what
``trials.parquet`` records of a trial decides. Files of versions before checksums are read, and counted in ``notes``.
Nothing is written: ``steadytune run`` makes such files anew.
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

from sweeps.run_folder.columns import SEARCH
from sweeps.run_folder.trials_file import TRIALS_FILE, DriverState, driver_state, study_checksum, trial_rows
from sweeps.study.overlay import StudyError, parse_yaml
from sweeps.study.schema import ObjectiveSection, SchedulerSection
from sweeps.study.study import Study
from sweeps.study.texts import text_at
from trainer.errors import UserError
from trainer.measure import grid as score_grid
from trainer.measure.grid import Grid, read_grid
from trainer.measure.packed import Packed
from trainer.store import DamagedError, Store, StoreError, scores_name
from trainer.trial import Trial, axis_columns, rung_steps

COLUMNS = (*score_grid.COLUMNS, "new_tokens")  # of the score rows
_CELLS = ("new_tokens",)  # enough to count them
ROBUSTNESS_FILE = "tables/robustness.parquet"
TRIAL_SCORES_FILE = "tables/trials.parquet"
GROUPS_FILE = "tables/groups.parquet"
CONFIRMATION_FILE = "tables/confirmation.parquet"
KEPT = 256 * 2**20  # bytes of grids in memory; what is beyond is read from its file again
MOST_NAMED = 10  # damaged files that a note lists
log = logging.getLogger("steadytune")


@dataclass(frozen=True)
class Rung:
    """The scores of a trial at one rung under one pool."""

    step: int  # optimizer steps
    record: Mapping[str, Any]  # of the score file: trial, losses, seconds, tokens, curve
    rows: pa.Table  # ``COLUMNS``; empty if the rung ended in NaN
    grid: Grid | None  # the scores as prompts x rows; None if the rung ended in NaN


@dataclass(frozen=True)
class Outline:
    """Of the study in a run folder, whichever version wrote it."""

    name: str
    shares: tuple[float, ...]  # of a trial's steps, at which it is scored
    std_weight: float  # of the objective


class RunFolder:
    """``beyond``: scores of rungs after the one at which the study stopped a trial count, too. An earlier study in the
    folder may have trained it further; its adapter is that of the last."""

    def __init__(self, store: Store, beyond: bool = False) -> None:
        self.store = store
        self._beyond = beyond
        self._damage: dict[str, str] = {}  # file -> what is wrong
        self._unchecked: set[str] = set()
        self._grids: dict[tuple[str, str], Packed] = {}  # read already: a report needs each several times
        self._room = KEPT

    # what is wrong with it --------------------------------------------------------------------------------------

    @property
    def damage(self) -> list[str]:
        """A sentence for each file found so far that is missing, damaged or another one's."""
        return [f"{self.store.address(name)}: {why}. {self.how_to_mend}" for name, why in sorted(self._damage.items())]

    @property
    def damaged_files(self) -> set[str]:
        """Names of the files found so far that are missing, damaged or another one's."""
        return set(self._damage)

    @property
    def notes(self) -> list[str]:
        """What a reader of the tables must know of the files they were made from."""
        said = []
        if self._damage:
            files = [f"{name} ({why})" for name, why in sorted(self._damage.items())]
            more = f" and {len(files) - MOST_NAMED} more" if len(files) > MOST_NAMED else ""
            said.append(
                f"Files that are missing or damaged: {'; '.join(files[:MOST_NAMED])}{more}. Their numbers are left "
                f"out, and the winner is the one that trials.parquet records. {self.how_to_mend}."
            )
        if self._unchecked:
            said.append(
                f"Not checked: {len(self._unchecked)} of the files read have no checksum, since a version before "
                "checksums wrote them."
            )
        return said

    def note(self, name: str, why: str) -> None:
        """Remember that a file is not what was written, and warn of it once."""
        if name not in self._damage:
            self._damage[name] = why
            log.warning("%s: %s. %s", self.store.address(name), why, self.how_to_mend)

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
    def outline(self) -> Outline:
        """What can be read of a study of every version, even if other keys differ. Raises ``UserError``."""
        try:
            shares = SchedulerSection.model_validate(self._layer["scheduler"]).shares
            objective = ObjectiveSection.model_validate(self._layer.get("objective", {}))
            return Outline(str(self._layer["name"]), shares, objective.std_weight)
        except (KeyError, ValidationError) as error:
            raise self._no_study(error) from error

    @functools.cached_property
    def _layer(self) -> dict[str, Any]:
        recorded = self.driver_state.study if self.has_trials else ""
        if recorded and recorded != study_checksum(self.study_text.encode()):
            raise UserError(
                f"{self.store.uri}/study.yaml: was changed after {TRIALS_FILE} was written, and by other settings "
                "another trial could win. Run the study as you want it; rungs that are done are kept"
            )
        try:
            layer = parse_yaml(self.study_text, "study.yaml", text_at)
        except StudyError as error:
            raise self._no_study(str(error).removeprefix("study.yaml: ")) from error
        if not isinstance(layer, dict):
            raise self._no_study("it is no mapping of keys")
        return _as_today(layer)

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
    def driver_state(self) -> DriverState:
        """What the driver said of itself in ``trials.parquet``. Raises ``UserError``."""
        try:
            return driver_state(self.trials_table)
        except DamagedError as error:
            raise self._damaged(TRIALS_FILE, error) from None

    @functools.cached_property
    def trials(self) -> list[dict[str, Any]]:
        """The rows of ``trials.parquet``. Raises ``UserError`` if it is missing or damaged."""
        try:
            return trial_rows(self.trials_table)
        except DamagedError as error:
            raise self._damaged(TRIALS_FILE, error) from None

    @functools.cached_property
    def trials_by_id(self) -> dict[str, dict[str, Any]]:
        """The rows of ``trials.parquet`` by trial id; empty while the file is not there yet."""
        return {row["trial_id"]: row for row in self.trials} if self.has_trials else {}

    @property
    def is_finished(self) -> bool:
        """Whether ``trials.parquet`` lists trials, and none that still runs."""
        return bool(self.trials_by_id) and all(row["status"] != "running" for row in self.trials_by_id.values())

    def trials_from_scores(self) -> list[dict[str, Any]]:
        """Rows as in ``trials.parquet``, made from the records of the dev scores, while that file is not there yet."""
        return [row for trial_id in self.store.folders("scores") if (row := self._trial_from_scores(trial_id))]

    def _trial_from_scores(self, trial_id: str) -> dict[str, Any] | None:
        scores = (self._load(trial_id, step, "dev") for step in self.store.rungs(trial_id, "dev"))
        records = [record for _, record in filter(None, scores)]
        if not records:
            return None
        try:
            trial = Trial.from_json(records[-1]["trial"])
        except (KeyError, TypeError, ValueError, AttributeError):  # of another version, which knew other settings
            return None
        return {
            "trial_id": trial_id,
            **axis_columns(trial),
            "configuration": trial.configuration,
            "role": SEARCH,
            "rung": records[-1].get("rung"),
            "seconds": sum(r.get("seconds") or 0.0 for r in records),
            "tokens": sum(r.get("tokens") or 0 for r in records),
        }

    # tables -----------------------------------------------------------------------------------------------------

    def robustness(self) -> list[dict[str, Any]]:
        """The rows of tables/robustness, one per configuration, as they were last written; none if they were not."""
        return self.rows(ROBUSTNESS_FILE)

    def trial_scores(self) -> list[dict[str, Any]]:
        """The rows of tables/trials, one per trial, as they were last written; none if they were not written yet."""
        return self.rows(TRIAL_SCORES_FILE)

    def confirmation(self) -> list[dict[str, Any]]:
        """The rows of tables/confirmation, one per confirmed configuration; none if the study confirmed none."""
        return self.rows(CONFIRMATION_FILE) if self.has_fresh else []

    @property
    def has_fresh(self) -> bool:
        """Whether ``confirm`` has trained fresh seeds."""
        return any(row["role"] != SEARCH for row in self.trials_by_id.values())

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a parquet file of the folder; none if it is not there. Raises ``UserError``."""
        rows: list[dict[str, Any]] = self.table(name).to_pylist() if self.store.exists(name) else []
        return rows

    def table(self, name: str) -> pa.Table:
        """A parquet file of the folder. Raises ``UserError`` if it is missing or damaged."""
        try:
            table, checked = self.store.read_table(name)
        except DamagedError as error:
            raise self._damaged(name, error) from None
        if not checked:
            self._unchecked.add(name)
        return table

    def _damaged(self, name: str, error: DamagedError) -> UserError:
        return UserError(f"{self.store.uri}/{name}: is damaged ({error}). {self.how_to_mend}")

    def is_checked(self, name: str) -> bool:
        """Whether the table that was read from this file has a checksum."""
        return name not in self._unchecked

    @property
    def how_to_continue(self) -> str:
        """The sentence that names the command which continues the run."""
        return f"Continue it with: {self._run_again}"

    @property
    def how_to_mend(self) -> str:
        """The sentence that names the command which makes a file anew."""
        return f"Run the study again, which makes it anew: {self._run_again}"

    @property
    def _run_again(self) -> str:
        study = f"{self.store.uri}/study.yaml" if "://" not in self.store.uri else "STUDY"
        return f"steadytune run {study} --out {self.store.uri}"

    # scores -----------------------------------------------------------------------------------------------------

    def last_grid(self, trial_id: str, pool: str) -> Grid | None:
        """The trial's scores under ``pool`` at its last rung; None if it has none there, or if that rung ended in NaN.
        Raises ``ScoreError`` naming file, prompt and row of a bad cell."""
        if (trial_id, pool) in self._grids:
            return self._grids[trial_id, pool].whole()
        last = self.last_rung(trial_id, pool)
        if last is None or last.grid is None:
            return None
        kept = Packed.of(last.grid)
        if self._room >= kept.size:
            self._room -= kept.size
            self._grids[trial_id, pool] = kept
        return last.grid

    def last_rung(self, trial_id: str, pool: str) -> Rung | None:
        """The trial's last rung under ``pool``; None if it has no scores there."""
        for step in reversed(self.store.rungs(trial_id, pool)):
            if self._ended_later(trial_id, step):
                break
            if pool in ("dev", "test") and not self._beyond and self.went_on(trial_id, step):
                continue
            if (found := self._rung(trial_id, step, pool)) is not None:
                return found
        row = self.trials_by_id.get(trial_id, {})
        due = self._ended_later(trial_id, 0) if pool == "dev" else pool == "test" and row.get("test_mean") is not None
        if due:
            name = scores_name(trial_id, row.get("rung") or 0, pool)
            if name not in self._damage:
                self.note(name, "is missing")
        return None

    def note_missing_rungs(self) -> None:
        """Note every rung of the study before a trial's end that has no dev scores."""
        shares = self.outline.shares
        for row in self.trials:
            if row["status"] not in ("finished", "stopped") or not row.get("rung"):
                continue
            found = self.store.rungs(row["trial_id"], "dev")
            due = shares if row["role"] == SEARCH else (1.0,)  # fresh seeds are scored at their end alone
            for step in rung_steps(due, row["steps"]):
                name = scores_name(row["trial_id"], step, "dev")
                if step <= row["rung"] and step not in found and name not in self._damage:
                    self.note(name, "is missing")

    def rungs(self, trial_id: str, pool: str) -> Iterator[Rung]:
        """Every rung of the trial under ``pool``, first to last."""
        for step in self.store.rungs(trial_id, pool):
            if (found := self._rung(trial_id, step, pool)) is not None:
                yield found

    def records(self, trial_id: str, pool: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Of every rung of the trial under ``pool`` that the study trained it to, first to last: its cells and its
        record."""
        for step in self.store.rungs(trial_id, pool):
            if not self.went_on(trial_id, step) and (scores := self._load(trial_id, step, pool, _CELLS)) is not None:
                yield scores[0].num_rows, scores[1]

    def _rung(self, trial_id: str, step: int, pool: str) -> Rung | None:
        scores = self._load(trial_id, step, pool)
        if scores is None:
            return None
        rows, record = scores
        if rows.num_rows == 0:
            return Rung(step, record, rows, None)
        where = f"{self.store.uri}/{scores_name(trial_id, step, pool)}"
        return Rung(step, record, rows, read_grid(rows, self._labels(pool, record), where, record.get("sample")))

    def _load(
        self, trial_id: str, step: int, pool: str, columns: tuple[str, ...] = COLUMNS
    ) -> tuple[pa.Table, dict[str, Any]] | None:
        """Rows and record; None, with a note, where the file is not what was written there."""
        name = scores_name(trial_id, step, pool)
        try:
            found = self.store.load_scores(trial_id, step, pool, columns)
        except DamagedError as error:
            self.note(name, f"is damaged ({error})")
            return None
        if found is None:
            return None
        rows, record, checked = found
        if not checked:
            self._unchecked.add(name)
        elif pool in ("dev", "test") and self.has_trials and not self._trials_checked:
            self.note(TRIALS_FILE, "has no checksum, and score files have: another version wrote it, or it was changed")
        return rows, record

    @functools.cached_property
    def _trials_checked(self) -> bool:
        _ = self.trials_table
        return self.is_checked(TRIALS_FILE)

    def pools(self, trial_id: str) -> list[str]:
        """The pools under which the trial has scores, sorted."""
        names = (re.fullmatch(r"\d+-(.+)\.parquet", n) for n in self.store.names(f"scores/{trial_id}"))
        return sorted({m[1] for m in names if m})

    def _ended_later(self, trial_id: str, step: int) -> bool:
        """Whether ``trials.parquet`` says that the trial ended at a later step."""
        row = self.trials_by_id.get(trial_id, {})
        return row.get("status") in ("finished", "stopped") and step < (row.get("rung") or 0)

    def went_on(self, trial_id: str, step: int) -> bool:
        """Whether ``trials.parquet`` says that the trial ended before ``step``, to which another study trained it."""
        row = self.trials_by_id.get(trial_id, {})
        return row.get("status") in ("finished", "stopped") and step > (row.get("rung") or step)

    @staticmethod
    def _labels(pool: str, record: Mapping[str, Any]) -> tuple[str, ...]:
        """The labels in the order of ``label_logprobs``; none if rows have their own options, as those of a benchmark
        have."""
        if pool not in ("dev", "test"):
            return ()
        return tuple(((record.get("trial") or {}).get("task") or {}).get("labels") or ())


def _as_today(layer: dict[str, Any]) -> dict[str, Any]:
    """A resolved study with its keys where they are today: ``task.meaning`` was ``stages.meaning`` when only studies in
    stages had one."""
    stages, task = layer.get("stages"), layer.get("task")
    if not isinstance(stages, dict) or "meaning" not in stages or not isinstance(task, dict):
        return layer
    left = {key: value for key, value in stages.items() if key != "meaning"}
    return {**layer, "stages": left, "task": {**task, "meaning": stages["meaning"]}}
