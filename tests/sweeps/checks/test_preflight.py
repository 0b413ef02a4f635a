"""What ``check`` finds before anything is trained: each fault, alone, is named with its place and its remedy."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_tokenizers import CHAT, byte_level, llama_like, word_level
from tiny_run import make_model
from transformers import LlamaConfig

from sweeps.checks.findings import Findings
from sweeps.checks.lengths import WritingLimits, longest
from sweeps.checks.mask import mask, weights
from sweeps.checks.preflight import check, check_formats, sample_rows
from sweeps.run import run as run_study
from sweeps.study.load import load_study
from sweeps.trials.assets import fingerprints_of, load_assets
from sweeps.trials.load_content import content_of
from trainer.data.render import Renderer
from trainer.data.rows import Row
from trainer.data.tokenizer import load_tokenizer
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.trial import Model, Task, Template

TASK = Task(labels=("no", "yes"), max_length=64)
PLAIN = Template("plain", words=(("no", " no"), ("yes", " yes")))
CHATTY = Template("chat", chat=True, marker="", words=(("no", "no"), ("yes", "yes")))
ROWS = [Row(f"r{i}", {"text": "good " * (i % 5) + "it"}, "yes" if i % 3 else "no") for i in range(30)]
POOLS = {
    "train.many": [Prompt("a", "Is it {{ text }}?"), Prompt("b", "A: {{ text }}")],
    "train.one": [Prompt("a", "Is it {{ text }}?")],
    "dev": [Prompt("d", "B: {{ text }}")],
    "test": [Prompt("t", "C: {{ text }}")],
}


def run(
    templates: Any = (PLAIN,),
    task: Task = TASK,
    rows: Any = None,
    pools: Any = None,
    tokenizer: Any = None,
    **changed: list[Prompt],
) -> Findings:
    rows = rows or dict.fromkeys(("train", "dev", "test"), ROWS)
    return check_formats(list(templates), task, rows, {**(pools or POOLS), **changed}, tokenizer or word_level())


def only_error(report: Findings) -> str:
    assert len(report.errors) == 1, [str(f) for f in report.items]
    return str(report.errors[0])


def test_a_sound_study_has_no_findings_and_exact_lengths() -> None:
    report = run([PLAIN, CHATTY])
    assert report.items == []
    found = {(n.template, n.pool): (n.longest, n.row_id) for n in report.lengths}
    # <s> Is _ it _ | good _ good _ good _ good _ it | ? \n Answer : | _yes </s>
    assert found[("plain", "train.one")] == (5 + 9 + 4 + 2, "r4")
    assert len(found) == 8


# prompts -------------------------------------------------------------------------------------------------------------


def test_no_prompt_may_stand_in_two_pools() -> None:
    # the train pools share prompt "a" among themselves, which is no fault; each is compared with dev and test
    for text, how in (
        ("Is it {{ text }}?", "is also"),
        ("is it: {{text}}", "differs only in case, spaces or punctuation from"),
    ):
        errors = [str(f) for f in run(dev=[Prompt("x", text)]).errors]
        assert [e.partition(". Remove")[0] for e in errors] == [
            f'pools.dev: prompt "x": {how} prompt "a" of pools.train.{name}' for name in ("many", "one")
        ]


def test_near_duplicates_in_pools_of_different_splits_are_warned_of() -> None:
    train = [Prompt("t", "Read the message and say whether its writer is happy: {{ text }}")]
    near = Prompt("n", "Read the message and say whether its author is happy: {{ text }}")
    moved = Prompt("m", "{{ text }} Read the message and say whether its writer is happy:")
    other = Prompt("o", "{{ text }}\n\nWould you call this good news?")
    report = run(pools={"train.many": train, "train.two": train, "dev": [near, other], "test": [moved]})
    assert report.errors == []
    assert [str(f).partition(". ")[0] for f in report.items] == [
        'pools.dev: 1 prompt is a near duplicate of prompts of pools.train.many: "n" of "t"',
        'pools.test: 1 prompt is a near duplicate of prompts of pools.train.many: "m" of "t"',
        'pools.dev: 1 prompt is a near duplicate of prompts of pools.train.two: "n" of "t"',
        'pools.test: 1 prompt is a near duplicate of prompts of pools.train.two: "m" of "t"',
    ], "the train pools may overlap, and dev and test do not here"
    assert run(pools={"train.many": train, "dev": [other], "test": [Prompt("p", "Good? {{ text }}")]}).items == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Is it good?", "shows nothing of the row: no field is used"),
        (
            "Is it {text}?",
            "has {text} in single braces, which stands there as it is. Placeholders have two: {{",
        ),
        ("Is it {{ txt }}?", 'placeholder "txt" is no field of the rows. Did you mean "text"? Known: text'),
        ("Is it\\n{{ text }}?", "contains a backslash"),
        ("{{ text[99] }}", "has no element 99"),
        ("{% if text == 'x' %}{{ text }}{% endif %}", "gives an empty text"),
    ],
)
def test_wordings_that_lose_the_row(text: str, expected: str) -> None:
    report = run(test=[Prompt("bad", text)])
    assert any(expected in str(f) and 'pools.test: prompt "bad"' in str(f) for f in report.errors)
    assert len(report.errors) == 1, "one fault is reported once"
    assert {n.pool for n in report.lengths} >= {"train.many", "train.one", "dev"}  # the rest was still checked


def test_an_empty_field_that_prompts_show_is_named_with_its_row() -> None:
    rows = [
        Row(f"r{i}", {"text": "it" * (i not in (2, 5)), "note": " good"[: 1 if i < 2 else 5]}, ("no", "yes")[i % 2])
        for i in range(9)
    ]
    pools = {pool: [Prompt(p.id, f"{p.text} {{{{ note }}}}") for p in prompts] for pool, prompts in POOLS.items()}
    split = {"train": rows, "dev": ROWS, "test": ROWS}
    said = 'task.rows.train: text of row "r2" and 1 more is empty, so prompt "a" shows nothing of the row. Fill it in'
    for template in (PLAIN, CHATTY):  # a chat template of which nothing is left to find is not to blame
        report = run([template], rows=split, **{"train.one": [Prompt("a", "{{ text }}")]})
        assert only_error(report).startswith(said)
    full = [Row(r.id, {**r.fields, "note": "good"}, r.label) for r in ROWS]
    split = {"train": rows, "dev": full, "test": full}
    assert [str(f) for f in run(rows=split, pools=pools).items] == [
        f'task.rows.train: {name} of row "{row}" and 1 more is empty, and prompts show it. Fill it in the data, leave '
        f"such rows out (task.rows.train.drop=[empty]), or write the prompts for that: {{% if {name} %}}"
        for name, row in (("note", "r0"), ("text", "r2"))
    ]
    careful = "{{ text }}{% if text %}.{% endif %} {{ 'Note: ' + note if note else '' }} "
    pools = {pool: [Prompt(p.id, careful + p.text) for p in prompts] for pool, prompts in POOLS.items()}
    assert not [f for f in run(rows=split, pools=pools).items if f.where == "task.rows.train"]


def test_a_prompt_that_leaves_out_what_others_show() -> None:
    rows = {s: [Row(r.id, {**r.fields, "title": "A"}, r.label) for r in ROWS] for s in ("train", "dev", "test")}
    pools = {name: [Prompt(p.id, p.text + " {{ title }}") for p in prompts] for name, prompts in POOLS.items()}
    assert run(rows=rows, pools=pools).items == []
    text = only_error(run(rows=rows, pools=pools, dev=[Prompt("d", "B {{ text }}")]))
    assert 'pools.dev: prompt "d": leaves out the field "title", which most prompts use' in text


def test_unfilled_gaps_and_twins_are_warned_of() -> None:
    report = run(
        dev=[
            Prompt("d", "About [describe the thing here]: {{ text }}"),
            Prompt("e", "B: {{ text }}"),
            Prompt("f", "b {{ text }}"),
        ]
    )
    assert report.errors == []
    assert [f.level for f in report.items] == ["warning", "warning"]
    assert "prompts e, f differ only in case" in str(report.items[1])


# words ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"no": " yes", "yes": " yes"}, "have the same tokens [' yes']"),
        ({"no": " no", "yes": " no good"}, "begin those of yes: the shorter one would always score higher"),
        ({"no": " yes", "yes": " no"}, "The words seem swapped"),
        ({"no": " no", "yess": " yes"}, '"yess" is no label of the task. Did you mean "yes"'),
        ({"no": " ", "yes": " yes"}, "is empty"),
    ],
)
def test_words_that_cannot_be_told_apart_or_contradict(words: dict[str, str], expected: str) -> None:
    report = run([Template("t", words=tuple(words.items()))])
    assert any(expected in str(f) for f in report.errors), [str(f) for f in report.items]
    assert all(str(f).startswith("templates.t") for f in report.errors)
    assert len({f.what for f in report.errors}) == len(report.errors), "one cause is reported once, not for every pool"


def test_words_with_a_common_beginning_are_fine_when_neither_is_the_other() -> None:
    assert run([Template("t", words=(("no", " not good"), ("yes", " not bad")))]).items == []


def test_mixed_spaces_are_warned_of() -> None:
    report = run([Template("t", marker="\nAnswer:", words=(("no", " no"), ("yes", "yes")))])
    assert ["some words begin with a space" in str(f) for f in report.items] == [True]


def test_options_of_a_row_that_tie_are_a_warning_with_the_row() -> None:
    rows = [
        Row("q1", {"text": "it"}, "0", ("good", "bad")),
        Row("q2", {"text": "it"}, "1", ("good", "good")),
        Row("q3", {"text": "it"}, "1", ("good", "good bad")),
    ]
    report = run([Template("plain")], Task(max_length=64), dict.fromkeys(("train", "dev", "test"), rows))
    assert report.errors == []
    texts = [str(f) for f in report.items]
    assert any('row "q2"' in t and "same tokens" in t for t in texts)
    assert any('row "q3"' in t and "begin those of" in t for t in texts)
    assert not any('row "q1"' in t for t in texts)


# sequences -----------------------------------------------------------------------------------------------------------


def test_a_marker_that_would_join_the_answer_is_warned_of_once() -> None:
    template = Template("spaced", marker="\nAnswer: ", words=(("no", "no"), ("yes", "yes")))
    for tokenizer in (word_level(), byte_level(), llama_like()):
        report = run([template, PLAIN], Task(("no", "yes"), max_length=999), tokenizer=tokenizer)
        assert report.errors == []
        assert [f.where for f in report.warnings] == ["templates.spaced.marker"]
        assert "End the marker without a space, and begin the word with one: ' " in str(report.warnings[0])


def test_a_second_bos_is_found() -> None:
    text = only_error(run([Template("t", system="<s> A", words=PLAIN.words)], pools={"train.one": POOLS["train.one"]}))
    assert "2 beginning-of-sequence tokens (<s>)" in text
    text = only_error(run([CHATTY], pools={"train.one": [Prompt("a", "Is it {{ text }}? <s>")]}))
    assert "2 beginning-of-sequence tokens (<s>), where the template writes 1" in text
    tokenizer = word_level()
    tokenizer.chat_template = "<s>" + CHAT
    report = run([CHATTY], tokenizer=tokenizer, pools={"train.one": POOLS["train.one"]})
    assert [f.what for f in report.items] == [
        "the chat template writes two beginning-of-sequence tokens (<s>) one after the other"
    ]


def test_a_bos_that_begins_every_turn_is_the_templates_own() -> None:
    """CASES M0: SmolLM2's bos is <|im_start|>."""
    tokenizer = word_level()
    tokenizer.bos_token = "<|user|>"
    tokenizer.chat_template = CHAT.replace("{{ bos_token }}", "").replace("<|{{ m.role }}|>", "<|user|>{{ m.role }}")
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>", "<|user|>assistant")
    assert run([dataclasses.replace(CHATTY, system="A")], tokenizer=tokenizer).items == []


