"""Lengths and the short variant of Alpaca-format files: known small cases, and the study's table 1 on the real file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkout import SHARED
from typer.testing import CliRunner

from sweeps.cli.app import app
from sweeps.plw import alpaca
from trainer.errors import UserError

ALPACA = SHARED / "data" / "alpaca_data.parquet"
TOKENIZER = SHARED / "models" / "llama-tokenizer"
SMALL = SHARED / "models" / "stories260K"

ROWS = [
    {"instruction": "Name it.", "input": "", "output": "A very long answer indeed."},
    {"instruction": "Sum up.", "input": "A text that is a good deal longer than that.", "output": "Short."},
    {"instruction": "Reply.", "input": "To me.", "output": "Dear friend, thank you."},
]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    return str(path)


def shared(path: Path) -> str:
    if not path.exists():
        pytest.skip(f"needs shared/{path.relative_to(SHARED)} beside the checkout")
    return str(path)


# counting ---------------------------------------------------------------------------------------------------------


def test_lengths_are_those_counted_by_hand(file: str) -> None:
    found = alpaca.measure_lengths(alpaca.read_records(file), alpaca.characters)
    assert found.rows == 3
    instruction, given, output = ([len(r[f]) for r in ROWS] for f in alpaca.FIELDS)
    assert found.instruction == (pytest.approx(np.mean(instruction)), pytest.approx(np.std(instruction, ddof=1)))
    assert found.input == (pytest.approx(np.mean(given)), pytest.approx(np.std(given, ddof=1)))
    assert found.completion == (pytest.approx(np.mean(output)), pytest.approx(np.std(output, ddof=1)))
    assert found.total == sum(instruction + given + output)
    assert found.ratio == found.ratio_characters == pytest.approx(sum(output) / sum(instruction + given))


def test_one_row_has_no_spread_and_no_prompt_no_ratio() -> None:
    found = alpaca.measure_lengths(alpaca.AlpacaRecords(("",), ("",), ("abc",)), alpaca.characters)
    assert found.completion == (3.0, 0.0)
    assert found.ratio == float("inf")


def test_the_swap_rule(file: str) -> None:
    found, swapped = alpaca.shorten(alpaca.read_records(file), alpaca.characters)
    assert swapped == 2
    assert found.instruction[0] == "Predict the prompt that generated the following AI output."
    assert (found.input[0], found.output[0]) == (ROWS[0]["output"], "Name it.")
    assert (found.instruction[1], found.input[1], found.output[1]) == tuple(ROWS[1].values()), "short already"
    assert found.instruction[2] == (
        "Predict the prompt that generated the below AI output given the following context. Context: To me."
    )
    assert (found.input[2], found.output[2]) == (ROWS[2]["output"], "Reply.")


def test_equal_lengths_stay() -> None:
    records = alpaca.AlpacaRecords(("ab",), ("c",), ("def",))
    assert alpaca.shorten(records, alpaca.characters) == (records, 0)


@pytest.mark.parametrize("ending", alpaca.FORMATS)
def test_every_format_is_read_back_as_written(tmp_path: Path, ending: str) -> None:
    records = alpaca.AlpacaRecords(("a\nb", "ü"), ("", '"'), ("x\u2028y", "z"))
    alpaca.write_records(records, str(tmp_path / f"rows{ending}"))
    assert alpaca.read_records(str(tmp_path / f"rows{ending}")) == records
    assert [p.name for p in tmp_path.iterdir()] == [f"rows{ending}"], "no part is left behind"


# mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", '[{"instruction": "a"}]', 'a.json: has no column "output"'),
        ("a.json", '[{"instruction": "a", "output": [3]}]', "row 1: column \"output\" is ['3'], not text"),
        ("a.jsonl", '{"instruction": "a", "output": "b"}\n{"instruction": null, "output": "b"}', "row 2: column"),
        ("a.jsonl", '{"instruction": "a", "output": "b"}\n{"output": "\\ud800", "instruction": "a"}', "row 2: column"),
        ("a.jsonl", '{"instruction": "a",', "line 1: is not JSON"),
        ("a.json", "[1]", "row 1: holds '1', not a record"),
        ("a.json", "[]", "has no rows"),
        ("a.txt", "", 'the ending ".txt" is not known'),
        ("a.parquet", "PAR1", "cannot be read ("),
    ],
)
def test_a_broken_file_is_told_with_its_place(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=re.escape(says)):
        alpaca.read_records(str(tmp_path / name))


def test_a_file_or_tokenizer_that_is_not_there_is_told_with_what_is(tmp_path: Path, file: str) -> None:
    with pytest.raises(UserError, match=r"does not exist\..*rows\.json"):
        alpaca.read_records(str(tmp_path / "row.json"))
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        alpaca.tokens(str(tmp_path))
    with pytest.raises(UserError, match="is no tokenizer"):
        alpaca.tokens(file)


def test_an_input_may_be_missing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"instruction": ["a"], "output": ["b"], "more": [1]}), tmp_path / "a.parquet")
    assert alpaca.read_records(str(tmp_path / "a.parquet")) == alpaca.AlpacaRecords(("a",), ("",), ("b",))


# commands ---------------------------------------------------------------------------------------------------------


def test_commands(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner()
    done = run.invoke(app, ["shorten", file])
    assert done.exit_code == 0, done.output
    assert "rows-short.json: 3 rows, 2 of them swapped (completion longer than the prompt in characters)" in done.output
    assert len(alpaca.read_records("rows-short.json")) == 3
    done = run.invoke(app, ["lengths", file, "rows-short.json", "--tokenizer", shared(SMALL)])
    assert done.exit_code == 0, done.output
    assert [line.split(" | ")[0] for line in done.output.splitlines()[2:4]] == ["| rows.json", "| rows-short.json"]
    with pytest.raises(UserError, match="--by tokens needs a tokenizer"):
        run.invoke(app, ["shorten", file, "--by", "tokens"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["AlpacaDataCleaned"], "--out is missing: AlpacaDataCleaned is no file here. Name one, such as --out Alpaca"),
        (["yahma/alpaca-cleaned"], "--out is missing: yahma/alpaca-cleaned is no file here. Name one, such as --out a"),
        (["yahma/alpaca-cleaned", "--out", "x.csv"], '--out = x.csv: the ending ".csv" is not known'),
        (["data/alpaca.csv"], 'FILE = "data/alpaca.csv" does not exist'),
    ],
)
def test_shorten_refuses_before_it_downloads(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(alpaca, "open_table", download)
    with pytest.raises(UserError, match=re.escape(message)):
        CliRunner().invoke(app, ["shorten", *words], catch_exceptions=False)


# the study's table 1 ----------------------------------------------------------------------------------------------


def test_table_1_of_the_study_is_reproduced_for_alpaca_data() -> None:
    records = alpaca.read_records(shared(ALPACA))
    found = alpaca.measure_lengths(records, alpaca.tokens(shared(TOKENIZER)))
    assert found.rows == 52_002
    shown = [tuple(round(v, 2) for v in pair) for pair in (found.instruction, found.input, found.completion)]
    assert shown == [(13.40, 4.97), (6.25, 14.38), (64.51, 64.85)]
    assert found.total == 4_376_482
    assert found.ratio_characters == pytest.approx(3.2688, abs=5e-5), "the published 3.27"
    assert found.ratio == pytest.approx(3.2837, abs=5e-5)


def test_the_published_row_is_compared_number_by_number_for_the_file_with_that_hash() -> None:
    run, file = CliRunner(), shared(ALPACA)
    digest = alpaca.file_hash(file)
    assert digest is not None
    words = ["lengths", file, "--tokenizer", shared(TOKENIZER), "--published", "AlpacaData", "--sha256", digest[:12]]
    done = run.invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.output.count(", equal") == 8
    assert f"with SHA-256 {digest}" in done.output
    with pytest.raises(UserError, match="has the SHA-256 " + digest):
        run.invoke(app, [*words[:-1], "0" * 12], catch_exceptions=False)


@pytest.mark.parametrize("copy", sorted((SHARED / "data").glob("alpaca*clean*")) or [None], ids=str)
def test_table_1_of_the_study_is_reproduced_for_any_copy_of_the_cleaned_data(copy: Path | None) -> None:
    """With a copy beside the checkout. Which of its versions the study took it does not say, so the numbers decide."""
    if copy is None:
        pytest.skip("no copy of AlpacaDataCleaned is in shared/data beside the checkout")
    found = alpaca.measure_lengths(alpaca.read_records(str(copy)), alpaca.tokens(shared(TOKENIZER)))
    assert [line for line in alpaca.against_published(found, "AlpacaDataCleaned") if not line.endswith("equal")] == []


def test_other_rows_differ_from_the_published_ones_by_name(file: str) -> None:
    found = alpaca.measure_lengths(alpaca.read_records(file), alpaca.characters)
    lines = alpaca.against_published(found, "AlpacaDataCleaned")
    assert len(lines) == 8
    assert f"completion, mean: published 162.74, here {found.completion[0]:.2f}" in lines
    assert "total tokens: published 9,490,837, here" in lines[6]


def test_data_sets_have_their_public_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a network is there, `datasets` reads them; here a data set of the same columns stands on the hub's side."""
    import datasets

    asked: list[str] = []

    def load(path: str, name: str | None, split: str | None, revision: str | None) -> datasets.Dataset:
        asked.append(path)
        assert split == "train"
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    for name in ("AlpacaDataCleaned", "yahma/alpaca-cleaned"):
        assert alpaca.read_records(name).output == tuple(r["output"] for r in ROWS)
    assert asked == ["yahma/alpaca-cleaned"] * 2


