"""A cell is the text that stands in the file, in every format and folder: nothing is taken for a number, a date or a
missing value (CASES V4, V5, V12, E10)."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.rows import Row, load_questions, load_rows
from trainer.data.sources import RowSource, table_of_dataset
from trainer.errors import UserError

Record = dict[str, str]
LOOKS_TYPED = ["0123", "007", "1.10", "1e5", "TRUE", "true", "NA", "null", "None", "nan", "2024-03-01", "-0", "+1",
               "1_000", "0x1F", "9" * 30, " 1 ", "1,5", "Infinity", "12:30", "{}", "[1]"]  # fmt: skip
LINE_MARKS = "\u2028\u2029\u0085\x0b\x0c\x1c"  # line ends for Python's splitlines, and for nobody else here
texts = (
    st.sampled_from(LOOKS_TYPED)
    | st.text('ab01"\n\r\t,; ' + LINE_MARKS, min_size=1)
    | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1)
)
LABELS = ("01", "1", "1.0", "yes")


def write_separated(path: Path, records: Sequence[Record], separator: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as f:
        out = csv.DictWriter(f, list(records[0]), delimiter=separator, quoting=csv.QUOTE_ALL)
        out.writeheader()
        out.writerows(records)


def write_json(path: Path, records: Sequence[Record]) -> None:
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")


def write_lines(path: Path, records: Sequence[Record]) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8", newline="\n")


def write_parquet(path: Path, records: Sequence[Record]) -> None:
    pq.write_table(pa.Table.from_pylist(list(records)), path)


WRITERS: dict[str, Callable[[Path, Sequence[Record]], None]] = {
    "csv": write_separated,
    "tsv": lambda path, records: write_separated(path, records, "\t"),
    "json": write_json,
    "jsonl": write_lines,
    "parquet": write_parquet,
}


def source(path: Path, **changes: Any) -> RowSource:
    labels = {label: f"label {label}" for label in LABELS}
    return RowSource(**{"path": str(path), "fields": ("text",), "label": "y", "labels": labels, "id": "key", **changes})


def refusal(path: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_rows(source(path, **changes), "dev", "x.yaml: task.rows.dev")
    message = str(caught.value)
    assert message.replace('"', "").startswith(f"x.yaml: task.rows.dev: {path}")
    assert message.isprintable()
    return message


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(texts, st.sampled_from(LABELS)), min_size=1, max_size=5))
def test_a_row_is_one_text_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, given_rows: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    records = [{"key": f"0{i}", "text": text, "y": label} for i, (text, label) in enumerate(given_rows)]
    expected = [Row(r["key"], {"text": r["text"]}, f"label {r['y']}") for r in records]
    for ending, write in WRITERS.items():
        path = folder / f"rows.{ending}"
        write(path, records)
        assert load_rows(source(path), "train") == expected, ending
        asked = load_questions(str(path), ["text"], None, "key")
        assert [(row.id, row.fields) for row in asked] == [(row.id, row.fields) for row in expected], ending


@settings(deadline=None, max_examples=3)
@given(st.lists(texts, min_size=2, max_size=4))
def test_a_row_is_the_same_text_in_a_folder(tmp_path_factory: pytest.TempPathFactory, some: list[str]) -> None:
    records = [{"key": f"0{i}", "text": text, "y": "1"} for i, text in enumerate(some)]
    expected = [Row(r["key"], {"text": r["text"]}, "label 1") for r in records]
    for ending, write in WRITERS.items():
        folder = tmp_path_factory.mktemp("folder")
        write(folder / f"train-0.{ending}", records[:1])
        write(folder / f"train-1.{ending}", records[1:])
        write(folder / f"test.{ending}", [{"key": "a", "text": "12", "y": "yes"}])  # other rows change nothing
        assert load_rows(source(folder), "train") == expected, ending


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_what_looks_typed_stays_text_whatever_the_other_rows_hold(tmp_path: Path, ending: str) -> None:
    """CASES V4, V5, E10: alone in its file and among others, a cell is the same text; 30 digits are an id."""
    alone = [[{"key": "9" * 29 + str(i), "text": text, "y": "1"}] for i, text in enumerate(LOOKS_TYPED)]
    together = [record for [record] in alone]
    WRITERS[ending](tmp_path / f"all.{ending}", together)
    found = load_rows(source(tmp_path / f"all.{ending}"), "train")
    assert [row.fields["text"] for row in found] == LOOKS_TYPED
    for i, records in enumerate(alone):
        WRITERS[ending](tmp_path / f"one.{ending}", records)
        assert load_rows(source(tmp_path / f"one.{ending}"), "train") == [found[i]]


def test_numbers_of_a_json_file_are_written_as_in_the_file(tmp_path: Path) -> None:
    """CASES V5, E10, B4: numbers keep their digits, 20 or 5,000 of them, and options are no longer ``1.0, 2.0``."""
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"key": 12345678901234567890, "text": 1.10, "o": [1, 2], "y": 0}\n'
        '{"key": 12345678901234567891, "text": 1E5, "o": [1.5, true], "y": 1}\n'
        f'{{"key": 3, "text": {"7" * 5000}, "o": ["2024-03-01", "x"], "y": 1.0}}\n'
    )
    rows = load_rows(source(path, labels={}, options="o"), "dev")
    assert [row.id for row in rows] == ["12345678901234567890", "12345678901234567891", "3"]
    assert [row.fields["text"] for row in rows] == ["1.10", "1E5", "7" * 5000]
    assert [row.options for row in rows] == [("1", "2"), ("1.5", "true"), ("2024-03-01", "x")]
    assert [row.label for row in rows] == ["0", "1", "1"]


def test_a_label_is_found_by_its_text_first(tmp_path: Path) -> None:
    """CASES V4: "01" is not 1. A whole float and a truth value are also found by their other usual writing."""
    path = tmp_path / "rows.csv"
    write_separated(path, [{"text": "a", "y": y} for y in ("01", "1", "1.0", "True", "1")])
    names = {"01": "padded", "1": "one", True: "yes"}
    given_rows = load_rows(source(path, labels=names, id=None), "dev")
    assert [row.label for row in given_rows] == ["padded", "one", "one", "yes", "one"]
    own = load_rows(source(path, labels={**names, "1.0": "float"}, id=None), "dev")
    assert [row.label for row in own] == ["padded", "one", "float", "yes", "one"]
    assert [row.id for row in load_rows(source(path, labels=names, id=None, where={"y": "01"}), "dev")] == ["dev-0"]
    assert [row.id for row in load_rows(source(path, labels=names, id=None, where={"y": 1}), "dev")] == [
        *("dev-1", "dev-2", "dev-4")
    ]
    assert 'y = "01" is not in `labels`. Known: 1, true' in refusal(path, labels={"1": "one", True: "yes"}, id=None)


def test_lines_end_at_a_newline_only(tmp_path: Path) -> None:
    """CASES V12: U+2028, U+0085 and the like stand in a text; a byte order mark does not."""
    text = f"a{LINE_MARKS}b"
    path = tmp_path / "rows.jsonl"
    record = json.dumps({"key": "k", "text": "\u2028\u0085x", "y": "1"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{record}\r\n\n{json.dumps({'key': 'l', 'text': text, 'y': '1'})}".encode())
    assert [row.fields["text"] for row in load_rows(source(path), "dev")] == ["\u2028\u0085x", text]
    for ending in ("csv", "tsv", "json"):
        path = tmp_path / f"rows.{ending}"
        WRITERS[ending](path, [{"key": "k", "text": text, "y": "1"}])
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert load_rows(source(path), "dev") == [Row("k", {"text": text}, "label 1")]


def test_a_compressed_file_is_the_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"key": "01", "text": "0123", "y": "1"}])
    plain = (tmp_path / "rows.jsonl").read_bytes()
    for ending, pack in (("gz", gzip.compress), ("bz2", bz2.compress)):
        path = tmp_path / f"rows.jsonl.{ending}"
        path.write_bytes(pack(plain))
        assert load_rows(source(path), "dev") == [Row("01", {"text": "0123"}, "label 1")]
        path.write_bytes(pack(plain)[:-9])
        assert "cannot be read" in refusal(path)


# typed columns -----------------------------------------------------------------------------------------------------

TYPED = [
    (pa.array([7, None], pa.int64()), "7"),
    (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
    (pa.array([0.1], pa.float64()), "0.1"),
    (pa.array([1.0], pa.float64()), "1.0"),
    (pa.array([0.1], pa.float32()), "0.1"),
    (pa.array([1e16], pa.float64()), "1e+16"),
    (pa.array([True]), "true"),
    (pa.array([Decimal("1.10")], pa.decimal128(5, 2)), "1.10"),
    (pa.array([Decimal("0")], pa.decimal128(20, 10)), "0.0000000000"),
    (pa.array([date(2024, 3, 1)]), "2024-03-01"),
    (pa.array([datetime(2024, 3, 1, 1, 2)], pa.timestamp("s")), "2024-03-01 01:02:00"),
    (pa.array([datetime(2024, 3, 1, tzinfo=UTC)], pa.timestamp("ms", "UTC")), "2024-03-01 00:00:00Z"),
    (pa.array([datetime(2024, 3, 1, 1, 2, 0, 500_000)], pa.timestamp("us")), "2024-03-01 01:02:00.5"),
    (pa.array([time(1, 2)], pa.time32("s")), "01:02:00"),
    (pa.array(["a", "b"]).dictionary_encode(), "a"),
    (pa.array(["a"], pa.large_string()), "a"),
    (pa.array(["é".encode()], pa.binary()), "é"),
]


@pytest.mark.parametrize(("column", "text"), TYPED, ids=[str(c.type) + t for c, t in TYPED])
def test_a_typed_column_becomes_text_by_its_type(tmp_path: Path, column: pa.Array, text: str) -> None:
    path = tmp_path / "rows.parquet"
    n = len(column)
    pq.write_table(pa.table({"key": [str(i) for i in range(n)], "text": column, "y": ["1"] * n}), path)
    keep = {"key": "0"}
    assert [row.fields["text"] for row in load_rows(source(path, where=keep), "dev")] == [text]
    options = pa.array([[v, v] for v in column.to_pylist()], pa.list_(column.type)) if n == 1 else None
    if options is not None and not pa.types.is_dictionary(column.type):
        pq.write_table(pa.table({"key": ["0"], "text": ["t"], "o": options, "y": [1]}), path)
        assert load_rows(source(path, labels={}, options="o"), "dev")[0].options == (text, text)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([None], pa.int64()), 'column "text" is null'),
        (pa.array([float("nan")]), 'column "text" is null'),
        (pa.array([None]), 'column "text" is null'),
        (pa.array([b"\xff"], pa.binary()), 'column "text" has the type binary, which cannot be read as text'),
        (pa.array([{"a": 1}]), 'column "text" is a record, fields are text'),
        (pa.array([["a"]]), 'column "text" is a list, fields are text'),
        (pa.array(["a\0b"]), 'column "text" holds a NUL character'),
    ],
    ids=["null", "nan", "nulls", "bytes", "record", "list", "NUL"],
)  # fmt: skip
def test_a_typed_cell_without_a_text_is_named(tmp_path: Path, column: pa.Array, message: str) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"key": ["k"], "text": column, "y": ["1"]}), path)
    assert message in refusal(path)


def test_a_hub_data_set_becomes_text_by_the_same_rule() -> None:
    """What ``datasets`` hands over for a name on the hub, made here without the hub."""
    import datasets

    features = datasets.Features(
        {
            "n": datasets.Value("int64"),
            "f": datasets.Value("float32"),
            "d": datasets.Value("timestamp[s]"),
            "o": datasets.List(datasets.Value("int32")),
            "y": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    values = {"n": [7], "f": [0.1], "d": [datetime(2024, 3, 1)], "o": [[1, 2]], "y": [1]}
    table = table_of_dataset(datasets.Dataset.from_dict(values, features), "hub/set", "at", ("n", "f", "d", "o", "y"))
    assert {name: cells[0] for name, cells in table.cells.items()} == {
        "n": "7", "f": "0.1", "d": "2024-03-01 00:00:00", "o": ["1", "2"], "y": "1",
    }  # fmt: skip
    assert table.classes == {"y": ("no", "yes")}


def test_names_of_classes_stored_in_a_parquet_file_are_label_keys(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "y": datasets.ClassLabel(names=["ham", "spam"])})
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict({"text": ["a", "b"], "y": [0, 1]}, features).to_parquet(path)
    rows = load_rows(source(path, labels={"ham": "no", "spam": "yes"}, id=None), "dev")
    assert [row.label for row in rows] == ["no", "yes"]


# files that are not what they seem ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": "b",}\n', "a.jsonl, line 2: is not JSON ("),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"', "a.jsonl, line 2: is not JSON ("),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": "caf\xe9"}\n', "is not UTF-8 text (line 3: byte 0xe9)"),
        ("a.json", '[{"text": "a"},\n{"text": }]', "a.json, line 2: is not JSON ("),
        ("a.json", '[{"text": "a"},\n{"te', "a.json, line 2: is not JSON ("),
        ("a.json", '{"text":\n "a"}', "a.json, line 1: is not JSON ("),
        ("a.jsonl", '{"text": "a", "y": "1"}\n["a"]\n', "a.jsonl, line 2: holds ['a'], not a record"),
        ("a.jsonl", '{"text": "a", "text": "b"}', 'a.jsonl, line 1: cannot be used (the key "text" is given twice)'),
        ("a.jsonl", '{"text": NaN}', "a.jsonl, line 1: cannot be used (NaN is no JSON value)"),
        ("a.jsonl", '{"text": ' + "[" * 100_000, "a.jsonl, line 1: cannot be used (it is nested too deeply)"),
        ("a.jsonl", '{"text": "\\ud800", "y": "1", "key": "k"}', "holds half a character (\\ud800 without"),
        ("a.jsonl", '{"text": "a", "y": "\\udc00", "key": "k"}', 'y = "\\udc00" is not in `labels`'),
        ("a.jsonl", '{"text": "a\\u0000", "y": "1", "key": "k"}', 'column "text" holds a NUL character'),
        ("a.jsonl", '{"text": "a", "y": "1", "key": "k\\n"}', 'id column "key" holds a line break'),
        ("a.jsonl", '{"text": "a", "y": "1", "key": " "}', 'id column "key" is empty'),
        ("a.jsonl", '{"\\ud800": "a"}', "the name of a column holds half a character"),
        ("a.csv", "key,text,y\nk,a,1\nl,b\n", "a.csv, line 3: has 2 cells, but the file has 3 columns"),
        ("a.csv", 'key,text,y\nk,"a\nb",1\nl,b,1,2\n', "a.csv, line 4: has 4 cells, but the file has 3 columns"),
        ("a.csv", "text;y\na, b;1\n", "seems to be separated by ';'"),
        ("a.csv", 'key,text,y\nk,"a,1\n', "a.csv, line 2: cannot be divided into cells"),
        ("a.csv", "text,text,y\na,b,1\n", 'has 2 columns named "text"'),
        ("a.csv", "key,text,y\nk,a\0,1\n", 'column "text" holds a NUL character'),
        ("a.csv", "key,text,y\nk,a,1\n".encode("utf-16"), "is not UTF-8 text (it begins like UTF-16)"),
        ("a.tsv", "key\ttext\ty\nk\ta,b\t1\nk\tc\t1\n", 'id column "key" has "k" more than once'),
        ("a.parquet", "PAR1", '"{path}" cannot be read ('),
    ],
)  # fmt: skip
def test_a_broken_file_is_told_with_its_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    """CASES B8 (the line), B4 (Latin-1, NUL, half characters) and E10 (ids)."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        load_rows(source(path), "dev", "at")
    assert message.replace("{path}", str(path)) in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_file_whose_columns_are_not_those_of_the_others_is_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "train-0.jsonl", [{"key": "a", "text": "a", "y": "1"}])
    write_lines(tmp_path / "train-1.jsonl", [{"key": "b", "txt": "a", "y": "1"}])
    with pytest.raises(UserError, match=r'train-1\.jsonl has no column "text", which .*train-0\.jsonl has'):
        load_rows(source(tmp_path), "train")


# the cache ---------------------------------------------------------------------------------------------------------


def test_local_files_need_no_cache_and_a_hub_set_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CASES E4: nothing can be written under /proc, not even by root."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("/proc/none/datasets"))
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", "/proc/none")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("train", "test"):
        write_separated(folder / f"{name}.csv", [{"key": "01", "text": "0123", "y": "1"}])
    expected = [Row("01", {"text": "0123"}, "label 1")]
    assert load_rows(source(folder), "train") == load_rows(source(folder / "train.csv"), "train") == expected
    with pytest.raises(UserError, match=r"kept in /proc/none/datasets, which cannot be written \(.*set HF_HOME"):
        load_rows(source(Path("nobody/no-such-set")), "train")
