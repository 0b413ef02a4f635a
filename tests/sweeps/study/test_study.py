# ruff: noqa: E501  (messages are written out as they are shown)
"""A study: the layers, what they resolve to, and what is said of every mistake."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from study_text import BASE

from sweeps.study.load import load_study, resolved
from sweeps.study.overlay import Absent, StudyError, dotted, dump_yaml, get, parse_yaml
from sweeps.study.problems import all_keys, keys_at
from sweeps.study.study import Study
from sweeps.study.values import Range

Load = Callable[..., Study]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that BASE names."""
    folder = tmp_path_factory.mktemp("studies")
    (folder / "model").mkdir()
    for kind, suffix in (("data", "jsonl"), ("prompts", "yaml")):
        (folder / kind).mkdir()
        for use in ("train", "dev", "test"):
            (folder / kind / f"{use}.{suffix}").write_text("x")
    return folder


@pytest.fixture
def load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads BASE (or another text) as x.yaml, with changes laid over the file's own mapping."""
    monkeypatch.chdir(folder)

    def of(*overrides: str, text: str = BASE, change: dict[str, Any] | None = None) -> Study:
        layer = text
        if change is not None:
            mapping = parse_yaml(text, "x")
            for path, value in change.items():
                *parents, last = path.split(".")
                section = mapping
                for parent in parents:
                    section = section.setdefault(parent, {})
                section[last] = value
                if value is Ellipsis:
                    del section[last]
            layer = dump_yaml(mapping)
        Path("x.yaml").write_text(layer)
        return load_study("x.yaml", list(overrides))

    return of


def said(load: Load, *overrides: str, **how: Any) -> str:
    with pytest.raises(StudyError) as error:
        load(*overrides, **how)
    return str(error.value)


# layers -------------------------------------------------------------------------------------------------------


def test_layers_default_then_file_then_command_line(load: Load) -> None:
    assert load().training.batch_size == 8
    assert load(change={"training.batch_size": 4}).training.batch_size == 4
    assert load("training.batch_size=2", change={"training.batch_size": 4}).training.batch_size == 2


def test_an_override_replaces_a_list_whole(load: Load) -> None:
    assert load("axes.lr=[0.5]").axes.lr == (0.5,)
    assert load("axes.lora.r=2").axes.lora.r == (2,)
    assert load("axes.lr={loguniform: [1e-5, 1e-2]}", "search.method=random", "search.trials=3").axes.lr == Range(
        kind="loguniform", low=1e-5, high=1e-2
    )


def test_the_last_override_wins_and_epochs_take_the_place_of_steps(load: Load) -> None:
    assert load("axes.seed=1", "axes.seed=2").axes.seed == (2,)
    study = load("axes.epochs=2")
    assert (study.axes.steps, study.axes.epochs) == (None, (2.0,))


def test_what_is_not_chosen_is_all_of_it(load: Load) -> None:
    study = load()
    assert study.axes.template == ("plain", "chat")
    assert study.axes.pool == ("many", "one")
    assert study.templates["chat"].words == {"no": "no", "yes": "yes"}
    assert study.templates["chat"].marker == ""
    bare = load(change={"templates": {"plain": None, "line": {"marker": "\n"}}})
    assert bare.templates["plain"].words == {"no": " no", "yes": " yes"}
    assert bare.templates["line"].words == {"no": "no", "yes": "yes"}
    assert load(change={"axes.steps": ...}).axes.epochs == (3.0,)
    assert load().name == "x"


def test_yaml_words_stay_words_and_exponents_are_numbers(load: Load) -> None:
    study = load()
    assert study.task.labels == {"0": "no", "1": "yes"}
    assert study.axes.lr == (1e-3, 3e-3)
    assert parse_yaml("{a: on, b: 010, c: 1:30, d: 2024-01-01, e: 1e-3, f: 0x10, g: True}", "x") == {
        "a": "on", "b": 10, "c": "1:30", "d": "2024-01-01", "e": 1e-3, "f": 16, "g": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("written", "choices"),
    [
        ("[q_proj, v_proj]", (("q_proj", "v_proj"),)),
        ("all-linear", (("all-linear",),)),
        ("[[q_proj, v_proj], [all-linear]]", (("q_proj", "v_proj"), ("all-linear",))),
        ("[all-linear, [q_proj, v_proj]]", (("all-linear",), ("q_proj", "v_proj"))),
    ],
)
def test_target_modules_are_one_choice_unless_a_list_is_in_the_list(load: Load, written: str, choices: Any) -> None:
    assert load(f"axes.lora.target_modules={written}").axes.lora.target_modules == choices


