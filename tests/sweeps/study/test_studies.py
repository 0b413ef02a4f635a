"""The shipped studies: each loads, its pools are sound and disjoint, and its wordings are truly different."""

from __future__ import annotations

import difflib
import io
import itertools
import re
from pathlib import Path

import pytest
import yaml

from sweeps.checks.wordings import pool_findings, word_findings
from sweeps.study.load import load_study
from sweeps.study.shipped import STUDIES, study_path
from sweeps.study.study import Study
from sweeps.trials.assets import load_pools, task_of, templates_of
from trainer.data.rows import Row
from trainer.data.wording import Prompt

SHIPPED = sorted(STUDIES.glob("*.yaml"))
WORDING_FILES = sorted((STUDIES / "prompts").glob("*.yaml"))
PLACEHOLDER = "{{ text }}"
# Highest likeness of two wordings, over the words around the text; one sentence with slots filled gives 0.7 and more.
MAX_RATIO, MAX_JACCARD = 0.60, 0.42
# Words that would change which posts are a yes: EDOS asks for sexism, and these mean less, more or something else.
OTHER_QUESTIONS = re.compile(r"misogyn|hate|hatred|offensive|toxic|abus|harass|discriminat|feminis|gender", re.I)

every_study = pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)


def opened(path: Path) -> Study:
    """Without asking for the data, which is not always there."""
    return load_study(path, files=False)


def pools(study: Study) -> dict[str, list[Prompt]]:
    train, scored = load_pools(study.pools, study.axes.pool)
    return {**{f"train.{name}": prompts for name, prompts in train.items()}, **scored}


def invented_rows(study: Study) -> dict[str, list[Row]]:
    """A row for each label and split, so that prompts can be filled where the real rows are absent."""
    fields = {name: f"some {name}" for name in study.task.fields}
    options = ("one", "other", "a third", "a fourth") if study.task.options else ()
    names = study.task.names or ("0", "1")
    return {split: [Row(f"{split}-{n}", fields, n, options) for n in names] for split in ("train", "dev", "test")}


def tweets() -> dict[str, dict[str, str]]:
    """The wordings of the tweets study: pool -> id -> text."""
    parts = {p.stem.removeprefix("tweets_"): p for p in WORDING_FILES if p.stem.startswith("tweets_")}
    return {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in parts.items()}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.replace(PLACEHOLDER, " ").lower())


# all studies --------------------------------------------------------------------------------------------------


def test_quickstart_and_tweets_are_shipped() -> None:
    assert {"quickstart", "tweets"} <= {p.stem for p in SHIPPED}


@every_study
def test_a_shipped_study_loads_under_its_own_name(path: Path) -> None:
    study = opened(path)
    assert study.name == path.stem
    assert study == load_study(study_path(path.stem), files=False), "the command finds it by its name"


@every_study
def test_pools_share_no_prompt_and_fill_from_the_studys_fields(path: Path) -> None:
    study = opened(path)
    assert [str(f) for f in pool_findings(invented_rows(study), pools(study))] == []


@every_study
def test_answer_words_belong_to_the_labels(path: Path) -> None:
    study = opened(path)
    for template in templates_of(study).values():
        assert [str(f) for f in word_findings(template, task_of(study.task), invented_rows(study))] == []


def test_the_check_sees_a_wording_that_a_study_shares_between_pools() -> None:
    """What the tests above rely on: the same pools with one wording in two of them are refused."""
    study = opened(STUDIES / "tweets.yaml")
    mixed = pools(study)
    mixed["test"] = [*mixed["test"], Prompt("again", mixed["train.many"][0].text.upper().replace("TEXT", "text"))]
    found = [str(f) for f in pool_findings(invented_rows(study), mixed) if f.level == "error"]
    assert found
    assert all('pools.test: prompt "again"' in text for text in found)


# the tweets study ---------------------------------------------------------------------------------------------


def test_tweets_has_enough_wordings_each_under_an_id_of_its_own() -> None:
    sizes = {name: len(texts) for name, texts in tweets().items()}
    assert sizes["train"] >= 24
    assert sizes["dev"] >= 8
    assert sizes["test"] >= 16
    assert len({key for texts in tweets().values() for key in texts}) == sum(sizes.values())


def test_tweets_wordings_show_the_post_once_and_ask_for_sexism_only() -> None:
    for texts in tweets().values():
        for key, text in texts.items():
            assert text.count(PLACEHOLDER) == 1, key
            assert "{" not in text.replace(PLACEHOLDER, "").removeprefix("{"), key  # e14 is a piece of JSON
            assert re.search(r"sexis[tm]", text, re.I), key
            assert not OTHER_QUESTIONS.search(text), key


def test_tweets_wordings_are_no_near_duplicates() -> None:
    every = {key: text for texts in tweets().values() for key, text in texts.items()}
    for (a, first), (b, second) in itertools.combinations(every.items(), 2):
        x, y = words(first), words(second)
        jaccard = len(set(x) & set(y)) / len(set(x) | set(y))
        ratio = difflib.SequenceMatcher(None, " ".join(x), " ".join(y), autojunk=False).ratio()
        assert jaccard <= MAX_JACCARD, (a, b, jaccard)
        assert ratio <= MAX_RATIO, (a, b, ratio)


def test_tweets_pools_vary_order_and_form() -> None:
    for texts in tweets().values():
        given = list(texts.values())
        assert any(t.startswith(PLACEHOLDER) for t in given)
        assert any(t.endswith(PLACEHOLDER) for t in given)
        assert any("\n" in t for t in given)
        assert any('"' in t for t in given)
        lengths = [len(words(t)) for t in given]
        assert max(lengths) >= 3 * min(lengths)


def test_tweets_passes_its_check_on_the_real_posts_and_model(shared: Path) -> None:
    """Every post of the three splits, every wording, every template: nothing is too long, cut or ambiguous. The one
    warning is that most posts are not sexist, which the study is about."""
    for needed in ("data/edos.parquet", "models/stories260K/config.json"):
        if not (shared / needed).exists():
            pytest.skip(f"../shared/{needed} is not beside this checkout")
    from rich.console import Console

    from sweeps.checks.preflight import check

    console = Console(file=io.StringIO(), width=200)
    study = load_study(STUDIES / "tweets.yaml", ["task.rows.dev.limit=20", "task.rows.test.limit=20"])
    assert check(study, console) == 0, console.file.getvalue()  # type: ignore[attr-defined]
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0 errors, 1 warning\n" in said
    assert 'warning task.rows.train: 75.7 % of 14000 rows have the label "no"' in said
