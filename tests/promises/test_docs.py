"""The documents agree with the code: study keys with defaults and names, columns, links, the README's tables. Their
code blocks have ``test_code_blocks.py``."""

from __future__ import annotations

import itertools
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from checkout import PACKAGES, ROOT
from code_blocks import PAGES, commands_in, inline_code, of_kind, texts_of
from pydantic import BaseModel
from tiny_run import LABELLED, make_run

from sweeps.run_folder.columns import TRIALS
from sweeps.study.derived_defaults import completed
from sweeps.study.load import load_study
from sweeps.study.overlay import parse_yaml
from sweeps.study.shipped import study_path
from sweeps.study.study import Study
from sweeps.study.values import Range
from sweeps.tables.effects import EFFECTS, VARIANCE
from sweeps.trials.from_points import points_of
from trainer.store import SCORES
from trainer.trial import FORMAT


def tables(page: Path) -> Iterator[tuple[list[str], list[str]]]:
    """(heading cells, cells) of every row of every table."""
    head: list[str] = []
    for line in page.read_text().splitlines():
        if not line.startswith("|"):
            head = []
            continue
        cells = [c.strip() for c in line[1:-1].split("|")]
        if head and not set(line) <= set("| -"):
            yield head, cells
        head = head or cells


# every page ---------------------------------------------------------------------------------------------------


