"""Pools of wordings: reading, filling with spans, the sandbox, dividing and comparing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.likeness import normal_form
from trainer.data.pools import fingerprint_prompts, flaws, load_pool, shared_prompts, split_pool
from trainer.data.wording import MAX_CHARACTERS, Prompt, fill, placeholder_uses, placeholders
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
        ("p.yaml", "a: x\na: y\n", "line 2: a is given twice (first on line 1). Keep one"),
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
        ("p.yaml", "a: '{{ text is foo }}'\n", 'prompt "a": is not readable'),
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
            ["line 5: c is given twice", 'prompt "a" is empty', 'prompt "b": is not', 'prompt "d": uses'],
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


def test_a_text_that_grows_without_end_is_refused() -> None:
    with pytest.raises(UserError, match=f"more than {MAX_CHARACTERS} characters"):
        fill(Prompt("p", "{% for c in t %}{{ t }}{% endfor %}"), {"t": "a" * 5000})


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
