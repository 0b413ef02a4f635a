"""The report's table: what its rows say of themselves, its groups of columns, and its rows as cards."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from reported_run import Page, add_list, add_trial, finished_run, make_run, make_trial, page_of

from sweeps.report.results_table import FIRST, _css_text


def test_each_row_says_in_its_first_cell_how_the_trial_ended(tmp_path: Path) -> None:
    store, trials = finished_run(tmp_path)
    for pool in ("dev", "test"):  # the third gives one label for every row
        rows, about = store.read_scores(trials[2].id, 40, pool) or pytest.fail("no scores")
        no = [label == "no" for label in rows["label"].to_pylist()]
        for name, values in (("predicted", ["no"] * rows.num_rows), ("correct", no)):
            rows = rows.set_column(rows.schema.get_field_index(name), name, [values])
        store.write_scores(trials[2].id, 40, pool, rows, about)
    source, _ = page_of(tmp_path)
    found = re.findall(r'<tr class="(\w+)" data-c="(\w+)"><th scope="row">(.*?)</th>', source)
    marks = {name: (kind, re.findall(r">([^<]+)</small>", more)) for kind, name, more in found}
    winner = next(r for r in pq.read_table(tmp_path / "tables/robustness.parquet").to_pylist() if r["winner"])
    other = next(trial.id for trial in trials[:2] if trial.id != winner["trial_id"])
    assert marks == {
        winner["trial_id"]: ("winner", ["winner"]),
        other: ("finished", []),
        trials[2].id: ("degenerate", ["one label"]),
        trials[3].id: ("stopped", ["stopped"]),
        trials[4].id: ("failed", ["failed"]),
    }
    assert found[0][1] == winner["trial_id"]


def test_every_column_is_in_one_group_whose_head_spans_it(tmp_path: Path) -> None:
    finished_run(tmp_path)
    source, _ = page_of(tmp_path)
    table = source[
        source.index('<table class="results"') : source.index("</tbody>", source.index('<table class="results'))
    ]
    spans = re.findall(r'<th scope="colgroup" colspan="(\d+)" class="(\w+)">', table)
    columns = re.findall(r'<th scope="col" class="(\w+)', table)
    assert [group for n, group in spans for _ in range(int(n))] == columns
    rows = [re.findall(r'<td class="(\w+)', row) for row in table.split("<tr class=")[1:]]
    assert all(row == columns for row in rows)
    assert len(rows) == 5
    boxes = re.findall(r'class="group" value="(\w+)"( checked)?', source)
    assert {group: bool(checked) for group, checked in boxes} == {
        "setting": True, "result": True, "comparison": True, "other": False,
    }  # fmt: skip
    assert all(f".results.without-{group} .{group} {{ display: none; }}" in source for group, _ in boxes)


def test_numbers_are_sorted_by_their_value_and_not_by_their_text(tmp_path: Path) -> None:
    finished_run(tmp_path)
    source, _ = page_of(tmp_path)
    table = pq.read_table(tmp_path / "tables" / "robustness.parquet").to_pylist()
    best = next(row for row in table if row["winner"])
    row = source.partition('<tr class="winner"')[2].partition("</tr>")[0]
    mean, text = re.findall(r'data-v="([^"]+)">([\d.]+) <small>', row)[0]
    assert float(mean) == pytest.approx(best["mean"], rel=1e-5)
    assert text == f"{100 * best['mean']:.1f}"


def test_a_card_names_each_value(tmp_path: Path) -> None:
    finished_run(tmp_path)
    source, _ = page_of(tmp_path)
    heads = re.findall(r'<th scope="col" class="\w+(?: n)?"><button[^>]*>([^<]*)</button>', source)
    labels = dict(re.findall(r'\.results td:nth-child\((\d+)\)::before \{ content: "([^"]*)"; \}', source))
    plain = {place: re.sub(r"\\([0-9a-f]+) ", lambda m: chr(int(m[1], 16)), text) for place, text in labels.items()}
    assert [plain[str(place)] for place in range(2, len(heads) + 2)] == [head.replace("&gt;", ">") for head in heads]


def test_a_text_in_the_style_sheet_cannot_end_it() -> None:
    assert _css_text('a"</style>\\ 9') == r"a\22 \3c \2f style\3e \5c \20 9"


def test_more_than_the_first_are_asked_for(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    trials = [make_trial(1e-4 * (i + 1)) for i in range(FIRST + 1)]
    for i, trial in enumerate(trials):
        add_trial(store, trial, 0.9 - i / 100, rungs=1, test=False, prompts=["p0", "p1"])
    add_list(store, [(trial, "stopped", 20, "cut") for trial in trials])
    source, page = page_of(tmp_path)
    assert f"All {FIRST + 1}, not only the first {FIRST}" in page.words
    add_list(store, [(trial, "stopped", 20, "cut") for trial in trials[1:]])
    source, page = page_of(tmp_path)
    assert f'data-first="{FIRST}"' in source
    assert "not only the first" not in Page(source).words
