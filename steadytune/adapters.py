"""``steadytune.load``: an exported trial that answers rows, as ``steadytune predict`` does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from sweeps.export.predict import ExportedAdapter


def load(
    folder: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    trust_remote_code: bool = False,
) -> LoadedAdapter:
    """The export in ``folder``: a path, s3://… or gs://…. ``base``: the base model, if it has moved since training;
    ``dtype``: what it computes in, default that of the training; ``trust_remote_code``: run the code that comes with
    it, if it needs that. The model is read for the first answers. Raises ``UserError`` where the folder is no export,
    or a file of it was changed."""
    from sweeps.export.find import check_exists
    from sweeps.export.predict import ExportedAdapter

    place = os.fspath(folder)
    check_exists(place)
    return LoadedAdapter(ExportedAdapter(place, None if base is None else os.fspath(base), dtype, trust_remote_code))


class LoadedAdapter:
    """An exported trial on its base model, which stays in memory between answers."""

    def __init__(self, adapter: ExportedAdapter) -> None:
        self._adapter = adapter

    def __repr__(self) -> str:
        return f"<adapter of trial {self._adapter.exported.trial.id}>"

    def predict(
        self,
        rows: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | pd.DataFrame | pa.Table,
        prompt: str | None = None,
        threshold: float | Literal["tuned"] | None = None,
    ) -> pd.DataFrame:
        """A row per row of ``rows``, in their order: ``id``, ``label``, and for each label ``p_<label>``, the
        probability from 0 to 1. Where every row has options of its own, ``label`` is the number of the chosen one from
        0, ``answer`` its text and ``probabilities`` theirs; generated answers have ``text`` and no probabilities.

        ``rows``: a file, a list of dicts, or a table; they need the columns that the prompt reads. ``prompt``: another
        wording, or the id of a train prompt; default: the best on the dev prompts. ``threshold``: of two labels, the
        probability of the second one above which it is the answer; ``"tuned"`` is the one that was best for macro-F1 on
        the dev rows. Raises ``UserError``."""
        import pandas as pd
        import pyarrow as pa

        from sweeps.export.answers import answer_table

        asked = os.fspath(rows) if isinstance(rows, str | os.PathLike) else rows
        if isinstance(asked, pd.DataFrame):
            asked = pa.Table.from_pandas(asked, preserve_index=False)
        records = self._adapter.records(asked, prompt, None if threshold is None else str(threshold))
        return answer_table(records).to_pandas()