def test_options_of_the_chat_template() -> None:
    tokenizer = word_level()
    thought = "{% if add_generation_prompt and not enable_thinking %}<no>{% endif %}"
    tokenizer.chat_template = CHAT + thought
    assert "say whether (enable_thinking)" in only_error(run([CHATTY], tokenizer=tokenizer))
    silent, thinking = (dataclasses.replace(CHATTY, options=(("enable_thinking", said),)) for said in (False, True))
    assert run([silent], tokenizer=tokenizer).errors == []
    said = only_error(run([thinking], tokenizer=tokenizer))
    assert said.startswith("scoring.max_thought_tokens: is 0, but under templates.chat the model thinks before")
    sound = dict.fromkeys(("train", "dev", "test"), ROWS)
    assert not check_formats([thinking], TASK, sound, POOLS, tokenizer, WritingLimits(None, 20)).errors
    tokenizer.model_max_length = 40
    (error,) = check_formats([thinking], TASK, sound, POOLS, tokenizer, WritingLimits(None, 20)).errors
    assert "is 20, and the longest question has 2" in str(error)
    wrong = dataclasses.replace(CHATTY, options=(("enable_thinkin", False),))
    report = run([wrong], tokenizer=tokenizer)
    assert any('Did you mean "enable_thinking"?' in str(f) for f in report.errors)


