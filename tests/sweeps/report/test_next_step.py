"""The last line of a run: it names what to do, by what the report says of the winner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_scores import P, R, answers, folder

from sweeps.report.evidence import Evidence, gather
from sweeps.report.next_step import CONFIRM, next_step, to_be_surer
from sweeps.report.verdict import verdict
from sweeps.run_folder.reading import RunFolder
from sweeps.study.load import resolved
from sweeps.study.overlay import dump_yaml
from sweeps.study.study import Study
from sweeps.tables import robustness as tables
from sweeps.tables.columns import Settings

CLEAR, CLOSE, CONSTANT = (0.95, 0.6, 0.55), (0.80, 0.79, 0.6), (None, None, None)


def evidence(
    path: Path, study: Study, right: Sequence[float | None], fresh: Sequence[float] = (), status: str = "finished"
) -> Evidence:
    """Of trials that are right so often (None: they give one label), each with a rank of its own. ``fresh``: of the
    fresh seeds of the first two."""
    trials: dict[str, Any] = {}
    more: dict[str, Any] = {}

    def add(trial_id: str, chance: float | None, number: int, **columns: Any) -> None:
        given = [np.zeros((P, R), int)] * 2 if chance is None else [answers(chance, 2 * number + k) for k in (0, 1)]
        trials[trial_id] = (status, 40, *given, "plain", 0.0)
        more[trial_id] = columns

    for i, chance in enumerate(right):
        add(f"t{i}", chance, i, r=2**i, role="search", configuration=f"c{i}")
    for i, chance in enumerate(fresh):
        for seed, role in enumerate(("choose", "report", "report"), 1):
            name = f"t{i}s{seed}"
            add(name, chance, 10 * (i + 1) + seed, r=2**i, role=role, seed=seed, configuration=f"c{i}")
    store = folder(path / "run", trials, more)
    store.write("study.yaml", dump_yaml(resolved(study)).encode())
    tables.write_tables(RunFolder(store), Settings.of(study))
    return gather(RunFolder(store))


def said_of(found: Evidence) -> str:
    """What the report says first."""
    says = verdict(found, {})
    return " ".join([says.title, says.lead, *(f"{p.title} {p.text}" for p in says.points)])


def test_a_winner_that_is_clearly_better_is_exported(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = evidence(tmp_path, study(), CLEAR)
    assert "differ clearly" in said_of(found)
    assert next_step(found) == (
        "next: steadytune export run --to adapter (writes the winner for peft and `steadytune predict`)"
    )


def test_a_winner_that_is_not_clearly_better_is_to_be_confirmed(study: Any, tmp_path: Path) -> None:
    found = evidence(tmp_path, study(), CLOSE)
    assert "Of all 2 other tested trials, 1 cannot be told apart from it" in said_of(found)
    assert next_step(found) == (
        "next: the winner is not clearly better than 1 of 2 other trials. Run the study again with "
        f"'{CONFIRM}', or take it as it is: steadytune export {found.run.store.uri} --to adapter"
    )
    assert study(CONFIRM).confirm.n_seeds == 4


def test_a_winner_alone_is_exported(study: Any, tmp_path: Path) -> None:
    assert next_step(evidence(tmp_path, study(), CLEAR[:1])).startswith("next: steadytune export ")


@pytest.mark.parametrize(
    ("fresh", "more"),
    [
        ((0.95, 0.6), " (writes the winner for peft and `steadytune predict`)"),
        (
            (0.80, 0.79),
            " (or another with --trial ID: the winner is not clearly better than the other one that was trained with "
            "fresh seeds)",
        ),
    ],
)
def test_a_confirmed_winner_is_exported_whatever_its_lead(
    fresh: tuple[float, ...], more: str, study: Any, tmp_path: Path
) -> None:
    found = evidence(tmp_path, study(CONFIRM), CLOSE, fresh)
    assert found.confirmed
    assert next_step(found) == f"next: steadytune export {found.run.store.uri} --to adapter{more}"


def test_stages_are_not_confirmed(study: Any, tmp_path: Path) -> None:
    staged = study(
        "stages={cross: 2}", "axes.seed=[0, 1]", "task.meaning={about: whether it is urgent, terms: [urgent]}"
    )
    assert "(or another with --trial ID: the winner is not clearly" in next_step(evidence(tmp_path, staged, CLOSE))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("finished", "next: train longer (axes.steps or axes.epochs), or raise axes.lr"),
        ("failed", "next: the report lists the reason of each"),
    ],
)
def test_without_a_winner_it_names_what_to_do_instead(status: str, said: str, study: Any, tmp_path: Path) -> None:
    found = evidence(tmp_path, study(), CONSTANT, status=status)
    assert next_step(found) == said
    assert said_of(found).endswith(f". {said[len('next: ') :].capitalize()}.")


@pytest.mark.parametrize(
    ("right", "fresh", "said"),
    [
        (CLEAR, (), None),
        (CONSTANT, (), None),
        (
            CLOSE,
            (),
            ("1 of 2 other trials. To be surer, run the study again", "steadytune run {0}/study.yaml 'confirm="),
        ),
        (CLOSE, (0.80, 0.79), ("the other one that was trained", "steadytune plan {0}/study.yaml --from {0}")),
    ],
)
def test_the_page_says_how_to_be_surer_where_the_winner_is_not_clear(
    right: Sequence[float | None], fresh: tuple[float, ...], said: tuple[str, str] | None, study: Any, tmp_path: Path
) -> None:
    made = evidence(tmp_path, study(CONFIRM) if fresh else study(), right, fresh)
    found = to_be_surer(made)
    assert (found is None) == (said is None)
    if found is not None and said is not None:
        assert found.text.startswith(f"The winner is not clearly better than {said[0]}")
        assert found.command.startswith(said[1].format(made.run.store.uri))