def test_there_are_pages() -> None:
    assert {p.name for p in PAGES} >= {"README.md", "CONTRIBUTING.md", "study.md", "run-folder.md", "slots.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_resolve(page: Path) -> None:
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    local = [link.split("#")[0] for link in found if "://" not in link and not link.startswith("#")]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_path_of_a_machine(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"(?<![\w.])/(?:work|tmp|root|home|Users|mnt|opt)/\S*", text) == []
    assert str(ROOT) not in text


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_are_named_exist(page: Path) -> None:
    names = inline_code(page.read_text())
    named = [n for n in names if re.fullmatch(r"(?:trainer|cluster|sweeps|tests)/[\w/]*(?:\.\w+)?", n)]
    if page.name == "CONTRIBUTING.md":
        tests = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
        assert [n for n in names if re.fullmatch(r"test_\w+", n) and n not in tests] == []
    assert [n for n in named if not (ROOT / n).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_dictionaries_that_are_named_exist(page: Path) -> None:
    pairs = re.findall(
        r"`([A-Z]{4,}|ExampleOrder\.prompt|Rungs)`[^`|]*`((?:trainer|sweeps)/[\w/]+\.py)`", page.read_text()
    )
    if page.name == "CONTRIBUTING.md":
        assert {"NORMALIZATIONS", "ExampleOrder.prompt", "Rungs"} <= {name for name, _ in pairs}
    for name, file in pairs:
        source = (ROOT / file).read_text()
        last = name.rsplit(".", 1)[-1]
        assert re.search(rf"^\s*(?:def |class )?{last}\b", source, re.MULTILINE), f"{page.name}: {file} has no {name}"


def test_the_format_version_is_the_trainers() -> None:
    assert f"(`FORMAT` in `trainer/trial.py`, now {FORMAT})" in (ROOT / "docs" / "run-folder.md").read_text()


def test_the_map_is_the_tree() -> None:
    """CONTRIBUTING lists every package, and every file at the top of one; nothing that is not there."""
    block = next(b for b in texts_of("CONTRIBUTING.md", "") if "sweeps/ " in b)
    top, listed = "", set()
    for line in block.splitlines():
        name = line.split()[0]
        top = name if not line.startswith(" ") else top
        listed.add(name if top == name else top + name)
    there = {f"{p.parent.relative_to(ROOT)}/" for name in PACKAGES for p in (ROOT / name).rglob("__init__.py")}
    there |= {str(p.relative_to(ROOT)) for name in PACKAGES for p in (ROOT / name).glob("[!_]*.py")}
    assert there - listed == set()
    assert {name for name in listed if not (ROOT / name).exists()} == set()


# studies and tables -------------------------------------------------------------------------------------------


def test_commands_of_the_staged_study_are_accepted_whole() -> None:
    """They are loaded whole, since their overrides name the study's own templates, and some need each other."""
    found = [words[1:] for block in of_kind("sh") for words in commands_in(block) if words[2:3] == ["staged"]]
    found = [words for words in found if words[0] in ("run", "plan", "check")]
    assert any(len(words) > 4 for words in found)
    for words in found:
        load_study(study_path("staged"), [w for w in words[2:] if "=" in w and not w.startswith("-")], files=False)


def test_the_page_on_paft_counts_the_arms_and_compares_with_the_arm_of_equal_formats() -> None:
    shipped = [yaml.safe_load(p.read_text())["arms"] for p in sorted(ROOT.glob("sweeps/studies/paft*.yaml"))]
    said = re.search(r"All (\d+) arms", (ROOT / "docs/paft.md").read_text())
    assert said is not None
    assert {len(arms) for arms in shipped if "n256" in arms} == {int(said[1])}
    assert all(arms["adversarial"]["formats"] == arms["formats"]["formats"] for arms in shipped)


def test_the_study_of_the_readme_loads(tmp_path: Path) -> None:
    [text] = [b for b in texts_of("README.md", "yaml") if "axes:" in b]
    (tmp_path / "tickets.yaml").write_text(text)
    study = load_study(tmp_path / "tickets.yaml", files=False)
    assert study.name == "tickets"
    assert study.task.labels == {"0": "no", "1": "yes"}
    assert study.axes.plw == (0.0, 0.1)
    columns = texts_of("README.md", "csv")[0].splitlines()[0].split(",")
    assert {*study.task.fields, study.task.label, study.task.id, "split"} == set(columns)


def ranked(*columns: str, but: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """The rows of the README's result tables with these columns."""
    found = ((head, cells) for head, cells in tables(ROOT / "README.md") if head[0] == "rank")
    return [
        dict(zip(head, cells, strict=True)) for head, cells in found if {*columns} <= {*head} and not {*but} & {*head}
    ]


def test_the_second_table_of_the_readme_is_of_smollm2() -> None:
    points = points_of(load_study(study_path("smollm2"), files=False))
    assert points is not None
    expected = {(p["template"], str(p["r"]), f"{p['plw']:g}", p["pool"]) for p in points}
    rows = ranked("std", but=("noise removed",))
    assert {(row["template"], row["r"], row["plw"], row["pool"]) for row in rows} == expected
    assert len(rows) == len(expected) == 6


def test_the_table_of_the_readme_is_of_the_quickstart() -> None:
    study = load_study(study_path("quickstart"))
    rows = ranked("noise removed")
    axes = study.axes
    assert isinstance(axes.lora.r, tuple)
    assert isinstance(axes.plw, tuple)
    points = {
        (template, str(r), f"{plw:g}", pool)
        for template, r, plw, pool in itertools.product(axes.template, axes.lora.r, axes.plw, axes.pool)
    }
    assert {(row["template"], row["r"], row["plw"], row["pool"]) for row in rows} == points
    assert len(rows) == len(points)
    assert sum("winner" in row["status"] for row in rows) == 1


# the study ----------------------------------------------------------------------------------------------------


def sections(kind: Any) -> Iterator[tuple[type[BaseModel], str]]:
    """(section, prefix of its keys) for every section in a field's type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not issubclass(kind, Range):
            yield kind, ""
    elif typing.get_origin(kind) is dict:
        yield from ((s, ".<name>") for s, _ in sections(typing.get_args(kind)[1]))
    else:
        for part in typing.get_args(kind):
            yield from sections(part)


def names_of(kind: Any) -> set[str]:
    """The names that a ``Literal`` in the type allows."""
    if typing.get_origin(kind) is typing.Literal:
        return {x for x in typing.get_args(kind) if isinstance(x, str)}
    return set().union(*(names_of(part) for part in typing.get_args(kind)))


def schema(section: type[BaseModel] = Study, at: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, field) of every key that a study may have."""
    for name, field in section.model_fields.items():
        key = f"{at}{name}"
        yield key, field
        for inner, under in dict.fromkeys(sections(field.annotation)):
            yield from schema(inner, f"{key}{under}.")


def documented() -> dict[str, dict[str, str]]:
    """Key -> cells of its row in docs/study.md; ``*`` stands for train, dev and test."""
    found: dict[str, dict[str, str]] = {}
    for head, cells in tables(ROOT / "docs" / "study.md"):
        row = dict(zip(head, cells, strict=True))
        [key] = inline_code(row["key"])
        for use in ("train", "dev", "test") if "*" in key else ("",):
            name = key.replace("*", use)
            assert name not in found, f"{name} stands twice in docs/study.md"
            found[name] = row
    return found


def test_every_key_of_a_study_is_documented_and_nothing_else() -> None:
    keys, rows = [k for k, _ in schema()], documented()
    assert [k for k in keys if k not in rows] == []
    assert [k for k in rows if k not in keys] == []
    assert len(keys) > 90


def one(value: Any) -> Any:
    """An axis of one value as that value; numbers by value, texts and lists as they are."""
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return list(value) if isinstance(value, tuple) else value


def test_defaults_are_those_of_the_schema() -> None:
    rows = documented()
    checked = 0
    for key, field in schema():
        cell = rows[key]["default"]
        if field.is_required() and key != "name":  # whose default is the file's name
            assert cell.startswith("required"), f"{key}: is required, the table says {cell}"
            continue
        assert cell != "required", f"{key}: has a default"
        if re.fullmatch(r"`[^`]*`", cell):
            default = field.get_default(call_default_factory=True)
            assert one(parse_yaml(cell.strip("`"), key)) == one(default), f"{key}: the default is {default}"
            checked += 1
    assert checked > 50
    layer = {"task": {"labels": ["no", "yes"]}, "pools": {"train": {"a": "x", "b": "y"}}, "resources": {"workers": 2}}
    full = completed(layer)  # the defaults that the table puts into words
    assert full["axes"] == {"template": ["plain"], "pool": ["a", "b"], "epochs": [3.0]}
    assert full["templates"]["plain"]["words"] == {"no": " no", "yes": " yes"}
    assert full["resources"]["slots"] == 1


def test_all_names_that_a_key_takes_are_documented() -> None:
    rows = documented()
    checked = 0
    for key, field in schema():
        names = names_of(field.annotation)
        if names and not list(sections(field.annotation)):
            assert names == set(inline_code(rows[key]["value"])), key
            checked += 1
    assert checked >= 13


# the run folder -----------------------------------------------------------------------------------------------


def section_columns(title: str) -> dict[str, str]:
    """Name -> type of the tables under a heading of docs/run-folder.md; names in the meaning cell have no type."""
    text = (ROOT / "docs" / "run-folder.md").read_text()
    [body] = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE)
    found: dict[str, str] = {}
    for line in body.splitlines():
        if line.startswith("| `"):
            names, kind, meaning = (c.strip() for c in line[1:-1].split("|"))
            found.update(dict.fromkeys(inline_code(names), kind))
            found.update({n: kind for n in inline_code(meaning) if re.fullmatch(r"\w+_(?:low|high|holm)", n)})
            if "each with `_low` and `_high`" in meaning:
                found.update({f"{n}_{side}": kind for n in inline_code(names) for side in ("low", "high")})
    return found


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, _ = make_run(tmp_path_factory.mktemp("docs"), LABELLED, axes={"lr": 1e-2, "steps": 4})
    return Path(run)


def test_columns_of_the_trials_are_documented_with_their_types() -> None:
    assert section_columns("`trials.parquet`") == {f.name: str(f.type) for f in TRIALS}


def test_columns_of_the_scores_are_documented_with_their_types() -> None:
    types = {f.name: str(f.type) for f in SCORES} | {"label_logprobs": "list of float"}
    assert section_columns("`scores/`") == types


def test_the_record_of_a_rung_is_documented(run_folder: Path) -> None:
    [file] = run_folder.glob("scores/*/*-dev.parquet")
    record = json.loads(pq.read_schema(file).metadata[b"steadytune"])
    documented = section_columns("The rung's record")
    assert set(documented) == {*record, "nan", "sample"}  # these two only where there is something to say
    text = (ROOT / "docs" / "run-folder.md").read_text()
    assert [k for k in (*record["curve"], *record["trial"]) if not re.search(rf"\b{k}\b", text)] == []


@pytest.mark.parametrize("name", ["robustness", "groups"])
def test_columns_of_the_tables_are_documented_with_their_types(name: str, run_folder: Path) -> None:
    found = section_columns(f"`tables/{name}`")
    written = pq.read_schema(run_folder / "tables" / f"{name}.parquet")
    assert set(found) == set(written.names)
    types = {f.name: str(f.type) for f in written}
    assert {n: (kind, types[n]) for n, kind in found.items() if kind and kind != types[n]} == {}


@pytest.mark.parametrize(("name", "schema"), [("effects", EFFECTS), ("variance", VARIANCE)])
def test_columns_of_what_mattered_are_documented_with_their_types(name: str, schema: pa.Schema) -> None:
    found = section_columns(f"`tables/{name}`")
    assert set(found) == set(schema.names)
    assert {n: kind for n, kind in found.items() if kind and kind != str(schema.field(n).type)} == {}


def test_every_file_of_a_run_folder_is_documented(run_folder: Path) -> None:
    """The layout at the top of the page, read as patterns, covers every file; ``tensorboard/`` is a folder."""
    layout = next(b for b in texts_of("run-folder.md", "") if b.startswith("runs/"))
    patterns = []
    for line in layout.splitlines()[1:]:
        path = line.strip().split("  ")[0]
        text = re.sub(r"<[^>]+>", "[^/]+", path.replace(".", r"\."))
        text = re.sub(r"\{([\w,]+)\}", lambda m: f"(?:{m[1].replace(',', '|')})", text)
        patterns.append(text + (".*" if path.endswith("/") else ""))
    files = [str(p.relative_to(run_folder)) for p in run_folder.rglob("*") if p.is_file()]
    assert [f for f in files if not any(re.fullmatch(p, f) for p in patterns)] == []
    unmet = [p for p in patterns if not any(re.fullmatch(p, f) for f in files)]
    not_here = [
        r"timing\.json",
        r"decisions/[^/]+/[^/]+\.jsonl",
        r"tables/confirmation\.(?:md|csv|parquet)",
        r"tables/effects\.(?:md|csv|parquet)",
        r"tables/variance\.(?:md|csv|parquet)",
        "tensorboard/.*",
    ]
    assert unmet == not_here, (
        "what a run of one trial, without Tune, fresh seeds and the asynchronous rule does not leave"
    )
