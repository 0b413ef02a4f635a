"""Rows from files: what is read, and that nothing wrong is read silently."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer.data.cells import plain_form
from trainer.data.rows import Row, fingerprint_rows, load_rows
from trainer.data.sources import RowSource
from trainer.errors import UserError

RECORDS = [{"text": f"t{i}", "y": i % 2, "split": "dev" if i < 6 else "test", "key": f"k{i}"} for i in range(10)]
LABELS = {0: "no", 1: "yes"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def jsonl(folder: Path, records: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return str(folder / name)


def source(path: str, **changes: Any) -> RowSource:
    return RowSource(**{"path": path, "fields": ("text",), "label": "y", "labels": LABELS, **changes})


def failure(given: RowSource, split: str = "dev") -> str:
    with pytest.raises(UserError) as caught:
        load_rows(given, split, f"x.yaml: task.rows.{split}")
    assert str(caught.value).startswith(f"x.yaml: task.rows.{split}: ")
    return str(caught.value)


# reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "folder"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    records = [{"text": 'a, "b"\nc', "y": 0}, {"text": "None", "y": 1}, {"text": "12", "y": 0}]
    table = pa.Table.from_pylist(records)
    path = str(tmp_path / f"rows.{kind}")
    if kind == "jsonl":
        path = jsonl(tmp_path, records)
    elif kind == "json":
        Path(path).write_text(json.dumps(records))
    elif kind in ("csv", "tsv"):
        table.to_pandas().to_csv(path, index=False, sep="," if kind == "csv" else "\t")
    else:
        os.makedirs(tmp_path / "rows.folder", exist_ok=True)
        path = str(tmp_path / "rows.folder") if kind == "folder" else path
        pq.write_table(table, path + "/train.parquet" if kind == "folder" else path)
    rows = load_rows(source(path), "train")
    assert rows == [
        Row("train-0", {"text": 'a, "b"\nc'}, "no"),
        Row("train-1", {"text": "None"}, "yes"),
        Row("train-2", {"text": "12"}, "no"),
    ]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 1], {"0": "no", "1": "yes"}),
        ([0.0, 1.0], {0: "no", 1: "yes"}),
        ([False, True], {False: "no", True: "yes"}),
        ([False, True], {"false": "no", "true": "yes"}),
        (["ham", "spam"], {"ham": "no", "spam": "yes"}),
        (["0", "1"], {0: "no", 1: "yes"}),
    ],
)
def test_labels_of_any_type(tmp_path: Path, values: list[Any], labels: dict[Any, str]) -> None:
    path = jsonl(tmp_path, [{"text": "a", "y": values[0]}, {"text": "b", "y": values[1]}])
    assert [r.label for r in load_rows(source(path, labels=labels), "dev")] == ["no", "yes"]


def test_where_limit_and_ids(tmp_path: Path) -> None:
    path = jsonl(tmp_path, RECORDS)
    rows = load_rows(source(path, where={"split": "test"}), "test")
    assert [r.id for r in rows] == ["test-6", "test-7", "test-8", "test-9"]  # places in the file, not among the kept
    assert [
        r.id for r in load_rows(source(path, where={"split": ["dev", "test"], "y": 1}, labels={1: "yes"}), "d")
    ] == [f"d-{i}" for i in (1, 3, 5, 7, 9)]
    some = load_rows(source(path, limit=5), "dev")
    assert len(some) == 5
    assert [r.id for r in some] == sorted(r.id for r in some)
    assert some == load_rows(source(path, limit=5), "dev")
    assert [r.id for r in some] != [f"dev-{i}" for i in range(5)]
    assert len(load_rows(source(path, limit=50), "dev")) == 10
    assert [r.id for r in load_rows(source(path, id="key"), "dev")][:2] == ["k0", "k1"]


def test_options_are_read_with_the_number_of_the_right_one(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path, [{"text": "q", "choices": ["a", "b", "c"], "y": 2}, {"text": "r", "choices": ["d", "e"], "y": "0"}]
    )
    rows = load_rows(source(path, labels={}, options="choices"), "dev")
    assert rows == [Row("dev-0", {"text": "q"}, "2", ("a", "b", "c")), Row("dev-1", {"text": "r"}, "0", ("d", "e"))]


def test_a_folder_with_splits_gives_the_one_asked_for(tmp_path: Path) -> None:
    for name, text in (("train", "a"), ("validation", "b"), ("test", "c")):
        jsonl(tmp_path, [{"text": text, "y": 0}, {"text": text, "y": 1}], f"{name}.jsonl")
    assert {u: load_rows(source(str(tmp_path)), u)[0].fields["text"] for u in ("train", "dev", "test")} == {
        "train": "a",
        "dev": "b",
        "test": "c",
    }
    assert load_rows(source(str(tmp_path), split="test"), "dev")[0].fields["text"] == "c"
    assert 'no split "odd"' in failure(source(str(tmp_path)), "odd")


def test_fingerprint_sees_content_and_order() -> None:
    a, b = Row("a", {"t": "x"}, "no"), Row("b", {"t": "y"}, "yes")
    changed = [
        Row("z", a.fields, "no"),
        Row("a", {"t": "z"}, "no"),
        Row("a", {"u": "x"}, "no"),
        Row("a", a.fields, "yes"),
        Row("a", a.fields, "no", ("1", "2")),
    ]
    assert len({fingerprint_rows(rows) for rows in ([a, b], [b, a], [a], *([c, b] for c in changed))}) == 8
    assert fingerprint_rows([Row("a", {"t": "1", "u": "2"}, "no")]) == fingerprint_rows(
        [Row("a", {"u": "2", "t": "1"}, "no")]
    )


def test_plain_form() -> None:
    values = (1, 1.0, "1", "1.00", True, "True", "true", 1.5, "No", "01", "+1", "1e0", "0.10")
    assert [plain_form(v) for v in values] == [
        *("1", "1", "1", "1", "true", "true", "true"),
        *("1.5", "No", "01", "+1", "1e0", "0.10"),
    ]


# refusing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,y\ncaf\u00e9,0\nb,1\n".encode("latin-1"), " is not UTF-8 text (line 2: byte 0xe9). Save it as UTF-8"),
        (b"text,y\n", " has no rows"),
        (b"text,y\n\n", " has no rows"),
        (b"", " has no rows"),
        (
            b"text;y\na;0\nb;1\n",
            " has a single column, \"text;y\", and seems to be separated by ';'. Save it with commas",
        ),
    ],
    ids=["latin-1", "header", "header and blank", "empty", "semicolons"],
)
def test_a_csv_file_that_is_not_one(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    assert f"{tmp_path / 'rows.csv'}{message}" in failure(source(str(tmp_path / "rows.csv")))


def test_names_that_are_not_there(tmp_path: Path) -> None:
    path = jsonl(tmp_path, RECORDS)
    assert 'path = "' in (text := failure(source(str(tmp_path / "row.jsonl"))))
    assert 'does not exist. Did you mean "rows.jsonl"?' in text
    assert 'fields = "txt" is no column' in (text := failure(source(path, fields=("txt",))))
    assert 'Did you mean "text"? Known: text, y, split, key' in text
    assert 'label = "z" is no column' in failure(source(path, label="z"))
    assert 'options = "choices" is no column' in failure(source(path, options="choices", labels={}))
    assert 'id = "kye" is no column' in failure(source(path, id="kye"))
    assert 'where = "slit" is no column' in failure(source(path, where={"slit": "dev"}))
    assert 'where split = "deb" matches no row. Did you mean "dev"? Known: dev, test' in failure(
        source(path, where={"split": "deb"})
    )
    assert "no row" in failure(source(path, where={"split": "dev", "key": "k9"}))
    assert "neither `labels` nor `options`" in failure(source(path, labels={}))
    assert "fields is empty" in failure(source(path, fields=()))


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    path = jsonl(tmp_path, RECORDS)
    assert 'row 2 (id "dev-1"): y = "1" is not in `labels`' in failure(source(path, labels={0: "no"}))
    assert 'rows.jsonl, row 1 (id "k0"): y = "0" is not in `labels`. Known: 5, 50. Add' in failure(
        source(path, labels={5: "no", 50: "yes"}, id="key")
    ), "a number is near to none"
    letters = jsonl(tmp_path, [{"text": "a", "y": "N"}, {"text": "b", "y": "yess"}], "letters.jsonl")
    assert '"N" is not in `labels`. Known: Y, no. Add' in failure(source(letters, labels={"Y": "yes", "no": "no"}))
    assert '"yess" is not in `labels`. Did you mean "yes"? Known: N, yes. Add' in failure(
        source(letters, labels={"N": "no", "yes": "yes"})
    )
    assert 'id column "split" has "dev" more than once' in failure(source(path, id="split"))


@pytest.mark.parametrize(
    ("record", "changes", "message"),
    [
        ({"text": None, "y": 1}, {}, '"dev-1"): column "text" is null'),
        ({"text": "b", "y": None}, {}, '"dev-1"): label column "y" is null'),
        (
            {"text": "b", "y": 1, "choices": None},
            {"options": "choices", "labels": {}},
            '"dev-1"): options column',
        ),
        ({"text": "b", "y": 1, "choices": ["only"]}, {"options": "choices", "labels": {}}, "needs at least two"),
        ({"text": "b", "y": 1, "choices": ["a", " "]}, {"options": "choices", "labels": {}}, "none of them empty"),
        (
            {"text": "b", "y": 2, "choices": ["a", "b"]},
            {"options": "choices", "labels": {}},
            '"dev-1"): y = 2, but the row has 2 options (0 to 1)',
        ),
        (
            {"text": "b", "y": -1, "choices": ["a", "b"]},
            {"options": "choices", "labels": {}},
            '"dev-1"): y = -1, but',
        ),
        (
            {"text": "b", "y": 1, "choices": ["a", "b"]},
            {"fields": ("choices",)},
            '"dev-0"): column "choices" is a list',
        ),
        (
            {"text": "b", "y": 1, "choices": ["a", "b"]},
            {"options": "text", "labels": {}},
            '"dev-0"): options column "text" holds a text (\'a\'), not a list',
        ),
    ],
)
def test_rows_that_cannot_be_used_are_named(
    tmp_path: Path, record: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    first = {"text": "a", "y": 0, **({"choices": ["a", "b"]} if "choices" in record else {})}
    assert message in failure(source(jsonl(tmp_path, [first, record]), **changes))


def test_a_half_written_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(RECORDS), path)
    path.write_bytes(path.read_bytes()[:-20])
    text = failure(source(str(path)))
    assert "cannot be read" in text
    assert "half written" in text


def test_an_unknown_ending_and_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_bytes(b"x")
    assert 'ending ".xlsx", which is not known' in failure(source(str(tmp_path / "rows.xlsx")))
    pq.write_table(pa.Table.from_pylist(RECORDS).slice(0, 0), tmp_path / "empty.parquet")
    assert "has no rows" in failure(source(str(tmp_path / "empty.parquet")))
    assert "has no rows" in failure(source(jsonl(tmp_path, [])))


def test_a_split_of_a_single_file_needs_a_condition(tmp_path: Path) -> None:
    path = jsonl(tmp_path, RECORDS)
    assert "where: {split: dev}" in failure(source(path, split="dev"))
    assert len(load_rows(source(path, split="dev", where={"split": "dev"}), "dev")) == 6


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    text = failure(source("nobody/no-such-set"))
    assert '"nobody/no-such-set" cannot be read' in text
    assert "looked up as a hub data set" in text
    assert "\n" not in text
