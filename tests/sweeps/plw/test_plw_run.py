"""From a real run to the study's tables and figures, and through EleutherAI's harness, on the embedded model."""

from __future__ import annotations

import csv
import importlib.util
import io
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkout import EMBEDDED, loaded_by
from tiny_run import LABELLED, make_run
from typer.testing import CliRunner

from sweeps.cli.app import app
from sweeps.plw import alpaca, harness, open_rows, tables
from sweeps.plw.report import write_study
from sweeps.report.write import write_report
from sweeps.study.load import load_study
from sweeps.study.shipped import study_path
from trainer.data.rows import load_rows
from trainer.data.sources import RowSource
from trainer.errors import UserError
from trainer.store import SCORES, Store

MODEL = str(EMBEDDED / "model")
WEIGHTS = [0.0, 0.1, 1.0]
AXES = {"lora": {"r": 2}, "lr": 1e-2, "steps": 2, "plw": WEIGHTS, "seed": [0, 1]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri, _ = make_run(tmp_path_factory.mktemp("plw"), {**LABELLED, "max_length": 160}, model={"path": MODEL}, axes=AXES)
    return uri


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder as ``--data`` wants it, with six questions for each split."""
    folder = tmp_path_factory.mktemp("questions")
    splits = ("challenge_train", "challenge_dev", "challenge_test", "train_part", "dev", "train_l")
    rows = [
        {"split": s, "question": f"Is {i} _ odd", "choices": ["yes it is", "no"], "label": 1 - i % 2}
        for s in splits
        for i in range(6)
    ]
    for name in ("arc", "piqa", "winogrande"):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    truth = [{"kind": "mc1", "question": f"Is {i} odd", "choices": ["a b", "c"], "labels": [0, 1]} for i in range(6)]
    pq.write_table(pa.Table.from_pylist(truth), folder / "truthfulqa_mc.parquet")
    return str(folder)


def needs_harness() -> None:
    if importlib.util.find_spec("lm_eval") is None:  # importing it as it is fails under transformers 5
        pytest.skip("needs the extra: pip install 'steadytune[benchmark]'")


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "br", "line", "rect", "circle", "polyline", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h2", "h3"):
            self.headings.append(data)


# the report -------------------------------------------------------------------------------------------------------


def test_the_report_of_a_study_of_weights_has_its_tables_and_figures(run: str) -> None:
    page = Path(write_report(run)).read_text()
    read = Tags()
    read.feed(page)
    assert "What the prompt loss weight does" in read.headings
    assert {"By benchmark: train", "Mean over benchmarks"} <= set(read.headings)
    assert '"description":"Score by prompt loss weight on train, 1 benchmark"' in page
    for name in ("plw-fitted", "plw-benchmarks-1"):
        assert page.count(f'data-chart="{name}"') == page.count(f'"{name}":') == 1
    assert "weight at which it turns" in page
    assert "p_joint" not in page
    assert "no effect of the prompt loss weight is shown" in page or "the score" in page
    for name in tables.TITLES:
        for ending in ("md", "csv", "tex", "parquet"):
            assert (Path(run) / "tables" / f"{name}.{ending}").stat().st_size > 0


def test_the_four_forms_of_a_table_agree(run: str) -> None:
    write_report(run)
    folder = Path(run) / "tables"
    table = pq.read_table(folder / "plw_tests.parquet")
    assert set(table["term"].to_pylist()) == {"weight", "weight^2"}
    assert set(table["analysis"].to_pylist()) >= {"ols"}
    rows = list(csv.DictReader(io.StringIO((folder / "plw_tests.csv").read_text())))
    assert [float(r["p"]) for r in rows] == pytest.approx(table["p"].to_pylist())
    markdown = [line for line in (folder / "plw_tests.md").read_text().splitlines() if line.startswith("| ")]
    latex = [line for line in (folder / "plw_tests.tex").read_text().splitlines() if line.endswith(r"\\")]
    assert len(markdown) - 2 == len(latex) - 1 == table.num_rows
    assert r"weight\textasciicircum{}2" in latex[1]


def test_scores_of_the_table_are_those_of_the_table_of_trials(run: str) -> None:
    write_report(run)
    folder = Path(run) / "tables"
    mean = {r["trial_id"]: r["mean"] for r in pq.read_table(folder / "trials.parquet").to_pylist()}
    scores = [r for r in pq.read_table(folder / "plw_scores.parquet").to_pylist() if r["benchmark"] == "test"]
    assert len(scores) == len(mean) == 6
    assert {r["trial_id"]: r["score"] for r in scores} == pytest.approx(mean)


def test_a_run_with_fewer_weights_has_no_such_part(tmp_path: Path) -> None:
    uri, _ = make_run(tmp_path, LABELLED, axes={"lora": {"r": 2}, "lr": 1e-2, "steps": 2, "plw": [0.0, 0.1]})
    assert "What the prompt loss weight does" not in (Path(uri) / "report.html").read_text()
    assert not list((Path(uri) / "tables").glob("plw_*"))
    with pytest.raises(UserError, match="2 different weights"):
        write_study([uri])


def test_several_folders_are_analysed_together(run: str, tmp_path: Path) -> None:
    lines = write_study([run, run], str(tmp_path / "both"))
    assert pq.read_table(tmp_path / "both" / "tables" / "plw_scores.parquet").num_rows % 6 == 0, "counted once"
    page = (tmp_path / "both" / "plw.html").read_text()
    assert page.count('<script type="application/json" id="charts">') == page.count('<script id="vega">') == 1
    assert page.count('data-chart="plw-fitted"') == page.count('"plw-fitted":') == 1
    assert "vegaEmbed(place" in page
    assert "{%" not in page
    assert lines[-1].endswith("plw.html")


def test_reading_imports_neither_torch_nor_ray() -> None:
    found = loaded_by("sweeps.plw.report", "sweeps.plw.analysis", "sweeps.plw.alpaca", "sweeps.plw.open_rows")
    assert not found & {"torch", "ray", "transformers", "peft", "datasets", "lm_eval"}


# the harness ------------------------------------------------------------------------------------------------------


def test_benchmarks_are_stored_as_score_rows_and_analysed(run: str, questions: str) -> None:
    needs_harness()
    names = ["arc_challenge", "piqa", "truthfulqa_mc1", "winogrande"]
    call = ["benchmark", run, "--data", questions, "--limit", "4", "--shots", "1"]
    done = CliRunner().invoke(app, [*call, "--tasks", "arc_challenge,piqa,winogrande"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, [*call[:-2], "--tasks", "truthfulqa_mc1"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    store = Store.open(run)
    trials = store.folders("scores")
    assert len(trials) == 6
    for trial in trials:
        for name in names:
            found = store.read_scores(trial, 2, name)
            assert found is not None
            table, record = found
            assert table.schema.names == SCORES.names
            assert table.num_rows == 4
            assert record["benchmark"]["shots"] == (0 if name == "truthfulqa_mc1" else 1)
            for row in table.to_pylist():
                assert row["correct"] == (row["label"] == row["predicted"])
                assert int(row["predicted"]) == max(range(2), key=lambda i: row["label_logprobs"][i])
    again = CliRunner().invoke(app, [*call, "--tasks", "piqa"], catch_exceptions=False)
    assert "nothing to do" in again.output
    other = CliRunner().invoke(app, [*call[:4], "--limit", "5", "--shots", "1", "--tasks", "piqa"])
    assert "of 5 questions" in other.output, "another number of questions is asked anew"
    write_report(run)
    benchmarks = pq.read_table(Path(run) / "tables" / "plw_benchmarks.parquet")
    assert set(benchmarks["benchmark"].to_pylist()) == {*names, "test"}
    assert set(benchmarks["weight"].to_pylist()) == set(WEIGHTS)


def test_an_unknown_task_or_folder_is_told(run: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='Did you mean "piqa"'):
        CliRunner().invoke(app, ["benchmark", run, "--tasks", "pika"], catch_exceptions=False)
    needs_harness()
    with pytest.raises(UserError, match=r"holds no winogrande\.parquet"):
        harness._tasks(["winogrande"], str(tmp_path), None, str(tmp_path))


# rows -------------------------------------------------------------------------------------------------------------


def test_completions_become_rows_with_one_option_for_training_only(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"instruction": "i", "input": "", "output": "o"}\n{"instruction": "long one", "output": "x"}\n'
        '{"instruction": "e", "output": " "}\n'
    )
    found = open_rows.open_rows(str(tmp_path / "a.jsonl"), {}, longest=5, count=alpaca.characters)
    assert (found.empty, found.long) == (1, 1)
    pq.write_table(found.table, tmp_path / "a.parquet")
    source = RowSource(str(tmp_path / "a.parquet"), ("instruction", "input"), "answer", options="options", id="id")
    [row] = load_rows(source, "train")
    assert (row.fields, row.options, row.label) == ({"instruction": "i", "input": ""}, ("o",), "0")
    with pytest.raises(UserError, match="at least two"):
        load_rows(source, "dev")


def test_questions_become_rows_that_can_be_scored(questions: str, tmp_path: Path) -> None:
    out = tmp_path / "q.parquet"
    done = CliRunner().invoke(
        app,
        ["rows", f"{questions}/piqa.parquet", "--where", "split=dev", "--limit", "3", "--out", str(out)],
        catch_exceptions=False,
    )
    assert "3 rows" in done.output
    source = RowSource(str(out), ("instruction", "input"), "answer", options="options", id="id")
    assert {r.options for r in load_rows(source, "dev")} == {("yes it is", "no")}
    truth = open_rows.open_rows(f"{questions}/truthfulqa_mc.parquet", {"kind": "mc1"})
    assert set(truth.table["answer"].to_pylist()) == {1}
    with pytest.raises(UserError, match="matches no row"):
        open_rows.open_rows(f"{questions}/piqa.parquet", {"split": "devv"})


def test_the_shipped_study_has_the_studys_weights() -> None:
    study = load_study(study_path("plw"), files=False)
    assert study.axes.plw == (0.0, 0.01, 0.05, 0.1, 0.5, 1.0)
    assert study.scheduler.name == "none"
    assert load_study(study_path("plw"), ["axes.plw={power: [0, 0.25, 0.5, 1]}"], files=False).axes.plw == (
        0.0,
        0.01,
        0.1,
        1.0,
    )
