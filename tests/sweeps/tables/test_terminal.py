"""The table at the end of a run, captured at the widths that terminals have: every number whole, no line too wide."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_scores import P, R, answers, folder
from rich.console import Console

from sweeps.display.text import percent, short_ids
from sweeps.run_folder.reading import RunFolder
from sweeps.study.load import resolved
from sweeps.study.overlay import dump_yaml
from sweeps.study.study import Study
from sweeps.tables import robustness as tables
from sweeps.tables.columns import Settings
from sweeps.tables.terminal import show_table
from trainer.store import Store

Axes = Mapping[str, Any]


def many_axes() -> Iterator[tuple[str, Axes, str]]:
    """(id, columns of trials.parquet, status) of 16 trials that differ in six axes."""
    for i in range(16):
        axes = {
            "template": ("plain", "a long name of a template")[i % 2], "r": (4, 128)[i // 2 % 2],
            "lr": (1e-3, 3.1623e-05)[i // 4 % 2], "plw": (0.0, 0.015)[i // 8], "pool": ("many", "one")[i % 2],
            "target_modules": ("all-linear", "k_proj,o_proj,q_proj,v_proj")[i // 2 % 2],
        }  # fmt: skip
        yield f"{i:x}5e0{i:08x}", axes, "stopped" if i > 11 else "finished"


def several_seeds() -> Iterator[tuple[str, Axes, str]]:
    for i in range(12):
        axes = {"lr": (1e-3, 3e-3)[i // 3 % 2], "template": ("plain", "chat")[i // 6], "seed": i % 3}
        yield f"aaaa{i:08x}", {**axes, "configuration": f"bbbbb{i // 3}000000"}, "failed" if i == 11 else "finished"


def confirmation() -> Iterator[tuple[str, Axes, str]]:
    for i in range(3):
        for seed, role in enumerate(("search", "choose", "choose", "report", "report") if i < 2 else ("search",)):
            axes = {"lr": 1e-3 * (i + 1), "plw": 0.1 * i, "seed": seed}
            yield f"{i}{seed}cc00000000", {**axes, "role": role, "configuration": f"{i}dddd0000000"}, "finished"


def stages() -> Iterator[tuple[str, Axes, str]]:
    """Templates and LoRA settings that differ from stage to stage, with two seeds each."""
    for i, (template, r, steps, status) in enumerate(
        [
            ("plain", 8, 40, "finished"),
            ("chat", 8, 40, "finished"),
            ("chat", 16, 40, "stopped"),
            ("chat", 8, 20, "finished"),
        ]
    ):
        for seed in (0, 1):
            axes = {"template": template, "r": r, "alpha": 2.0 * r, "steps": steps, "seed": seed}
            yield f"{i}{seed}ee00000000", {**axes, "configuration": f"{i}ffff0000000"}, status


STUDIES = {"several axes": many_axes, "several seeds": several_seeds, "confirmation": confirmation, "stages": stages}


def made(path: Path, study: Study, trials: Sequence[tuple[str, Axes, str]], constant: bool = False) -> RunFolder:
    """The run folder with its tables. The last trial gives one label, and with ``constant`` all do."""
    scored, more = {}, {}
    for i, (trial_id, axes, status) in enumerate(trials):
        flat = constant or i == len(trials) - 1
        given = [np.zeros((P, R), int)] * 2 if flat else [answers(0.95 - 0.02 * i, 2 * i + k) for k in (0, 1)]
        scored[trial_id] = (status, 40, *given, "plain", 0.0)
        more[trial_id] = {"role": "search", "configuration": trial_id, **axes}
    store = folder(path, scored, more)
    store.write("study.yaml", dump_yaml(resolved(study)).encode())
    tables.write_tables(RunFolder(store), Settings.of(study))
    return RunFolder(Store.open(store.uri))


def capture(run: RunFolder, width: int) -> list[str]:
    file = io.StringIO()
    console = Console(width=width, file=file, force_terminal=True, color_system=None, _environ={})
    show_table(run, "report.html", console)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", STUDIES)
def test_on_a_terminal_every_number_is_whole_and_no_line_too_wide(
    name: str, width: int, study: Any, tmp_path: Path
) -> None:
    run = made(tmp_path / "run", study(), list(STUDIES[name]()))
    lines = capture(run, width)
    assert [line for line in lines if len(line) > width and " " in line] == []  # a path alone may be longer
    assert "…" not in "".join(lines)
    rows = run.robustness()
    several = any(row["n_seeds"] > 1 for row in rows)
    ids = short_ids(row["configuration" if several else "trial_id"] for row in rows)
    assert len(set(ids.values())) == len(rows)
    starts = [
        [str(row["rank"] or "-"), ids[row["configuration" if several else "trial_id"]],
         *(percent(row[k]) for k in ("mean", "std", "min", "top")), *([str(row["n_seeds"])] if several else [])]
        for row in rows
    ]  # fmt: skip
    shown = [line.split() for line in lines]
    assert [start for start in starts if start not in [words[: len(start)] for words in shown]] == []
    head = lines[1].split()
    assert head[:6] == ["rank", "id", "mean", "std", "worst", "above"]
    assert not {"alpha", "dropout", "rslora", "seed"} & set(head) or name == "stages"  # these do not vary


def values_of(lines: Sequence[str]) -> str:
    """The text without line breaks: what stands in several lines of one cell is found in it word by word."""
    return " ".join(" ".join(lines).split())


def test_axes_without_a_column_of_their_own_are_named_and_whole(study: Any, tmp_path: Path) -> None:
    text = values_of(capture(made(tmp_path / "run", study(), list(many_axes())), 80))
    for value in ("lr=0.001", "lr=3.1623e-05", "plw=0.015", "r=128", "pool=many"):
        assert value in text


def test_a_log_has_whole_ids_and_one_line_for_each_row(study: Any, tmp_path: Path) -> None:
    run, file = made(tmp_path / "run", study(), list(many_axes())), io.StringIO()
    show_table(run, "report.html", Console(file=file, force_terminal=False))
    rows = [line.split() for line in file.getvalue().splitlines()[2:18]]
    assert [words[1] for words in rows] == [row["trial_id"] for row in run.robustness()]
    assert rows[0][-1] == "winner"
    assert rows[-1][-3:] == ["stopped,", "one", "label"]


def test_without_a_winner_it_says_why(study: Any, tmp_path: Path) -> None:
    lines = capture(made(tmp_path / "run", study(), list(many_axes()), constant=True), 80)
    assert "no winner: all 12 trials that finished give one label nearly always." in lines
