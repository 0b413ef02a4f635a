"""The figures and tables that ``steadytune report --figures`` writes for a paper."""

from __future__ import annotations

import re
from pathlib import Path

from reported_run import EVIL, add_list, add_trial, finished_run, make_run, make_trial
from typer.testing import CliRunner

from sweeps.cli.app import app
from sweeps.report.paper import write_paper_files
from sweeps.report.write import report_on
from sweeps.run_folder.reading import RunFolder
from trainer.store import Store


def test_each_figure_is_svg_pdf_and_png_and_each_table_is_latex(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    written = CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--figures", str(tmp_path / "paper")])
    files = {path.name: path.read_bytes() for path in (tmp_path / "paper").iterdir()}
    begins = {"svg": b"<svg ", "pdf": b"%PDF-", "png": b"\x89PNG\r\n", "tex": b"% "}
    figures = {"map", "distribution", "cumulative", "loss", "objective", "axis-lr", "axis-seed", "wordings"}
    figures |= {"coordinates", "wins", "confusion", "calibration", "time", "cells"}
    tables = {path.stem for path in (tmp_path / "run" / "tables").glob("*.md")}
    assert tables >= {"robustness", "trials", "groups", "effects", "ensembles"}
    wanted = {f"{name}.{ending}" for name in figures for ending in ("svg", "pdf", "png")}
    assert files.keys() == wanted | {f"{name}.tex" for name in tables}
    assert all(data.startswith(begins[name.rpartition(".")[2]]) for name, data in files.items())
    assert all(str(tmp_path / "paper" / name) in written.output.split() for name in files)
    assert b'aria-label="accuracy of 3 trials under each test prompt, one line each"' in files["distribution.svg"]


def test_latex_holds_what_the_table_of_the_run_folder_holds(tmp_path: Path) -> None:
    store, trials = finished_run(tmp_path / "run")
    run = RunFolder(store)
    report_on(run)
    write_paper_files(run, Store.open(tmp_path / "paper"))
    lines = (tmp_path / "paper" / "robustness.tex").read_text().splitlines()
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == 1 + len(trials)
    assert len({row.count(" & ") for row in rows}) == 1
    assert all(any(trial.id in row for row in rows) for trial in trials)
    winner = next(row for row in rows if "winner" in row)
    assert "**" not in winner


def test_a_table_with_latex_of_its_own_is_copied(tmp_path: Path) -> None:
    store, _ = finished_run(tmp_path / "run")
    run = RunFolder(store)
    report_on(run)
    store.write("tables/variance.tex", b"% own\n")
    write_paper_files(run, Store.open(tmp_path / "paper"))
    assert (tmp_path / "paper" / "variance.tex").read_bytes() == b"% own\n"


def test_names_from_data_are_no_markup_and_no_commands(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run")
    trials = [make_trial(lr, pool=r"\input{a} & " + EVIL) for lr in (1e-3, 3e-3)]
    trials.append(make_trial(1e-3, 1, pool="b"))
    for trial, quality in zip(trials, (0.8, 0.7, 0.6), strict=True):
        add_trial(store, trial, quality, prompts=[f"{EVIL}{i}" for i in range(5)])
    add_list(store, [(trial, "finished", 40, "") for trial in trials])
    run = RunFolder(store)
    report_on(run)
    for name in write_paper_files(run, Store.open(tmp_path / "paper")):
        if name.endswith(".svg"):
            assert "<script" not in (tmp_path / "paper" / name).read_text()
        if name.endswith(".tex"):
            assert r"\input" not in (tmp_path / "paper" / name).read_text()
    assert re.search(r"textbackslash\{\}input", (tmp_path / "paper" / "robustness.tex").read_text())
