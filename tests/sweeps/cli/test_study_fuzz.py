"""Mutants of the shipped studies, and hostile overrides, through ``check``: always a line and a code, never a way to
"unexpected" (CASES B2, B3, B4, B9 and their kind). Hypothesis derives the seed from the test, so the same mutants come
every time."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import resource
import signal
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study_mutants import HOSTILE, MILD, mutants, study_texts, write

import sweeps.trials.assets
import trainer.data.tokenizer
from sweeps.cli.exit_codes import main
from sweeps.study.overlay import dotted
from sweeps.study.problems import all_keys
from sweeps.study.study import Study

CPU_SECONDS = 20
MEMORY = 1.5 * 2**30
TEXTS = study_texts()
KEYS = [dotted((*section, key)) for section, keys in all_keys(Study).items() for key in keys]
NAMED = [
    "templates.plain",
    "templates.plain.words.no",
    "pools.train.one",
    "pools.train.one.only",
    "arms.a",
    "arms.a.pool",
]


class TooLongError(BaseException):
    """The command used more CPU time than it may."""


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLongError


@pytest.fixture(scope="module", autouse=True)
def _read_once() -> Iterator[None]:
    """Rows and the tokenizer are the same files in all mutants: read once in this process. What a mutant names anew is
    read anew."""
    rows, tokenizer = sweeps.trials.assets.read_rows, trainer.data.tokenizer.load_tokenizer
    known: dict[str, Any] = {}

    def cached(read: Any) -> Any:
        @functools.wraps(read)
        def of(*arguments: Any) -> Any:
            key = repr((read.__name__, arguments))
            if key not in known:
                known[key] = read(*arguments)
            return known[key]

        return of

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps.trials.assets, "read_rows", cached(rows))
        patch.setattr(trainer.data.tokenizer, "load_tokenizer", cached(tokenizer))
        patch.setenv("COLUMNS", "200")
        patch.delenv("STEADYTUNE_DEBUG", raising=False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutants")


def checked(folder: Path, text: str, *overrides: str) -> int:
    """Runs ``check`` on the text and holds what it must keep to."""
    write(folder / "m.yaml", text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    out, err = io.StringIO(), io.StringIO()
    previous = signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            contextlib.chdir(folder),
            pytest.raises(SystemExit) as left,
        ):
            main(["check", "m.yaml", *overrides])
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
    said = out.getvalue() + err.getvalue()
    assert left.value.code in (0, 1, 2), (left.value.code, said)
    assert "error: unexpected" not in said, said
    assert "Traceback" not in said, said
    raw = {c for c in err.getvalue() if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert not raw, repr(err.getvalue())
    assert all(len(line) < 3000 for line in err.getvalue().splitlines())
    if left.value.code == 2:
        assert err.getvalue().strip(), "no line"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MEMORY
    return int(left.value.code)


def examples(n: int) -> Any:
    return settings(
        max_examples=n, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )


def overrides() -> st.SearchStrategy[str]:
    values = st.one_of(st.sampled_from(MILD), st.sampled_from(HOSTILE), st.text(max_size=20))
    keys = st.one_of(st.sampled_from(KEYS + NAMED), st.text(max_size=12), st.just("a." * 50 + "a"))
    return st.builds(lambda key, sign, value: key + sign + value, keys, st.sampled_from(["="] * 9 + [""]), values)


@pytest.mark.parametrize("name", ["quickstart", "drawn", "arms", "stages"])
def test_the_studies_that_are_changed_pass(folder: Path, name: str) -> None:
    """So that what a mutant is refused for is its change."""
    assert checked(folder, TEXTS[name]) == 0


@examples(70)
@given(text=mutants(TEXTS))
def test_mutants(folder: Path, text: str) -> None:
    checked(folder, text)


@examples(40)
@given(given_overrides=st.lists(overrides(), min_size=1, max_size=2))
def test_overrides(folder: Path, given_overrides: list[str]) -> None:
    checked(folder, TEXTS["quickstart"], *given_overrides)


COUNT = int(os.environ.get("FUZZ_EXAMPLES", "5000"))


@pytest.mark.long
@examples(COUNT * 4 // 5)
@given(text=mutants(TEXTS))
def test_many_mutants(folder: Path, text: str) -> None:
    checked(folder, text)


@pytest.mark.long
@examples(COUNT // 5)
@given(given_overrides=st.lists(overrides(), min_size=1, max_size=2))
def test_many_overrides(folder: Path, given_overrides: list[str]) -> None:
    checked(folder, TEXTS["quickstart"], *given_overrides)
