"""Rows that a study leaves out with ``drop``: which, why, and what that changes (CASES F1, F10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkout import EMBEDDED
from rich.console import Console
from small_study import write_study

from sweeps.checks.preflight import check, preflight
from sweeps.plan.sizes import planned_sizes
from sweeps.prompt_search.request import SearchRequest
from sweeps.prompt_search.run import search
from sweeps.study.load import load_study
from sweeps.study.overlay import StudyError
from sweeps.trials.from_points import make_trials, points_of
from sweeps.trials.load_content import Content, content_of
from trainer.data.rows import read_rows
from trainer.data.sources import RowSource
from trainer.errors import UserError

MANY = [
    {"text": "good", "y": "0"},
    {"text": " ", "y": "1"},
    {"text": "good", "y": "0"},
    {"text": "good", "y": "1"},
    {"text": None, "y": "1"},
    {"text": "fine", "y": None},
    {"text": "bad", "y": "1"},
]


def lines(folder: Path, records: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(r) + "\n" for r in records))
    return str(folder / name)


def kept(path: str, *drop: str, **changes: Any) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    labels = {} if changes.get("options") else {"0": "no", "1": "yes"}
    read = read_rows(RowSource(path, ("text",), "y", labels, drop=drop, **changes), "dev", "task.rows.dev")
    return [row.id for row in read.rows], {d.reason: d.ids for d in read.dropped}


def test_empty_and_repeated_rows_are_left_out_and_the_others_keep_their_ids(tmp_path: Path) -> None:
    path = lines(tmp_path, MANY)
    with pytest.raises(UserError, match=r'"dev-4"\): column "text" is null.*drop: \[empty\]'):
        kept(path)
    empty = ("dev-1", "dev-4", "dev-5")
    assert kept(path, "empty") == (["dev-0", "dev-2", "dev-3", "dev-6"], {"empty": empty})
    assert kept(path, "empty", "duplicate") == (
        ["dev-0", "dev-3", "dev-6"],
        {"empty": empty, "duplicate": ("dev-2",)},
    ), "the same text with another label is another row"
    assert kept(path, "empty", "too_long")[0] == kept(path, "empty")[0], "lengths are decided where prompts are known"


def test_an_empty_option_is_empty_and_a_repeated_id_is_a_repeated_row(tmp_path: Path) -> None:
    records = [
        {"id": "a", "text": "q", "o": ["x", "y"], "y": 0},
        {"id": "a", "text": "q", "o": ["x", "y"], "y": 0},
        {"id": "b", "text": "q", "o": ["x", " "], "y": 0},
        {"id": "c", "text": "q", "o": [], "y": 0},
        {"id": "d", "text": "q", "o": None, "y": 0},
        {"id": "e", "text": "q", "o": ["x", "z"], "y": 0},
    ]
    path = lines(tmp_path, records)
    ids, dropped = kept(path, "empty", "duplicate", options="o", id="id")
    assert (ids, dropped) == (["a", "e"], {"empty": ("b", "c", "d"), "duplicate": ("a",)})
    with pytest.raises(UserError, match='has "a" more than once'):
        kept(path, "empty", options="o", id="id")


def test_drop_changes_neither_what_limit_draws_nor_what_is_left_of_it(tmp_path: Path) -> None:
    path = lines(tmp_path, [{"text": f"t{i}" if i % 3 else "", "y": "1"} for i in range(30)])
    drawn, _ = kept(path, limit=12)
    ids, dropped = kept(path, "empty", limit=12)
    assert sorted([*ids, *dropped["empty"]]) == sorted(drawn)
    assert all(int(i.removeprefix("dev-")) % 3 for i in ids)


def test_a_split_of_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task\.rows\.dev: drop leaves no rows \(2 empty\)"):
        kept(lines(tmp_path, [{"text": "", "y": "1"}] * 2), "empty")


def test_a_reason_that_is_not_known_is_told(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    with pytest.raises(StudyError, match="too_long"):
        load_study(str(path), ["task.rows.dev.drop=[long]"])
    assert load_study(str(path), ["task.rows.dev.drop=empty"]).task.rows.dev.drop == ("empty",)


# too long ----------------------------------------------------------------------------------------------------------


def contents(tmp_path: Path, *overrides: str) -> tuple[Any, Content]:
    study = load_study(str(write_study(tmp_path, axes={"pool": ["many"]})), overrides)
    return study, content_of(study)


def trial_ids(study: Any, content: Content) -> list[str]:
    return [trial.id for trial in make_trials(study, points_of(study) or [], content)]


def test_rows_that_are_too_long_are_counted_and_dropped(tmp_path: Path) -> None:
    """Exactly those rows go that are too long under some prompt of their pool, by brute force."""
    from trainer.data.render import Renderer
    from trainer.data.tokenizer import load_tokenizer

    small = ("task.max_length=45", "task.rows.train.limit=60", "pools.train.many.limit=4")
    study, whole = contents(tmp_path, *small)
    template, tokenizer = whole.templates["plain"], load_tokenizer(whole.model)
    long: dict[str, list[str]] = {}
    for split, pool in (("train", "train.many"), ("dev", "dev")):
        rows = whole.assets.rows[split]
        pairs = [(prompt, row) for row in rows for prompt in whole.pools[pool]]
        lengths = Renderer(tokenizer, template, whole.task).lengths(pairs)
        too = {row.id for (_, row), n in zip(pairs, lengths, strict=True) if n > 45}
        long[split] = [row.id for row in rows if row.id in too]
    assert long["train"]
    assert len(long["train"]) < len(whole.assets.rows["train"])
    findings = preflight(study, whole)
    [train] = [f for f in findings.errors if "pools.train.many" in f.where]
    first = ", ".join(long["train"][:5])
    n = len(long["train"])
    assert f"{n} of 60 train rows are too long ({first} and {n - 5} more)" in train.what
    assert "task.rows.train.drop=[too_long]" in train.fix

    dropping, rest = contents(tmp_path, *small, "task.rows.train.drop=[too_long]", "task.rows.dev.drop=[too_long]")
    ids = [row.id for row in rest.assets.rows["train"]]
    assert ids == [row.id for row in whole.assets.rows["train"] if row.id not in long["train"]]
    assert {d.split: list(d.ids) for d in rest.dropped} == {split: some for split, some in long.items() if some}
    assert rest.n_train_rows == len(ids)
    assert rest.assets.rows["test"] == whole.assets.rows["test"]
    pools = [f.where for f in preflight(dropping, rest).errors]
    assert not [where for where in pools if "train" in where or "dev" in where]
    assert trial_ids(dropping, rest) != trial_ids(study, whole), "other rows, another trial"


def test_the_plan_counts_the_rows_that_a_run_reads(tmp_path: Path) -> None:
    small = ("task.max_length=45", "task.rows.train.limit=60", "pools.train.many.limit=4")
    drops = ("task.rows.train.drop=[too_long]", "task.rows.dev.drop=[too_long]")
    study, content = contents(tmp_path, *small, *drops)
    sizes = planned_sizes(study)
    assert (sizes.train_rows, sizes.dev_rows) == (len(content.assets.rows["train"]), len(content.assets.rows["dev"]))
    assert sizes.train_rows < 60
    assert sizes.longest <= 45
    unreadable = study.model_copy(update={"model": study.model.model_copy(update={"path": "nobody/no-such-model"})})
    assert planned_sizes(unreadable).train_rows == 60, "without a tokenizer no row is known to be too long"


def test_a_prompt_search_reads_the_rows_that_are_not_too_long(tmp_path: Path) -> None:
    small = ("task.max_length=45", "task.rows.train.limit=60", "pools.train.many.limit=4")
    drop = "task.rows.train.drop=[too_long]"
    study, content = contents(tmp_path, *small, drop)
    request = SearchRequest("top-accuracy", pool="many")
    said = list(search(study, request, str(tmp_path / "searches")))
    [dropped] = content.dropped_lines
    assert said[0] == dropped
    assert f"on {len(content.assets.rows['train'])} training rows" in said[1]
    with pytest.raises(UserError, match="longer than"):
        list(search(load_study(str(tmp_path / "small.yaml"), small), request, str(tmp_path / "other")))


def test_dropping_nothing_changes_no_trial(tmp_path: Path) -> None:
    study, plain = contents(tmp_path)
    all_reasons = [f"task.rows.{split}.drop=[empty,too_long,duplicate]" for split in ("train", "dev", "test")]
    same, content = contents(tmp_path, *all_reasons)
    assert content.dropped == ()
    assert content.assets == plain.assets
    assert trial_ids(same, content) == trial_ids(study, plain)


def test_check_says_what_was_dropped(tmp_path: Path) -> None:
    records = [json.loads(line) for line in (EMBEDDED / "data" / "dev.jsonl").read_text().splitlines()[:20]]
    records[3]["text"] = ""
    records.append({**records[0], "id": "again"})
    path = lines(tmp_path, records, "dev.jsonl")
    study, _ = contents(tmp_path, f"task.rows.dev={{path: {path}, drop: [empty, duplicate]}}")
    console = Console(record=True, width=300, color_system=None, file=open("/dev/null", "w"))  # noqa: SIM115
    assert check(study, console) == 0
    text = console.export_text()
    assert f"task.rows.dev: 1 of 21 rows dropped as empty ({records[3]['id']})" in text
    assert "task.rows.dev: 1 of 21 rows dropped as duplicate (again)" in text