@pytest.mark.parametrize("opens", [False, True])
def test_a_marker_and_a_thought_do_not_go_together(opens: bool) -> None:
    """A thought that an option turns on, and one that the question opens in any case."""
    tokenizer = word_level()
    closed = "{% if add_generation_prompt and not enable_thinking %}<no>{% endif %}"
    tokenizer.chat_template = CHAT + ("{% if add_generation_prompt %}<think>{% endif %}" if opens else closed)
    options = () if opens else (("enable_thinking", True),)
    sound = dict.fromkeys(("train", "dev", "test"), ROWS)

    def errors(**changes: Any) -> list[str]:
        template = dataclasses.replace(CHATTY, **{"options": options, **changes})
        return [str(e) for e in check_formats([template], TASK, sound, POOLS, tokenizer, WritingLimits(None, 9)).errors]

    assert errors() == []
    assert errors(marker="A ") == [
        "templates.chat.marker: begins the answer with 'A ', and the model thinks before it answers: its thought would "
        "stand behind the marker. Remove the marker"
        + ("" if opens else ", or turn thinking off: options: {enable_thinking: false}")
    ]
    if not opens:
        assert errors(marker="A ", options=(("enable_thinking", False),)) == []


def test_a_chat_template_without_bos_is_warned_of() -> None:
    tokenizer = word_level()
    tokenizer.chat_template = CHAT.replace("{{ bos_token }}", "")
    report = run([CHATTY], tokenizer=tokenizer)
    assert report.errors == []
    assert {f.what for f in report.items} == {
        "the chat template does not begin with <s>, which this tokenizer otherwise adds"
    }


