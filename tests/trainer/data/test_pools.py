"""Pools of wordings: reading, filling with spans, the sandbox, dividing and comparing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.likeness import normal_form
from trainer.data.pools import fingerprint_prompts, flaws, load_pool, shared_prompts, split_pool
from trainer.data.wording import MAX_CHARACTERS, Prompt, check_wording, fill, placeholder_uses, placeholders
from trainer.errors import UserError


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


# pools -------------------------------------------------------------------------------------------------------------


def test_yaml_mapping_keeps_ids_as_written(tmp_path: Path) -> None:
    path = write(tmp_path, "p.yaml", 'a: |\n  Line one\n  {{ text }}\nno: "Is it? {{ text }}"\n1.0: "{{ text }}"\n')
    assert load_pool(path) == [
        Prompt("a", "Line one\n{{ text }}"),
        Prompt("no", "Is it? {{ text }}"),
        Prompt("1.0", "{{ text }}"),
    ]


def test_lists_and_lines_get_ids_from_their_text(tmp_path: Path) -> None:
    before = load_pool(write(tmp_path, "p.yaml", '- "One {{ text }}"\n- "Two {{ text }}"\n'))
    after = load_pool(write(tmp_path, "p.txt", "Zero {{ text }}\nOne {{ text }}\n\nTwo {{ text }}\n"))
    assert [p.text for p in after] == ["Zero {{ text }}", "One {{ text }}", "Two {{ text }}"]
    assert after[1:] == before
    assert len({p.id for p in after}) == 3


def test_jsonl(tmp_path: Path) -> None:
    path = write(tmp_path, "p.jsonl", '{"id": "a", "text": "A {{ text }}"}\n\n{"id": 7, "text": "B {{ text }}"}\n')
    assert [p.id for p in load_pool(path)] == ["a", "7"]


def test_only_keeps_the_named_in_the_order_given(tmp_path: Path) -> None:
    path = write(tmp_path, "p.yaml", 'a: "A {{ text }}"\nb: "B {{ text }}"\nc: "C {{ text }}"\n')
    assert [p.id for p in load_pool(path, ["c", "a"])] == ["c", "a"]
    with pytest.raises(UserError, match=r'only = "d" is no prompt of this file.*Known: a, b, c'):
        load_pool(path, ["d"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.yaml", "a: x\na: y\n", 'prompt id "a" occurs more than once: ids must be unique'),
        ("p.txt", "same {{ t }}\nsame {{ t }}\n", "the same text stands there twice"),
        ("p.yaml", "a: ''\n", 'prompt "a" is empty'),
        ("p.yaml", "", "neither id: text pairs nor a list"),
        ("p.txt", "\n", "holds no prompt"),
        ("p.yaml", "a: {{ text }}\n", 'line 1: prompt "a" is no text. Quote it'),
        ("p.yaml", "a: [\n", "line 2, column 1: is not YAML"),
        ("p.jsonl", '{"id": "a"}\n', "line 1 is not of the form"),
        ("p.jsonl", '{"id": "a", "text": 3}\n', "line 1: text = 3 is no text"),
        ("p.csv", "a", 'ending ".csv" is not known'),
        ("p.yaml", "a: '{{ text '\n", 'prompt "a": is not readable'),
        ("p.yaml", "a: '{{ text is foo }}'\n", 'prompt "a": asks "is foo", which is not known'),
        ("p.yaml", "a: '{{ text }'\n", 'prompt "a": is not readable (out of place'),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(UserError) as caught:
        load_pool(path)
    assert message in str(caught.value)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "p.yaml",
            "a: ''\nb: '{{ text '\nc: fine {{ text }}\nd: '{{ text.x() }}'\nc: x\n",
            ['prompt "a" is empty', 'prompt "b": is not', 'prompt "d": uses', 'prompt id "c" occurs'],
        ),
        ("p.yaml", "a: {{ text }}\nb: x {{ text }}\nc: {{ text }}\n", ['line 1: prompt "a"', 'line 3: prompt "c"']),
        ("p.jsonl", '{"id": "a"}\n{"text": "x {{ text }}"}\n{"text": 3}\n', ["line 1 is not", "line 3: text"]),
    ],
)
def test_all_that_is_wrong_with_a_file_is_said_at_once(tmp_path: Path, name: str, text: str, told: list[str]) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(UserError) as caught:
        load_pool(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(told)
    assert all(line.startswith(f"{path}: {start}") for line, start in zip(lines, told, strict=True))


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, "train.yaml", "a: x")
    with pytest.raises(UserError, match=r'no such file. Did you mean "train.yaml"'):
        load_pool(str(tmp_path / "trian.yaml"))


def test_fingerprint_sees_ids_texts_and_order() -> None:
    a, b = Prompt("a", "x"), Prompt("b", "y")
    prints = {fingerprint_prompts(p) for p in ([a, b], [b, a], [a], [Prompt("c", "x"), b], [Prompt("a", "z"), b])}
    assert len(prints) == 5
    assert fingerprint_prompts([a, b]) == fingerprint_prompts((Prompt("a", "x"), Prompt("b", "y")))


# filling -----------------------------------------------------------------------------------------------------------


def content(prompt: str, fields: dict[str, str], options: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    filled = fill(Prompt("p", prompt), fields, options)
    return filled.text, [filled.text[a:b] for a, b in filled.spans]


def test_spans_are_what_placeholders_put_out() -> None:
    assert content("Q: {{ q }}\nC: {{ c | trim }}!", {"q": "why?", "c": " so "}) == ("Q: why?\nC: so!", ["why?", "so"])
    assert content("{{ q }}{{ c }}", {"q": "", "c": "x"}) == ("x", ["x"])


def test_conditions_and_one_loop() -> None:
    text = "{% for o in options %}\n{{ loop.index }}) {{ o }}\n{% endfor %}\n{% if c %}C: {{ c }}{% endif %}"
    assert content(text, {"c": ""}, ("u", "v")) == ("1) u\n2) v\n", ["1", "u", "2", "v"])
    assert content(text, {"c": "w"}, ("u", "v"))[0].endswith("C: w")


def test_nothing_in_a_row_is_taken_for_markup() -> None:
    text, spans = content("<{{ t }}>", {"t": "<b>&{{ q }} {% raw %}"})
    assert text == "<<b>&{{ q }} {% raw %}>"
    assert spans == ["<b>&{{ q }} {% raw %}"]


@given(st.lists(st.text(alphabet="ab\ue0f0\ue0f1\ue0f2oce\r\n {}", max_size=8), min_size=2, max_size=2))
def test_values_with_the_marking_characters_come_through(values: list[str]) -> None:
    first, second = values
    filled = fill(Prompt("p", "1{{ x }}2{{ y }}3"), {"x": first, "y": second})
    assert filled.text == f"1{first}2{second}3"
    assert [filled.text[a:b] for a, b in filled.spans] == [v for v in values if v]


def test_placeholders() -> None:
    prompt = Prompt("p", "{{ a }}{% if b %}{{ a|upper }}{% endif %}{% for o in options %}{{ o }}{% endfor %}")
    assert placeholders(prompt) == {"a", "b", "options"}
    assert placeholder_uses(prompt) == {"a": 2, "b": 1, "options": 1}


def test_an_unknown_placeholder_names_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r'prompt "p": placeholder "txt" is no field of the row. Did you mean "text"\? Known: text'
    ):
        fill(Prompt("p", "{{ txt }}"), {"text": "x"})


@pytest.mark.parametrize(
    "text",
    [
        "{{ t.__class__.__mro__ }}",
        "{{ t.upper() }}",
        "{{ range(10) }}",
        "{{ 'x' * 1000000000 }}",
        "{{ 2 ** 99999999 }}",
        "{% set a = t %}",
        "{% macro m() %}{% endmacro %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% extends 'x' %}",
        "{{ t | attr('upper') }}",
        "{{ t | center(1000000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{% for a in t %}{% for b in t %}{{ b }}{% endfor %}{% endfor %}",
        "{% for a in t recursive %}{% endfor %}",
        "{{ t \ue0f0 }}",
        "{{ t | join(t) | join(t) | join(t) }}",
        "{{ t | replace('', t) | replace('a', t) | replace('a', t) }}",
        "{{ cycler }}",
    ],
)
def test_the_sandbox_refuses_what_could_run_code_or_run_away(text: str) -> None:
    with pytest.raises(UserError):
        fill(Prompt("p", text), {"t": "a" * 2000})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{{ text.upper }}", "uses text.upper, but a text has no parts with names. Did you mean {{ text|upper }}?"),
        ("{{ text.upper() }}", "Did you mean {{ text|upper }}?"),
        (
            "{{ text['upper'] }}",
            "a text in [ ], where a number belongs: {{ text[0] }} or {{ text[:20] }}. Did you mean",
        ),
        ("{{ text[text] }}", "uses a text in [ ]"),
        ("{{ text.__class__ }}", "uses text.__class__"),
        ("{{ options[0].upper }}", "uses options[…].upper"),
        ("{{ text|attr('upper') }}", 'filter "attr" is not allowed'),
        ("{{ options|map(attribute='upper')|join }}", 'filter "map" is not allowed'),
        ("{{ text|uper }}", 'Did you mean "upper"?'),
        ("{{ text|replace(*options) }}", "a list with *"),
        ("{{ text|replace('a') }}", 'gives filter "replace" no "new"'),
        ("{{ text|upper(1) }}", 'gives filter "upper" 1 values; it takes 0'),
        ("{{ range }}", 'placeholder "range" is no field'),
        ("{{ lipsum() }}", "uses lipsum(…), which is no filter"),
        ("{{ self }}", 'uses "self", which is no field'),
        ("{% for o in options %}{{ loop }}{% endfor %}", 'uses "loop"'),
        ("{% for o in options %}{{ loop.cycle }}{% endfor %}", "uses loop.cycle. Known: index"),
        ("{{ none }}", "uses the value None"),
        ("{{ text|length > 3 }}", "shows True or False"),
        ("{{ text is callable }}", 'asks "is callable"'),
        ("{{ {'a': text} }}", 'uses "a dictionary"'),
    ],
)
def test_a_wording_may_show_fields_filters_and_indexes_only(text: str, told: str) -> None:
    """CASES V6."""
    with pytest.raises(UserError) as caught:
        fill(Prompt("p", text), {"text": "x"}, ("a", "b"))
    assert told in str(caught.value)


@pytest.mark.parametrize("text", ["{{ text }}\x00", "{{ text }}\udcff"])
def test_a_wording_holds_no_character_that_no_text_can_hold(text: str) -> None:
    """CASES B4: also one from the command line, which no file reader has seen."""
    with pytest.raises(UserError, match=r"contains the character U\+(0000|DCFF)"):
        check_wording(text)


@pytest.mark.parametrize("text", ["{{ options }}", "{{ options[:2] }}", "{{ options|string }}", "{{ options|upper }}"])
def test_a_list_is_not_shown_as_python_writes_it(text: str) -> None:
    """CASES F2. A field that has the name "options" is a text like any other."""
    with pytest.raises(UserError, match=r"list.* Write \{\{ options\|join\(', '\) \}\}"):
        fill(Prompt("p", "{{ text }}" + text), {"text": "x"}, ("a", "b"))
    assert fill(Prompt("p", text), {"options": "A"}).text == "A"
    assert content("{{ options|join(', ') }}: {{ options[1] }}", {}, ("a", "b"))[0] == "a, b: b"


def test_a_loop_goes_over_options_not_over_characters() -> None:
    """CASES B1: this took a minute for the characters that it makes of a short text."""
    with pytest.raises(UserError, match="has a loop over a text; a loop goes over options"):
        check_wording("{% for a in text|replace('',text)|replace('',text) %}{{ a }}{% endfor %}")
    with pytest.raises(UserError, match="has a loop over a text"):
        fill(Prompt("p", "{% for a in options %}{{ a }}{% endfor %}"), {"options": "abc"})


@pytest.mark.parametrize(
    "text",
    [
        "{{ text|replace('', text)|replace('', text) }}",
        "{{ text|replace('', text)|replace('x', 'yyyyyyyyyyy')|length }}",
        "{% for o in options %}{{ text|upper|lower|title|length }}{% endfor %}",
        "{% for o in options %}{{ text }}{% endfor %}",
    ],
)
def test_what_a_wording_makes_of_a_row_is_bounded_by_the_row(text: str) -> None:
    """CASES B1. The bound counts characters, so that it is the same everywhere."""
    with pytest.raises(UserError, match=r"makes more than \d+ characters of one row. Use fewer filters"):
        fill(Prompt("p", text), {"text": "x" * 2000}, ["o"] * 300)
    assert fill(Prompt("p", "{{ text|upper|lower|title|trim|length }}"), {"text": "x" * 2000}).text == "2000"


@pytest.mark.parametrize(
    "text",
    [
        "{{ " + "(" * 1000 + "text" + ")" * 1000 + " }}",
        "{{ " + "not " * 1000 + "text }}",
        "{{ " + "-" * 1000 + "1 }}",
        "{{ text" + "[0]" * 1000 + " }}",
        "{{ text" + "|upper" * 1000 + " }}",
        "{{ text" + "+text" * 1000 + " }}",
        "{% if text %}" * 1000 + "x" + "{% endif %}" * 1000,
        "{{ 'a' if text else " * 1000 + "'b'" + " }}",
        "{{ " + "[" * 1000 + "]" * 1000 + " }}",
        "{{ " + "9" * 5000 + " }}",
        "{{ text }}" * 1000,
        "x" * 60_000,
    ],
)
def test_a_wording_of_any_depth_and_size_is_refused_in_words(text: str) -> None:
    """CASES B4."""
    with pytest.raises(
        UserError,
        match=r"nested more than 40|more than 4300 digits|more than 500 parts|60000 characters|is not readable",
    ):
        check_wording(text)


def test_a_text_that_grows_without_end_is_refused() -> None:
    with pytest.raises(UserError, match=f"more than {MAX_CHARACTERS} characters"):
        fill(Prompt("p", "{% for c in options %}{{ t }}{% endfor %}"), {"t": "a" * 50_000}, ["b"] * 30)


# dividing and comparing --------------------------------------------------------------------------------------------


def pool(n: int) -> list[Prompt]:
    return [Prompt(f"p{i:02d}", f"Wording {i}: {{{{ text }}}}") for i in range(n)]


def test_split_deals_every_prompt_once_and_depends_on_the_seed_alone() -> None:
    prompts = pool(20)
    dealt = split_pool(prompts, {"train": 0.6, "dev": 0.2, "test": 0.2}, seed=1)
    assert {n: len(p) for n, p in dealt.items()} == {"train": 12, "dev": 4, "test": 4}
    assert sorted(p.id for part in dealt.values() for p in part) == [p.id for p in prompts]
    again = split_pool(prompts[::-1], {"train": 0.6, "dev": 0.2, "test": 0.2}, seed=1)
    assert {n: {p.id for p in part} for n, part in again.items()} == {
        n: {p.id for p in part} for n, part in dealt.items()
    }
    assert split_pool(prompts, {"train": 0.6, "dev": 0.2, "test": 0.2}, seed=2) != dealt


def test_split_keeps_near_duplicates_together_and_fills_every_pool() -> None:
    prompts = [
        Prompt("a", "Is it? {{ t }}"),
        Prompt("b", "is it {{ t }}"),
        Prompt("c", "Other {{ t }}"),
        Prompt("d", "Third {{ t }}"),
    ]
    for seed in range(8):
        dealt = split_pool(prompts, {"train": 0.98, "dev": 0.01, "test": 0.01}, seed)
        assert all(dealt.values())
        assert not shared_prompts(dealt)
    with pytest.raises(UserError, match="3 different prompts cannot fill 4 pools"):
        split_pool(prompts, {"a": 1, "b": 1, "c": 1, "d": 1})
    with pytest.raises(UserError, match="shares must be positive"):
        split_pool(prompts, {"a": -1, "b": 2})


def test_shared_prompts_are_found_whatever_case_space_and_punctuation() -> None:
    pools = {
        "train": [Prompt("a", "Is this sexist?\n{{ text }}"), Prompt("b", "Other {{ text }}")],
        "dev": [Prompt("c", "is this  SEXIST: {{text}}."), Prompt("d", "Is this not sexist? {{ text }}")],
        "test": [Prompt("e", "Other {{ text }}")],
    }
    found = {(s.ids, s.exact) for s in shared_prompts(pools)}
    assert found == {(("a", "c"), False), (("b", "e"), True)}
    assert normal_form("{{ a }} \uff28i!") == normal_form("{{ a }}, hi") != normal_form("{{ b }} hi")


def test_flaws_of_published_prompts_are_flagged() -> None:
    assert [f[0] for f in flaws(Prompt("p", r"Read this.\n{{ text }}"))] == ["error"]
    assert [f[0] for f in flaws(Prompt("p", "About [describe what the passage says]: {{ text }}"))] == ["warning"]
    for fine in (
        "Read this.\n{{ text }}",
        "{{ text[:500] }} [A] or [B]?",
        "{% if a %} [x] {% endif %}{{ text }}",
        "Answer [INST] now",
    ):
        assert flaws(Prompt("p", fine)) == []
