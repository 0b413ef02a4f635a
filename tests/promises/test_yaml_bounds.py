"""Every reader of YAML in the product refuses what would grow without end, and a key that stands twice, in a line
(CASES B2, V13)."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import FILES, ROOT

from cluster.files import crd
from cluster.files.yaml_text import yaml_documents
from sweeps.prompts.brief import read_brief
from sweeps.run_folder.reading import RunFolder
from sweeps.study.load import load_study
from trainer.data.pools import load_pool
from trainer.errors import UserError
from trainer.store import Store

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


def run_folder(path: str) -> object:
    folder = Path(path).parent / "run"
    folder.mkdir()
    (folder / "study.yaml").write_text(Path(path).read_text())
    return RunFolder(Store.open(str(folder))).study


READERS: dict[str, Callable[[str], object]] = {
    "study": load_study,
    "override": lambda path: load_study(path, [f"axes={Path(path).read_text()}"]),
    "pool": load_pool,
    "run folder": run_folder,
    "brief": lambda path: read_brief(path, ""),
    "cluster file": lambda path: yaml_documents(Path(path).read_text(), path),
    "definitions": lambda path: crd.from_files([path]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "keys and values, counting what aliases stand for"),
        ("[" * 3000, "deep in each other"),
        ("a: &a [*a]\n", "an alias stands inside what it is an alias of"),
        ("a: *b\n", "undefined alias"),
        ("a: !!bool maybe\n", ""),
        ('a: "\\ud800"\n', "half a character"),
        ("a: 1\nb: 1\n0x1: c\n1: b\n", "line 4"),
    ],
)
def test_every_reader_keeps_the_bounds(tmp_path: Path, reader: str, text: str, told: str) -> None:
    if reader == "pool" and told == "line 4":
        return  # ids are the texts of the file, so 1 and 0x1 are two
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        READERS[reader](str(tmp_path / "x.yaml"))
    if reader != "definitions":  # read by libyaml, whose words differ
        assert told in str(error.value)
    assert all(len(line) < 1000 for line in str(error.value).splitlines())


@pytest.mark.parametrize("rest", ["", "spec: 5\n", "spec: {versions: [5]}\n", "spec: {versions: [{schema: 1}]}\n"])
def test_half_a_definition_is_told(tmp_path: Path, rest: str) -> None:
    (tmp_path / "x.yaml").write_text(f"kind: CustomResourceDefinition\n{rest}")
    with pytest.raises(UserError, match="is no whole definition of KubeRay"):
        crd.from_files([str(tmp_path / "x.yaml")])


def test_no_yaml_is_read_in_another_way() -> None:
    reading = {"load", "load_all", "safe_load", "safe_load_all", "compose", "compose_all", "full_load", "unsafe_load"}
    found = {
        f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in reading and ast.unparse(node.value) == "yaml"
    }
    assert found == {"sweeps/prompts/files.py: yaml.safe_load"}, "an id of one word, by its own pattern"
