"""CASES V11: a chat template that writes the date gives the same token ids on every day."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from small_tokenizers import CHAT, word_level

from sweeps.checks.sequences import chat_findings
from trainer.data.chat_date import is_dated, pinned, random_part
from trainer.data.render import Renderer
from trainer.data.rows import Row
from trainer.data.texts import RenderError
from trainer.data.wording import Prompt
from trainer.trial import Task, Template

TASK = Task(labels=("no", "yes"), max_length=200)
PAIR = (Prompt("p1", "Is it {{ text }}?"), Row("r1", {"text": "good"}, "yes"))


def with_template(text: str) -> Any:
    tokenizer = word_level()
    tokenizer.chat_template = text
    return tokenizer


def question(tokenizer: Any, template: Template) -> str:
    return Renderer(tokenizer, template, TASK).texts.contexts([PAIR])[0].text


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ("%d %b %Y", "26 Jul 2024"),
        ("%H:%M:%S.%f", "00:00:00.000000"),
        ("%A %-d %B %y, %j, %I %p, %F %T, %%d %z", "Friday 26 July 24, 208, 12 AM, 2024-07-26 00:00:00, %d "),
    ],
)
def test_the_date_is_the_templates_and_not_todays(asked: str, written: str) -> None:
    tokenizer = with_template(f"{{{{ strftime_now('{asked}') }}}}|{CHAT}")
    assert question(tokenizer, Template("c", chat=True, marker="")).split("|<s>")[0].startswith(written)
    other = question(tokenizer, Template("c", chat=True, marker="", date="2026-03-05"))
    assert other.split("|<s>")[0] == datetime(2026, 3, 5).strftime(asked)


def test_the_rest_of_the_template_is_written_as_before() -> None:
    """Also line breaks at its beginning, a date in a macro, and the question whether there is such a function."""
    text = (
        "\n  {% macro year() %}{{ strftime_now('%Y') }}{% endmacro %}{% if strftime_now is defined %}\n<{{ year() }}>\n"
        "{% endif %}" + CHAT
    )
    tokenizer, messages = with_template(text), [{"role": "user", "content": "a"}]
    today = tokenizer.apply_chat_template(messages, tokenize=False)
    now = f"{datetime.now(UTC).year}-01-01"
    assert tokenizer.apply_chat_template(messages, tokenize=False, **pinned(text, now)) == today
    assert re.search(r"\n<\d{4}>\n", today)


def test_a_template_without_a_date_is_left_alone() -> None:
    assert not is_dated(CHAT)
    assert pinned(CHAT, "2024-07-26") == {}


@pytest.mark.parametrize("drawn", ["{{ [1, 2] | random }}", "{{ lipsum() }}"])
def test_a_template_that_draws_at_random_is_refused(drawn: str) -> None:
    assert random_part(CHAT) is None
    with pytest.raises(RenderError, match=r'the chat template uses "(random|lipsum)", which gives another text each'):
        Renderer(with_template(drawn + CHAT), Template("c", chat=True, marker=""), TASK)


def test_check_warns_of_a_date_and_of_one_without_effect() -> None:
    def said(text: str, **date: str) -> list[str]:
        renderer = Renderer(with_template(text), Template("c", chat=True, marker="", **date), TASK)
        return [str(f) for f in chat_findings(renderer, "templates.c")]

    [warning] = said("{{ strftime_now('%H:%M:%S.%f') }}" + CHAT)
    assert "writes the date or the time, which here is always 2024-07-26, at midnight. Set templates.c.date" in warning
    assert said(CHAT) == []
    assert "templates.c.date: has no effect" in said(CHAT, date="2026-03-05")[0]


@pytest.mark.parametrize("day", ["today", "", 5])
def test_a_day_that_is_none_is_refused_in_words(day: Any) -> None:
    with pytest.raises(RenderError, match=r'template "c": date = .* is no day, such as 2024-07-26'):
        Renderer(with_template("{{ strftime_now('%Y') }}" + CHAT), Template("c", chat=True, marker="", date=day), TASK)


@pytest.mark.parametrize("chat_template", [None, {"tool_use": CHAT}])
def test_a_tokenizer_without_a_chat_template_of_its_own_is_told(chat_template: Any) -> None:
    with pytest.raises(RenderError, match=r'template "c": '):
        Renderer(with_template(chat_template), Template("c", chat=True, marker=""), TASK)