def test_mistakes_of_lengths_are_told(file: str) -> None:
    run, words = CliRunner(), ["lengths", file, "--tokenizer", "none"]
    for more, says in (
        (["--published", "AlpacaDataClean"], 'is no row of the table. Did you mean "AlpacaDataCleaned"'),
        (["--sha256", "ab"], "has the SHA-256"),
    ):
        with pytest.raises(UserError, match=says):
            run.invoke(app, [*words, *more], catch_exceptions=False)
    with pytest.raises(UserError, match="are for one file"):
        run.invoke(
            app, ["lengths", file, file, "--tokenizer", "x", "--published", "AlpacaData"], catch_exceptions=False
        )


def test_the_short_variant_of_alpaca_data_has_short_completions() -> None:
    every = alpaca.read_records(shared(ALPACA))
    records = alpaca.AlpacaRecords(every.instruction[:10_000], every.input[:10_000], every.output[:10_000])
    count = alpaca.tokens(shared(TOKENIZER))
    short, swapped = alpaca.shorten(records, count)
    before, after = alpaca.measure_lengths(records, count), alpaca.measure_lengths(short, count)
    assert len(short) == len(records)
    assert 0.5 < swapped / len(records) < 0.95
    assert after.ratio < 0.5 < 1 < before.ratio
    again, more = alpaca.shorten(short, count)
    assert more == 0, "after the swap no completion is longer than its prompt"
    assert again == short


def test_two_files_of_one_tokenizer_count_alike() -> None:
    """tokenizer.json by its own library, and the hub's way to open the same folder."""
    transformers = pytest.importorskip("transformers")
    folder = shared(SMALL)
    texts = ["", "Once upon a time", "Ünïcode 漢字", "a\n\nb"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = [len(tokenizer(t, add_special_tokens=False).input_ids) if t else 0 for t in texts]
    assert alpaca.tokens(folder)(texts).tolist() == expected
