"""A trial's id: what changes it, what does not, and that it is the same everywhere."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from checkout import ROOT

from trainer import trial as t
from trainer.trial import NOT_IN_ID, Trial, flatten, rung_steps

TRIAL = Trial(
    model=t.Model("models/tiny", "weights", revision="main"),
    task=t.Task(("no", "yes"), "accuracy", 128),
    template=t.Template(
        "plain", False, "You label posts.", "\nAnswer:", (("no", " no"), ("yes", " yes")), options=(("brief", True),)
    ),
    lora=t.Lora(4, 8.0, 0.1, ("q_proj", "v_proj"), False),
    loss=t.Loss(0.1),
    optimization=t.Optimization(200, 3e-3, 8, 2, "linear", 0.1, 0.01, 1.0),
    draw=t.Draw("dynamic", 4, "examples"),
    scoring=t.Scoring("labels", "raw", 8, 0.5),
    data=t.Data("tr", "dr", "er", "tp", "dp", "ep"),
    pool="many",
    seed=3,
    arm=t.Arm("formats", formats=(t.Template("a"), t.Template("b", marker=">"))),
)
# Whoever changes what the id hashes, or what a trial's training or scoring gives, raises FORMAT and this pair.
FORMAT, GOLDEN = 6, "57e5f830c11f"
PATHS = [path for path, _ in flatten(TRIAL)]


def changed(path: str) -> Trial:
    """TRIAL with another value in one field."""
    section, _, name = path.rpartition(".")
    holder = getattr(TRIAL, section) if section else TRIAL
    value: Any = getattr(holder, name)
    other: Any
    if isinstance(value, bool):
        other = not value
    elif isinstance(value, str):
        other = value + "x"
    elif isinstance(value, tuple):
        other = value[:-1] if value else ((50, 0.25),)
    else:
        other = value + 1
    holder = dataclasses.replace(holder, **{name: other})
    return dataclasses.replace(TRIAL, **{section: holder}) if section else holder


def test_the_walk_meets_every_field() -> None:
    """Through ``to_json``, so that a field or section that ``flatten`` misses is missed here too loudly."""
    leaves = [
        f"{k}.{sub}" if isinstance(v, dict) else k
        for k, v in TRIAL.to_json().items()
        for sub in (v if isinstance(v, dict) else [k])
    ]
    assert sorted(leaves) == sorted(PATHS)
    assert set(PATHS) >= NOT_IN_ID


@pytest.mark.parametrize("path", PATHS)
def test_any_field_changes_the_id_or_is_listed_as_not_affecting_results(path: str) -> None:
    assert changed(path) != TRIAL
    assert (changed(path).id == TRIAL.id) == (path in NOT_IN_ID)


def test_all_ids_of_single_changes_differ() -> None:
    ids = [changed(path).id for path in PATHS if path not in NOT_IN_ID]
    assert len(set(ids)) == len(ids)


def test_a_configuration_is_a_trial_without_its_seed() -> None:
    same = [path for path in PATHS if changed(path).configuration == TRIAL.configuration]
    assert set(same) == NOT_IN_ID | {"seed"}


def test_the_golden_id() -> None:
    assert (t.FORMAT, dataclasses.replace(TRIAL, arm=t.Arm()).id) == (FORMAT, GOLDEN)


def test_the_names_of_an_arms_formats_are_not_in_the_id_but_their_order_is() -> None:
    def with_formats(*formats: t.Template) -> str:
        return dataclasses.replace(TRIAL, arm=t.Arm(formats=formats)).id

    a, b = t.Template("a"), t.Template("b", marker=">")
    assert with_formats(a, b) == with_formats(dataclasses.replace(a, name="c"), b) == TRIAL.id
    assert with_formats(b, a) != with_formats(a, b)


def test_a_date_is_in_the_id_where_it_is_not_the_usual_one() -> None:
    """CASES V11. Trials from before templates had a date keep their ids."""
    plain = dataclasses.replace(TRIAL, arm=t.Arm())
    old = json.loads(json.dumps(plain.to_json()))
    del old["template"]["date"]
    assert Trial.from_json(old).id == GOLDEN
    dated = dataclasses.replace(plain, template=dataclasses.replace(plain.template, date="2026-03-05"))
    assert dated.id != GOLDEN
    assert Trial.from_json(json.loads(json.dumps(dated.to_json()))).id == dated.id
    formats = [dataclasses.replace(f, date="2026-03-05") for f in TRIAL.arm.formats]
    assert dataclasses.replace(TRIAL, arm=dataclasses.replace(TRIAL.arm, formats=tuple(formats))).id != TRIAL.id


def test_quantisation_is_in_the_id_where_there_is_some() -> None:
    """Trials from before it keep their ids."""
    plain = dataclasses.replace(TRIAL, arm=t.Arm())
    old = json.loads(json.dumps(plain.to_json()))
    del old["model"]["quantization"]
    assert Trial.from_json(old).id == GOLDEN
    kinds = [
        dataclasses.replace(plain, model=dataclasses.replace(plain.model, quantization=k)) for k in ("int8", "nf4")
    ]
    assert len({GOLDEN, *(made.id for made in kinds)}) == 3


def test_a_metric_that_had_another_name_keeps_the_ids_of_its_trials() -> None:
    """The second id is that of a trial which said macro_f1, made before it was called f1_macro."""
    plain = dataclasses.replace(TRIAL, arm=t.Arm(), task=dataclasses.replace(TRIAL.task, metric="f1_macro"))
    assert plain.id == "e2989fb1c555"
    old = json.loads(json.dumps(plain.to_json()))
    old["task"]["metric"] = "macro_f1"
    assert Trial.from_json(old) == plain


def test_balance_is_in_the_id_where_there_is_some() -> None:
    """Trials from before it keep their ids."""
    plain = dataclasses.replace(TRIAL, arm=t.Arm())
    old = json.loads(json.dumps(plain.to_json()))
    del old["optimization"]["balance"]
    assert Trial.from_json(old).id == GOLDEN
    drawn = dataclasses.replace(plain, optimization=dataclasses.replace(plain.optimization, balance="labels"))
    assert drawn.id != GOLDEN


def test_a_trial_of_a_folder_from_before_arms_is_read() -> None:
    old = {k: v for k, v in dataclasses.replace(TRIAL, arm=t.Arm()).to_json().items() if k != "arm"}
    assert Trial.from_json(old).id == GOLDEN


def test_the_format_is_part_of_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = TRIAL.id
    monkeypatch.setattr(t, "FORMAT", t.FORMAT + 1)
    assert dataclasses.replace(TRIAL).id != before


def test_the_format_of_searches_is_part_of_the_id_of_trials_that_search(monkeypatch: pytest.MonkeyPatch) -> None:
    searching = dataclasses.replace(TRIAL, arm=dataclasses.replace(TRIAL.arm, choice="adversarial"))
    before = [TRIAL.id, searching.id, searching.configuration]
    monkeypatch.setattr(t, "SEARCH_FORMAT", t.SEARCH_FORMAT + 1)
    after = [dataclasses.replace(x) for x in (TRIAL, searching)]
    assert after[0].id == before[0]
    assert after[1].id != before[1]
    assert after[1].configuration != before[2]


@pytest.mark.parametrize("salt", ["0", "1", "random"])
def test_the_id_is_the_same_in_every_process(salt: str) -> None:
    code = "import json, sys; from trainer.trial import Trial; print(Trial.from_json(json.load(sys.stdin)).id)"
    env = {**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": str(ROOT)}
    text = json.dumps(TRIAL.to_json())
    done = subprocess.run([sys.executable, "-c", code], input=text, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == TRIAL.id


def test_json_and_back_gives_an_equal_trial_and_keys_in_any_order_the_same_id() -> None:
    data = json.loads(json.dumps(TRIAL.to_json()))
    assert Trial.from_json(data) == TRIAL
    backwards = {k: dict(reversed(v.items())) if isinstance(v, dict) else v for k, v in reversed(data.items())}
    assert Trial.from_json(backwards).id == TRIAL.id


def test_equal_trials_have_equal_ids_however_their_numbers_are_written() -> None:
    written = dataclasses.replace(
        TRIAL,
        lora=dataclasses.replace(TRIAL.lora, r=4.0, alpha=8),  # type: ignore[arg-type]
        optimization=dataclasses.replace(TRIAL.optimization, clip=1, steps=200.0),  # type: ignore[arg-type]
    )
    assert written == TRIAL
    assert written.id == TRIAL.id
    assert dataclasses.replace(TRIAL, loss=t.Loss(-0.0)).id == dataclasses.replace(TRIAL, loss=t.Loss(0)).id


def test_a_number_that_is_none_has_no_id() -> None:
    with pytest.raises(ValueError, match="JSON"):
        _ = dataclasses.replace(TRIAL, loss=t.Loss(float("nan"))).id


def test_it_is_twelve_hexadecimal_digits() -> None:
    assert len(TRIAL.id) == 12
    assert set(TRIAL.id) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("shares", "steps", "rungs"),
    [
        ((0.25, 0.5, 1.0), 200, (50, 100, 200)),
        ((0.25, 0.5, 1.0), 10, (3, 5, 10)),
        ((0.1, 1.0), 30, (3, 30)),  # 0.1 * 30 is 3.0000000000000004 in floating point
        ((0.01, 1.0), 5, (1, 5)),
        ((1.0,), 7, (7,)),
    ],
)
def test_rungs_are_whole_steps_rounded_up_and_end_with_the_trial(
    shares: tuple[float, ...], steps: int, rungs: tuple[int, ...]
) -> None:
    assert rung_steps(shares, steps) == rungs