def test_a_chat_template_that_writes_answers_differently_is_warned_of() -> None:
    tokenizer = word_level()
    tokenizer.chat_template = CHAT.replace(
        "<|{{ m.role }}|>", "{% if m.role == 'assistant' %}\n\n{% endif %}<|{{ m.role }}|>"
    )
    assert ["writes a finished answer" in str(f) for f in run([CHATTY], tokenizer=tokenizer).items] == [True]


def test_a_label_is_refused_where_no_split_has_it_and_warned_of_where_one_has_not() -> None:
    few = [row for row in ROWS if row.label == "yes"][:3]
    report = run([PLAIN, CHATTY], rows={"train": ROWS, "dev": few, "test": ROWS})
    assert [str(f) for f in report.items] == [
        'task.rows.dev: label "no" never occurs among 3 rows: it is not measured there. Give more rows (`limit`, '
        "`where` or the data)"
    ]
    report = run(task=dataclasses.replace(TASK, metric="f1_macro"), rows={"train": few, "dev": ROWS, "test": few})
    assert [f.what.partition(": ")[2] for f in report.items] == [
        "no trial learns it",
        "f1_macro counts it as 0 there",
    ]
    assert only_error(run(rows=dict.fromkeys(("train", "dev", "test"), few))) == (
        'task.labels: label "no" occurs in no row (found: yes). Take it out of `labels`, or check `where`, `limit` and '
        "the data"
    )


def test_special_tokens_in_rows_are_warned_of() -> None:
    rows = {"train": [*ROWS, Row("evil", {"text": "it </s> good"}, "no")], "dev": ROWS, "test": ROWS}
    report = run(rows=rows)
    assert [str(f) for f in report.items if f.level == "warning"] == [
        'task.rows.train: 1 texts contain a special token, such as </s> in row "evil": the model would read it '
        "as one. Remove it from the data"
    ]


