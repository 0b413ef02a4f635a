"""Hostile prompt files, through the pool's reader and the checks: they give prompts and findings, or a user's error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_tokenizers import word_level

from sweeps.checks.preflight import check_formats
from trainer.data.pools import load_pool
from trainer.data.rows import Row
from trainer.data.wording import Prompt, fill
from trainer.errors import UserError
from trainer.trial import Task, Template

TASK = Task(max_length=4000)
ROWS = [Row(f"r{i}", {"text": "good it " * i, "note": ""}, str(i % 2), ("A", "B")) for i in range(1, 5)]
TEMPLATES = [Template("plain"), Template("chat", chat=True, marker="")]
DEV, TEST = [Prompt("d", "B: {{ text }}")], [Prompt("t", "C: {{ text }}")]

ODD = [
    "\ufeff", "\x00", "\u2028", "\x85", "\x0c", "\r", "\ud800", "\ue0f0", "\t", "\\", '"', "'", ":", "- ", "&a ", "*a",
    "!!binary ", "!!bool maybe", "<<: ", "? ", "| ", "> ", "%YAML 9.9\n", "---\n", "{", "}", "[", "]", "{{", "}}", "{%",
]  # fmt: skip
NAMES = [
    "text", "text", "note", "options", "loop", "self", "range", "txet", "none", "true", "cycler", "9" * 30, "'a'",
    "1.5", "1",
]  # fmt: skip
FILTERS = [
    "upper", "replace('', text)", "replace('o', text)", "join(', ')", "length", "truncate(2)", "first", "attr('x')",
    "center(99999999)", "map(attribute='x')", "default('x', true)", "list", "format(1)", "title", "string", "last",
]  # fmt: skip
TESTS = ["defined", "odd", "divisibleby(0)", "callable", "upper"]
SIGNS = ["+", "-", "*", "**", "~", "/", "//", "%", "<", "==", "in", "not in", "and", "or"]
SOUND = [
    "{{ text }} good", "{{ text|upper }}: {{ options|join(', ') }}", "{{ text }}{{ options }}",
    "{{ text[:3] }} {{ text[99] }}",
    "{% for o in options %}{{ loop.index }}) {{ o }}\n{% endfor %}{{ text }}", "{{ text }} {{ note or 'nothing' }}",
    "{{ text|replace('', text)|replace('o', text)|replace('g', text) }}",
    "{{ text }}{% if note|length > 2 %}x{% endif %}",
    "{% for o in options %}{{ text|replace('', text) }}{% endfor %}", "{{ text }}{% raw %}{{{{{{{% endraw %}",
    "{{ text }}\x0c",
]  # fmt: skip


def _wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    deep = st.sampled_from([1, 1, 1, 30, 300, 1500])
    return st.one_of(
        st.tuples(inner, st.sampled_from(FILTERS)).map("|".join),
        st.tuples(inner, st.sampled_from(["upper", "__class__", "x", "index", "cycle"])).map(".".join),
        st.tuples(inner, inner).map(lambda p: f"{p[0]}[{p[1]}]"),
        st.tuples(inner, inner).map(lambda p: f"{p[0]}({p[1]})"),
        st.tuples(inner, inner).map(lambda p: f"{p[0]}[:{p[1]}]"),
        st.tuples(inner, st.sampled_from(SIGNS), inner).map(" ".join),
        st.tuples(inner, st.sampled_from(TESTS)).map(" is ".join),
        st.tuples(inner, inner, inner).map(lambda p: f"{p[0]} if {p[1]} else {p[2]}"),
        st.tuples(inner, deep).map(lambda p: "(" * p[1] + p[0] + ")" * p[1]),
        st.tuples(inner, deep).map(lambda p: "not " * p[1] + p[0]),
        st.tuples(inner, deep).map(lambda p: p[0] + "[0]" * p[1]),
        st.tuples(inner, st.sampled_from([1, 3, 60])).map(lambda p: "+".join([p[0]] * p[1])),
        inner.map(lambda x: f"[{x}, {x}]"),
    )


EXPRESSIONS = st.recursive(st.sampled_from(NAMES), _wider, max_leaves=6)


def _blocks(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    deep = st.sampled_from([1, 1, 1, 30, 300, 1500])
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.tuples(EXPRESSIONS, inner, deep).map(lambda p: f"{{% if {p[0]} %}}" * p[2] + p[1] + "{% endif %}" * p[2]),
        st.tuples(EXPRESSIONS, inner).map(lambda p: f"{{% for a in {p[0]} %}}{p[1]}{{{{ a }}}}{{% endfor %}}"),
        inner.map(lambda x: f"{{% raw %}}{x}{{% endraw %}}"),
        st.tuples(st.sampled_from(["set a = ", "include ", "macro m() ", "with ", "nonsense "]), inner).map(
            lambda p: f"{{% {p[0]}text %}}{p[1]}"
        ),
    )


MADE = st.recursive(
    st.one_of(
        EXPRESSIONS.map(lambda e: f"Is it {{{{ {e} }}}}?"),
        st.text(alphabet=["a", " ", "{", "}", "%", "#", "\n", *ODD[:9]], max_size=12),
        st.sampled_from(["{% if text %}", "{# a", "x" * 60_000, "{{" * 3000, "{{ text }}" * 600]),
    ),
    _blocks,
    max_leaves=4,
)
WORDINGS = st.one_of(
    st.sampled_from(SOUND),
    st.tuples(st.sampled_from(SOUND), EXPRESSIONS).map(lambda p: f"{p[0]} {{{{ {p[1]} }}}}"),
    MADE,
)


def _as_txt(texts: list[str]) -> str:
    return "\n".join(texts)


def _as_yaml(texts: list[str]) -> str:
    return "".join(f"{json.dumps(f'p{i}')}: {json.dumps(t)}\n" for i, t in enumerate(texts))


def _as_plain_yaml(texts: list[str]) -> str:
    return "".join(f"- {t}\n" for t in texts)


def _as_jsonl(texts: list[str]) -> str:
    return "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts))


FORMS: list[tuple[str, Callable[[list[str]], str]]] = [
    *[("txt", _as_txt)] * 3, *[("yaml", _as_yaml)] * 3, *[("jsonl", _as_jsonl)] * 2, ("yaml", _as_plain_yaml),
]  # fmt: skip
JUNK_YAML = [
    "a: [1, {b: c}]", "a: 5\nb: ~\nc: yes", "? [a]\n: x", "a: &x 'q {{ text }}'\nb: *x", "a: &x [*x]", "5", "",
    "[" * 3000,
    "{a: " * 3000, "- " * 3000, "a: !!python/object:os.system x", "a: 'x\n\n", "\t", "- {}\n- []",
]  # fmt: skip


@st.composite
def prompt_files(draw: Any) -> tuple[str, bytes]:
    """(ending, content) of a file."""
    if draw(st.integers(0, 19)) == 0:
        return "yaml", draw(st.sampled_from(JUNK_YAML)).encode()
    ending, written = draw(st.sampled_from(FORMS))
    content = written(draw(st.lists(WORDINGS, min_size=1, max_size=4))).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 3]))):
        at = draw(st.integers(0, len(content)))
        cut = draw(st.integers(0, 3))
        put = draw(
            st.one_of(st.sampled_from(ODD).map(lambda c: c.encode("utf-8", "surrogatepass")), st.binary(max_size=2))
        )
        content = content[:at] + put + content[at + cut :]
    return ending, content


def _only_prompts_and_findings_come_of_it(folder: Path, ending: str, content: bytes) -> None:
    path = folder / f"p.{ending}"
    path.write_bytes(content)
    try:
        prompts = load_pool(str(path))
    except UserError as error:
        said = str(error)
        assert said.split("\n")
        assert all(line.startswith(str(path)) for line in said.split("\n"))
        assert said.replace("\n", "").isprintable()
        return
    rows = dict.fromkeys(("train", "dev", "test"), ROWS)
    found = check_formats(TEMPLATES, TASK, rows, {"train.p": prompts, "dev": DEV, "test": TEST}, word_level())
    if any("train.p" in f.where for f in found.errors):
        return
    for prompt in prompts:  # what the checks let pass can be filled, and shows no Python object
        text = fill(prompt, ROWS[0].fields, ROWS[0].options).text
        assert " object at 0x" not in text
        assert "['A'" not in text


_quiet = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
)


@settings(_quiet, max_examples=100)
@given(prompt_files())
def test_a_hostile_prompt_file_gives_prompts_or_a_users_error(
    tmp_path_factory: pytest.TempPathFactory, file: tuple[str, bytes]
) -> None:
    _only_prompts_and_findings_come_of_it(tmp_path_factory.getbasetemp(), *file)


@pytest.mark.long
@settings(_quiet, max_examples=1000)
@given(prompt_files())
def test_a_thousand_hostile_prompt_files(tmp_path_factory: pytest.TempPathFactory, file: tuple[str, bytes]) -> None:
    _only_prompts_and_findings_come_of_it(tmp_path_factory.getbasetemp(), *file)
