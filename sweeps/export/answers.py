"""Answers as records, and as a file.

A record per row, in the file's order: ``id``, ``label`` (for options: the number of the chosen one, from 0) and
``probabilities``, the softmax of what the trial's decision rule compares (with ``raw``, of the labels' summed
log-probabilities). So the label is always the most probable one; the probabilities sum to 1 over the labels and are not
calibrated. With options a record has ``answer``, the option's text; with generated answers it has ``text`` and no
probabilities. In csv and parquet each label has a column ``p_<label>``. Of several exports a row has a record each, in
the order in which they were given, that begins with ``export``, the name of its folder.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sweeps.display.text import spreadsheet_cell
from trainer.data.rows import Row
from trainer.errors import UserError, nearest
from trainer.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

    from trainer.predictor import Prediction

Record = dict[str, Any]
LABEL_COLUMN = "p_"  # begins the column of a label's probability; no other column begins so


def record_of(labels: Sequence[str], row: Row, answer: Prediction, limit: float | None = None) -> Record:
    """``labels``: the task's; none where every row has options of its own. ``limit``: of two labels, the second one's
    probability above which it is the answer; None: the more probable one is."""
    index = answer.index
    if limit is not None and answer.probabilities is not None:
        index = int(answer.probabilities[1] > limit)
    record: Record = {"id": row.id, "label": None}
    if index is not None:
        record["label"] = labels[index] if labels else str(index)
    if not labels:
        record["answer"] = None if index is None else row.options[index]
    if answer.text is not None:
        return record | {"text": answer.text}
    p = None if answer.probabilities is None else answer.probabilities.tolist()
    if labels:
        return record | {"probabilities": dict(zip(labels, p or [None] * len(labels), strict=True))}
    return record | {"probabilities": p}


Writer = Callable[[list[Record]], None]


def writer_to(out: str | None, rows: str) -> Writer:
    """The function that writes the records. UserError, before any work, if ``out`` cannot be written."""
    if out is None:
        return lambda records: print(_jsonl(records), end="")
    ending = os.path.splitext(out)[1].lower()
    if ending not in FORMATS:
        raise UserError(f'--out = "{out}" has the ending "{ending}", which is not known.{nearest(ending, FORMATS)}')
    if os.path.isdir(out):
        raise UserError(f'--out = "{out}" is a folder. Give a file')
    if os.path.exists(out) and os.path.exists(rows) and os.path.samefile(out, rows):
        raise UserError(f'--out = "{out}" is the file of the rows, which would be lost. Give another file')
    folder, name = os.path.split(out if "://" in out else os.path.realpath(out))  # a link is the user's own
    if "://" not in out and not os.path.isdir(folder or "."):
        raise UserError(f'--out = "{out}": the folder "{folder}" does not exist. Make it first')
    return lambda records: Store.open(folder or ".").write(name, FORMATS[ending](records))


def _jsonl(records: list[Record]) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)


def _csv(records: list[Record]) -> bytes:
    text = io.StringIO(newline="")
    flat = [_flat(r) for r in records]
    writer = csv.DictWriter(text, _columns(flat))
    writer.writeheader()
    writer.writerows(
        {k: json.dumps(v) if isinstance(v, list) else spreadsheet_cell(v) for k, v in r.items()} for r in flat
    )
    return text.getvalue().encode()


def _parquet(records: list[Record]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(answer_table(records), sink)
    return sink.getvalue().to_pybytes()


def answer_table(records: list[Record]) -> pa.Table:
    """The records as a table, with a column ``p_<label>`` for each label; null where an export has no such column. The
    columns' types do not depend on which values are null."""
    import pyarrow as pa

    flat = [_flat(r) for r in records]
    return pa.Table.from_pylist(flat, schema=pa.schema([(name, _kind(name)) for name in _columns(flat)]))


def _kind(column: str) -> pa.DataType:
    import pyarrow as pa

    if column == "probabilities":
        return pa.list_(pa.float64())
    return pa.float64() if column.startswith(LABEL_COLUMN) else pa.string()


def _columns(flat: list[Record]) -> list[str]:
    """All columns of the records, in the order in which they come up."""
    return list(dict.fromkeys(name for record in flat for name in record))


def _flat(record: Record) -> Record:
    p = record.get("probabilities")
    if not isinstance(p, dict):
        return record
    return {k: v for k, v in record.items() if k != "probabilities"} | {f"{LABEL_COLUMN}{x}": v for x, v in p.items()}


FORMATS: dict[str, Callable[[list[Record]], bytes]] = {
    ".jsonl": lambda records: _jsonl(records).encode(),
    ".csv": _csv,
    ".parquet": _parquet,
}