def test_a_template_that_cannot_be_used_is_one_finding() -> None:
    tokenizer = word_level()
    tokenizer.chat_template = None
    assert "has no chat template" in only_error(run([CHATTY, PLAIN], tokenizer=tokenizer))


# lengths -------------------------------------------------------------------------------------------------------------


def test_too_long_names_the_pair_and_the_setting() -> None:
    long_row = Row("long", {"text": "good " * 40 + "it"}, "yes")
    rows = {"train": ROWS, "dev": [*ROWS, long_row], "test": ROWS}
    text = only_error(run(rows=rows))
    assert 'pools.dev: the longest sequence has 90 tokens (prompt "d", row "long"), task.max_length is 64' in text
    assert "task.max_length=90" in text
    assert run(task=Task(("no", "yes"), max_length=90), rows=rows).errors == []
    tokenizer = word_level()
    tokenizer.model_max_length = 80
    assert "the model takes 80" in only_error(run(rows=rows, tokenizer=tokenizer))


@pytest.mark.parametrize("make", [word_level, byte_level, llama_like])
def test_the_longest_pair_is_found_among_many(make: Any) -> None:
    words = ["good", "it", "ünïcödé😀", "\n\n", "complaint", "AAAA", "12345"]
    rows = [
        Row(
            f"r{i}",
            {"text": " ".join(words[(i * k) % 7] for k in range(i % 23)) + "x", "note": words[i % 7] * (i % 11)},
            "no",
        )
        for i in range(150)
    ]
    prompts = [
        Prompt("once", "Say: {{ text }} {{ note }}"),
        Prompt("twice", "{{ text }} again {{ text }}. {{ note }}"),
        Prompt("cut", "A long introduction to it, good or bad: {{ text[:20] }}"),
        Prompt("branch", "{% if note %}{{ note }} {{ note }} {{ note }}{% endif %} {{ text }}"),
    ]
    renderer = Renderer(make(), PLAIN, Task(("no", "yes"), max_length=10**6))
    pairs = list(itertools.product(prompts, rows))
    exact = max(renderer.lengths(pairs))
    assert longest(renderer, prompts, rows, exact, "plain", "dev").longest == exact


def test_the_sample_holds_every_label_and_the_extremes() -> None:
    rows = [Row(str(i), {"text": "a" * (i + 1)}, "rare" if i == 17 else "often") for i in range(500)]
    sample = sample_rows(rows)
    assert {r.label for r in sample} == {"rare", "often"}
    assert {"0", "499", "17"} <= {r.id for r in sample}
    assert sample == sample_rows(rows)
    assert len(sample) < 20


# the command -------------------------------------------------------------------------------------------------------


TEXTS = {  # of the rows; no text is in two splits
    "train": ["good it", "it", "bad it", "A", "B it", "C"],
    "dev": ["it good", "Is", "it bad", "B", "it B", "bad"],
    "test": ["A it", "it A", "C it", "it C", "Is it", "it Is"],
}


