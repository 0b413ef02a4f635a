"""``steadytune.open``: the results of a run, as tables and figures. Reading them imports neither torch nor Ray."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd
    import pyarrow as pa

    from sweeps.run_folder.reading import RunFolder, Rung
    from sweeps.tables.robustness import Tables


def open_run(run: str | os.PathLike[str]) -> OpenedRun:
    """The run in a folder: its path, s3://… or gs://…, or its name in runs/. It may still go on. ``UserError`` if there
    is none."""
    from sweeps.run_folder.find import find_run
    from sweeps.run_folder.reading import RunFolder
    from trainer.store import Store

    folder = RunFolder(Store.open(find_run(os.fspath(run))))
    _ = folder.study_text  # UserError where the folder is no run's
    return OpenedRun(folder)


class OpenedRun:
    """A run as it was when it was first looked at: open it again to see what it has done since. docs/run-folder.md
    describes every column. Methods raise ``UserError`` where a file is missing or damaged."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"<run {self.address}>"

    @property
    def address(self) -> str:
        """The run folder: a path or a URL."""
        return self._folder.store.uri

    @property
    def notes(self) -> list[str]:
        """What is to be known of the files that were read so far: those that are damaged, missing or unchecked."""
        return self._folder.notes

    def table(self, name: str = "robustness") -> pd.DataFrame:
        """A table of ``tables/``. ``robustness`` has a row per configuration, the winner first; others are ``trials``,
        ``groups``, ``confirmation``, ``binary`` and ``ensembles``. Metrics and shares are fractions of 1; what cannot
        be computed is NaN or None. While a study runs, the first four are made of what is there so far; nothing is
        written."""
        from sweeps.tables.current import written_tables
        from trainer.errors import UserError, nearest

        made = self._tables
        tables = {"robustness": made.robustness, "trials": made.trials, "groups": made.groups}
        if made.confirmation.num_rows:
            tables["confirmation"] = made.confirmation
        files = [n.removesuffix(".parquet") for n in self._folder.store.names("tables") if n.endswith(".parquet")]
        if name in tables:
            found = tables[name]
        elif name not in files:
            raise UserError(f'{self.address}: there is no table "{name}".{nearest(name, [*tables, *files])}')
        elif written_tables(self._folder) is None:
            raise UserError(
                f"{self.address}/tables/{name}.parquet: was not made of the run as it is now. Write the tables again: "
                f"steadytune report {self.address}"
            )
        else:
            found = self._folder.table(f"tables/{name}.parquet")
        return found.replace_schema_metadata(None).to_pandas()

    def scores(self, of: str | None = None, pool: str = "test") -> pa.Table:
        """The score rows, one per prompt and row, that the trial ``of``, all trials of the configuration ``of``, or all
        trials of the run have under ``pool`` at their last rung: ``dev``, ``test``, or a task that ``steadytune
        benchmark`` scored. ``label_logprobs`` are in nats. Trials without such scores are left out; ``UserError`` if
        none has any."""
        import pyarrow as pa

        from trainer.errors import UserError, nearest

        trials = self._trials_of(of)
        found = [_score_rows(t, pool, rung) for t in trials if (rung := self._folder.last_rung(t, pool)) is not None]
        if not found:
            pools = sorted({p for trial in trials for p in self._folder.pools(trial)})
            who = "no trial has" if of is None else f'"{of}" has no'
            raise UserError(f'{self.address}: {who} scores under the pool "{pool}".{nearest(pool, pools)}')
        return pa.concat_tables(found)

    @property
    def figures(self) -> list[str]:
        """Names of the report's figures that this run has something to show in."""
        return list(self._figures)

    def figure(self, name: str) -> alt.TopLevelMixin:
        """A figure of the report as an Altair chart: a notebook shows it, and its ``save`` writes it. ``figures`` lists
        the names."""
        from sweeps.display.vega import chart
        from trainer.errors import UserError, nearest

        if name not in self._figures:
            raise UserError(f'{self.address}: there is no figure "{name}".{nearest(name, self._figures)}')
        return chart(self._figures[name])

    @property
    def configurations(self) -> list[str]:
        """Ids of the configurations, in the order of the table: the winner first."""
        return self._tables.robustness.column("configuration").to_pylist()

    @property
    def winner(self) -> str | None:
        """The id of the winning configuration; None while the run goes on, and where there is no winner."""
        from sweeps.tables.current import winning_row

        row = winning_row(self._tables) if self._folder.is_finished else None
        return None if row is None else str(row["configuration"])

    def export(
        self,
        to: str | os.PathLike[str],
        trial: str | None = None,
        merge: bool = False,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    ) -> str:
        """Write a trial as a folder that peft and ``steadytune.load`` open; returns ``to``, which must be new or empty.
        ``trial``: an id or its beginning; default: the winner. ``merge``: write the base model's weights with the
        adapter in them, in ``dtype`` (default: that of the base's files). ``UserError`` if the trial has no adapter, or
        the run no winner."""
        from sweeps.export.export import export

        return export(self.address, trial, os.fspath(to), merge=merge, dtype=dtype)

    @functools.cached_property
    def _tables(self) -> Tables:
        from sweeps.tables.current import current_tables

        return current_tables(self._folder)

    @functools.cached_property
    def _figures(self) -> dict[str, dict[str, Any]]:
        """Name -> Vega-Lite."""
        from sweeps.report.figures import figures_of_run

        made = self._tables if self._folder.has_trials else None
        return {figure.name: figure.spec for figure in figures_of_run(self._folder, made)}

    def _trials_of(self, of: str | None) -> list[str]:
        """Ids of trials; also of earlier studies in the folder, where ``of`` is such a trial."""
        from trainer.errors import UserError, nearest

        listed = self._folder.trials_by_id
        if of is None:
            return list(listed)
        trials = [trial for trial, row in listed.items() if of in (trial, row["configuration"])]
        known = [*listed, *self._folder.store.folders("scores")]
        if not trials and of not in known:
            known += [row["configuration"] for row in listed.values()]
            raise UserError(f'{self.address}: "{of}" is neither a trial nor a configuration.{nearest(of, known)}')
        return trials or [of]


def _score_rows(trial_id: str, pool: str, rung: Rung) -> pa.Table:
    """All columns of a score file."""
    import pyarrow as pa

    from trainer.store import SCORES

    table = rung.rows
    for name, value in (("trial_id", trial_id), ("rung", rung.step), ("pool", pool)):
        table = table.append_column(name, pa.array([value] * table.num_rows, SCORES.field(name).type))
    return table.select(SCORES.names).cast(SCORES)
