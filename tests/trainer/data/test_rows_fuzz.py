"""Hostile row files: whatever stands in a file, the outcome is rows or a ``UserError`` of one line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.data.rows import Row, load_questions, read_rows
from trainer.data.sources import FORMATS, RowSource
from trainer.errors import UserError

COLUMNS = ("text", "y", "options", "id")
VALUES: list[Any] = [
    "a", "", " ", "b\nc", "0123", '"', "\0", "\ud800", "\u2028", "é" * 3, "x" * 200_000, "1", "0", "-1", "²",
    "9" * 5000,
    0, 1, -1, 2**70, 1.5, 1e300, True, None, [], ["a", "b"], ["a", None], [1, 2.5], [["a"]], ["a", "\ud800"], {"a": 1},
]  # fmt: skip
RAW = [
    "NaN",
    "-Infinity",
    "9" * 5000,
    "1e999999",
    "[" * 5000,
    "{" * 300,
    '{"a":' * 2000,
    '"\\ud800"',
    '"\\u0000"',
    "nul",
]
PIECES = [
    b"\n", b"\r", b"\0", b'"', b",", b"\t", b";", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe9", b"\x85", b"[", b"{", b"}",
    "\u2028".encode(), b"\xed\xa0\x80", b"PAR1", b'""', b'","',
]  # fmt: skip

records = st.lists(
    st.dictionaries(st.sampled_from([*COLUMNS, "text ", "\n", "\ud800", ""]), st.sampled_from(VALUES), max_size=5),
    max_size=6,
)


def as_json(records: Sequence[dict[str, Any]]) -> bytes:
    return json.dumps(records).encode()


def as_lines(records: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(r) + "\n" for r in records).encode()


def as_separated(records: Sequence[dict[str, Any]], separator: str = ",") -> bytes:
    text = io.StringIO(newline="")
    out = csv.writer(text, delimiter=separator)
    out.writerow(COLUMNS)
    out.writerows([r.get(c, "") for c in COLUMNS] for r in records)
    return text.getvalue().encode("utf-8", "surrogatepass")


def as_parquet(records: Sequence[dict[str, Any]]) -> bytes:
    """Each column with the type of its first value; values of other types are null."""
    columns: dict[str, pa.Array] = {}
    for name in COLUMNS:
        values = [r.get(name) for r in records]
        kind = type(next((v for v in values if v is not None), None))
        try:
            columns[name] = pa.array([v if isinstance(v, kind) else None for v in values])
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
            columns[name] = pa.array([b"\xff"] * len(values))
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


WRITERS = {
    ".json": as_json,
    ".jsonl": as_lines,
    ".ndjson": as_lines,
    ".csv": as_separated,
    ".tsv": lambda r: as_separated(r, "\t"),
    ".parquet": as_parquet,
}


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """(ending, content): a file of some format, perhaps under the ending of another, perhaps damaged."""
    written = draw(st.sampled_from(sorted(WRITERS)))
    content = WRITERS[written](draw(records))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(["cut", "insert", "flip", "raw", "repeat", "empty"])):
            case "cut":
                content = content[:at]
            case "insert":
                content = content[:at] + draw(st.sampled_from(PIECES)) + content[at:]
            case "flip":
                content = content[:at] + draw(st.binary(min_size=1, max_size=4)) + content[at + 2 :]
            case "raw":
                content = content.replace(b'"a"', draw(st.sampled_from(RAW)).encode(), 1)
            case "repeat":
                content = content + content[at:]
            case "empty":
                content = b""
    return draw(st.sampled_from([written, written, written, *sorted(FORMATS), ".gz", ".jsonl.gz", ".zip", ""])), content


sources = st.fixed_dictionaries(
    {
        "label": st.sampled_from(["y", "y", "y", "text", "z"]),
        "options": st.sampled_from([None, None, "options", "text"]),
        "id": st.sampled_from([None, None, "id", "y"]),
        "labels": st.sampled_from(
            [{0: "no", 1: "yes"}, {"0": "no", "1": "yes", "a": "no", "b": "yes"}, {True: "yes"}, {}]
        ),
        "where": st.sampled_from([{}, {}, {"y": 1}, {"y": ["1", None]}, {"options": "a"}, {"w": 1.0}]),
        "limit": st.sampled_from([None, 1, 3]),
        "drop": st.sampled_from([(), ("empty",), ("empty", "duplicate")]),
    }
)


def try_to_read(folder: Any, file: tuple[str, bytes], options: dict[str, Any]) -> None:
    ending, content = file
    path = folder / f"rows{ending}"
    path.write_bytes(content)
    for read in (
        lambda: read_rows(RowSource(str(path), ("text",), **options), "dev", "task.rows.dev").rows,
        lambda: load_questions(str(path), ["text"], options["options"], options["id"]),
    ):
        rows, mistake = outcome(read)
        assert mistake.isprintable(), mistake
        assert len(mistake) < 3000
        assert bool(rows) != bool(mistake)
        assert all(is_sound(row) for row in rows)
        assert len({row.id for row in rows}) == len(rows)


def outcome(read: Callable[[], Sequence[Row]]) -> tuple[Sequence[Row], str]:
    """(rows, message of the user's mistake). Whatever else is raised fails the test."""
    try:
        return read(), ""
    except UserError as error:
        return [], str(error)


def is_sound(row: Row) -> bool:
    """All of a row is text that a UTF-8 file can hold."""
    found = [row.id, *row.fields.values(), row.label, *row.options]
    return all(isinstance(text, str) and "\0" not in text and bool(text.encode() or True) for text in found)


fuzz = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(fuzz, max_examples=100)
@given(files(), sources)
def test_a_hostile_file_gives_rows_or_a_mistake(
    tmp_path_factory: pytest.TempPathFactory, file: tuple[str, bytes], options: dict[str, Any]
) -> None:
    try_to_read(tmp_path_factory.mktemp("fuzz"), file, options)


@pytest.mark.long
@settings(fuzz, max_examples=1000)
@given(files(), sources)
def test_a_thousand_hostile_files_give_rows_or_a_mistake(
    tmp_path_factory: pytest.TempPathFactory, file: tuple[str, bytes], options: dict[str, Any]
) -> None:
    try_to_read(tmp_path_factory.mktemp("fuzz"), file, options)