@pytest.fixture
def study(tmp_path: Path) -> Any:
    make_model(tmp_path / "model")
    for split, texts in TEXTS.items():
        records = [{"text": text, "y": i % 2} for i, text in enumerate(texts)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    for name, prompts in POOLS.items():
        (tmp_path / f"{name}.yaml").write_text(json.dumps({p.id: p.text for p in prompts}))
    (tmp_path / "s.yaml").write_text(
        """
model: {path: ./model}
task:
  rows: {train: train.jsonl, dev: dev.jsonl, test: test.jsonl}
  fields: [text]
  label: y
  labels: {0: no, 1: yes}
  max_length: 64
templates:
  plain: {}
  chat: {chat: true}
pools: {train: {many: train.many.yaml, one: train.one.yaml}, dev: dev.yaml, test: test.yaml}
axes: {plw: [0, 0.1], lr: 3.0e-3}
"""
    )
    return tmp_path / "s.yaml"


def checked(study: Path, *overrides: str) -> tuple[int, str]:
    console = Console(record=True, width=200, color_system=None, file=open("/dev/null", "w"))  # noqa: SIM115
    code = check(load_study(study, overrides), console)
    return code, console.export_text()


def test_check_passes_and_shows_what_is_weighted(study: Path) -> None:
    code, text = checked(study)
    assert code == 0, text
    assert "0 errors, 0 warnings" in text
    assert "weights: template 0  content 0, 0.1  completion 1" in text
    assert "<s>Is it [content:good it]?\nAnswer:[completion: no</s>]" in text
    assert "<|assistant|>\n[completion:yes<|end|>]" in text
    assert "templates.plain, pools.dev: longest 12 of 64 tokens" in text


def test_check_fails_with_every_reading_error_at_once(study: Path) -> None:
    code, text = checked(
        study, "task.fields=[txt]", f"pools.train.one={{file: {study.parent / 'train.one.yaml'}, only: [zz]}}"
    )
    assert code == 1
    assert text.count('fields = "txt" is no column') == 3
    assert "pools.train.one: " in text
    assert 'only = "zz" is no prompt' in text


def with_wordings(study: Path, **prompts: str) -> None:
    (study.parent / "train.one.yaml").write_text(json.dumps(prompts))
    (study.parent / "train.many.yaml").write_text(json.dumps({**prompts, "z": "{{ text }} Sexism, sexist?"}))
    for pool in ("dev", "test"):
        (study.parent / f"{pool}.yaml").write_text(json.dumps({pool: f"In {pool}: sexist {{{{ text }}}}?"}))


MEANING = "task.meaning={about: 'Is it sexist?', terms: [sexis], other: {misogyny: [misogyn]}}"


def test_a_study_without_stages_is_checked_for_what_its_prompts_ask(study: Path) -> None:
    with_wordings(study, a="Is it sexist? {{ text }}", b="Sexist, {{ text }}?", c="{{ text }}: sexist or no Sexism?")
    code, text = checked(study, MEANING)
    assert code == 0, text
    assert 'pools.train.one: names the task by "sexism" in c; "sexist" in a, b, c' in text
    assert 'pools.train.many: names the task by "sexism" in c, z; "sexist" in a, b, c, z' in text


def test_a_study_without_stages_is_refused_where_a_prompt_asks_something_else(study: Path, tmp_path: Path) -> None:
    with_wordings(study, a="Is it sexist? {{ text }}", m="Is it misogynistic? {{ text }}")
    code, text = checked(study, MEANING)
    assert code == 1
    assert 'pools.train.one: prompt "m": contains "misogynistic", which asks for misogyny and not: Is it sexist' in text
    with pytest.raises(UserError, match='prompt "m": contains "misogynistic"'):
        run_study(load_study(study, [MEANING]), str(tmp_path / "run"))


def test_check_fails_on_a_finding(study: Path) -> None:
    code, text = checked(study, "task.max_length=8")
    assert code == 1
    assert "task.max_length is 8" in text
    assert "[completion" not in text


def test_assets_of_a_study(study: Path) -> None:
    assets = load_assets(load_study(study))
    assert {n: len(r) for n, r in assets.rows.items()} == {"train": 6, "dev": 6, "test": 6}
    assert list(content_of(load_study(study)).pools) == ["train.many", "train.one", "dev", "test"]
    data = fingerprints_of(assets)
    assert data["many"].train_prompts != data["one"].train_prompts
    assert data["many"].dev_rows == data["one"].dev_rows
    only_one = load_assets(load_study(study, ["axes.pool=one"]))
    assert list(only_one.train_pools) == ["one"]
    assert fingerprints_of(only_one)["one"] == data["one"]


def test_one_file_can_be_divided_into_the_pools(study: Path) -> None:
    words = [f"{a} {b}" for a in ("kind", "sharp", "dull") for b in ("north", "west", "south", "east")][:10]
    prompts = {f"p{i}": f"{' '.join(reversed(w.split()))} {w} {{{{ text }}}} {i}" for i, w in enumerate(words)}
    (study.parent / "all.yaml").write_text(json.dumps(prompts))
    base = study.read_text().replace(
        "pools: {train: {many: train.many.yaml, one: train.one.yaml}, dev: dev.yaml, test: test.yaml}",
        "pools: {split: all.yaml}",
    )
    study.write_text(base)
    assets = load_assets(load_study(study))
    dealt = [p.id for pool in content_of(load_study(study)).pools.values() for p in pool]
    assert sorted(dealt) == sorted(prompts)
    first = assets.train_pools["train"][0].id
    study.write_text(
        base.replace(
            "split: all.yaml", f"split: all.yaml, train: {{all: {{}}, first: {{only: [{first}]}}, two: {{limit: 2}}}}"
        )
    )
    parts = load_assets(load_study(study)).train_pools
    assert {n: len(p) for n, p in parts.items()} == {"all": 6, "first": 1, "two": 2}
    dev = assets.pools["dev"][0].id
    study.write_text(base.replace("split: all.yaml", f"split: all.yaml, train: {{first: {{only: [{dev}]}}}}"))
    with pytest.raises(UserError, match=f'only = "{dev}" is not in the train share'):
        load_assets(load_study(study))


def test_the_mask_in_colour_has_no_brackets() -> None:
    renderer = Renderer(word_level(), PLAIN, TASK)
    example = renderer.example(POOLS["dev"][0], ROWS[1])
    coloured = mask(renderer, example, colour=True)
    assert coloured.plain == "<s>B: good it\nAnswer: yes</s>"
    assert [str(s.style) for s in coloured.spans] == ["dim", "black on cyan", "dim", "bold white on green"]
    assert weights((0.1,), "plw") == ("0.1", "0.1", "1")
    assert weights("0 to 1", "zero") == ("0", "0 to 1", "1")


# what the model can read and write ------------------------------------------------------------------------------------


def test_an_answer_that_is_longer_than_the_limit_of_new_tokens_is_refused() -> None:
    """CASES V14: all of them would be cut off, and none could be read."""
    words = (("no", " no"), ("yes", " yes it it"))
    long = Template("plain", words=words)
    found = check_formats(
        [long], TASK, dict.fromkeys(("train", "dev", "test"), ROWS), POOLS, word_level(), WritingLimits(5)
    )
    assert only_error(found) == (
        "scoring.max_new_tokens: is 5, but the longest answer has 6 tokens with its stop token (templates.plain, row "
        "\"r0\": ' yes it it'). Set scoring.max_new_tokens=6: an answer that is cut off cannot be read"
    )
    for limit in (6, None):  # None: labels are compared
        assert not check_formats(
            [long], TASK, dict.fromkeys(("train", "dev", "test"), ROWS), POOLS, word_level(), WritingLimits(limit)
        ).errors


def test_the_longest_of_all_rows_options_counts() -> None:
    """CASES V14."""
    rows = [Row(f"r{i}", {"text": "it"}, "0", ("A", "B it" if i == 7 else "B")) for i in range(30)]
    splits = dict.fromkeys(("train", "dev", "test"), rows)
    found = check_formats([Template("plain")], Task(max_length=64), splits, POOLS, word_level(), WritingLimits(3))
    assert 'the longest answer has 5 tokens with its stop token (templates.plain, row "r7"' in only_error(found)


def test_a_token_that_the_embedding_lacks_is_named() -> None:
    """CASES M1. Tokens that no text needs may be more than the embedding has rows."""
    tokenizer = word_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    last = len(tokenizer) - 1
    tokenizer.embedding_rows = last
    assert not run(tokenizer=tokenizer).errors
    tokenizer.chat_template = "<|im_start|>" + tokenizer.chat_template
    told = str(run([CHATTY], tokenizer=tokenizer).errors[0])
    assert f"the token '<|im_start|>' has the id {last}, but the model's embedding has {last} rows" in told
    marked = Template("plain", marker="<|im_start|>", words=PLAIN.words)
    assert "the token '<|im_start|>'" in str(run([marked], tokenizer=tokenizer).errors[0])
    rows = [*ROWS, Row("late", {"text": "<|im_start|>"}, "no")]
    told = " ".join(map(str, run(rows=dict.fromkeys(("train", "dev", "test"), rows), tokenizer=tokenizer).errors))
    assert 'row "late"' in told


def test_the_embeddings_rows_are_those_of_the_model(tmp_path: Path) -> None:
    """CASES M1. A padding token beyond the embedding is replaced: what pads is masked."""
    tokenizer = word_level()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(tmp_path)
    LlamaConfig(vocab_size=len(tokenizer) - 1).save_pretrained(tmp_path)
    loaded = load_tokenizer(Model(str(tmp_path), "x"))
    assert (loaded.embedding_rows, loaded.pad_token) == (len(tokenizer) - 1, "</s>")
