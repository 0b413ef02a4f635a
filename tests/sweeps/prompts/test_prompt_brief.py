"""TASK files and studies as briefs, and what a model is told: never a row, always the placeholders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prompt_tasks import task_file

from sweeps.prompts.brief import FEW_SHOT, ZERO_SHOT, Brief, check_strategies, messages, read_brief
from sweeps.study.shipped import study_path
from trainer.data.wording import Prompt
from trainer.errors import UserError


def test_a_task_file(tmp_path: Path) -> None:
    brief = read_brief(task_file(tmp_path), "pool.yaml")
    assert (brief.fields, brief.labels, brief.options) == (("text",), ("no", "yes"), False)
    assert (brief.one_of, brief.never, brief.length) == (("unhappy", "upset"), ("angry",), (8, 1200))
    assert [p.id for p in brief.examples] == ["h1", "h2"]
    assert brief.known == brief.examples, "what is shown must not come back"


def test_pools_to_keep_apart_from_and_other_examples(tmp_path: Path) -> None:
    (tmp_path / "test.yaml").write_text("t: 'Other {{ text }}'\n")
    (tmp_path / "more.yaml").write_text("m: 'More {{ text }}'\n")
    brief = read_brief(
        task_file(tmp_path), "p.yaml", "Other?", str(tmp_path / "more.yaml"), [str(tmp_path / "test.yaml")]
    )
    assert brief.about == "Other?"
    assert [p.id for p in brief.examples] == ["m"]
    assert [p.id for p in brief.known] == ["m", "t"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lables": ["a"]}, 'lables.*Did you mean "labels"'),
        ({"language": "eng"}, r'language = "eng".*Known: en, de'),
        ({"fields": []}, "fields"),
        ({"fields": None}, "fields"),
        ({"length": [50, 8]}, "the smaller one first"),
        ({"about": " "}, "about is empty"),
        ({"examples": "humen.yaml"}, 'no such file. Did you mean "human.yaml"'),
    ],
)
def test_what_is_wrong_with_a_task_file_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_brief(task_file(tmp_path, **changes), "pool.yaml")


def test_files_that_are_none(tmp_path: Path) -> None:
    task_file(tmp_path)
    with pytest.raises(UserError, match=r'no such file. Did you mean "task.yaml"'):
        read_brief(str(tmp_path / "taks.yaml"), "p.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(UserError, match="neither a TASK file nor a study"):
        read_brief(str(tmp_path / "list.yaml"), "p.yaml")


def test_a_study_shows_its_train_prompts_and_keeps_apart_from_all() -> None:
    brief = read_brief(study_path("quickstart"), "pool.yaml")
    assert (brief.fields, brief.labels) == (("text",), ("no", "yes"))
    assert len(brief.examples) == 48
    assert {p.id[0] for p in brief.examples} == {"t"}
    assert len(brief.known) == 48 + 20 + 10
    with pytest.raises(UserError, match=r"does not say what its task asks.*--about"):
        check_strategies(brief, [FEW_SHOT, ZERO_SHOT], "quickstart")
    check_strategies(brief, [FEW_SHOT], "quickstart")
    check_strategies(read_brief(study_path("quickstart"), "p", about="Unhappy?"), [ZERO_SHOT], "quickstart")


def test_a_study_that_says_what_it_asks_needs_no_more() -> None:
    brief = read_brief(study_path("tweets"), "pool.yaml")
    assert brief.about == "Is the post sexist?"
    assert brief.one_of == ("sexis",)
    assert {"misogyn", "offens", "abus"} < set(brief.never)
    check_strategies(brief, [FEW_SHOT, ZERO_SHOT], "tweets")


def test_strategies_need_what_they_show() -> None:
    brief = Brief(("text",), "Is it?")
    check_strategies(brief, [ZERO_SHOT], "task.yaml")
    with pytest.raises(UserError, match="few-shot needs wordings to show"):
        check_strategies(brief, [FEW_SHOT], "task.yaml")
    with pytest.raises(UserError, match=r'"few_shot" is not known. Did you mean "few-shot"'):
        check_strategies(brief, ["few_shot"], "task.yaml")


# requests -------------------------------------------------------------------------------------------------------

BRIEF = Brief(
    ("text", "place"), "Is the writer unhappy?", ("no", "yes"), one_of=("upset",), never=("angry",),
    examples=tuple(Prompt(f"h{i}", f"Human wording {i}: {{{{ text }}}}") for i in range(9)), language="de",
)  # fmt: skip


def asked(strategy: str, request: int = 0, seed: int = 0, brief: Brief = BRIEF) -> str:
    system, user = messages(brief, strategy, request, 7, seed)
    assert (system["role"], user["role"]) == ("system", "user")
    return user["content"]


def test_a_request_says_all_that_is_checked_afterwards() -> None:
    for strategy in (FEW_SHOT, ZERO_SHOT):
        text = asked(strategy)
        for part in ("Is the writer unhappy?", "no, yes", "{{ text }}, {{ place }}", "German", "upset", "angry", "7"):
            assert part in text
        assert "8 to 1200 characters" in text


def test_few_shot_shows_other_examples_in_each_request_and_zero_shot_none() -> None:
    shown = [{n for n in range(9) if f"Human wording {n}:" in asked(FEW_SHOT, i)} for i in range(6)]
    assert all(len(s) == 5 for s in shown)
    assert len({frozenset(s) for s in shown}) > 1
    assert asked(FEW_SHOT, 1) == asked(FEW_SHOT, 1)
    assert asked(FEW_SHOT, 1) != asked(FEW_SHOT, 1, seed=1)
    zero = [asked(ZERO_SHOT, i) for i in range(8)]
    assert not any("Human wording" in text for text in zero)
    assert len(set(zero)) == 8, "each in another manner"


def test_rows_of_their_own_options() -> None:
    brief = Brief(("question",), "Choose the right end.", options=True)
    assert "{{ options|join(', ') }} stands for their list" in asked(ZERO_SHOT, brief=brief)


def test_names_and_labels_of_a_task_file_are_the_text_in_it(tmp_path: Path) -> None:
    """CASES V13."""
    (tmp_path / "task.yaml").write_text("fields: [007]\nabout: 1.0\nlabels: {0: false, 1: 0x1}\noptions: 1e3\n")
    brief = read_brief(str(tmp_path / "task.yaml"), "pool.yaml")
    assert (brief.fields, brief.about, brief.labels, brief.options) == (("007",), "1.0", ("false", "0x1"), True)