def test_paths_count_from_the_study_and_on_the_command_line_from_here(folder: Path, tmp_path: Path, load: Load) -> None:
    load()
    os.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("x")
    study = load_study(folder / "x.yaml", ["pools.dev=mine.yaml"])
    assert study.pools.dev is not None
    assert study.pools.test is not None
    assert study.pools.dev.file == str(tmp_path / "mine.yaml")
    assert study.pools.test.file == str(folder / "prompts/test.yaml")
    assert study.task.rows.dev.path == str(folder / "data/dev.jsonl")
    assert load_study(folder / "x.yaml", ["model.path=org/name"]).model.path == "org/name"
    assert load_study(folder / "x.yaml", ["task.rows.dev=s3://b/c.jsonl"]).task.rows.dev.path == "s3://b/c.jsonl"


RANDOM = ("search.method=random", "search.trials=3")


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (*RANDOM, "axes.lr={loguniform: [1e-5, 0.01]}", "axes.lora.r={uniform: [1, 8]}"),
        ("axes.epochs=0.5", "axes.lora.target_modules=[all-linear, [q_proj]]", "task.id=on"),
        ("pools={split: {file: prompts/train.yaml, seed: 3}, train: {one: {limit: 1}, all: {}}}",),
        ("task.labels=[1e3, no]", "templates={plain: {marker: ' x:\\n'}}", "resources={workers: 2, zero: 3}"),
    ],
)
def test_a_resolved_study_loads_equal_from_anywhere(load: Load, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    study = load(*overrides)
    copied = tmp_path / "study.yaml"
    copied.write_text(dump_yaml(resolved(study)))
    os.chdir(tmp_path)
    again = load_study(copied)
    assert again == study
    assert resolved(again) == resolved(study)
    assert yaml.safe_load(copied.read_text()) == resolved(study)  # and by readers of YAML 1.1


def test_a_resolved_study_holds_every_key(load: Load) -> None:
    plain = resolved(load("pools={split: prompts/train.yaml}"))
    for section, keys in all_keys(Study).items():
        held = get(plain, section)
        assert held in (None, Absent) or list(held) == keys, dotted(section)  # absent: inside a section that is null


def test_no_environment_variable_is_read(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/secret-place")
    assert said(load, change={"model.path": "$PLACE/model"}) == (
        'x.yaml: model.path = "$PLACE/model" names an environment variable, which a study does not read. '
        "Write it out, or give it as key=value"
    )


# mistakes -----------------------------------------------------------------------------------------------------

AXES = "template, lora, lr, steps, epochs, plw, pool, seed, arm"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "training.normalization",
            "wieghted_mean",
            'training.normalization = "wieghted_mean" is not known. Did you mean "weighted_mean"? '
            "Known: weighted_mean, nonzero_count, completion_count",
        ),
        ("axes.lrr", 3, f'axes.lrr is not a known key. Did you mean "axes.lr"? Known: {AXES}'),
        ("axes.rank", 3, f"axes.rank is not a known key. Known: {AXES}"),
        ("axes.dropout", 0.1, f'axes.dropout is not a known key here. Did you mean "axes.lora.dropout"? Known: {AXES}'),
        ("training.batch_size", 0, "training.batch_size = 0 must be at least 1"),
        ("training.batch_size", "8", 'training.batch_size = "8" must be a whole number'),
        ("training.batch_size", 2.5, "training.batch_size = 2.5 must be a whole number"),
        ("training.batch_size", True, "training.batch_size = true must be a whole number"),
        ("training.clip", True, "training.clip = true must be a number"),
        ("training.clip", float("nan"), "training.clip = nan must be a finite number"),
        ("training.warmup", 1.5, "training.warmup = 1.5 must be less than 1"),
        ("training.warmup", -0.1, "training.warmup = -0.1 must be at least 0"),
        ("training", 3, "training = 3 must be a mapping of keys"),
        ("tables.strict", "yes", 'tables.strict = "yes" must be true or false'),
        ("task.label", [3], "task.label = [3] must be text"),
        ("task.fields", "text", 'task.fields = "text" must be a list'),
        ("task.fields", [], "task.fields = [] is empty"),
        ("task.fields", ["text", "label"], 'task.fields[1] = "label" is the label\'s column: prompts would show the right answer. Remove it'),
        ("task.label", ..., "task.label is missing: the column that holds the right answer"),
        ("task.labels", ..., "task.labels is missing: give the labels, or `options`, the column with each row's own options"),
        ("axes.lr", [], "axes.lr = [] is empty. Give a value, a list of values, or leave the key out for its default"),
        ("axes.lr", None, "axes.lr = null is empty. Give a value, a list of values, or leave the key out for its default"),
        ("axes.lr", [1e-3, -1], "axes.lr[1] = -1 must be more than 0"),
        ("axes.lr", [1e-3, 0.001], "axes.lr[1] = 0.001 is listed twice. Keep one"),
        ("axes.lr", {"logunifrom": [1, 2]}, 'axes.lr = {logunifrom: [1, 2]} is not known as a kind of axis. Did you mean "loguniform"? Known: uniform, loguniform, choice'),
        ("axes.lr", {"loguniform": [1, 1e-3]}, "axes.lr = {loguniform: [1, 0.001]} must have its lower end first, below the upper one"),
        ("axes.lr", {"uniform": [0, 1]}, "axes.lr = {uniform: [0, 1]} (lower end) must be more than 0"),
        ("axes.lr", {"uniform": [0.1]}, "axes.lr = {uniform: [0.1]} must be one range with two ends, such as {loguniform: [1e-4, 1e-2]}"),
        ("axes.plw", {"loguniform": [0, 1]}, "axes.plw = {loguniform: [0, 1]} must begin above 0: a logarithm is taken. Use uniform, or list 0 as a value of its own"),
        ("axes.lora.r", {"loguniform": [4, 64]}, "axes.lora.r = {loguniform: [4, 64]} must be uniform or a list, such as [4, 8, 16, 32]: this axis is of whole numbers"),
        ("axes.lr", {"uniform": [0.1, 1]}, "axes.lr = {uniform: [0.1, 1]} is a range, and search.method = grid needs values. Give a list, or use search.method = random or tpe"),
        ("axes.template", {"uniform": [0, 1]}, "axes.template = {uniform: [0, 1]} must be one value or a list: a range is of numbers"),
        ("axes.plw", -0.1, "axes.plw = -0.1 must be at least 0"),
        ("axes.lora.r", [4, 0], "axes.lora.r[1] = 0 must be at least 1"),
        ("axes.lora.dropout", 1, "axes.lora.dropout = 1 must be less than 1"),
        ("axes.template", "plian", 'axes.template = "plian" is not one of templates. Did you mean "plain"? Known: plain, chat'),
        ("axes.pool", ["many", "onn"], 'axes.pool[1] = "onn" is not one of pools.train. Did you mean "one"? Known: many, one'),
        ("axes.epochs", 3, "axes.epochs = 3 cannot be combined with axes.steps: both say how long to train. Remove one"),
        ("scheduler.eta", 1, "scheduler.eta = 1 must be at least 2"),
        ("scheduler.rungs", [0.5, 0.25, 1], "scheduler.rungs = [0.5, 0.25, 1] must ascend from above 0 and end at 1.0, such as [0.25, 0.5, 1.0]"),
        ("scheduler.rungs", [{"at": 0.25, "row": 0.5}, 1], 'scheduler.rungs[0].row is not a known key. Did you mean "scheduler.rungs[0].rows"? Known: at, rows'),
        ("scheduler.rungs", [{"rows": 0.5}, 1], "scheduler.rungs[0].at is missing: the share of a trial's steps at which it is scored"),
        ("scheduler.rungs", [{"at": 0.5, "rows": 0}, 1], "scheduler.rungs[0].rows = 0 must be more than 0"),
        ("scheduler.rungs", [{"at": 0.5, "rows": 0.5}, {"at": 0.6, "rows": 0.2}, 1], "scheduler.rungs = [{at: 0.5, rows: 0.5}, {at: 0.6, rows: 0.2}, 1] must not have fewer rows at a later rung, such as [{at: 0.25, rows: 0.25}, 0.5, 1.0]"),
        ("scheduler.rungs", [0.5, {"at": 1, "rows": 0.5}], "scheduler.rungs[1] = {at: 1, rows: 0.5} must have all rows: what is trained to its end learns from them"),
        ("scheduler.rungs", [0.25, 0.5], "scheduler.rungs = [0.25, 0.5] must ascend from above 0 and end at 1.0, such as [0.25, 0.5, 1.0]"),
        ("scheduler.rungs", [0, 1], "scheduler.rungs = [0, 1] must ascend from above 0 and end at 1.0, such as [0.25, 0.5, 1.0]"),
        ("search.method", "random", "search.trials is missing: how many trials search.method = random draws"),
        ("scheduler.rule", "asynchron", 'scheduler.rule = "asynchron" is not known. Did you mean "asynchronous"? Known: certain, asynchronous'),
        ("search.trials", 5, "search.trials = 5 has no meaning in a grid, which runs every point. Remove it, or use method random or tpe"),
        ("templates.plain.words", {"no": " no"}, "templates.plain.words = {no: \" no\"} has no word for yes. Give one for each label"),
        ("templates.plain.words", {"no": " a", "yes": " a"}, 'templates.plain.words.yes = " a" is also the word of no: the model could not tell the two apart'),
        ("templates.plain.words.yes", " ", 'templates.plain.words.yes = " " is empty: the model must have something to answer'),
        ("templates.plain.words.yse", " x", 'templates.plain.words.yse = " x" is the word of no label. Did you mean "yes"? Known: no, yes'),
        ("pools.dev", ..., "pools.dev is missing: a file of prompts, or `pools.split` to divide one file"),
        ("pools.train.many", {"only": ["a"]}, 'pools.train.many = {only: ["a"]} names no file of prompts'),
        ("pools.split", "prompts/dev.yaml", 'pools.dev = "/F/prompts/dev.yaml" cannot be combined with pools.split, which makes the pools itself. Remove one'),
        ("pools.dev", "prompts/dve.yaml", 'pools.dev = "/F/prompts/dve.yaml" does not exist. Did you mean "dev.yaml"? Known: dev.yaml, test.yaml, train.yaml'),
        ("pools.dev", "prompt/dev.yaml", 'pools.dev = "/F/prompt/dev.yaml" does not exist. Its folder /F/prompt does not exist either'),
        ("model.path", "./modle", 'model.path = "/F/modle" does not exist. Did you mean "model"? Known: data, model, prompts'),
        ("model.token", "abc", "model.token does not belong in a study, which the run folder keeps. Set it in the environment: TOKEN=…"),
        ("pools.dev", {"file": "prompts/dev.yaml", "prefer": "s3://key:word@b/p.yaml"}, "pools.dev.prefer carries a password, which would be copied into the run folder. Set it in the environment instead"),
        ("task.rows.dev.path", "s3://key:word@b/x.json", 'task.rows.dev.path carries a password, which would be copied into the run folder. Set it in the environment instead'),
        ("scoring", {"scorer": "generate", "decision": "pmi"}, 'scoring.decision = "pmi" compares label probabilities, and scoring.scorer = generate has none. Use raw'),
        ("resources", {"workers": 2, "slots": 4}, "resources.slots = 4 must be 1 where resources.workers is more than 1: a gang trains one trial at a time"),
        ("model.quantization", "nf8", 'model.quantization = "nf8" is not known. Did you mean "nf4"? Known: none, int8, nf4'),
        ("model.quantization", "gptq", 'model.quantization = "gptq" is not known. Known: none, int8, nf4'),
        ("resources.offload", True, "resources.offload = true needs resources.zero = 1, 2 or 3"),
        ("tables.thresholds", [85], "tables.thresholds[0] = 85 must be at most 1"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place_value_and_remedy(
    load: Load, folder: Path, path: str, value: Any, message: str
) -> None:
    text = said(load, change={path: value}).replace(str(folder), "/F")
    assert f"x.yaml: {message}" in text.splitlines()


@pytest.mark.parametrize("pool", ["pools.dev", "pools.train.many"])
@pytest.mark.parametrize("wrong", ["{prefer: '%s'}", "{prefer: ['%s']}", "{prefer: '%s', file: 3}", "['%s']"])
def test_a_password_in_a_pool_is_never_printed(load: Load, pool: str, wrong: str) -> None:
    given = wrong % "https://me:word@host/x.yaml"
    for text in (said(load, f"{pool}={given}"), said(load, change={pool: yaml.safe_load(given)})):
        assert "word@" not in text
        if wrong.startswith("{prefer: '"):
            assert f"{pool}.prefer carries a password" in text


def test_whole_weights_alone_are_sharded(load: Load) -> None:
    load("resources={workers: 2, slots: 1, zero: 2}", "model.quantization=nf4")
    assert said(load, "resources={workers: 2, slots: 1, zero: 3}", "model.quantization=nf4") == (
        "command line: model.quantization=nf4 cannot be combined with resources.zero = 3, which shards whole "
        "weights only. Set resources.zero=2, or model.quantization=none"
    )


def test_decisions_by_the_order_of_reports_are_refused_where_they_could_not_be_repeated(load: Load) -> None:
    rule = "scheduler.rule=asynchronous"
    assert load(rule).scheduler.rule == "asynchronous"
    assert "then proposes other trials when the study is run again. Use grid or random" in said(
        load, rule, "search={method: tpe, trials: 4}"
    )
    assert "has no effect with scheduler.name = none" in said(load, rule, "scheduler.name=none")
    staged = ("stages={heads: labels}", "axes.seed=[0, 1]", "task.meaning={about: x, other: {spam: [spam]}}")
    assert "scheduler.rule=asynchronous cannot be combined with stages" in said(load, rule, *staged)


def test_all_mistakes_are_told_at_once_one_a_line(load: Load) -> None:
    text = said(
        load, "axes.pool=oen", change={"training.batch_size": 0, "scheduler.eta": 1, "modle": {}, "axes.lora.r": "x"}
    )
    starts = [line.split(" is ")[0].split(" must ")[0] for line in text.splitlines()]
    assert sorted(starts) == [
        "command line: axes.pool=oen",
        'x.yaml: axes.lora.r = "x"',
        "x.yaml: modle",
        "x.yaml: scheduler.eta = 1",
        "x.yaml: training.batch_size = 0",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("axes.lrr=3", f'command line: axes.lrr=3 is not a known key. Did you mean "axes.lr"? Known: {AXES}'),
        ("axes.lora.r=0", "command line: axes.lora.r=0 must be at least 1"),
        ("axes.lr=[1e-3,-2]", "command line: axes.lr[1]=-2 must be more than 0"),
        ("axes.template=plian", 'command line: axes.template=plian is not one of templates. Did you mean "plain"? Known: plain, chat'),
        ("task.rows.dev={split: dev}", "command line: task.rows.dev.path is missing: a file or folder of rows, or a data set's name on the hub"),
        ("foo", 'command line: "foo" has no value. Write foo=value'),
        ("=3", 'command line: "=3" has no key. Write key=value, such as training.batch_size=4'),
        ("axes.lr=[1", "command line: axes.lr=[1: line 1, column 3: is not YAML (expected ',' or ']', but got '<stream end>')"),
        ("model.token=abc", "command line: model.token=… does not belong in a study, which the run folder keeps. Set it in the environment: TOKEN=…"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_told_of_the_command_line(load: Load, override: str, message: str) -> None:
    assert said(load, override) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml: is empty. A study needs model, task and pools; copy one from sweeps/studies to begin"),
        ("# nothing\n", "x.yaml: is empty. A study needs model, task and pools; copy one from sweeps/studies to begin"),
        ("- a\n", "x.yaml: is not a study: it must be a mapping of keys such as model, task, pools and axes"),
        ("a: b: c\n", "x.yaml: line 1, column 5: is not YAML (mapping values are not allowed here)"),
        ("a:\n\tb: 1\n", "x.yaml: line 2, column 1: is not YAML (found character '\\t' that cannot start any token). Indent with spaces"),
        ("name: x\naxes:\n  lr: 1\n  lr: 2\nname: y\n", "x.yaml: line 4: axes.lr is given twice (first on line 3). Keep one\nx.yaml: line 5: name is given twice (first on line 1). Keep one"),
        ("--- {}\n--- {}\n", "x.yaml: line 2, column 5: is not YAML of one document (another begins here). Keep one"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_study_is_told_with_its_line(load: Load, text: str, message: str) -> None:
    assert said(load, text=text) == message


def test_a_study_that_is_not_there_brings_the_nearest_file(load: Load) -> None:
    load()
    with pytest.raises(StudyError, match=r'^y.yaml: no such file. Did you mean "x.yaml"\? Known: x.yaml$'):
        load_study("y.yaml")
    with pytest.raises(StudyError, match=r"^prompts: is a folder, not a study file$"):
        load_study("prompts")


def test_a_classifier_refuses_what_it_has_no_text_for(load: Load) -> None:
    text = said(load, "model.head=classifier", "axes.plw=[0,1]", "scoring.scorer=generate")
    assert (
        "command line: axes.plw=[0,1] must be 0 with model.head = classifier, which has no loss on the prompt" in text
    )
    assert "command line: scoring.scorer=generate cannot be used with model.head = classifier" in text


def test_options_take_no_words_and_no_f1(load: Load) -> None:
    change = {"task.labels": ..., "task.options": "choices", "templates": {"plain": {"words": {"a": "b"}}}}
    text = said(load, change=change)
    assert "templates.plain.words" in text
    assert "has no meaning with task.options" in text
    assert "needs task.labels" in said(load, change={**change, "templates": ..., "task.metric": "f1_macro"})
    assert load(change={**change, "templates": ...}).templates["plain"].words == {}


# typos --------------------------------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyz_"


@st.composite
def typos(draw: st.DrawFn, word: str) -> str:
    """``word`` with one character put in, left out, changed, or swapped with the next."""
    kind = draw(st.sampled_from(["insert", "delete", "change"] + ["swap"] * (len(word) > 1)))
    i = draw(st.integers(0, len(word) - (kind not in ("insert",)) - (kind == "swap")))
    letter = draw(st.sampled_from(LETTERS))
    if kind == "insert":
        return word[:i] + letter + word[i:]
    if kind == "delete":
        return word[:i] + word[i + 1 :]
    if kind == "swap":
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return word[:i] + letter + word[i + 1 :]


KEYS = [(section, key) for section, keys in all_keys(Study).items() for key in keys]


@settings(max_examples=250, deadline=None)
@given(data=st.data(), place=st.sampled_from(KEYS))
def test_any_typo_in_any_key_names_the_right_key(folder: Path, data: Any, place: tuple[tuple[str, ...], str]) -> None:
    section, key = place
    wrong = data.draw(typos(key))
    known = keys_at(Study, section)
    if wrong in known:
        return
    mapping = copy.deepcopy(parse_yaml(BASE, "x"))
    if section[:2] == ("pools", "split"):
        mapping["pools"] = {"split": {"file": "prompts/dev.yaml"}}
    held = mapping
    for part in section:
        inner = held.get(part)
        held[part] = inner if isinstance(inner, dict) else {"path": inner} if isinstance(inner, str) else {}
        held = held[part]
    held[wrong] = held.pop(key, 1)
    (folder / "typo.yaml").write_text(dump_yaml(mapping))
    with pytest.raises(StudyError) as error:
        load_study(folder / "typo.yaml")
    [line] = [
        text for text in str(error.value).splitlines() if f" {dotted((*section, wrong))} is not a known key" in text
    ]
    assert key in line.split("Known: ")[1].split(", ")
    others = [k for k in known if k != key]
    if not any(distance(wrong, k) <= 1 for k in others):
        assert f'Did you mean "{dotted((*section, key))}"?' in line


def distance(a: str, b: str) -> int:
    """Levenshtein distance, the plain recursion by rows."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = _next_row(row, i, x, b)
    return row[-1]


def _next_row(above: list[int], i: int, x: str, b: str) -> list[int]:
    row = [i]
    for j, y in enumerate(b, 1):
        row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row


def test_the_command_line_adds_to_a_file_given_as_plain_text(load: Load) -> None:
    study = load("pools.dev.limit=2", "task.rows.dev.limit=3")
    assert study.pools.dev is not None
    assert (study.pools.dev.limit, study.task.rows.dev.limit) == (2, 3)
    assert study.pools.dev.file is not None


@pytest.mark.parametrize("key", ["templates.plain.system", "templates.plain.marker", "templates.plain.words.no"])
@pytest.mark.parametrize("character", ["\\0", "\\ud800"])
def test_a_template_holds_no_character_that_no_text_can_hold(load: Load, key: str, character: str) -> None:
    """CASES B4."""
    with pytest.raises(StudyError) as caught:
        load(f'{key}="a{character}"')
    assert f"{key}" in str(caught.value)
    assert re.search(r"contains the character U\+|holds a NUL|holds half a character", str(caught.value))
    assert str(caught.value).replace("\n", "").isprintable()


def test_the_day_of_a_template(load: Load) -> None:
    """CASES V11. YAML reads a day as a date; both are the same text in the resolved study."""
    assert load().templates["plain"].date == "2024-07-26"
    for written in ("2026-03-05", '"2026-03-05"'):
        study = load(f"templates.plain.date={written}")
        assert resolved(study)["templates"]["plain"]["date"] == "2026-03-05"
    for wrong in ("today", "2026-02-30", "20260305", "5", "[1]"):
        with pytest.raises(StudyError, match="is no day, such as 2024-07-26"):
            load(f"templates.plain.date={wrong}")


# metrics and balance ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1_macro", "f1[yes]", "matthews_corrcoef", "roc_auc"])
def test_a_metric_is_named_as_in_scikit_learn(study, metric: str) -> None:  # type: ignore[no-untyped-def]
    loaded = study(f"task.metric={metric}")
    assert loaded.task.metric == metric
    assert parse_yaml(dump_yaml(resolved(loaded)), "written")["task"]["metric"] == metric


def test_the_earlier_name_of_a_metric_is_read_and_today_s_is_written(study) -> None:  # type: ignore[no-untyped-def]
    assert resolved(study("task.metric=macro_f1"))["task"]["metric"] == "f1_macro"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["task.metric=f1_makro"], 'task.metric=f1_makro is not known. Did you mean "f1_macro"? Known: accuracy'),
        (["task.metric=f1"], "is of one label, which stands in brackets: f1[no] or f1[yes]"),
        (["task.metric=f1[yess]"], 'is of no label of the task. Did you mean "f1[yes]"?'),
        (["task.metric={f1: yes}"], "must be text: write f1[yes]"),
        (["task.metric=3"], 'task.metric=3 is not known. Known: accuracy, balanced_accuracy'),
        (["task.metric=roc_auc", "scoring.scorer=generate"], "ranks rows by label probabilities, and scoring.scorer"),
        (["task.metric=roc_auc", "scoring.sample=0.5"], "cannot be estimated from a sample"),
        (["training.balance=label"], 'training.balance=label is not known. Did you mean "labels"?'),
    ],
)  # fmt: skip
def test_a_metric_that_cannot_be_had_is_refused_with_the_reason(study, changes: list[str], said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StudyError) as error:
        study(*changes)
    [line] = str(error.value).splitlines()
    assert said in line
