"""Answers of models: the wordings in them, and why some are not taken."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.prompts.brief import Brief
from sweeps.prompts.validation import ACCEPTED, REASONS, WordingFilter, fault, in_language, repaired, wordings
from trainer.data.pools import load_pool
from trainer.data.wording import Prompt

A, B = "Is the writer unhappy? {{ text }}", "{{ text }}\nDoes it sound like a complaint?"
BRIEF = Brief(("text",), "Is the writer unhappy?", ("no", "yes"), one_of=("unhappy", "complain"), never=("angry",))


def read(answer: str) -> list[str]:
    return wordings(answer, ["text"])


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps([A, B]),
        f"Here are [2] wordings:\n```json\n{json.dumps([A, B], indent=1)}\n```\nI hope they help. [end]",
        json.dumps([{"id": "1", "prompt": A}, {"id": "2", "prompt": B}]),
        json.dumps([A, B])[:-1] + ", ]",
        json.dumps([A, B, "And a third one, which is cut off: {{ text }}"])[:-20],
        f"<think>[maybe {{{{ text }}}}] ...</think>{json.dumps([A, B])}",
        "[" + json.dumps(A) + ', "{{ text }}\nDoes it sound like a complaint?"]',
        f"1. {A}\n2. {B}",
        f"Sure!\n\n- {A}\n- {B}\n",
        f'1) "{A}"\n\n2) `{B}`\n',
        f"\u2022 {A}\n\u2022 {B}",
        json.dumps([A.replace("{{ text }}", "{text}"), B.replace("{{ text }}", "{{{text}}}").replace("\n", "\\n")]),
    ],
)
def test_wordings_are_found_in_every_form_that_models_choose(answer: str) -> None:
    assert read(answer) == [A, B]


def test_lines_without_marks_and_lists_inside_a_wording() -> None:
    assert read(f"{A}\nIs it? {{{{ text }}}}\n") == [A, "Is it? {{ text }}"]
    assert read('1. Answer from ["yes", "no"]: {{ text }}\n2. Unhappy? {{ text }}') == [
        'Answer from ["yes", "no"]: {{ text }}',
        "Unhappy? {{ text }}",
    ]


@settings(deadline=None)
@given(st.text(max_size=300))
def test_no_answer_breaks_the_reader_or_the_checks(answer: str) -> None:
    wording_filter = WordingFilter(BRIEF, 5)
    for prefix in ("", '["', "1. {{ text }} {% ", "[" * 50):
        for text in read(prefix + answer):
            assert wording_filter.verdict(text, "m") in {ACCEPTED, *REASONS}


def test_a_huge_answer_is_read_in_part() -> None:
    assert len(read(json.dumps([f"{i} {{{{ text }}}}" for i in range(10_000)]))) <= 200
    assert read("[" * 300_000) is not None


def test_form_is_mended_and_meaning_is_not() -> None:
    assert repaired('"Say \\"yes\\" {text}"', ["text"]) == 'Say "yes" {{ text }}'
    assert repaired("{ text } {{text}} {{{ text }}}", ["text"]) == "{{ text }} {{ text }} {{ text }}"
    assert repaired("{title} {{ title }} {text!r}", ["text"]) == "{title} {{ title }} {text!r}"
    assert repaired('"One" and "two" {{ text }}', ["text"]) == '"One" and "two" {{ text }}'


# one wording ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (A, None),
        (B, None),
        ("Unhappy? {{ text }} {title}", "unknown placeholder"),
        ('Unhappy? {"text": "{{ text }}", "unhappy": {}}', None),  # braces of a form or of JSON are text
        ("<div>unhappy {{ text }}</div>", "markup"),
        ("unhappy {{ text }} \x1b[31m", "unreadable"),
        ("unhappy {{ text }", "unreadable"),
        ("unhappy {{ text.__class__ }}", "unreadable"),
        ("unhappy {{ text }} {% include '/etc/passwd' %}", "unreadable"),
        ("unhappy {% for a in text %}{% for b in text %}{{ text }}{% endfor %}{% endfor %}", "unreadable"),
        ("Unhappy about [describe the topic]? {{ text }}", "unfilled gap"),
        ("Is the writer unhappy?", "missing placeholder"),
        ("Unhappy? {{ text }} {{ title }}", "unknown placeholder"),
        ("Unhappy? {{ text }} {{ options|join(', ') }}", "unknown placeholder"),
        ("Is it unhappy? {{ text[:3] }}", "does not render"),
        ("Is it unhappy? {% if false %}{{ text }}{% endif %}", "does not render"),
        ("sad {{ text }}", "length"),
        ("unhappy " * 200 + "{{ text }}", "length"),
        ("x" * 30_000, "length"),
        ("Ist der Verfasser unhappy oder nicht mit dem Dienst? {{ text }}", "language"),
        ("\u041d\u0435\u0434\u043e\u0432\u043e\u043b\u0435\u043d? unhappy {{ text }}", "language"),
        ("Is the writer unhappy, true or false? {{ text }}", "other answers"),
        ("Pick A or B: the writer is unhappy. {{ text }}", "other answers"),
        ("Is the writer unhappy, yes or no? Or true or false? {{ text }}", None),  # names the labels too
        ("Is the writer of this angry or unhappy? {{ text }}", "other task"),
        ("Is the writer of this not_angry or unhappy? {{ text }}", "other task"),  # as `check` reads it
        ("What is the subject of this message? {{ text }}", "other task"),
        ("Is the writer complaining about it? {{ text }}", None),
    ],
)
def test_the_first_fault_of_a_wording(text: str, reason: str | None) -> None:
    assert fault(text, BRIEF) == reason


def test_options_may_be_listed_or_not() -> None:
    brief = Brief(("question",), "Choose.", options=True)
    assert fault("Choose well:\n{% for o in options %}- {{ o }}\n{% endfor %}{{ question }}", brief) is None
    assert fault("Choose the right end of this: {{ question }}", brief) is None


@pytest.mark.parametrize(
    ("text", "language", "same"),
    [
        ("Is the writer of this message unhappy with something?", "en", True),
        ("Ist der Verfasser dieser Nachricht mit etwas nicht zufrieden?", "en", False),
        ("Ist der Verfasser dieser Nachricht mit etwas nicht zufrieden?", "de", True),
        ("L'auteur de ce message est-il mécontent de quelque chose dans la lettre?", "fr", True),
        ("El autor de este mensaje se queja de algo en la carta?", "es", True),
        ("El autor de este mensaje se queja de algo en la carta?", "de", False),
        ("\u8fd9\u6761\u6d88\u606f\u662f\u5426\u5728\u62b1\u6028?", "zh", True),
        ("\u8fd9\u6761\u6d88\u606f\u662f\u5426\u5728\u62b1\u6028?", "en", False),
        ("\u0410\u0432\u0442\u043e\u0440 \u043d\u0435\u0434\u043e\u0432\u043e\u043b\u0435\u043d?", "ru", True),
        ("Unhappy?", "de", True),  # too short to tell, in the right script
        ("\u041d\u0435\u0434\u043e\u0432\u043e\u043b\u0435\u043d?", "any", True),
        ("???", "en", True),
    ],
)
def test_language_by_script_and_stop_words(text: str, language: str, same: bool) -> None:
    assert in_language(text, language) is same


def test_wordings_that_people_wrote_for_other_studies_are_taken() -> None:
    """Of the shipped pools of handwritten English, the language check refuses none."""
    from sweeps.study.shipped import STUDIES

    folders = (STUDIES / "prompts", STUDIES.parent / "embedded" / "data" / "pools")
    prompts = [p for folder in folders for file in sorted(folder.glob("*.yaml")) for p in load_pool(str(file))]
    prompts = [p for p in prompts if re.findall(r"\{\{\s*(\w+)", p.text) == ["text"]]
    assert len(prompts) > 100
    free = Brief(("text",), "anything", length=(1, 2000))
    assert Counter(fault(p.text, free) for p in prompts) == {None: len(prompts)}


# among others ---------------------------------------------------------------------------------------------------


def test_the_sieve_takes_each_wording_once_and_keeps_away_from_other_pools() -> None:
    known = (Prompt("t1", "Does the letter sound unhappy to your ears? {{ text }}"),)
    wording_filter = WordingFilter(Brief(("text",), "Unhappy?", known=known), 2)
    assert wording_filter.verdict(A, "m") == ACCEPTED
    assert wording_filter.verdict("is the writer UNHAPPY {{text}}", "m") == "duplicate"
    assert wording_filter.verdict("Is the author unhappy? {{ text }}", "n") == "near duplicate"
    assert wording_filter.verdict("Does the letter sound unhappy to my ears? {{ text }}", "n") == "near duplicate"
    assert wording_filter.verdict("does the letter sound unhappy to your ears {{text}}", "n") == "duplicate"
    assert wording_filter.verdict("no placeholder here", "n") == "missing placeholder"
    assert wording_filter.verdict(B, "m") == ACCEPTED
    assert wording_filter.verdict("A third and quite different wording: {{ text }}", "m") == "surplus"
    assert wording_filter.verdict("A third and quite different wording: {{ text }}", "n") == ACCEPTED
    assert wording_filter.taken == {"m": [A, B], "n": ["A third and quite different wording: {{ text }}"]}
