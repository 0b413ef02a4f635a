"""Pools as files: what is written is read back whatever it holds, and splits keep near duplicates together."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_tasks import steadytune

from sweeps.prompts.files import PoolFileError, content_id, pool_text, read_pools, split_files
from sweeps.study.shipped import STUDIES
from trainer.data.likeness import Likeness, near
from trainer.data.pools import load_pool
from trainer.data.wording import Prompt
from trainer.errors import UserError

SHARES = {"train": 0.6, "dev": 0.2, "test": 0.2}
EMBEDDED = STUDIES.parent / "embedded" / "data" / "pools"
Texts = st.text(st.characters(exclude_categories=["Cs", "Co"], exclude_characters="\x00"), min_size=1).filter(
    lambda t: "{%" not in t and "{#" not in t
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "no", "1.0", "x: y", "# z", "~", "p-1"]), Texts, min_size=1), st.text())
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, texts: dict[str, str], title: str
) -> None:
    prompts = [Prompt(i, f"{{{{ text }}}} {t.replace('{', '{ ')}.") for i, t in texts.items()]
    file = tmp_path_factory.mktemp("pool") / "p.yaml"
    try:
        file.write_text(pool_text([title, "x"], {title: prompts}), encoding="utf-8", newline="")
    except UnicodeEncodeError:
        return  # a lone surrogate in the title
    found = load_pool(str(file))
    assert found == prompts
    assert yaml.safe_load(file.read_text(encoding="utf-8")) == {p.id: p.text for p in prompts}


def test_a_file_of_prompts_reads_well() -> None:
    text = pool_text(["Two\nlines"], {"one": [Prompt("a", 'Say "x"\n{{ t }}')], "none": [], "": [Prompt("no", "b")]})
    assert text == '# Two lines\n# one\na: "Say \\"x\\"\\n{{ t }}"\n"no": "b"\n'


def test_ids_without_names_are_those_of_a_list(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Is it? {{ text }}\n")
    assert load_pool(str(tmp_path / "p.txt"))[0].id == content_id("Is it? {{ text }}")


def test_files_together_are_one_pool(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 'One {{ t }}'\nb: 'Two {{ t }}'\n")
    (tmp_path / "b.yaml").write_text("c: 'Three {{ t }}'\na: 'One {{ t }}'\n")
    (tmp_path / "c.yaml").write_text("a: 'Other {{ t }}'\n")
    files = [str(tmp_path / f"{n}.yaml") for n in "abc"]
    assert [p.id for p in read_pools(files[:2])] == ["a", "b", "c"]
    with pytest.raises(PoolFileError, match=r'c.yaml: prompt id "a" stands for another text in .*a.yaml'):
        read_pools(files)


# splitting ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(tmp_path: Path) -> str:
    """48 wordings of the quickstart, and copies of three that differ in a word."""
    prompts = load_pool(str(EMBEDDED / "train.yaml"))
    long = sorted(prompts, key=lambda p: -len(p.text))[:3]
    copies = [Prompt(f"copy-{p.id}", f"Well, {p.text}") for p in long]
    (tmp_path / "pool.yaml").write_text(pool_text([], {"": [*copies, *prompts]}))
    return str(tmp_path / "pool.yaml")


def test_a_split_is_by_seed_and_leaves_nothing_near_across(tmp_path: Path, pool: str) -> None:
    said = split_files([pool], str(tmp_path / "s0"), SHARES, 0)
    parts = {n: load_pool(str(tmp_path / "s0" / f"{n}.yaml")) for n in SHARES}
    assert {n: len(p) for n, p in parts.items()} == {"train": 31, "dev": 10, "test": 10}
    assert {p for part in parts.values() for p in part} == set(load_pool(pool))
    where = {p.id: n for n, part in parts.items() for p in part}
    assert all(where[i] == where[i.removeprefix("copy-")] for i in where)
    likeness = {p.id: Likeness.of(p.text) for part in parts.values() for p in part}
    assert not any(near(likeness[a], likeness[b]) for a in where for b in where if where[a] < where[b])
    assert "6 prompts are near duplicates of another; each of the 3 groups went into one pool" in said
    assert any(line.startswith("nearest two of different pools: ") for line in said)

    split_files([pool], str(tmp_path / "again"), SHARES, 0)
    split_files([pool], str(tmp_path / "s1"), SHARES, 1)
    first, again, other = ((tmp_path / d / "test.yaml").read_bytes() for d in ("s0", "again", "s1"))
    assert first == again != other


def test_a_share_of_zero_writes_no_file(tmp_path: Path, pool: str) -> None:
    split_files([pool], str(tmp_path / "s"), {"train": 0.8, "dev": 0.0, "test": 0.2}, 0)
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["test.yaml", "train.yaml"]


def test_what_generated_prompts_cost_goes_along_with_the_train_pool(tmp_path: Path, pool: str) -> None:
    (tmp_path / "pool.usage.csv").write_text("model,total_tokens\nbig,5\n")
    (tmp_path / "more.yaml").write_text("m: 'More {{ text }}'\n")
    (tmp_path / "more.usage.csv").write_text("model,total_tokens\nsmall,7\n")
    split_files([pool, str(tmp_path / "more.yaml")], str(tmp_path / "s"), SHARES, 0)
    assert (tmp_path / "s" / "train.usage.csv").read_text() == "model,total_tokens\nbig,5\nsmall,7\n"
    (tmp_path / "more.usage.csv").unlink()
    split_files([str(tmp_path / "more.yaml"), pool], str(tmp_path / "s"), SHARES, 1, overwrite=True)
    assert (tmp_path / "s" / "train.usage.csv").read_text() == "model,total_tokens\nbig,5\n"
    (tmp_path / "pool.usage.csv").unlink()
    split_files([pool], str(tmp_path / "s"), SHARES, 2, overwrite=True)
    assert not (tmp_path / "s" / "train.usage.csv").exists(), "it told the cost of other prompts"


def test_pools_that_are_there_are_not_replaced_unasked(tmp_path: Path, pool: str) -> None:
    (tmp_path / "test.yaml").write_text("t: 'By hand {{ text }}'\n")
    with pytest.raises(UserError, match=r"test.yaml: holds other prompts already"):
        split_files([pool], str(tmp_path), SHARES, 0)
    assert not (tmp_path / "train.yaml").exists(), "nothing is written before all is known to fit"
    split_files([pool], str(tmp_path), SHARES, 0, overwrite=True)
    split_files([pool], str(tmp_path), SHARES, 0)  # the same again is no replacement
    assert len(load_pool(str(tmp_path / "test.yaml"))) == 10


def test_the_command(tmp_path: Path, pool: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        steadytune("prompts", "split", pool, "--out", str(tmp_path / "o"), "--train", "8", "--dev", "1", "--test", "1")
        == 0
    )
    assert f"{tmp_path / 'o' / 'train.yaml'}: 41 prompts" in capsys.readouterr().out
    text = (tmp_path / "o" / "dev.yaml").read_text()
    assert text.startswith(
        "# dev: 5 of the 51 prompts of pool.yaml.\n# Made by `steadytune prompts split` with train 8,"
    )
    assert str(tmp_path) not in text
    (tmp_path / "two.yaml").write_text("a: 'One {{ t }}'\nb: 'one {{ t }}!'\n")
    assert steadytune("prompts", "split", str(tmp_path / "two.yaml"), "--out", str(tmp_path / "p")) == 2
    assert "1 different prompts cannot fill 3 pools" in capsys.readouterr().err
    assert steadytune("prompts", "split", pool, "--out", str(tmp_path / "p"), "--train", "-1") == 2
